//! How much the directory of a `local` sandbox holds, and what is done when that is too much.
//!
//! The file systems that workspaces lie on limit no directory, so this is a watchdog, not a wall: it looks at how much room the file
//! system lost, many times a second, and measures when that may have been this sandbox's doing. A program that writes more than it
//! may is killed after it has; what the file API writes is counted before.

use crate::{
    WorkspaceConfig,
    node::lock,
    tree::{self, Measured},
    workspace,
};
use csb_engine::{Handle, Room};
use csb_sys::mount::{open_beneath, open_directory};
use csb_types::{FileError, FileErrorCode, Limits, Phase, SandboxSpec, format_bytes};
use rustix::io::Errno;
use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// How often the file system is asked how much room it has, while commands run: where little room is left, more often, because
/// a program may write some 4 GiB a second.
const LOOK: Duration = Duration::from_millis(15);
const LOOK_NEAR: Duration = Duration::from_millis(2);
const FASTEST: u64 = 4 << 30;
/// The same, while no command runs that anybody waits for.
const REST: Duration = Duration::from_millis(250);
/// While commands run it is measured so often, at least.
const MEASURE: Duration = Duration::from_secs(1);
/// Measuring takes no more than one part in so many of the time.
const SHARE: u32 = 10;
/// What a program may write that only wants to make room: the directory of a temporary file, a shorter list.
const SLACK: u64 = 256 << 10;
/// A directory that is moved about while it is measured is measured again so often, before its programs are stopped for it.
const TRIES: u32 = 3;
/// What an inode counts as, where there are too many.
const INODE: u64 = 4096;
/// For what was killed to be gone.
const SETTLE: Duration = Duration::from_millis(100);

/// What was found when it was last measured.
#[derive(Debug, Clone, Copy)]
struct Found {
    own: Measured,
    /// Of all workspaces of its user.
    all: Option<u64>,
    at: Instant,
    took: Duration,
    /// Bytes free on the file system then.
    free: u64,
    /// Bytes written since through the file API.
    added: u64,
}

/// The quota of one sandbox.
#[derive(Debug)]
pub(crate) struct Quota {
    top: PathBuf,
    name: PathBuf,
    limits: Limits,
    /// Of all workspaces of its user.
    most: Option<u64>,
    found: Mutex<Option<Found>>,
    /// Somebody came for the sandbox.
    stir: Notify,
}

/// What a sandbox holds more than it may, inodes counted as bytes. Pure.
fn excess(found: &Found, limits: &Limits, most: Option<u64>) -> u64 {
    let bytes = found.own.bytes.saturating_sub(limits.disk);
    let inodes = found.own.files.saturating_sub(limits.inodes) * INODE;
    let all = found.all.zip(most).map_or(0, |(all, most)| all.saturating_sub(most));
    bytes.max(inodes).max(all)
}

/// What the next measurement is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Past {
    /// What the sandbox's own directory held, inodes counted as bytes: when it was last within its quota or, beyond it, at least.
    held: Option<u64>,
}

/// Whether whoever writes there is to be stopped: those who only remove something beyond the quota are not. Pure.
fn judge(past: Past, held: u64, excess: u64) -> (Past, bool) {
    let before = past.held.unwrap_or(held);
    if excess == 0 {
        return (Past { held: Some(held) }, false);
    }
    let grew = held > before + SLACK.min(excess);
    (Past { held: Some(if grew { before } else { before.min(held) }) }, grew)
}

fn held(found: &Found) -> u64 {
    found.own.bytes + found.own.files * INODE
}

impl Quota {
    pub(crate) fn new(config: &WorkspaceConfig, spec: &SandboxSpec) -> Self {
        let name = workspace::relative(spec.options.work_dir.as_deref().unwrap_or_default()).unwrap_or_default();
        Self {
            top: config.dir.clone(),
            name,
            limits: spec.limits.clone(),
            most: config.quota,
            found: Mutex::default(),
            stir: Notify::new(),
        }
    }

    /// Says that a command may begin now.
    pub(crate) fn stir(&self) {
        self.stir.notify_one();
    }

