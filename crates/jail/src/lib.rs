//! One confined process tree: planned (a `JailPlan`), prepared (host resources held), built (from inside), and how a command
//! in it gives up every privilege.
//!
//! The order is the one that leaves a tenant nothing: cgroup, then mounts made by the host's root, pivot, Landlock; the user
//! namespace is entered last, by each command, so that every mount belongs to a namespace the tenant has no rights in.
//! Knows nothing of servers, frames' transport or the life of sandboxes.

mod build;
mod dev;
mod host;
mod prepare;
mod proc;
mod step;
mod tenant;

pub use build::{Built, build};
pub use host::Host;
pub use prepare::{IDS, Prepared, prepare};
pub use step::{Step, failure};
pub use tenant::{Account, DEFAULT_USER, Tenant, account};
