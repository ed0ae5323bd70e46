//! Requests to run a command or code, and how they become the engine's spec.

use super::{CommandRequest, PtySizeRequest, StdinRequest};
use crate::{Bytes, Invalid, Seconds};
use csb_types::ExecSpec;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};
use utoipa::ToSchema;

const LEAST_TIMEOUT: Duration = Duration::from_millis(1);
const MOST_TIMEOUT: Duration = Duration::from_secs(7 * 86400);
/// Runs a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// What to run.
    pub command: CommandRequest,
    /// Environment on top of the sandbox's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub env: Option<BTreeMap<String, String>>,
    /// Directory to start in; default `/workspace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User inside the sandbox; default `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Stdin; default empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<StdinRequest>,
    /// A terminal of this size; stdout and stderr are then one stream.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::object")]
    pub pty: Option<PtySizeRequest>,
    /// Seconds after which everything the exec started is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    /// Output kept, both streams together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<Bytes>,
    /// Whether the answer waits for the end; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
}

impl ExecRequest {
    /// `command` with every option at its default.
    pub fn new(command: CommandRequest) -> Self {
        Self {
            command,
            env: None,
            cwd: None,
            user: None,
            stdin: None,
            pty: None,
            timeout: None,
            max_output_bytes: None,
            wait: None,
        }
    }

    /// The spec of the engine, checked, and the text for stdin.
    pub fn to_spec(&self) -> Result<(ExecSpec, Option<String>), Invalid> {
        let mut spec = ExecSpec::new(self.command.clone().into());
        spec.env = self.env.clone().unwrap_or_default();
        spec.cwd = self.cwd.clone();
        spec.user = self.user.clone();
        spec.pty = self.pty.map(PtySizeRequest::size).transpose()?;
        spec.timeout = exec_timeout(self.timeout)?;
        if let Some(bytes) = self.max_output_bytes {
            spec.max_output = bytes.0;
        }
        let text = match &self.stdin {
            Some(StdinRequest::Text(text)) => Some(text.clone()),
            _ => None,
        };
        spec.stdin = !matches!(&self.stdin, None | Some(StdinRequest::Open(false)));
        spec.check()?;
        Ok((spec, text))
    }
}

/// The wall-clock limit of an exec, checked.
fn exec_timeout(timeout: Option<Seconds>) -> Result<Option<Duration>, Invalid> {
    timeout.map(|t| t.duration("timeout", LEAST_TIMEOUT, MOST_TIMEOUT)).transpose()
}

/// Runs code in a language of the server's table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCodeRequest {
    /// The code.
    #[schema(example = "print('Hello!')")]
    pub code: String,
    /// Language; default `python`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Seconds after which everything the code started is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    /// Environment on top of the sandbox's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub env: Option<BTreeMap<String, String>>,
    /// Directory to start in; default `/workspace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Stdin; default empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<StdinRequest>,
    /// Output kept, both streams together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<Bytes>,
    /// Whether the answer waits for the end; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
}

/// Runs code in a sandbox that the body names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// Where.
    pub sandbox_id: String,
    /// The code.
    #[schema(example = "print('Hello!')")]
    pub code: String,
    /// Language; default `python`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Seconds after which everything the code started is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    /// Environment on top of the sandbox's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub env: Option<BTreeMap<String, String>>,
    /// Directory to start in; default `/workspace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Stdin; default empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<StdinRequest>,
    /// Whether the answer is a stream of events; default: as `Accept` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl ExecuteRequest {
    /// The sandbox, whether to stream, and the code.
    pub fn split(self) -> (String, bool, RunCodeRequest) {
        let stream = self.stream.unwrap_or(false);
        let run = RunCodeRequest {
            code: self.code,
            language: self.language,
            timeout: self.timeout,
            env: self.env,
            cwd: self.cwd,
            stdin: self.stdin,
            max_output_bytes: None,
            wait: None,
        };
        (self.sandbox_id, stream, run)
    }
}

/// Runs code in a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionExecuteRequest {
    /// The code. Python and JavaScript that define a top-level `handler` have it called with `event`.
    #[schema(example = "def handler(event):\n    return {\"result\": \"hello world\"}")]
    pub code: String,
    /// Language; default `python`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Seconds after which everything the code started is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    /// Environment on top of the session's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub env: Option<BTreeMap<String, String>>,
    /// Stdin; default empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<StdinRequest>,
    /// Whether the answer is a stream of events; default: as `Accept` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Argument of `handler`; absent: `{}` when the code defines one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub event: Option<serde_json::Value>,
}

impl SessionExecuteRequest {
    /// Whether to stream, the event, and the code.
    pub fn split(self) -> (bool, Option<serde_json::Value>, RunCodeRequest) {
        let stream = self.stream.unwrap_or(false);
        let run = RunCodeRequest {
            code: self.code,
            language: self.language,
            timeout: self.timeout,
            env: self.env,
            cwd: None,
            stdin: self.stdin,
            max_output_bytes: None,
            wait: None,
        };
        (stream, self.event, run)
    }
}

impl RunCodeRequest {
    /// The options of the exec that will run the code.
    pub fn exec(&self, command: CommandRequest) -> ExecRequest {
        ExecRequest {
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            stdin: self.stdin.clone(),
            timeout: self.timeout,
            max_output_bytes: self.max_output_bytes,
            wait: self.wait,
            ..ExecRequest::new(command)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<(ExecSpec, Option<String>), String> {
        let request: ExecRequest = serde_json::from_str(json).map_err(|e| e.to_string())?;
        request.to_spec().map_err(|e| e.message)
    }

    #[test]
    fn a_command_is_a_line_or_a_list() {
        assert_eq!(spec(r#"{"command":"echo hi"}"#).unwrap().0, ExecSpec::shell("echo hi"));
        assert_eq!(spec(r#"{"command":["echo","hi"]}"#).unwrap().0, ExecSpec::argv(["echo", "hi"]));
        for bad in [
            r#"{}"#,
            r#"{"command":1}"#,
            r#"{"command":[]}"#,
            r#"{"command":""}"#,
            r#"{"command":["a",1]}"#,
            r#"{"command":"true","shell":true}"#,
            r#"{"command":"true","timeout":0}"#,
            r#"{"command":"true","timeout":-1}"#,
            r#"{"command":"true","timeout":31536000}"#,
            r#"{"command":"true","timeout":"soon"}"#,
            r#"{"command":"a\u0000b"}"#,
            r#"{"command":"true","max_output_bytes":0}"#,
            r#"{"command":"true","pty":{"cols":0,"rows":24}}"#,
            r#"{"command":"true","cwd":"relative"}"#,
        ] {
            assert!(spec(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stdin_is_a_text_or_kept_open_or_empty() {
        let (open, text) = spec(r#"{"command":"cat","stdin":"x"}"#).unwrap();
        assert_eq!((open.stdin, text.as_deref()), (true, Some("x")));
        assert!(spec(r#"{"command":"cat","stdin":true}"#).unwrap().0.stdin);
        assert!(!spec(r#"{"command":"cat","stdin":false}"#).unwrap().0.stdin);
        assert!(!spec(r#"{"command":"cat"}"#).unwrap().0.stdin);
    }
}