    fn measure(&self) -> io::Result<Found> {
        let at = Instant::now();
        let top = open_directory(&self.top)?;
        let free = free(&top)?;
        let of = |name: &std::path::Path| -> io::Result<Measured> {
            tree::measure(&tree::open_dir(open_beneath(&top, &name.to_string_lossy())?, ".")?)
        };
        let own = of(&self.name)?;
        let all = match (self.most, self.name.iter().next()) {
            (Some(_), Some(first)) if self.name.iter().nth(1).is_some() => Some(of(first.as_ref())?.bytes),
            (Some(_), _) => Some(own.bytes),
            _ => None,
        };
        let found = Found { own, all, at, took: at.elapsed(), free, added: 0 };
        *lock(&self.found) = Some(found);
        Ok(found)
    }

    /// Measures, on a thread that may wait.
    async fn look(self: &Arc<Self>) -> io::Result<Found> {
        let quota = self.clone();
        let looked = tokio::task::spawn_blocking(move || quota.measure());
        looked.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Bytes and inodes that its directory holds.
    pub(crate) async fn used(self: &Arc<Self>) -> io::Result<(u64, u64)> {
        self.look().await.map(|found| (found.own.bytes, found.own.files))
    }

    fn last(&self) -> Option<Found> {
        *lock(&self.found)
    }

    fn left(&self, found: &Found) -> u64 {
        let own = self.limits.disk.saturating_sub(found.own.bytes + found.added);
        let all = found.all.zip(self.most).map(|(all, most)| most.saturating_sub(all + found.added));
        if found.own.files >= self.limits.inodes { 0 } else { own.min(all.unwrap_or(u64::MAX)) }
    }
}

fn free(top: &OwnedFd) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(top)?;
    Ok(stat.f_bfree * stat.f_frsize)
}

impl Room for Quota {
    fn room<'a>(self: Arc<Self>) -> Pin<Box<dyn Future<Output = Result<u64, FileError>> + Send + 'a>> {
        Box::pin(async move {
            let recent = |found: &Found| found.at.elapsed() < (found.took * SHARE).max(LOOK);
            let found = match self.last().filter(recent) {
                Some(found) => Ok(found),
                None => self.look().await,
            };
            // One that is moved about is measured when its programs have been stopped for it.
            let found = found.or_else(|error| self.last().ok_or(error)).map_err(|error| FileError {
                code: FileErrorCode::Io,
                message: format!("cannot measure the workspace: {error}"),
            })?;
            match self.left(&found) {
                0 => Err(self.exceeded()),
                left => Ok(left),
            }
        })
    }

    fn taken(&self, bytes: u64) {
        if let Some(found) = &mut *lock(&self.found) {
            found.added += bytes;
        }
    }

    fn exceeded(&self) -> FileError {
        let held = self.last().map_or(0, |found| found.own.bytes + found.added);
        let quota = match self.most {
            Some(most) => {
                format!("{}, and of all your workspaces {}", format_bytes(self.limits.disk), format_bytes(most))
            }
            None => format_bytes(self.limits.disk),
        };
        let message = format!("workspace quota exceeded: it holds {}, and its quota is {quota}", format_bytes(held));
        FileError { code: FileErrorCode::QuotaExceeded, message }
    }
}

/// How long to wait before the next look, with so much room left. Pure.
fn pause(near: u64) -> Duration {
    Duration::from_nanos((u128::from(near) * 1_000_000_000 / u128::from(FASTEST)) as u64).clamp(LOOK_NEAR, LOOK)
}

/// Kills all that an init started. They are frozen: none of them ends, or starts another, while they are counted.
fn kill_below(init: i32) {
    let mut parents = vec![init];
    while let Some(parent) = parents.pop() {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
            parents.push(child);
            // Gone already is as good.
            let _ = csb_sys::process::kill(child, csb_sys::process::SIGKILL);
        }
    }
}

