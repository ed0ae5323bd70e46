//! Owns the life of one sandbox: its driver task, its handle, its execs with their output, its files.
//! Knows nothing of HTTP, of databases, of pools or of other sandboxes.

mod error;
mod exec;
mod files;
mod handle;

pub use error::{ExecError, OpError};
pub use exec::{Chunk, Exec, OutputReader};
pub use files::FileReader;
pub use handle::Handle;
