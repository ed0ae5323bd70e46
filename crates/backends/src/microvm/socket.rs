//! Sockets of a VMM, in a directory of ours or, where the VMM makes them itself, of its own.

use super::{seat::Seat, vmm};
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

/// Connects with a socket that a VMM made, by its name there.
pub(super) fn connect_of(seat: &Seat, name: &str) -> io::Result<UnixStream> {
    to(&beneath(seat, name, OFlags::PATH)?)
}

/// Opens a file of a VMM to read, by its name there.
pub(super) fn file_of(seat: &Seat, name: &str) -> io::Result<File> {
    // Whatever a pipe or a device would do when it is opened, it is not what is wanted.
    let file = beneath(seat, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
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

/// Through no link and nowhere but below the VMM's own root.
fn beneath(seat: &Seat, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, format!("/proc/{}/root", seat.pid), directory, Mode::empty())?;
    let (its, ours) = (rustix::fs::fstat(&root)?, rustix::fs::stat("/")?);
    // A moment after it was started it has the host's; and what was opened is its own only if the pid still is.
    if (its.st_dev, its.st_ino) == (ours.st_dev, ours.st_ino) || !vmm::is_of(seat.pid, &seat.name) {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
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

#[cfg(test)]
mod tests {
    use super::super::settings::Vmm;
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_process_that_has_the_host_s_root_is_no_vmm_yet() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, file) = (directory.path().join("api.sock"), directory.path().join("console"));
        let _listener = UnixListener::bind(&socket).unwrap();
        std::fs::write(&file, "the host's").unwrap();
        let pid = std::process::id() as i32;
        // It is in the group that is asked for.
        let seat = Seat { vmm: Vmm::Firecracker, pid, name: String::new(), run: directory.path().to_owned() };
        assert!(vmm::is_of(pid, &seat.name));
        assert!(connect(&socket).is_ok());
        assert_eq!(connect_of(&seat, socket.to_str().unwrap()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(file_of(&seat, file.to_str().unwrap()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
