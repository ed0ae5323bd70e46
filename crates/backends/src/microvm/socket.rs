//! Sockets of a VMM, in a directory of ours or, where the VMM makes them itself, of its own.

use rustix::fs::{FileType, Mode, OFlags};
use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
};

/// Connects. A path of any length will do, and what lies there must be a socket: a VMM that was taken over may put a link in its
/// own directory, to a socket of the host.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&socket)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what is there is no socket"));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))
}
