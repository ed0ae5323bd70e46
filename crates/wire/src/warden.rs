//! Server ↔ warden.

use crate::JailPlan;
use csb_types::{Limits, SandboxId, Usage};
use serde::{Deserialize, Serialize};

/// What the warden can enforce on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Started by root: a uid range per sandbox, id-mapped layers, cgroups.
    Root,
    /// Started by an ordinary user: one id, no id-mapped layers, cgroups only where delegated.
    Rootless,
}

/// A sandbox the warden holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// Which.
    pub id: SandboxId,
    /// Host pid of its init.
    pub pid: i32,
    /// When it was made, ms since 1970.
    pub created_ms: i64,
    /// Its limits now.
    pub limits: Limits,
    /// Whether it is frozen now.
    pub frozen: bool,
    /// First host uid of its range (its own root); the caller's own uid when rootless.
    pub first_uid: u32,
}

/// Requests; each is answered by exactly one frame with the same `seq`, except `Hello`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWarden {
    /// First frame of a connection. Answered by `Welcome`, one `Held` for each sandbox, and `HeldEnd`.
    Hello {
        /// `VERSION` of the sender.
        version: u32,
    },
    /// Build a sandbox. `Created` comes with the init's control socket; the init itself then says `Ready` or `Failed` there.
    Create {
        /// Echoed in the answer.
        seq: u64,
        /// What to build.
        plan: Box<JailPlan>,
    },
    /// End every process of a sandbox and give back all it held. `Done` when nothing is left.
    Release {
        /// Echoed in the answer.
        seq: u64,
        /// Which.
        id: SandboxId,
    },
    /// Freeze (`true`) or thaw every process.
    Freeze {
        /// Echoed in the answer.
        seq: u64,
        /// Which.
        id: SandboxId,
        /// Frozen from now on?
        frozen: bool,
    },
    /// Change limits of a live sandbox (memory, CPU, pids).
    SetLimits {
        /// Echoed in the answer.
        seq: u64,
        /// Which.
        id: SandboxId,
        /// All limits, changed or not.
        limits: Limits,
    },
    /// Read counters.
    Usage {
        /// Echoed in the answer.
        seq: u64,
        /// Which.
        id: SandboxId,
    },
    /// End every sandbox and the warden. `Done`, then the connection closes.
    Stop {
        /// Echoed in the answer.
        seq: u64,
    },
}

/// Answers and events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWarden {
    /// Answer to `Hello`.
    Welcome {
        /// `VERSION` of the warden.
        version: u32,
        /// Its pid.
        pid: i32,
        /// What it can enforce.
        mode: Mode,
        /// How many sandboxes live.
        held: u32,
    },
    /// A living sandbox; one descriptor beside it: the control socket of its init.
    Held(Jail),
    /// All that live were named.
    HeldEnd,
    /// Answer to `Create`; one descriptor beside it: the control socket of its init.
    Created {
        /// Of the request.
        seq: u64,
        /// What was made.
        jail: Jail,
    },
    /// Answer to requests that return nothing.
    Done {
        /// Of the request.
        seq: u64,
    },
    /// Answer to `Usage`.
    Usage {
        /// Of the request.
        seq: u64,
        /// The counters.
        usage: Usage,
    },
    /// A request failed; nothing of it is left behind.
    Failed {
        /// Of the request.
        seq: u64,
        /// Why.
        failure: Failure,
    },
    /// Event: a sandbox's init ended, asked for or not; all it held has been given back.
    Gone {
        /// Which.
        id: SandboxId,
        /// Wait status of its init (waitpid(2)).
        status: i32,
    },
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {message}")]
pub struct Failure {
    /// The step that failed, in words: `mount the root`, `no such sandbox`.
    pub step: String,
    /// The kernel's words.
    pub message: String,
    /// `errno`, 0 where none applies.
    pub errno: i32,
}
