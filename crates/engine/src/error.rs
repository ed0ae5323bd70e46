//! Why an exec was not started, or an operation on a sandbox not done.

use csb_types::{Phase, SpecError};

/// Why an exec was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// The request itself is impossible.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No such program inside.
    #[error("no program `{program}` in the sandbox")]
    NotFound {
        /// As asked for.
        program: String,
    },
    /// There is such a file, but it cannot be executed.
    #[error("`{program}` is not executable in the sandbox")]
    NotExecutable {
        /// As asked for.
        program: String,
    },
    /// The working directory cannot be entered.
    #[error("cannot enter directory `{cwd}`: {message}")]
    BadCwd {
        /// As asked for.
        cwd: String,
        /// The kernel's words.
        message: String,
    },
    /// No such user inside.
    #[error("no user `{user}` in the sandbox")]
    BadUser {
        /// As asked for.
        user: String,
    },
    /// The host has no room for one more command.
    #[error("this host has no room for another command: {what}")]
    Capacity {
        /// What is used up, in words.
        what: String,
    },
    /// A limit of the sandbox (or of this host) leaves no room for one more process.
    #[error("the sandbox's limit is reached: {what}")]
    Limit {
        /// Which limit, in words.
        what: String,
    },
    /// The sandbox is paused.
    #[error("the sandbox is paused")]
    Paused,
    /// The sandbox is being released, or is gone.
    #[error("the sandbox is gone")]
    Gone,
    /// A fault of ours or of the host.
    #[error("cannot start the command: {0}")]
    Internal(String),
}

/// Why an operation on a sandbox or an exec was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The request itself is impossible.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Not allowed in the phase the sandbox is in.
    #[error("not possible while the sandbox is {}", phase_word(*.0))]
    WrongPhase(Phase),
    /// What the sandbox uses now stands in the way.
    #[error("the sandbox's limit is reached: {what}")]
    Limit {
        /// Which limit, in words.
        what: String,
    },
    /// The exec has ended.
    #[error("the exec has ended")]
    ExecEnded,
    /// The exec has no terminal.
    #[error("the exec has no terminal")]
    NoPty,
    /// The exec was started without an open stdin.
    #[error("the exec was started without stdin")]
    NoStdin,
    /// Its stdin was closed before, by a writer or by the command itself.
    #[error("the exec's stdin is closed")]
    StdinClosed,
    /// The sandbox is gone.
    #[error("the sandbox is gone")]
    Gone,
    /// This host or kind cannot do it.
    #[error("not supported: {what}")]
    Unsupported {
        /// What, and why not.
        what: String,
    },
    /// A fault of ours or of the host.
    #[error("{0}")]
    Internal(String),
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Releasing => "being released",
        Phase::Gone => "gone",
    }
}
