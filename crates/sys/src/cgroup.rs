//! Owns control groups: what this host has of them, one parent group per warden, one group per sandbox.
//! Knows nothing of sandboxes: a group has a name and limits, and processes join it.
//!
//! Versions 1, 2 and both side by side ("hybrid") are all in the field, so a group here is one directory in each
//! hierarchy that is needed:
//!
//! | host | limits and counters | freezing, killing, CPU time |
//! | --- | --- | --- |
//! | v2 | v2 | v2 |
//! | hybrid | v1 `memory`, `cpu`, `pids` | v2, which needs no controller for them |
//! | v1 | v1 `memory`, `cpu`, `pids` | v1 `freezer`, `cpuacct` |
//!
//! Ten thousand groups may live at once: a group keeps its name and nothing open; files are opened relative to the
//! parent's descriptors when they are used.

mod files;
mod group;
mod host;
mod inside;
mod io;
mod root;

pub use group::{Group, Limits, Usage};
pub use host::{Controller, Hierarchy, Host, Loss, Version};
pub use inside::inside;
pub use io::{Device, IoLimits};
pub use root::Root;

use std::path::PathBuf;

/// Something about a control group that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct CgroupError {
    /// What was tried, as a verb: `make the control group`, `write`.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: std::io::Error,
}

impl CgroupError {
    fn new(action: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self { action, path: path.into(), source: source.into() }
    }
}
