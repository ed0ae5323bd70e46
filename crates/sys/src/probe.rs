//! Tries in a child what would change or end this process: namespaces, filters, mounts.

use crate::process::{self, Fork};
use std::io;

/// Runs `attempt` in a child with new namespaces of `flags` and returns its error, with the kernel's number where it had one.
/// The caller has one thread.
pub fn in_child(flags: i32, attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match process::fork(flags, None)? {
        Fork::Child => {
            let code = match attempt() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            process::exit_now(code)
        }
        Fork::Parent(pid) => match process::decode_status(process::wait(pid)?) {
            Ok(0) => Ok(()),
            Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
            Err(signal) => Err(io::Error::other(format!("ended by signal {signal}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_leaves_this_process_as_it_was() {
        let before = std::env::current_dir().unwrap();
        let moved = in_child(0, || std::env::set_current_dir("/"));
        assert!(moved.is_ok());
        assert_eq!(std::env::current_dir().unwrap(), before);
    }

    #[test]
    fn the_error_of_an_attempt_comes_back() {
        let error = in_child(0, || Err(io::Error::from_raw_os_error(libc::EPERM))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
