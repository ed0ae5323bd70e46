//! The warden, one per host, and the init of each sandbox, forked from it or, in a container, started by another program.
//!
//! Both are single-threaded and know no policy. The warden outlives the server: it holds the sandboxes, so a server can be
//! killed and started again without them noticing. It reads nothing that comes from inside a sandbox.
//! Knows nothing of HTTP, databases, users or templates.

mod archive;
mod beneath;
mod blank;
mod counters;
mod daemon;
mod exec;
mod files;
mod forker;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guest;
mod held;
mod init;
mod layers;
mod machine;
mod outbox;
mod parked;
mod stock;
mod vmm;
mod warden;

pub use daemon::{WARDEN_NAME, connect, entry, fork_inherited, start_daemon, stop};
