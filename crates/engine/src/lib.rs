//! Owns the life of one sandbox: its driver task, its handle, its execs with their output, its files.
//! Knows nothing of HTTP, of databases, of pools or of other sandboxes.
//!
//! Start reading at `driver`: one task owns a sandbox, everyone else holds a `Handle` and submits commands to it.
//! `pump` moves one exec's output from its pipes into its `spool`; `order` keeps two streams in order; `journal` and
//! init's report bring execs back after a restart; `verdict` names what ended an exec; `files` speaks with the file
//! helper; `keeper` is who holds the sandbox, and `warden` the connection to the one that holds most of them.

mod admit;
mod adopt;
mod driver;
mod end;
mod error;
mod exec;
mod files;
mod handle;
mod journal;
mod keeper;
mod launch;
mod order;
mod plan;
mod port;
mod pump;
mod room;
mod shelf;
mod spool;
#[cfg(test)]
mod tests;
mod verdict;
pub mod warden;
mod watch;

pub use driver::may_change;
pub use error::{ExecError, OpError};
pub use exec::{Chunk, Exec, OutputReader};
pub use files::FileReader;
pub use handle::{Handle, Last, Meta, Readiness, Seat};
pub use keeper::{Doing, Keeper};
pub use launch::{Need, scarce};
pub use room::{Lease, Room};
pub use shelf::Shelf;
