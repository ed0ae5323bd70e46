//! Commands in a sandbox: what is asked, how they look, how their output travels.

use crate::{Bytes, Invalid, Seconds, time_from_ms};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use csb_types::{Command, ExecId, ExecResult, ExecSpec, KilledBy, PtySize, Stream};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeMap, fmt, time::Duration};
use time::OffsetDateTime;
use utoipa::ToSchema;

const LEAST_TIMEOUT: Duration = Duration::from_millis(1);
const MOST_TIMEOUT: Duration = Duration::from_secs(7 * 86400);

/// A line for the shell, or a program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum CommandRequest {
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments.
    Argv(Vec<String>),
}

impl<'de> Deserialize<'de> for CommandRequest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = CommandRequest;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a shell line or a list of a program and its arguments")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(CommandRequest::Shell(v.to_owned()))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut argv = Vec::new();
                while let Some(arg) = seq.next_element()? {
                    argv.push(arg);
                }
                Ok(CommandRequest::Argv(argv))
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl From<CommandRequest> for Command {
    fn from(command: CommandRequest) -> Self {
        match command {
            CommandRequest::Shell(line) => Self::Shell(line),
            CommandRequest::Argv(argv) => Self::Argv(argv),
        }
    }
}

impl From<&Command> for CommandRequest {
    fn from(command: &Command) -> Self {
        match command {
            Command::Shell(line) => Self::Shell(line.clone()),
            Command::Argv(argv) => Self::Argv(argv.clone()),
        }
    }
}

/// What stdin is: a text and then its end, open for later writes, or empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StdinRequest {
    /// All of stdin.
    Text(String),
    /// Whether it stays open for `POST …/stdin`.
    Open(bool),
}

impl<'de> Deserialize<'de> for StdinRequest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = StdinRequest;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text, or true to keep stdin open")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(StdinRequest::Text(v.to_owned()))
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Self::Value, E> {
                Ok(StdinRequest::Open(v))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PtySizeRequest {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

impl PtySizeRequest {
    /// Checked.
    pub fn size(self) -> Result<PtySize, Invalid> {
        if !(1..=10_000).contains(&self.cols) || !(1..=10_000).contains(&self.rows) {
            return Err(Invalid::new("pty is not valid: cols and rows are between 1 and 10000"));
        }
        Ok(PtySize { cols: self.cols, rows: self.rows })
    }
}

/// Runs a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// What to run.
    pub command: CommandRequest,
    /// Environment on top of the sandbox's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
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

/// A signal by name (with or without `SIG`) or number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SignalValue {
    /// `TERM`, `SIGTERM`.
    Name(String),
    /// `15`.
    Number(i32),
}

impl<'de> Deserialize<'de> for SignalValue {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SignalValue;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a signal's name such as \"TERM\", or its number")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(SignalValue::Name(v.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
                Ok(SignalValue::Number(i32::try_from(v).unwrap_or(i32::MAX)))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
                Ok(SignalValue::Number(i32::try_from(v).unwrap_or(i32::MIN)))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Names of signal(7) on Linux, in the order of their numbers from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

impl SignalValue {
    /// The signal's number.
    pub fn number(&self) -> Result<i32, Invalid> {
        let number = match self {
            Self::Number(n) => Some(*n).filter(|n| (1..=64).contains(n)),
            Self::Name(name) => {
                let upper = name.to_ascii_uppercase();
                let short = upper.strip_prefix("SIG").unwrap_or(&upper);
                SIGNALS.iter().position(|s| *s == short).map(|at| at as i32 + 1)
            }
        };
        number.ok_or_else(|| {
            Invalid::new("signal is not valid: it is a name such as `TERM` or `KILL`, or a number from 1 to 64")
        })
    }
}

/// Sends a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Which.
    pub signal: SignalValue,
    /// To everything the exec started, and not only to its first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<bool>,
}

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

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    /// As they are.
    #[serde(rename = "utf-8")]
    Utf8,
    /// RFC 4648, standard alphabet, padded.
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    /// The bytes that `data` stands for.
    pub fn decode(self, data: &str) -> Result<Vec<u8>, Invalid> {
        match self {
            Self::Utf8 => Ok(data.as_bytes().to_vec()),
            Self::Base64 => BASE64_STANDARD.decode(data).map_err(|e| Invalid::new(format!("not base64: {e}"))),
        }
    }
}

