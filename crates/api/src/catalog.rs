//! What the server has: health, templates, languages, the pool; and the shape of lists.

use serde::{Deserialize, Serialize};
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
