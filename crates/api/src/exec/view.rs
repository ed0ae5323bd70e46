//! How an exec looks: running, or ended with its output.

use super::{CommandRequest, Encoding, encode_pair};
use crate::time_from_ms;
use csb_types::{ExecId, ExecResult, ExecSpec, KilledBy};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Where an exec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExecState {
    /// Its process is alive.
    Running,
    /// Its process has ended.
    Ended,
}

/// An exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecView {
    /// Its id.
    #[schema(example = "ex-mfrggzdfmztwq2lkmfrg")]
    pub exec_id: String,
    /// State.
    pub state: ExecState,
    /// What runs.
    pub command: CommandRequest,
    /// Process id inside the sandbox.
    pub pid: i32,
    /// When it started.
    #[serde(with = "crate::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Whether it has a terminal.
    pub pty: bool,
    /// Exit code; 128 + signal when a signal ended it. Null while it runs.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Wall-clock time, ms. Null while it runs.
    pub duration_ms: Option<f64>,
    /// Whether output past the limit was dropped. Null while it runs.
    pub truncated: Option<bool>,
    /// What ended it, when not itself: `timeout`, `oom`, `pids`, `disk`, `signal`, `released`.
    #[schema(value_type = Option<String>)]
    pub killed_by: Option<KilledBy>,
    /// In the last event of a session's stream: what `handler` returned, when the code defines one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Something the caller should know about `result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl ExecView {
    /// From the engine's words.
    pub fn new(id: &ExecId, spec: &ExecSpec, pid: i32, started_ms: i64, result: Option<&ExecResult>) -> Self {
        Self {
            exec_id: id.to_string(),
            state: if result.is_some() { ExecState::Ended } else { ExecState::Running },
            command: (&spec.command).into(),
            pid,
            started_at: time_from_ms(started_ms),
            pty: spec.pty.is_some(),
            exit_code: result.map(|r| r.exit_code),
            signal: result.and_then(|r| r.signal),
            duration_ms: result.map(|r| r.duration_ms),
            truncated: result.map(|r| r.truncated),
            killed_by: result.and_then(|r| r.killed_by),
            result: None,
            note: None,
        }
    }
}

/// An exec that has ended, with its output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecResultView {
    /// Its id.
    pub exec_id: String,
    /// Always `ended`.
    pub state: ExecState,
    /// Output; a terminal's when it had one.
    pub stdout: String,
    /// Error output.
    pub stderr: String,
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Wall-clock time, ms.
    pub duration_ms: f64,
    /// Whether output past the limit was dropped.
    pub truncated: bool,
    /// What ended it, when not itself: `timeout`, `oom`, `pids`, `disk`, `signal`, `released`.
    #[schema(value_type = Option<String>)]
    pub killed_by: Option<KilledBy>,
    /// Of `stdout` and `stderr`: `base64` when one of them is not UTF-8.
    pub encoding: Encoding,
    /// The session, when it ran in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// What `handler` returned, when the code defines one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Something the caller should know, such as a session whose files were lost with its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl ExecResultView {
    /// From the engine's words.
    pub fn new(result: &ExecResult, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        let (stdout, stderr, encoding) = encode_pair(stdout, stderr);
        Self {
            exec_id: result.id.to_string(),
            state: ExecState::Ended,
            stdout,
            stderr,
            exit_code: result.exit_code,
            signal: result.signal,
            duration_ms: result.duration_ms,
            truncated: result.truncated,
            killed_by: result.killed_by,
            encoding,
            session_id: None,
            result: None,
            note: None,
        }
    }
}
