//! What the warden is told to build.

use csb_types::{Kind, Limits, Net, SandboxId, Volume};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One sandbox, decided in every detail: the warden has no policy of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailPlan {
    /// Whose.
    pub id: SandboxId,
    /// How it is isolated. Of a hardened one, `layers` and what `binds` show are no directories but images (EROFS) of some.
    pub kind: Kind,
    /// Host name inside.
    pub hostname: String,
    /// Host directories that make the read-only lower of the root, topmost first.
    pub layers: Vec<PathBuf>,
    /// Host directories shown read-only on top of the root (the `host` template's `/usr`).
    pub binds: Vec<Bind>,
    /// Host paths a local user asked to see.
    pub volumes: Vec<Volume>,
    /// Where writes go.
    pub upper: UpperPlan,
    /// What it may use.
    pub limits: Limits,
    /// What it can reach.
    pub net: Net,
}

/// First frame to a process that waits to become a sandbox's init. As root the plan's mounts come with it: `descriptors` of them,
/// in the order upper, layers, binds, volumes, at most [`MOST_DESCRIPTORS`] beside this frame and beside each empty one that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// What to become.
    pub plan: JailPlan,
    /// How many descriptors come in all.
    pub descriptors: u32,
}

/// See [`Begin`].
pub const MOST_DESCRIPTORS: usize = 15;

/// A host directory shown read-only, its owners mapped so that root's files look like root's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path on the host.
    pub host: PathBuf,
    /// Absolute path in the sandbox; it exists in the layers.
    pub guest: PathBuf,
}

/// Where a sandbox's writes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpperPlan {
    /// A tmpfs of `limits.disk` bytes and `limits.inodes` inodes.
    Memory,
    /// An ext4 image made by the server beforehand, mounted through a loop device.
    Disk {
        /// Absolute path of the image on the host.
        image: PathBuf,
    },
}
