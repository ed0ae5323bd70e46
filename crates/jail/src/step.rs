//! Names the step at which the kernel refused.

use csb_wire::Failure;
use std::io;

/// A failed step as the server will show it.
pub fn failure(step: &str, error: &io::Error) -> Failure {
    Failure { step: step.into(), message: error.to_string(), errno: error.raw_os_error().unwrap_or(0) }
}

/// Adds the step's name to a kernel error.
pub trait Step<T> {
    /// `name` says what was being done: `mount the root`.
    fn step(self, name: &str) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, name: &str) -> Result<T, Failure> {
        self.map_err(|e| failure(name, &e))
    }
}

impl<T> Step<T> for rustix::io::Result<T> {
    fn step(self, name: &str) -> Result<T, Failure> {
        self.map_err(|e| failure(name, &e.into()))
    }
}
