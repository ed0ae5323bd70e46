//! Signals of this process that belong to the command it runs for its user.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    /// For the command.
    Forward(i32),
    /// The terminal has another size.
    Resized,
}

/// The signals that are forwarded instead of ending this process.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resize: Signal,
}

/// Numbers of signal(7), the same on every architecture Linux has now.
pub const HUP: i32 = 1;
/// Ctrl-C.
pub const INT: i32 = 2;
/// Ctrl-\.
pub const QUIT: i32 = 3;
/// Cannot be ignored.
pub const KILL: i32 = 9;
/// A polite end.
pub const TERM: i32 = 15;

impl Signals {
    /// From now on they arrive here.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resize: signal(SignalKind::window_change())?,
        })
    }

    /// The next one. May be dropped while it waits.
    pub async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.interrupt.recv() => Caught::Forward(INT),
            _ = self.terminate.recv() => Caught::Forward(TERM),
            _ = self.hangup.recv() => Caught::Forward(HUP),
            _ = self.quit.recv() => Caught::Forward(QUIT),
            _ = self.resize.recv() => Caught::Resized,
        }
    }
}

/// A signal's name for people.
pub fn name(signal: i32) -> String {
    let name = match signal {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        5 => "TRAP",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        9 => "KILL",
        10 => "USR1",
        11 => "SEGV",
        12 => "USR2",
        13 => "PIPE",
        14 => "ALRM",
        15 => "TERM",
        24 => "XCPU",
        25 => "XFSZ",
        31 => "SYS",
        other => return format!("signal {other}"),
    };
    format!("SIG{name}")
}
