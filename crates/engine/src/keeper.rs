//! Who holds a sandbox for its driver. The driver itself talks with the sandbox's init, whoever started that.

use crate::warden::{Link, WardenError};
use csb_types::{Limits, SandboxId, Usage};
use std::{
    fmt,
    pin::Pin,
    time::{Duration, Instant},
};

/// For processes to stand still that wait for a disk, or for a processor of a busy host; and between two tries.
const FREEZING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// What a keeper does, while it does it.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T, WardenError>> + Send + 'a>>;

/// What can be asked of whoever holds a sandbox. `ENOENT` in a failure: there is no such sandbox any more; `ENOTSUP`: this kind
/// of sandbox, or this host, has no such thing.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Ends every process of a sandbox and gives back all that is held for it. Done twice, it is done.
    fn release<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, ()>;

    /// Freezes or thaws every process.
    fn freeze<'a>(&'a self, id: &'a SandboxId, frozen: bool) -> Doing<'a, ()>;

    /// Changes memory, CPU, pids and disk speed.
    fn set_limits<'a>(&'a self, id: &'a SandboxId, limits: Limits) -> Doing<'a, ()>;

    /// Why one ended that nobody released, as far as is known; asked before what is left of it is released.
    fn why_ended<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Option<String>> {
        let _ = id;
        Box::pin(async { Ok(None) })
    }

    /// Reads counters.
    fn usage<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Usage>;
}

impl Keeper for Link {
    fn release<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, ()> {
        Box::pin(async move { self.client()?.release(id).await })
    }

    fn freeze<'a>(&'a self, id: &'a SandboxId, frozen: bool) -> Doing<'a, ()> {
        Box::pin(async move {
            let begun = Instant::now();
            loop {
                match self.client()?.freeze(id, frozen).await {
                    // The warden waits for no disk and no busy processor: others want something of it too.
                    Err(WardenError::Failed(failure))
                        if failure.errno == libc::ETIMEDOUT && begun.elapsed() < FREEZING =>
                    {
                        tokio::time::sleep(PAUSE).await;
                    }
                    done => return done,
                }
            }
        })
    }

    fn set_limits<'a>(&'a self, id: &'a SandboxId, limits: Limits) -> Doing<'a, ()> {
        Box::pin(async move { self.client()?.set_limits(id, limits).await })
    }

    fn usage<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Usage> {
        Box::pin(async move { self.client()?.usage(id).await })
    }
}
