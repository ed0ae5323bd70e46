//! Why a node cannot start, or a sandbox not be created.

use csb_types::SpecError;
use std::{io, path::PathBuf};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error("cannot use data directory `{}`", path.display())]
    DataDir {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server works in the data directory.
    #[error("data directory `{}` is in use by another server", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No warden could be reached or started.
    #[error("cannot reach or start the warden")]
    Warden {
        /// Why.
        source: io::Error,
    },
    /// The warden speaks another version.
    #[error("the warden at work has version {theirs} of the protocol, this program {ours}")]
    Version {
        /// The warden's.
        theirs: u32,
        /// This program's.
        ours: u32,
    },
    /// The template store cannot be used.
    #[error("cannot open the template store: {0}")]
    Templates(String),
    /// The pool's spec is impossible.
    #[error("the pool's sandboxes are not possible")]
    Pool {
        /// Why.
        source: SpecError,
    },
}

/// Why a sandbox was not created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The request itself is impossible.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No such template here.
    #[error("template `{name}` is not on this host")]
    NoTemplate {
        /// As asked for.
        name: String,
    },
    /// The host has no room for one more.
    #[error("this host has no room for another sandbox: {limit}")]
    Capacity {
        /// Which limit is reached.
        limit: String,
        /// What to do about it.
        hint: String,
    },
    /// A step of building it failed.
    #[error("cannot build the sandbox: {step}: {message}")]
    Jail {
        /// Which step.
        step: String,
        /// The kernel's words.
        message: String,
    },
    /// The warden cannot be reached.
    #[error("the warden is not reachable: {0}")]
    Warden(String),
}
