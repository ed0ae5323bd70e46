//! Server ↔ init, over the control socket that the warden hands out (and keeps a copy of, so that it outlives the server).

use crate::FileRequest;
use csb_types::{ExecId, PtySize};
use serde::{Deserialize, Serialize};

/// One command, decided in every detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// Which.
    pub id: ExecId,
    /// Program and arguments; a program without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// `NAME=value` each. `HOME`, `USER`, `LOGNAME` are added from the user where absent.
    pub env: Vec<String>,
    /// Absolute directory inside to start in.
    pub cwd: String,
    /// User inside, name or number; none: `user` (1000).
    pub user: Option<String>,
    /// A terminal instead of pipes.
    pub pty: Option<PtySize>,
    /// Whether a pipe for stdin comes along (pipes only).
    pub stdin: bool,
}

/// Requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToInit {
    /// Start a command. Descriptors: with pipes `[stdout_w, stderr_w, stdout_r, stderr_r]` and, if `stdin`,
    /// `[…, stdin_r, stdin_w]`; with a terminal none. Init hands the command its ends and keeps copies of the server's ends
    /// (`stdout_r`, `stderr_r`, `stdin_w`), so that no pipe breaks when the server dies.
    /// Answered by `Started` or `NotStarted`, later `Exited`.
    Exec(Box<ExecPlan>),
    /// Do one file operation as a user inside, in a helper process that speaks `FileFrame`s over the descriptor beside this frame.
    File {
        /// User inside; none: `user` (1000).
        user: Option<String>,
        /// What to do.
        request: FileRequest,
    },
    /// Send a signal.
    Signal {
        /// To which exec.
        exec: ExecId,
        /// Signal number.
        signal: i32,
        /// To every process that descends from the exec, whatever session or parent it has now; else to its first process's group.
        tree: bool,
    },
    /// Drop init's copy of the stdin write end.
    CloseStdin {
        /// Of which exec.
        exec: ExecId,
    },
    /// The server has the result; drop the kept descriptors and the record.
    Forget {
        /// Which exec.
        exec: ExecId,
    },
    /// Answered by one `Known` per exec that was not forgotten, then `KnownEnd`.
    Report {
        /// Bytes of standard output (or terminal) and standard error that the server has of each: for whoever keeps what it has not.
        /// An init keeps nothing; its pipes do.
        have: Vec<(ExecId, [u64; 2])>,
    },
    /// Give a terminal a new size, where what the server has of it is none (`csb_relay`).
    Resize {
        /// Of which exec.
        exec: ExecId,
        /// Columns and rows.
        size: PtySize,
    },
}

/// Answers and events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromInit {
    /// The sandbox stands; execs will run. Frames sent before it are queued, not lost.
    Ready,
    /// The sandbox could not be built; init ends.
    Failed(crate::Failure),
    /// A command runs. Beside it, with a terminal: its master end.
    Started {
        /// Which.
        exec: ExecId,
        /// Pid inside the sandbox.
        pid: i32,
    },
    /// A command could not be started: `failure.errno` is what `execve`, `chdir` … said.
    NotStarted {
        /// Which.
        exec: ExecId,
        /// Why; `step` is one of `user`, `cwd`, `exec`, `fork`, `limit`, `terminal`, `confine`.
        failure: crate::Failure,
    },
    /// A command's first process ended.
    Exited {
        /// Which.
        exec: ExecId,
        /// Wait status (waitpid(2)).
        status: i32,
        /// Wall-clock time since it was started, µs.
        duration_usec: u64,
    },
    /// Answer to `Report`. Descriptors: `[stdout_r, stderr_r]` and, while open, `[…, stdin_w]`; with a terminal `[master]`.
    Known {
        /// Which.
        exec: ExecId,
        /// Pid inside the sandbox.
        pid: i32,
        /// `(status, duration_usec)` once it ended.
        ended: Option<(i32, u64)>,
        /// Since when it runs, µs ago.
        age_usec: u64,
        /// Whether it has a terminal.
        pty: bool,
        /// Whether a stdin write end comes along.
        stdin: bool,
    },
    /// All `Known` frames were sent.
    KnownEnd,
}
