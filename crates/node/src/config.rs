//! What a node is told, and what it tells about itself.

use crate::PressureConfig;
use csb_backends::Backend;
use csb_types::SandboxSpec;
use csb_wire::Mode;
use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

/// Where the warden comes from.
#[derive(Debug)]
pub enum WardenSource {
    /// Connect to the one at work in the data directory, else start one that outlives this process.
    Daemon,
    /// A connection to a private warden that ends with it (`csb run`): no pool, no ledger, nothing to adopt.
    Inherited(OwnedFd),
}

/// How many sandboxes are kept ready in each pool.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolConfig {
    /// Kept ready at least; 0 turns the pool off.
    pub min: u32,
    /// Ready at most, when demand makes the pool grow; a smaller value than `min` means `min`.
    pub max: u32,
    /// What they are: a pool for each.
    pub specs: Vec<SandboxSpec>,
}

/// What a node needs to know.
#[derive(Debug)]
pub struct NodeConfig {
    /// Absolute directory for everything the node keeps; made if absent, mode 0700.
    pub data_dir: PathBuf,
    /// Where the warden comes from.
    pub warden: WardenSource,
    /// The ready pools.
    pub pool: PoolConfig,
    /// Template of a spec that names none.
    pub default_template: String,
    /// Other names of templates.
    pub aliases: BTreeMap<String, String>,
    /// What builds the kinds that the warden does not.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Where `local` sandboxes are; none: that kind is off.
    pub workspaces: Option<WorkspaceConfig>,
    /// When memory of the host counts as short; none: that is not looked at.
    pub pressure: Option<PressureConfig>,
}

/// What `local` sandboxes are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceConfig {
    /// Absolute directory that all theirs are below; made if absent, mode 0700. Only the operator changes it and what leads to it.
    pub dir: PathBuf,
    /// Absolute directories of the host of which a sandbox may ask to see something, read-only. The same holds.
    pub allow: Vec<PathBuf>,
    /// One that nobody has used for so long has no process.
    pub idle: Duration,
    /// Of more than so many that have processes, those that nobody uses now lose them, the least recently used first; 0: no
    /// matter how many.
    pub most_awake: u32,
    /// Bytes that all below one directory of `dir` may hold together; each sandbox's own directory may hold `limits.disk`.
    pub quota: Option<u64>,
}

impl WorkspaceConfig {
    /// At a directory, the rest as is usual.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), allow: vec![], idle: Duration::from_secs(30), most_awake: 0, quota: None }
    }
}

/// All pools together now, and since the node was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// As configured.
    pub min: u32,
    /// As configured.
    pub max: u32,
    /// Ready to be claimed.
    pub ready: u32,
    /// Sandboxes handed out and not gone.
    pub in_use: u32,
    /// Sandboxes handed out from the pool.
    pub claims: u64,
    /// Sandboxes built on request.
    pub colds: u64,
    /// Sandboxes that could not be built, for the pool or on request.
    pub failures: u64,
}

/// What a template was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateSource {
    /// The host's own programs.
    Host,
    /// A directory.
    Directory,
    /// A tar file.
    Tar,
}

/// A template on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInfo {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// What it was made from.
    pub source: TemplateSource,
    /// Size of its own files, bytes.
    pub bytes: u64,
    /// When it was made, ms since 1970.
    pub created_ms: i64,
}

/// The warden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WardenInfo {
    /// Its pid; 0 while there is none.
    pub pid: i32,
    /// What it can enforce.
    pub mode: Mode,
}
