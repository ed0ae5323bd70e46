//! Moves one exec's output from its pipes into its spool, and turns its exit into a result.
//!
//! One task per exec: a flood in one slows neither the driver nor another exec.

use crate::{
    driver::{Command, now_ms},
    exec::Shared,
    handle::Sandbox,
    order::Lane,
    spool::{Taken, Writer},
    verdict::{self, Status},
};
use csb_types::{ExecResult, KilledBy, Phase};
use std::{future, io, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    time::{Instant, sleep_until},
};

/// Between two looks at a pipe whose bytes are dropped: a flood gets 64 KiB each time, and costs us next to nothing.
const PACE: Duration = Duration::from_millis(5);
/// A command that changed streams so often with next to no bytes each time is looked at in larger steps.
const MANY_SWITCHES: usize = 1024;
const FEW_BYTES: usize = 4096;
/// The most an ordinary user can make a pipe hold (`fs.pipe-max-size`): what was in it when the command ended is less.
const PIPE: usize = 1 << 20;

/// How an exec's first process ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// By itself or by a signal.
    Ended { status: i32, duration_usec: u64 },
    /// With its sandbox.
    Released,
}

/// One exec's pipes.
pub(crate) struct Pump {
    pub(crate) exec: Arc<Shared>,
    pub(crate) sandbox: Arc<Sandbox>,
    /// Standard output (or the terminal) and standard error.
    pub(crate) sources: [Option<Arc<AsyncFd<OwnedFd>>>; 2],
    pub(crate) exit: oneshot::Receiver<Exit>,
}

impl Pump {
    /// Runs until no process holds the other ends and the exec has ended.
    pub(crate) async fn run(mut self) {
        let terminal = self.exec.spec.pty.is_some();
        let mut writer = Writer::new(self.exec.spool.clone(), self.exec.spec.max_output, terminal);
        let mut running = self.exec.result().is_none();
        let mut paced: Option<Instant> = None;
        while running || self.sources.iter().any(Option::is_some) {
            let open = paced.is_none();
            let woken = tokio::select! {
                biased;
                exit = &mut self.exit, if running => Woken::Exit(exit.unwrap_or(Exit::Released)),
                () = sleep_until(paced.unwrap_or_else(Instant::now)), if !open => Woken::Paced,
                lane = readable(&self.sources[0], Lane::Out), if open => Woken::Ready(lane),
                lane = readable(&self.sources[1], Lane::Err), if open => Woken::Ready(lane),
            };
            match woken {
                Woken::Paced => paced = None,
                Woken::Ready(lane) => {
                    let wait = match self.take(&mut writer, lane) {
                        Taken::Dropped(_) | Taken::Waits => true,
                        Taken::Kept(bytes) => bytes < FEW_BYTES && writer.switches() > MANY_SWITCHES,
                        // Its users may open it again as long as they run.
                        Taken::Ended if terminal && running => true,
                        Taken::Ended => {
                            self.sources[lane as usize] = None;
                            false
                        }
                        Taken::Empty => false,
                    };
                    paced = wait.then(|| Instant::now() + PACE);
                }
                Woken::Exit(exit) => {
                    for lane in Lane::BOTH {
                        // A reader that does not come back is one who releases the sandbox.
                        while self.drain(&mut writer, lane) && self.sandbox.phase() == Phase::Running {
                            tokio::time::sleep(PACE).await;
                        }
                    }
                    let result = self.conclude(exit).await;
                    self.exec.publish(result);
                    running = false;
                    let _ = self.sandbox.commands.send(Command::Finished { exec: self.exec.id.clone() });
                }
            }
        }
        drop(writer);
        let _ = self.sandbox.commands.send(Command::Drained { exec: self.exec.id.clone() });
    }

    fn take(&self, writer: &mut Writer, lane: Lane) -> Taken {
        let Some(source) = &self.sources[lane as usize] else { return Taken::Ended };
        // Inside `try_io`, so that readiness is cleared only if nothing became ready since it was seen.
        let taken = source.try_io(Interest::READABLE, |source| match writer.take(lane, source) {
            Ok(Taken::Empty) => Err(io::ErrorKind::WouldBlock.into()),
            taken => taken,
        });
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Taken::Empty,
            taken => self.or_ended(taken),
        }
    }

    fn or_ended(&self, taken: io::Result<Taken>) -> Taken {
        taken.unwrap_or_else(|error| {
            tracing::warn!(exec = %self.exec.id, %error, "cannot read output");
            Taken::Ended
        })
    }

    /// What its first process wrote is in the pipe now; what others write meanwhile is not waited for. Whether the
    /// reader is to catch up before the rest is taken.
    fn drain(&mut self, writer: &mut Writer, lane: Lane) -> bool {
        let mut moved = 0;
        while moved < PIPE
            && let Some(source) = &self.sources[lane as usize]
        {
            // Not through tokio, which may not have heard yet that there is something.
            match self.or_ended(writer.take(lane, source.get_ref())) {
                Taken::Kept(bytes) | Taken::Dropped(bytes) => moved += bytes,
                Taken::Waits => return true,
                Taken::Empty => break,
                Taken::Ended => self.sources[lane as usize] = None,
            }
        }
        false
    }

    async fn conclude(&self, exit: Exit) -> ExecResult {
        let exec = &self.exec;
        let truncated = exec.spool.truncated();
        let (status, duration_usec) = match exit {
            Exit::Ended { status, duration_usec } => (Status::from_wait(status), duration_usec),
            Exit::Released => return released(exec),
        };
        let deeds = *exec.deeds();
        let spec = self.sandbox.spec();
        let releasing = matches!(self.sandbox.phase(), Phase::Releasing | Phase::Gone);
        let killed_by = if releasing && status.signal == Some(9) {
            Some(KilledBy::Released)
        } else if verdict::needs_usage(status, deeds) {
            let usage = self.sandbox.read_usage().await;
            verdict::killed_by(status, deeds, *exec.baseline(), usage.as_ref().ok(), &spec)
        } else {
            self.sandbox.counters_are_stale();
            verdict::killed_by(status, deeds, *exec.baseline(), None, &spec)
        };
        verdict::result(exec.id.clone(), status, duration_usec, truncated, killed_by)
    }
}

/// The result of an exec that ended with its sandbox.
pub(crate) fn released(exec: &Shared) -> ExecResult {
    let usec = now_ms().saturating_sub(exec.started_ms).max(0) as u64 * 1000;
    let status = Status { exit_code: 137, signal: Some(9) };
    verdict::result(exec.id.clone(), status, usec, exec.spool.truncated(), Some(KilledBy::Released))
}

enum Woken {
    Exit(Exit),
    Paced,
    Ready(Lane),
}

async fn readable(source: &Option<Arc<AsyncFd<OwnedFd>>>, lane: Lane) -> Lane {
    match source {
        // An error here is one of the next read, too.
        Some(source) => drop(source.readable().await),
        None => future::pending().await,
    }
    lane
}