/// Watches a sandbox for as long as it has processes, those below `init`. `end` ends all of them.
pub(crate) async fn watch<F: Future<Output = ()>>(quota: Arc<Quota>, handle: Handle, init: i32, end: impl Fn() -> F) {
    let Ok(top) = open_directory(&quota.top) else { return };
    let mut past = Past::default();
    let mut missed = 0;
    let mut stirred = Instant::now();
    loop {
        let near = quota.last().map_or(0, |last| quota.left(&last));
        if handle.is_working() || stirred.elapsed() < MEASURE {
            sleep(pause(near)).await;
        } else if timeout(REST, quota.stir.notified()).await.is_ok() {
            stirred = Instant::now();
        }
        match handle.phase() {
            Phase::Running => {}
            Phase::Paused => continue,
            Phase::Releasing | Phase::Gone => return,
        }
        let last = quota.last();
        if let Some(last) = last.filter(|last| excess(last, &quota.limits, quota.most) == 0) {
            // What came through the file API since is no command's doing.
            past.held = Some(held(&last) + last.added);
        }
        let lost = last.map_or(0, |last| last.free.saturating_sub(free(&top).unwrap_or(last.free)));
        let near = last.map_or(u64::MAX, |last| quota.left(&last));
        let due = match &last {
            None => true,
            Some(last) => {
                let since = last.at.elapsed();
                let often = since >= MEASURE && since >= last.took * SHARE && (lost > 0 || handle.is_working());
                // What the file system lost may be others' doing, again and again.
                often || (lost > near / 2 && since >= last.took * 2)
            }
        };
        if !due {
            continue;
        }
        // Nothing is written while it is looked at, where it may be too much by now.
        let held_back = lost >= near || missed >= TRIES;
        let frozen = held_back && handle.hold(true).await.is_ok();
        let found = quota.look().await;
        let stop = match &found {
            Ok(found) => {
                let stop;
                (past, stop) = judge(past, held(found), excess(found, &quota.limits, quota.most));
                stop
            }
            Err(_) => false,
        };
        if stop {
            handle.overrun();
            if frozen {
                kill_below(init);
            }
        }
        if frozen && let Err(error) = handle.hold(false).await {
            tracing::error!(sandbox = %handle.id(), %error, "cannot let a sandbox go on");
        }
        match found {
            Ok(found) => {
                missed = 0;
                if !stop {
                    continue;
                }
                tracing::info!(sandbox = %handle.id(), bytes = found.own.bytes, files = found.own.files, "workspace quota exceeded");
                sleep(SETTLE).await;
                // What nobody waits for writes on.
                if !handle.is_working() && handle.usage().await.is_ok_and(|usage| usage.pids > 0) {
                    end().await;
                }
                if let Ok(found) = quota.look().await {
                    past.held = Some(held(&found));
                }
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => missed += 1,
            Err(error) => tracing::debug!(sandbox = %handle.id(), %error, "cannot measure a workspace"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn check(past: Option<u64>, now: u64, excess: u64, expected: (Option<u64>, bool)) {
        let (after, stop) = judge(Past { held: past }, now, excess);
        assert_eq!((after.held, stop), expected, "{past:?} {now} {excess}");
    }

    #[test]
    fn whoever_writes_beyond_the_quota_is_stopped_and_whoever_makes_room_is_not() {
        check(None, 5 * MIB, 0, (Some(5 * MIB), false));
        check(Some(5 * MIB), 11 * MIB, MIB, (Some(5 * MIB), true));
        // Already beyond it when the sandbox woke.
        check(None, 11 * MIB, MIB, (Some(11 * MIB), false));
        // `rm` goes on, and its steps are kept.
        check(Some(11 * MIB), 10 * MIB + 1, 1, (Some(10 * MIB + 1), false));
        check(Some(11 * MIB), 11 * MIB + 1000, MIB, (Some(11 * MIB), false));
        check(Some(11 * MIB), 13 * MIB, 3 * MIB, (Some(11 * MIB), true));
        // Another sandbox of the user filled the user's quota, not this one.
        check(Some(2 * MIB), 2 * MIB, 50 * MIB, (Some(2 * MIB), false));
        // One byte too many is too many.
        check(Some(9 * MIB), 10 * MIB, 1, (Some(9 * MIB), true));
    }

    #[test]
    fn bytes_inodes_and_the_users_other_workspaces_count() {
        let found = |bytes, files, all| Found {
            own: Measured { bytes, files, modified: 0 },
            all,
            at: Instant::now(),
            took: Duration::ZERO,
            free: 0,
            added: 0,
        };
        let limits = Limits { disk: 10, inodes: 5, ..Limits::default() };
        assert_eq!(excess(&found(10, 5, Some(20)), &limits, Some(20)), 0);
        assert_eq!(excess(&found(13, 5, None), &limits, None), 3);
        assert_eq!(excess(&found(0, 6, None), &limits, None), INODE);
        assert_eq!(excess(&found(0, 0, Some(21)), &limits, Some(20)), 1);
    }
}
