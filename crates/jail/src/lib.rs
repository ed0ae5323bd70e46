//! One confined process tree: a shell (all that needs no plan), then what its plan takes from the host, then built, and how a
//! command in it gives up every privilege.
//!
//! The order is the one that leaves a tenant nothing: cgroup, then mounts made by the host's root, its own root, Landlock; the user
//! namespace is entered last, by each command, so that every mount belongs to a namespace the tenant has no rights in.
//! Knows nothing of servers, frames' transport or the life of sandboxes.

mod build;
mod contained;
mod dev;
mod host;
mod ids;
mod machine;
mod mark;
mod proc;
mod shell;
mod stage;
mod step;
mod tenant;
mod trees;

pub use build::{Built, build};
pub use contained::contained;
pub use host::Host;
pub use ids::{IDS, Ids};
pub use machine::machine;
pub use mark::{Mark, Marks};
pub use shell::Shell;
pub use step::{Step, failure};
pub use tenant::{Account, DEFAULT_USER, Tenant, account};
pub use trees::Trees;
