//! What a command is made of: a line or a list, its stdin, its terminal, a signal to it.

use crate::Invalid;
use csb_types::{Command, PtySize};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;
use utoipa::ToSchema;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
