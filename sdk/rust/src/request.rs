//! What is asked of the server, as the contract spells it.

use csb_types::PtySize;
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, time::Duration};

/// Limits of a new sandbox; what is absent takes the server's default.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(default)]
pub struct ResourceRequest {
    /// CPUs: `1`, `0.5`, `500m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory: `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Bytes it may write: `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Files and directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// Open descriptors of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u32>,
}

impl ResourceRequest {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct KindRequest {
    kind: String,
}

/// A new sandbox; everything may be left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CreateSandbox {
    /// Template name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// How it is isolated, such as `process`.
    #[serde(rename = "sandbox", skip_serializing_if = "Option::is_none", serialize_with = "as_kind")]
    pub kind: Option<String>,
    /// Limits.
    #[serde(skip_serializing_if = "ResourceRequest::is_default")]
    pub resources: ResourceRequest,
    /// What it can reach, such as `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// `memory` or `disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Environment of every exec.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Free labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Host name inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// It is released after this time.
    #[serde(rename = "timeout", skip_serializing_if = "Option::is_none", serialize_with = "as_whole_seconds")]
    pub lifetime: Option<Duration>,
}

/// A new session; everything may be left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CreateSession {
    /// Template name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    /// Lifetime.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_whole_seconds")]
    pub timeout: Option<Duration>,
    /// Limits.
    #[serde(skip_serializing_if = "ResourceRequest::is_default")]
    pub resources: ResourceRequest,
    /// Environment of every exec.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Free labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A shell line or a program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CommandLine {
    /// For `/bin/sh -c`.
    Shell(String),
    /// Program and arguments.
    Argv(Vec<String>),
}

/// What a command reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Empty,
    /// This text, then its end.
    Text(String),
    /// What is written later with [`crate::Exec::write_stdin`], until it is closed.
    Open,
}

impl Serialize for Stdin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Stdin::Empty => serializer.serialize_bool(false),
            Stdin::Text(text) => serializer.serialize_str(text),
            Stdin::Open => serializer.serialize_bool(true),
        }
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExecRequest {
    /// What to run.
    pub command: CommandLine,
    /// Environment on top of the sandbox's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory to start in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What it reads.
    pub stdin: Stdin,
    /// A terminal of this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<PtySize>,
    /// Wall-clock limit.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_seconds")]
    pub timeout: Option<Duration>,
    /// Output kept, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
}

impl ExecRequest {
    /// A line for the shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(CommandLine::Shell(line.into()))
    }

    /// A program and its arguments.
    pub fn argv<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self::new(CommandLine::Argv(argv.into_iter().map(Into::into).collect()))
    }

    fn new(command: CommandLine) -> Self {
        Self {
            command,
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            stdin: Stdin::Empty,
            pty: None,
            timeout: None,
            max_output_bytes: None,
        }
    }
}

/// Code in some language.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunCodeRequest {
    /// The code.
    pub code: String,
    /// Its language; the server's default is Python.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Environment on top of the sandbox's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory to start in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What it reads.
    pub stdin: Stdin,
    /// Wall-clock limit.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_seconds")]
    pub timeout: Option<Duration>,
    /// Output kept, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
}

impl RunCodeRequest {
    /// Code in a language, every option at its default.
    pub fn new(language: impl Into<String>, code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            language: Some(language.into()),
            env: BTreeMap::new(),
            cwd: None,
            stdin: Stdin::Empty,
            timeout: None,
            max_output_bytes: None,
        }
    }
}

fn as_seconds<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|d| d.as_secs_f64()).serialize(serializer)
}

fn as_whole_seconds<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    // Rounded up: a lifetime below one second must not become none.
    value.map(|d| d.as_secs() + u64::from(d.subsec_nanos() > 0)).serialize(serializer)
}

fn as_kind<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|kind| KindRequest { kind: kind.clone() }).serialize(serializer)
}

pub(crate) fn idempotency_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A text as one segment of a path: an id typed by a user must not become another path.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_are_spelled_as_the_contract_says() {
        assert_eq!(serde_json::to_value(CreateSandbox::default()).unwrap(), json!({}));
        let full = CreateSandbox {
            kind: Some("process".into()),
            resources: ResourceRequest { cpu: Some("0.5".into()), ..Default::default() },
            lifetime: Some(Duration::from_millis(1500)),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_value(full).unwrap(),
            json!({"sandbox": {"kind": "process"}, "resources": {"cpu": "0.5"}, "timeout": 2})
        );
        let exec = ExecRequest { timeout: Some(Duration::from_millis(250)), ..ExecRequest::argv(["ls", "-l"]) };
        assert_eq!(
            serde_json::to_value(exec).unwrap(),
            json!({"command": ["ls", "-l"], "stdin": false, "timeout": 0.25})
        );
        let open = ExecRequest { stdin: Stdin::Open, pty: Some(PtySize::default()), ..ExecRequest::shell("sh") };
        assert_eq!(
            serde_json::to_value(open).unwrap(),
            json!({"command": "sh", "stdin": true, "pty": {"cols": 80, "rows": 24}})
        );
    }

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(segment("sb-abc"), "sb-abc");
        assert_eq!(segment("../x?y"), "%2E%2E%2Fx%3Fy");
    }
}
