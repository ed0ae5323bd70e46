//! The port by which the backend asks pid 1 for what concerns the machine as a whole.

use super::{Machine, inside, kernel, ports::Port, set_clock};
use csb_jail::Step;
use csb_sys::{
    process::{self, SIGCHLD},
    vsock::Listener,
};
use csb_types::Usage;
use csb_wire::{
    Failure,
    machine::{FromMachine, MOST, Numbered, ToMachine},
};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Nobody is at the other end: until it is looked again.
const ALONE: Duration = Duration::from_millis(100);
/// For a backend that has not connected yet.
const PATIENCE: Duration = Duration::from_secs(20);

/// Owner of the port.
pub(super) struct Control {
    line: Line,
}

enum Line {
    /// Opened and closed on the host.
    Serial(OwnedFd),
    /// The newest connection is the one there is.
    Vsock { listener: Listener, stream: Option<OwnedFd> },
}

impl Line {
    /// A connection that has come in the meantime takes the place of the one there is.
    fn look(&mut self) {
        if let Self::Vsock { listener, stream } = self {
            while let Ok(Some(newer)) = listener.accept() {
                *stream = Some(newer);
            }
        }
    }

    fn stream(&self) -> Option<&OwnedFd> {
        match self {
            Self::Serial(fd) => Some(fd),
            Self::Vsock { stream, .. } => stream.as_ref(),
        }
    }

    /// What tells that there is something to read, or to look at.
    fn polled(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Serial(fd) => vec![fd.as_fd()],
            Self::Vsock { listener, stream } => {
                [listener.as_fd()].into_iter().chain(stream.iter().map(AsFd::as_fd)).collect()
            }
        }
    }

    /// The host has hung up.
    fn part(&mut self) {
        if let Self::Vsock { stream, .. } = self {
            *stream = None;
        }
    }
}

impl Control {
    pub(super) fn new(port: Port) -> Self {
        let line = match port {
            Port::Serial(fd) => Line::Serial(fd),
            Port::Vsock(listener) => Line::Vsock { listener, stream: None },
        };
        Self { line }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let line = match &self.line {
            Line::Serial(fd) => Line::Serial(fd.try_clone()?),
            Line::Vsock { listener, .. } => Line::Vsock { listener: listener.try_clone()?, stream: None },
        };
        Ok(Self { line })
    }

    /// Says something that nobody asked for, as soon as there is somebody.
    pub(super) fn insist(&mut self, frame: &FromMachine) {
        let end = Instant::now() + PATIENCE;
        while self.say(0, frame).is_err() && Instant::now() < end {
            std::thread::sleep(ALONE / 10);
        }
    }

    fn say(&mut self, number: u64, frame: &FromMachine) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Numbered { number, frame })?;
        line.push(b'\n');
        self.line.look();
        let stream = self.line.stream().ok_or(io::ErrorKind::NotConnected)?;
        let written = rustix::io::write(stream, &line);
        if written.is_err_and(|error| error != rustix::io::Errno::AGAIN) {
            self.line.part();
        }
        written?;
        Ok(())
    }

    /// Answers until the sandbox's init has ended; why it has.
    pub(super) fn serve(mut self, machine: &Machine) -> String {
        match self.answer(machine) {
            Ok(status) => format!("the sandbox's init ended ({:?})", process::decode_status(status)),
            Err(error) => format!("the control port: {error}"),
        }
    }

    fn answer(&mut self, machine: &Machine) -> io::Result<i32> {
        let signals = process::signal_fd(&[SIGCHLD])?;
        let (mut text, mut buffer) = (Vec::new(), vec![0; 4096]);
        loop {
            while let Some((pid, status)) = process::reap() {
                if pid == machine.init {
                    return Ok(status);
                }
            }
            let hung_up = {
                let fds = self.line.polled();
                let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
                polled.push(PollFd::new(&signals, PollFlags::IN));
                match rustix::event::poll(&mut polled, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                polled[..fds.len()].iter().any(|fd| fd.revents().contains(PollFlags::HUP))
            };
            while process::next_signal(&signals).is_some() {}
            self.line.look();
            if let Some(stream) = self.line.stream() {
                match rustix::io::read(stream, &mut buffer) {
                    Ok(0) => self.line.part(),
                    Ok(length) => text.extend_from_slice(&buffer[..length]),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(_) if matches!(self.line, Line::Vsock { .. }) => self.line.part(),
                    Err(error) => return Err(error.into()),
                }
            }
            if hung_up && matches!(self.line, Line::Serial(_)) {
                // The port says so again and again.
                let pause = Timespec::try_from(ALONE).ok();
                let _ = rustix::event::poll(&mut [PollFd::new(&signals, PollFlags::IN)], pause.as_ref());
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                if let Ok(Numbered { number, frame }) = serde_json::from_slice(&line) {
                    // Nobody there any more: nobody waits for it.
                    let _ = self.say(number, &machine.obey(frame));
                }
            }
            if text.len() > MOST {
                text.clear();
            }
        }
    }
}

fn go_on(now: (i64, i64), seed: &[u8]) -> Result<(), Failure> {
    set_clock(now).step("set the clock")?;
    if seed.is_empty() { Ok(()) } else { csb_sys::random::reseed(seed).step("renew the random numbers") }
}

impl Machine {
    fn obey(&self, order: ToMachine) -> FromMachine {
        match order {
            ToMachine::Usage => match self.usage() {
                Ok(usage) => FromMachine::Usage(usage),
                Err(failure) => FromMachine::Done(Err(failure)),
            },
            ToMachine::SetLimits(limits) => FromMachine::Done(self.group.set_limits(&inside(&limits)).map_err(kernel)),
            ToMachine::GoOn { now, seed } => FromMachine::Done(go_on(now, &seed)),
        }
    }

    fn usage(&self) -> Result<Usage, Failure> {
        let counters = self.group.usage().map_err(kernel)?;
        let stat = rustix::fs::fstatvfs(&self.files).step("look at the sandbox's files")?;
        Ok(Usage {
            cpu_usec: counters.cpu_usec,
            memory: counters.memory,
            memory_peak: counters.memory_peak,
            pids: counters.pids.saturating_sub(super::OURS.into()),
            oom_kills: counters.oom_kills,
            pids_refused: counters.pids_refused,
            disk: (stat.f_blocks - stat.f_bfree.min(stat.f_blocks)) * stat.f_frsize,
            disk_limit: stat.f_blocks * stat.f_frsize,
            inodes_free: stat.f_ffree,
        })
    }
}
