//! Sockets of a VMM, in a directory of ours or, where the VMM makes them itself, of its own.

use crate::peer;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

/// Connects. A path of any length will do, and what lies there must be a socket: a VMM that was taken over may put a link in its
/// own directory, to a socket of the host.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    to(&rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Connects with a socket that a process made, by its name there.
pub(super) fn connect_of(pid: i32, name: &str) -> io::Result<UnixStream> {
    to(&beneath(pid, name, OFlags::PATH)?)
}

/// Opens a file of a process to read, by its name there.
pub(super) fn file_of(pid: i32, name: &str) -> io::Result<File> {
    // Whatever a pipe or a device would do when it is opened, it is not what is wanted.
    let file = beneath(pid, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    expect(&file, FileType::RegularFile)?;
    Ok(file.into())
}

fn to(socket: &OwnedFd) -> io::Result<UnixStream> {
    expect(socket, FileType::Socket)?;
    peer::stream(socket)
}

fn expect(fd: impl AsFd, kind: FileType) -> io::Result<()> {
    if FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == kind {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "what is there is something else"))
}

/// Through no link and nowhere but below the process's own root.
fn beneath(pid: i32, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), directory, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(root, name.trim_start_matches('/'), flags, Mode::empty(), resolve)?)
}

/// A stream that has to be done with by a moment, however slowly the other end talks.
pub(super) struct Until<'a> {
    pub(super) stream: &'a UnixStream,
    pub(super) end: Instant,
}

impl Until<'_> {
    /// What is left of the time.
    pub(super) fn left(&self) -> io::Result<Duration> {
        Some(self.end.saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time"))
    }
}

pub(super) fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time"),
        _ => error,
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        loop {
            stream.set_read_timeout(Some(self.left()?))?;
            match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(late),
            }
        }
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.write(bytes).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
