//! Terminals: sizes and the controlling terminal (tty_ioctl(4), pts(4)).

use crate::check::check;
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Sets the size in characters; the foreground process group gets SIGWINCH.
pub fn set_size(tty: impl AsFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(tty, size).map_err(Into::into)
}

/// Makes `tty` the controlling terminal of the calling session leader.
pub fn make_controlling(tty: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer argument.
    unsafe { check(libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0)).map(drop) }
}
