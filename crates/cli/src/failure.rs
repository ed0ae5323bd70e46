//! What a command can end with, and how a user is told: what failed, why, and what to do.
//! Owns the exit codes. Knows nothing of what the commands do.

use csb_types::SpecError;
use std::{error::Error as StdError, fmt};

/// Exit codes of `csb` itself; `run`, `exec` and `run-code` otherwise pass on the command's own.
/// Documented in `docs/reference/cli.md`.
pub mod exit {
    /// The operation failed.
    pub const FAILED: u8 = 1;
    /// The arguments make no sense (clap's own code).
    pub const USAGE: u8 = 2;
    /// `run`, `exec`, `run-code`: csb failed before or while the command ran.
    pub const NO_COMMAND: u8 = 125;
    /// `run`, `exec`, `run-code`: the program is there but cannot be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// `run`, `exec`, `run-code`: no such program.
    pub const NOT_FOUND: u8 = 127;
    /// Whoever read our output went away (128 + SIGPIPE).
    pub const PIPE: u8 = 141;
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    /// The server's stable code, or one of ours.
    code: Option<String>,
    exit: u8,
}

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// What failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: None, code: None, exit: exit::FAILED }
    }

    /// The arguments make no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: exit::USAGE, ..Self::new(message) }
    }

    /// An error and everything behind it.
    pub fn of(error: &dyn StdError) -> Self {
        let mut failure = Self::new(error.to_string());
        failure.add_sources(error.source());
        failure
    }

    /// What failed, and the error that made it fail.
    pub fn because(message: impl Into<String>, error: &dyn StdError) -> Self {
        let mut failure = Self::new(message);
        failure.add_sources(Some(error));
        failure
    }

    fn add_sources(&mut self, mut error: Option<&dyn StdError>) {
        while let Some(cause) = error {
            let text = cause.to_string();
            // Some libraries repeat their source's text in their own.
            if self.causes.last().is_none_or(|last| !last.ends_with(&text)) {
                self.causes.push(text);
            }
            error = cause.source();
        }
    }

    /// What to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code.
    pub fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// Prints it to stderr and returns the exit code.
    pub fn report(&self, json: bool) -> u8 {
        if json {
            let code = self.code.as_deref().unwrap_or(if self.exit == exit::USAGE { "usage" } else { "failed" });
            let error = serde_json::json!({
                "error": { "code": code, "message": self.message, "causes": self.causes, "hint": self.hint }
            });
            eprintln!("{error}");
        } else {
            eprintln!("{self}");
        }
        self.exit
    }

    /// The exit code it will end with.
    pub fn code(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<csb_client::Error> for Failure {
    fn from(error: csb_client::Error) -> Self {
        let mut failure = Self::of(&error);
        failure.hint = error.hint().map(str::to_owned).or_else(|| match &error {
            csb_client::Error::Connect { .. } => {
                Some("start one with `csb serve --dev`, or name another with --server or CSB_SERVER".into())
            }
            csb_client::Error::Lost { .. } => {
                Some("look with `csb ps` whether it was done before you try again".into())
            }
            _ => None,
        });
        failure.code = error.code().map(str::to_owned);
        failure.exit = match error.code() {
            Some("command_not_found") => exit::NOT_FOUND,
            Some("command_not_executable") => exit::NOT_EXECUTABLE,
            _ => exit::FAILED,
        };
        failure
    }
}

impl From<csb_api::Invalid> for Failure {
    fn from(error: csb_api::Invalid) -> Self {
        Self { exit: exit::USAGE, ..Self::new(error.message) }
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        Self { exit: exit::USAGE, ..Self::of(&error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open `x`")]
    struct Open(#[source] io::Error);

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let error = Open(io::Error::other("no such thing"));
        let failure = Failure::because("cannot start", &error).hint("make one");
        assert_eq!(
            failure.to_string(),
            "error: cannot start\n  caused by: cannot open `x`\n  caused by: no such thing\nhint: make one"
        );
    }
}