/// One text and its encoding: UTF-8 when the bytes are.
pub fn encode_text(bytes: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (BASE64_STANDARD.encode(bytes), Encoding::Base64),
    }
}

/// Two texts with one encoding: UTF-8 when both are.
pub fn encode_pair(stdout: Vec<u8>, stderr: Vec<u8>) -> (String, String, Encoding) {
    match (String::from_utf8(stdout), String::from_utf8(stderr)) {
        (Ok(out), Ok(err)) => (out, err, Encoding::Utf8),
        (out, err) => {
            let bytes = |r: Result<String, std::string::FromUtf8Error>| match r {
                Ok(text) => text.into_bytes(),
                Err(error) => error.into_bytes(),
            };
            (BASE64_STANDARD.encode(bytes(out)), BASE64_STANDARD.encode(bytes(err)), Encoding::Base64)
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

/// Data of a `stdout`, `stderr` or `pty` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputEvent {
    /// Position after these bytes; pass it as `from` to go on behind them.
    pub seq: u64,
    /// The bytes.
    pub data: String,
    /// How they are written.
    pub encoding: Encoding,
}

impl OutputEvent {
    /// From a chunk.
    pub fn new(seq: u64, bytes: &[u8]) -> Self {
        let (data, encoding) = encode_text(bytes);
        Self { seq, data, encoding }
    }
}

/// Text frames of the server on a WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WsServer {
    /// First: what is attached to.
    Start(ExecView),
    /// Last: how it ended.
    End(ExecView),
    /// A client's frame was refused, or the stream ends early.
    Error(crate::ErrorDetail),
}

/// Text frames of the client on a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum WsClient {
    /// The terminal has a new size.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// Send a signal.
    Signal {
        /// Which.
        signal: SignalValue,
        /// To everything the exec started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tree: Option<bool>,
    },
    /// No more stdin.
    CloseStdin,
}

/// A binary frame of the server: one byte stream, eight bytes position (little-endian), the bytes.
pub fn ws_frame(stream: Stream, seq: u64, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + bytes.len());
    frame.push(stream as u8);
    frame.extend_from_slice(&seq.to_le_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// The parts of a binary frame of the server; none when it is not one.
pub fn ws_unframe(frame: &[u8]) -> Option<(Stream, u64, &[u8])> {
    let (head, bytes) = frame.split_at_checked(9)?;
    let stream = match head[0] {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::Pty,
        _ => return None,
    };
    Some((stream, u64::from_le_bytes(head[1..].try_into().ok()?), bytes))
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

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |json: &str| serde_json::from_str::<SignalValue>(json).unwrap().number();
        for (json, expected) in [("\"TERM\"", 15), ("\"SIGKILL\"", 9), ("\"int\"", 2), ("15", 15), ("64", 64)] {
            assert_eq!(number(json), Ok(expected), "{json}");
        }
        for bad in ["0", "65", "-1", "\"SIGNOPE\"", "\"\"", "99999999999999999999"] {
            let refused = serde_json::from_str::<SignalValue>(bad).map_or(true, |s| s.number().is_err());
            assert!(refused, "{bad}");
        }
    }

    #[test]
    fn one_stream_of_bad_utf8_makes_both_base64() {
        let (out, err, encoding) = encode_pair(b"ok".to_vec(), vec![0xff]);
        assert_eq!((out.as_str(), err.as_str(), encoding), ("b2s=", "/w==", Encoding::Base64));
        assert_eq!(encoding.decode(&out).unwrap(), b"ok");
    }

    #[test]
    fn a_ws_frame_is_read_as_written() {
        let frame = ws_frame(Stream::Stderr, 300, b"abc");
        assert_eq!(frame[..9], [2, 44, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ws_unframe(&frame), Some((Stream::Stderr, 300, &b"abc"[..])));
        assert_eq!(ws_unframe(&[1, 2]), None);
        assert_eq!(serde_json::to_string(&WsClient::CloseStdin).unwrap(), r#"{"type":"close_stdin"}"#);
    }
}
