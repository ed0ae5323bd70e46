//! What the server answers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One page of a list.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Where the next page starts; none on the last.
    pub next_cursor: Option<String>,
}

/// A whole list.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Items<T> {
    /// The entries.
    pub items: Vec<T>,
}

/// Limits of a sandbox.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct ResourcesView {
    /// CPUs.
    pub cpu: f64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub disk: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Files and directories.
    pub inodes: u64,
    /// Open descriptors of one process.
    pub nofile: u32,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct SandboxView {
    /// Its id.
    pub sandbox_id: String,
    /// Whose.
    pub user_id: String,
    /// `running`, `paused` or `releasing`.
    pub state: String,
    /// How it is isolated.
    pub kind: String,
    /// What it started from.
    pub template: String,
    /// Its limits.
    pub resources: ResourcesView,
    /// What it can reach.
    pub network: String,
    /// `memory` or `disk`.
    pub storage: String,
    /// Free labels.
    pub metadata: BTreeMap<String, String>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// `claim` or `cold`.
    pub started_by: String,
    /// Request to ready, ms.
    pub start_ms: f64,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub expires_at: Option<String>,
}

/// A running or ended exec.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct ExecView {
    /// Its id.
    pub exec_id: String,
    /// `running` or `ended`.
    pub state: String,
    /// What was asked for: a shell line or a list.
    pub command: serde_json::Value,
    /// Pid inside the sandbox.
    pub pid: i32,
    /// RFC 3339.
    pub started_at: String,
    /// Whether it has a terminal.
    pub pty: bool,
    /// Once ended.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Once ended.
    pub duration_ms: Option<f64>,
    /// Whether output was dropped.
    pub truncated: Option<bool>,
    /// What ended it, when not itself.
    pub killed_by: Option<String>,
}

/// An ended exec with its output.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct ExecResultView {
    /// Its id.
    pub exec_id: String,
    /// Text, or base64 by `encoding`.
    pub stdout: String,
    /// Text, or base64 by `encoding`.
    pub stderr: String,
    /// 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Wall-clock time.
    pub duration_ms: f64,
    /// Whether output was dropped.
    pub truncated: bool,
    /// What ended it, when not itself.
    pub killed_by: Option<String>,
    /// `utf-8` or `base64`.
    pub encoding: String,
}

/// What a sandbox uses.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct StatsView {
    /// Which.
    pub sandbox_id: String,
    /// CPU time, µs.
    pub cpu_usec: u64,
    /// Bytes now.
    pub memory: u64,
    /// Bytes at most so far.
    pub memory_peak: u64,
    /// Bytes allowed.
    pub memory_limit: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes and threads allowed.
    pub pids_limit: u64,
    /// OOM kills so far.
    pub oom_kills: u64,
    /// Forks refused so far.
    pub pids_refused: u64,
    /// Bytes written.
    pub disk: u64,
    /// Bytes allowed.
    pub disk_limit: u64,
    /// Files it may still create.
    pub inodes_free: u64,
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct FileEntryView {
    /// Last component.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// `file`, `directory`, `symlink` or `other`.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Octal, `0644`.
    pub mode: String,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// RFC 3339.
    pub modified_at: String,
    /// Where a link points.
    pub target: Option<String>,
}

/// A directory's entries.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct FileListView {
    /// The entries.
    pub items: Vec<FileEntryView>,
    /// Whether there are more than were asked for.
    pub truncated: bool,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct SessionView {
    /// Its id.
    pub session_id: String,
    /// The sandbox bound to it.
    pub sandbox_id: Option<String>,
    /// Whose.
    pub user_id: String,
    /// What it started from.
    pub template_id: String,
    /// `running`, `paused` or `closed`.
    pub state: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339.
    pub expires_at: Option<String>,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct TemplateView {
    /// Its name.
    pub name: String,
    /// `host`, `directory` or `tar`.
    pub source: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Languages whose programs it holds.
    pub languages: Vec<String>,
    /// Size on the host.
    pub bytes: u64,
    /// RFC 3339.
    pub created_at: String,
}

/// A language.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct LanguageView {
    /// Its name.
    pub name: String,
    /// Other spellings.
    pub aliases: Vec<String>,
    /// Of its files.
    pub extension: String,
}

/// The pool of a node.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct PoolView {
    /// Kept ready at least.
    pub min: u32,
    /// Kept ready at most.
    pub max: u32,
    /// Ready now.
    pub ready: u32,
    /// In use now.
    pub in_use: u32,
    /// Creates served from the pool.
    pub claims: u64,
    /// Creates built on request.
    pub colds: u64,
    /// Creates that failed.
    pub failures: u64,
}

/// How many sandboxes there are.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct CountsView {
    /// Running.
    pub running: u64,
    /// Paused.
    pub paused: u64,
}

/// The warden.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct WardenView {
    /// Its pid.
    pub pid: i32,
    /// `root` or `rootless`.
    pub mode: String,
}

/// Figures of a server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct NodeStatsView {
    /// The pool.
    pub pool: PoolView,
    /// Sandboxes.
    pub sandboxes: CountsView,
    /// The warden.
    pub warden: WardenView,
}

/// A token.
#[derive(Clone, Deserialize, Serialize)]
pub struct TokenView {
    /// The JWT.
    pub access_token: String,
    /// `bearer`.
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    /// Whose.
    pub user_id: String,
    /// What it may do.
    pub role: String,
}

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct KeyView {
    /// Its id.
    pub key_id: String,
    /// Whose.
    pub user_id: String,
    /// What it may do.
    pub role: String,
    /// RFC 3339.
    pub created_at: String,
}

/// A new API key; the secret is shown only here.
#[derive(Clone, Deserialize, Serialize)]
pub struct NewKeyView {
    /// Its id.
    pub key_id: String,
    /// The secret.
    pub api_key: String,
    /// Whose.
    pub user_id: String,
    /// What it may do.
    pub role: String,
}
