//! One command in a sandbox: what is asked, and what came of it.

use crate::{ExecId, SpecError, sandbox::check_env};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Output kept of one exec, both streams together, unless the spec says otherwise.
pub const DEFAULT_OUTPUT_BYTES: u64 = 16 << 20;
const MOST_OUTPUT_BYTES: u64 = 1 << 30;
/// `MAX_ARG_STRLEN` of Linux: one argument, its NUL included (execve(2)).
const MOST_ARG_BYTES: usize = 128 * 1024;
/// A day less than a year is nobody's timeout; beyond that it is a mistake.
const MOST_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A program (looked up in `PATH`) and its arguments.
    Argv(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

impl Default for PtySize {
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// One exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// What to run.
    pub command: Command,
    /// Environment on top of the sandbox's.
    pub env: BTreeMap<String, String>,
    /// Directory to start in; default `/workspace`.
    pub cwd: Option<String>,
    /// User inside the sandbox, name or number; default `user`.
    pub user: Option<String>,
    /// Whether stdin stays open for writes; otherwise it is empty (`/dev/null`).
    pub stdin: bool,
    /// A terminal of this size instead of pipes; stdout and stderr are then one stream.
    pub pty: Option<PtySize>,
    /// Wall-clock limit; the whole tree of the exec is killed when it passes.
    pub timeout: Option<Duration>,
    /// Output kept, bytes; what follows is dropped and `truncated` is set.
    pub max_output: u64,
    /// Output is for one reader, and is gone once that has it: however much comes, the command waits for the reader.
    /// Only with a sandbox that ends with its server.
    #[serde(default)]
    pub stream: bool,
}

impl ExecSpec {
    /// Runs `argv` with every option at its default.
    pub fn argv<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self::new(Command::Argv(argv.into_iter().map(Into::into).collect()))
    }

    /// Runs a line in `/bin/sh` with every option at its default.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(Command::Shell(line.into()))
    }

    /// Runs `command` with every option at its default.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            stdin: false,
            pty: None,
            timeout: None,
            max_output: DEFAULT_OUTPUT_BYTES,
            stream: false,
        }
    }

    /// Refuses what `execve` could not take and timeouts that cannot be meant.
    pub fn check(&self) -> Result<(), SpecError> {
        check_env(&self.env)?;
        let argv: &[String] = match &self.command {
            Command::Argv(argv) => argv,
            Command::Shell(line) => std::slice::from_ref(line),
        };
        match argv.first() {
            None => return Err(SpecError::Value { what: "command", rule: "it names a program" }),
            Some(program) if program.is_empty() => {
                return Err(SpecError::Value { what: "command", rule: "it is not empty" });
            }
            Some(_) => {}
        }
        if argv.iter().any(|a| a.contains('\0')) {
            return Err(SpecError::Value { what: "command", rule: "it holds no NUL" });
        }
        if argv.iter().any(|a| a.len() >= MOST_ARG_BYTES) {
            return Err(SpecError::Value {
                what: "command",
                rule: "one argument is less than 128 KiB; send more through stdin or a file",
            });
        }
        if argv.iter().map(|a| a.len() + 9).sum::<usize>() > 1 << 20 {
            return Err(SpecError::Value { what: "command", rule: "all arguments together are at most 1 MiB" });
        }
        if let Some(cwd) = &self.cwd
            && (!cwd.starts_with('/') || cwd.contains('\0') || cwd.len() > 4095)
        {
            return Err(SpecError::Value {
                what: "cwd",
                rule: "it is an absolute path of at most 4095 bytes without NUL",
            });
        }
        if let Some(timeout) = self.timeout
            && (timeout < Duration::from_millis(1) || timeout > MOST_TIMEOUT)
        {
            return Err(SpecError::Value { what: "timeout", rule: "it is between 1 ms and 7 days" });
        }
        if self.max_output == 0 || self.max_output > MOST_OUTPUT_BYTES {
            return Err(SpecError::Value { what: "max_output_bytes", rule: "it is between 1 byte and 1 GiB" });
        }
        if let Some(user) = &self.user
            && (user.is_empty()
                || user.len() > 32
                || !user.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)))
        {
            return Err(SpecError::Value {
                what: "user",
                rule: "a name or number of 1 to 32 letters, digits, `.`, `_`, `-`",
            });
        }
        Ok(())
    }
}

/// Which output a byte came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Stream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// A terminal's output, both in one.
    Pty = 3,
}

/// What ended an exec other than itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KilledBy {
    /// Its wall-clock limit.
    Timeout,
    /// The sandbox's memory limit: the kernel's OOM killer struck while it ran.
    Oom,
    /// The sandbox's process limit: a fork was refused and the command failed.
    Pids,
    /// The sandbox's disk or inode limit: the file system was full and the command failed.
    Disk,
    /// A signal a caller sent through the API.
    Signal,
    /// The sandbox was released or died while it ran.
    Released,
}

/// Where an exec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecPhase {
    /// Its process is alive.
    Running,
    /// Its process has ended; the result is known.
    Ended,
}

/// How an exec ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Which exec.
    pub id: ExecId,
    /// Exit code; 128 + signal when a signal ended it, as shells report it.
    pub exit_code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Wall-clock time from start to end, ms.
    pub duration_ms: f64,
    /// Whether output past `max_output` was dropped.
    pub truncated: bool,
    /// What ended it, when not itself.
    pub killed_by: Option<KilledBy>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_execs_are_refused() {
        let ok = ExecSpec::argv(["true"]);
        assert_eq!(ok.check(), Ok(()));
        for bad in [
            ExecSpec::argv::<&str>([]),
            ExecSpec::argv([""]),
            ExecSpec::argv(["a\0b"]),
            ExecSpec::shell("x".repeat(MOST_ARG_BYTES)),
            ExecSpec { cwd: Some("relative".into()), ..ok.clone() },
            ExecSpec { timeout: Some(Duration::ZERO), ..ok.clone() },
            ExecSpec { timeout: Some(Duration::from_secs(365 * 86400)), ..ok.clone() },
            ExecSpec { max_output: 0, ..ok.clone() },
            ExecSpec { user: Some("a:b".into()), ..ok.clone() },
            ExecSpec { env: BTreeMap::from([("A=B".into(), "c".into())]), ..ok.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
