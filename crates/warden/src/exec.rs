//! Starts one command: gives its plan and its streams to a process that is confined already.

use crate::parked::{Parked, is_default};
use csb_jail::{Built, Mark, Step, failure};
use csb_sys::tty;
use csb_wire::{ExecPlan, Failure};
use rustix::fs::{Mode, OFlags};
use std::{io, os::fd::OwnedFd, time::Instant};

/// Commands that are killed as often before they begin are killed by something that goes on doing so, such as the OOM killer;
/// then that is what is reported of it.
const MOST_ATTEMPTS: u32 = 4;

/// A running command, and the ends that the init keeps for the server.
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) mark: Mark,
    pub(crate) at: Instant,
    pub(crate) outputs: Vec<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
}

/// Ends of the streams: what the command gets, what is kept.
struct Streams {
    /// stdin, stdout, stderr; one descriptor, the terminal's slave, serves as all three.
    child: Vec<OwnedFd>,
    outputs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
}

/// `parked` is used if it fits the plan's user and lives; else another is made on the spot.
pub(crate) fn start(
    plan: &ExecPlan,
    fds: Vec<OwnedFd>,
    built: &Built,
    parked: &mut Option<Parked>,
) -> Result<Started, Failure> {
    let streams = match plan.pty {
        Some(size) => terminal(size)?,
        None => pipes(plan, fds)?,
    };
    let at = Instant::now();
    let mut ready = if is_default(plan.user.as_deref()) { parked.take() } else { None };
    for attempt in 1.. {
        let command = match ready.take() {
            Some(ready) if ready.give(plan, &streams.child).step("fork")? => ready,
            _ => {
                let fresh = Parked::new(built, plan.user.as_deref())?;
                // Dead already, it has said why, or was killed: either is heard below.
                fresh.give(plan, &streams.child).step("fork")?;
                fresh
            }
        };
        // If it did not begin, the pid was never ours to show; SIGCHLD brings it to the reaper, which does not know it.
        if command.hear(&built.proc)? || attempt == MOST_ATTEMPTS {
            let (outputs, stdin) = (streams.outputs, streams.stdin);
            return Ok(Started { pid: command.pid, mark: command.mark, at, outputs, stdin });
        }
    }
    unreachable!("the last attempt returns")
}

fn pipes(plan: &ExecPlan, fds: Vec<OwnedFd>) -> Result<Streams, Failure> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| failure("limit", &io::Error::from_raw_os_error(libc::EMFILE)));
    let (stdout, stderr) = (next()?, next()?);
    let outputs = vec![next()?, next()?];
    let (stdin, keep) = if plan.stdin {
        let (read, write) = (next()?, next()?);
        (read, Some(write))
    } else {
        (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step("limit")?, None)
    };
    // A program may open `/dev/stdout` again; the pipe belongs to the server's user.
    for end in [&stdout, &stderr] {
        let _ = rustix::fs::fchmod(end, Mode::from_raw_mode(0o666));
    }
    if keep.is_some() {
        let _ = rustix::fs::fchmod(&stdin, Mode::from_raw_mode(0o666));
    }
    Ok(Streams { child: vec![stdin, stdout, stderr], outputs, stdin: keep })
}

fn terminal(size: csb_types::PtySize) -> Result<Streams, Failure> {
    use rustix::pty::OpenptFlags;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let open = || -> io::Result<(OwnedFd, OwnedFd)> {
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        tty::set_size(&master, size.cols, size.rows)?;
        let slave = match rustix::pty::ioctl_tiocgptpeer(&master, flags) {
            // gVisor knows it by its name alone.
            Err(rustix::io::Errno::NOTTY) => {
                let name = rustix::pty::ptsname(&master, Vec::new())?;
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::open(name.as_c_str(), flags, Mode::empty())?
            }
            peer => peer?,
        };
        // Ours, and the command may open it again by its name, whatever user it becomes.
        rustix::fs::fchmod(&slave, Mode::from_raw_mode(0o666))?;
        Ok((master, slave))
    };
    let (master, slave) = open().step("terminal")?;
    Ok(Streams { child: vec![slave], outputs: vec![master], stdin: None })
}
