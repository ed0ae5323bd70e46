//! What a sandbox is asked to be, and what became of it.

use crate::{Capability, Kind, KindOptions, LimitError, Limits};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Working directory of every sandbox.
pub const WORKSPACE: &str = "/workspace";

/// What a sandbox can reach over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Net {
    /// A network namespace with only its own loopback.
    #[default]
    None,
}

/// Where a sandbox's writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Upper {
    /// `Memory` where `limits.disk` fits in three quarters of `limits.memory`, else `Disk`.
    #[default]
    Auto,
    /// A size-limited tmpfs; counts as the sandbox's memory; gone at the end.
    Memory,
    /// A file system image of `limits.disk` bytes in the data directory; removed at the end. Needs root.
    Disk,
}

/// A host path made visible in the sandbox. Only the local command line may ask for one, never the network API; the server adds
/// those of a `local` sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute path on the host; with `below`, relative to that.
    pub host: PathBuf,
    /// A directory that nobody but the operator can change. What is below it may be a tenant's: `host` is looked up through no
    /// link, and must be a directory.
    #[serde(default)]
    pub below: Option<PathBuf>,
    /// Absolute path in the sandbox.
    pub guest: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// What a sandbox should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct SandboxSpec {
    /// How it is isolated.
    pub kind: Kind,
    /// What its kind alone has.
    #[serde(skip_serializing_if = "KindOptions::is_empty")]
    pub options: KindOptions,
    /// Template name; empty means the node's default template.
    pub template: String,
    /// What it may use.
    pub limits: Limits,
    /// What it can reach.
    pub net: Net,
    /// Where its writes go.
    pub upper: Upper,
    /// Environment added to every exec.
    pub env: BTreeMap<String, String>,
    /// Host paths to show (`csb run -v`).
    pub volumes: Vec<Volume>,
    /// Free labels of the user.
    pub metadata: BTreeMap<String, String>,
    /// Host name inside; default: `sandbox` (which `/etc/hosts` of every template resolves).
    pub hostname: Option<String>,
}

/// Why a spec is refused before anything is done.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum SpecError {
    /// A limit that cannot be enforced.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A name that is empty, too long, or has characters outside its set.
    #[error("{what} `{value}` is not valid: {rule}")]
    Name {
        /// Which field.
        what: &'static str,
        /// What was given, cut to 64 characters.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// An option that the kind does not have.
    #[error("option `{option}` is none of sandbox kind `{kind}`")]
    Option {
        /// As the API spells it.
        option: &'static str,
        /// Which kind.
        kind: &'static str,
    },
    /// Less isolation is asked for than the kind promises.
    #[error("{what}")]
    Weaker {
        /// What is always so.
        what: &'static str,
    },
    /// Disk speed is limited of a sandbox without a disk.
    #[error("limits of disk speed need writes that go to disk; this sandbox's go to memory")]
    NoDisk,
    /// Something the kernel cannot take, such as a NUL.
    #[error("{what} is not valid: {rule}")]
    Value {
        /// Which field.
        what: &'static str,
        /// What is allowed.
        rule: &'static str,
    },
}

pub(crate) fn check_env(env: &BTreeMap<String, String>) -> Result<(), SpecError> {
    let total: usize = env.iter().map(|(k, v)| k.len() + v.len() + 2).sum();
    if total > 128 * 1024 {
        return Err(SpecError::Value { what: "env", rule: "all names and values together are at most 128 KiB" });
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(SpecError::Value {
                what: "env",
                rule: "names are not empty and hold no `=`; nothing holds a NUL",
            });
        }
    }
    Ok(())
}

impl SandboxSpec {
    /// Where writes go, `Auto` decided: never answers `Auto`.
    pub fn decided_upper(&self) -> Upper {
        match self.upper {
            // In memory, whatever it is asked to hold.
            _ if matches!(self.kind, Kind::Vfs | Kind::K8s) => Upper::Memory,
            // What outlives it is not in its upper.
            _ if self.kind == Kind::Local => Upper::Memory,
            Upper::Auto if self.limits.disk > self.limits.memory / 4 * 3 => Upper::Disk,
            Upper::Auto => Upper::Memory,
            decided => decided,
        }
    }

    /// The kind that builds it: a `hardened` one with a runtime is a container of that.
    pub fn built_as(&self) -> Kind {
        match (self.kind, &self.options.runtime) {
            (Kind::Hardened, Some(_)) => Kind::Oci,
            (kind, _) => kind,
        }
    }

    /// Refuses what could not be built. Pure: looks at nothing but the spec.
    pub fn check(&self) -> Result<(), SpecError> {
        self.limits.check()?;
        self.options.check(self.kind)?;
        if let (Upper::Disk, Some(what)) = (self.upper, self.kind.lacks(Capability::Disk)) {
            return Err(SpecError::Weaker { what });
        }
        if !self.limits.io.is_none() && self.decided_upper() == Upper::Memory {
            return Err(SpecError::NoDisk);
        }
        if self.kind == Kind::Vfs && self.upper == Upper::Disk {
            return Err(SpecError::Weaker { what: "a `vfs` sandbox has no disk; `process` has one" });
        }
        if matches!(self.kind, Kind::Vfs | Kind::K8s) && self.limits.disk > self.limits.memory / 4 * 3 {
            return Err(SpecError::Value {
                what: "disk",
                rule: "the files of a `vfs` or `k8s` sandbox are in its memory, and may be three quarters of that",
            });
        }
        check_env(&self.env)?;
        if self.metadata.len() > 64
            || self.metadata.iter().any(|(k, v)| k.is_empty() || k.len() > 128 || v.len() > 2048)
        {
            return Err(SpecError::Value {
                what: "metadata",
                rule: "at most 64 labels; names of 1 to 128 bytes, values of at most 2048",
            });
        }
        if let Some(name) = &self.hostname {
            let good = (1..=63).contains(&name.len())
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-');
            if !good {
                return Err(SpecError::Name {
                    what: "hostname",
                    value: name.chars().take(64).collect(),
                    rule: "1 to 63 letters, digits and inner hyphens (RFC 1123)",
                });
            }
        }
        for volume in &self.volumes {
            let clean = |p: &std::path::Path| p.is_absolute() && !p.components().any(|c| c.as_os_str() == "..");
            if !clean(&volume.host) || !clean(&volume.guest) || volume.guest == std::path::Path::new("/") {
                return Err(SpecError::Value {
                    what: "volumes",
                    rule: "paths are absolute, hold no `..`, and the one inside is not `/`",
                });
            }
        }
        Ok(())
    }
}

/// Where a sandbox is in its life. There is no way back from `Releasing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Ready for execs.
    Running,
    /// Every process is frozen; memory is kept.
    Paused,
    /// Being taken apart.
    Releasing,
    /// Nothing is left of it.
    Gone,
}

/// How a sandbox came to be; speed figures are never compared across these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// Taken ready from the pool.
    Claim,
    /// Built on request.
    Cold,
}

/// What a sandbox uses now and has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Usage {
    /// CPU time of all its processes, µs.
    pub cpu_usec: u64,
    /// Bytes charged now.
    pub memory: u64,
    /// Highest `memory` so far, bytes.
    pub memory_peak: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// OOM kills so far.
    pub oom_kills: u64,
    /// Forks refused by the pids limit so far.
    pub pids_refused: u64,
    /// Bytes written to its root now.
    pub disk: u64,
    /// `limits.disk`, as the file system has it.
    pub disk_limit: u64,
    /// Inodes free now; 0 means no file can be created.
    pub inodes_free: u64,
}
