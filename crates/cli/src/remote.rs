//! Commands that talk to a server.

mod copy;
mod create;
mod exec;
mod keys;
mod list;
mod logs;
mod manage;
mod stats;
mod workspaces;

pub use copy::{CopyArgs, cp};
pub use create::{CreateArgs, create};
pub use exec::{ExecArgs, RunCodeArgs, attached, exec, run_code};
pub use keys::{KeyCommand, key};
pub use list::{PsArgs, ps, show};
pub use logs::{LogsArgs, logs};
pub use manage::{PauseArgs, ResumeArgs, RmArgs, pause, resume, rm};
pub use stats::{StatsArgs, stats};
pub use workspaces::{WorkspacesCommand, workspaces};

use crate::failure::{Failure, Outcome, exit};
use std::future::Future;

/// Runs one command to its end on an event loop of its own.
pub fn block_on<T>(command: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start the event loop", &error))?;
    let result = runtime.block_on(command);
    // A read of stdin that is still under way must not keep us.
    runtime.shutdown_background();
    result
}

/// For commands that pass on another command's exit code: their own failures have a code apart from it.
pub fn apart(failure: Failure) -> Failure {
    if failure.code() == exit::FAILED { failure.exit(exit::NO_COMMAND) } else { failure }
}
