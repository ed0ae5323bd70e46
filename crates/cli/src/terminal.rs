//! The caller's terminal: its size, and raw mode that is always undone.

use csb_types::PtySize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::{io, os::fd::AsFd};

/// Raw mode of stdin's terminal; dropping it restores what was before.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Sets raw mode. Whoever holds this must not end the process by a signal: the signals that would are forwarded instead.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Fails when the terminal is gone; then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether this is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    isatty(fd)
}

/// The size of the terminal on stdin or stdout, if there is one.
pub fn size() -> Option<PtySize> {
    let size = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(PtySize { cols: size.ws_col, rows: size.ws_row })
}
