//! What the server has: health, templates, languages, the pool; and the shape of lists.

use crate::KindName;
use csb_types::{Capability, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// Always `gateway`.
    #[schema(example = "gateway")]
    pub service: String,
    /// `ok`.
    #[schema(example = "ok")]
    pub status: String,
}

/// A part of a long list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// This part, newest first.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next part; null at the end.
    pub next_cursor: Option<String>,
}

/// A short list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Items<T> {
    /// All of it.
    pub items: Vec<T>,
}

/// What sandboxes can start from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateView {
    /// Name for `template`.
    pub name: String,
    /// `host`, `directory` or `tar`.
    pub source: String,
    /// Other names of it.
    pub aliases: Vec<String>,
    /// Languages whose interpreter or compiler it has.
    pub languages: Vec<String>,
    /// Its size; 0 when it shares the host's files.
    pub bytes: u64,
    /// When it was added; null for what is built in.
    #[serde(with = "crate::rfc3339::option", default)]
    pub created_at: Option<OffsetDateTime>,
}

/// A way to isolate sandboxes: what `sandbox.kind` of a request may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KindView {
    /// Name for `kind`.
    pub name: KindName,
    /// Whether this server can make such sandboxes.
    pub available: bool,
    /// Why not; null where it can.
    pub why_not: Option<String>,
    /// What this host makes of it, where that differs: `microvm`, what machines run on. Null where there is nothing to say.
    #[serde(default)]
    pub note: Option<String>,
    /// What stands between a sandbox and the host, and between sandboxes.
    pub isolation: String,
    /// What its sandboxes can do besides commands, files and limits.
    pub capabilities: CapabilitiesView,
    /// What they cannot, by the name of the capability, with the reason. It is answered with `unsupported`.
    pub cannot: BTreeMap<String, String>,
    /// Options that this kind has.
    pub options: Vec<String>,
}

/// What not every kind of sandbox can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CapabilitiesView {
    /// Freeze and thaw.
    pub pause: bool,
    /// Change limits of a living one.
    pub live_limits: bool,
    /// Terminals.
    pub pty: bool,
    /// Go on when the server ends, and be found again by the next one.
    pub adopt: bool,
    /// Writes that go to the host's disk.
    pub disk: bool,
    /// A limit of the bytes and files that it may write, and a count of them.
    pub disk_limit: bool,
    /// A limit of its processes.
    #[serde(default = "yes")]
    pub pids_limit: bool,
}

/// Of a server that does not know of it: all its kinds have it.
fn yes() -> bool {
    true
}

impl KindView {
    /// What is declared of a kind, why this server has none of it, and what is to be known of it.
    pub fn new(kind: Kind, why_not: Option<String>, note: Option<String>) -> Self {
        let declaration = kind.declaration();
        let can = |capability| kind.lacks(capability).is_none();
        Self {
            name: kind.into(),
            available: why_not.is_none(),
            why_not,
            note,
            isolation: declaration.isolation.into(),
            capabilities: CapabilitiesView {
                pause: can(Capability::Pause),
                live_limits: can(Capability::LiveLimits),
                pty: can(Capability::Pty),
                adopt: can(Capability::Adopt),
                disk: can(Capability::Disk),
                disk_limit: can(Capability::DiskLimit),
                pids_limit: can(Capability::PidsLimit),
            },
            cannot: declaration.cannot.iter().map(|(lacking, why)| (lacking.name().into(), (*why).into())).collect(),
            options: kind.options().map(Into::into).collect(),
        }
    }
}

/// A language of `run-code` and `execute`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LanguageView {
    /// Name for `language`.
    pub name: String,
    /// Other names of it.
    pub aliases: Vec<String>,
    /// Extension of its files.
    pub extension: String,
}

/// The pool of ready sandboxes, and what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// The pool.
    pub pool: PoolStatsView,
    /// Sandboxes of all users by state.
    pub sandboxes: SandboxCounts,
    /// The process that owns them.
    pub warden: WardenView,
}

/// Counters of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PoolStatsView {
    /// Ready sandboxes that are kept.
    pub min: u64,
    /// Most ready sandboxes at once.
    pub max: u64,
    /// Ready now.
    pub ready: u64,
    /// Given out and not released yet.
    pub in_use: u64,
    /// Creates served from the pool.
    pub claims: u64,
    /// Creates built on request.
    pub colds: u64,
    /// Failed builds.
    pub failures: u64,
}

/// Sandboxes by state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct SandboxCounts {
    /// Ready for execs.
    pub running: u64,
    /// Frozen.
    pub paused: u64,
}

/// The warden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WardenView {
    /// Its process id.
    pub pid: i64,
    /// With which rights it runs.
    pub mode: String,
}
