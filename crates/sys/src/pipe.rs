//! Pipes and the movement of bytes between descriptors without copying them through our memory (pipe(7), splice(2)).

use crate::check::check;
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// A pipe, close-on-exec: read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Into::into)
}

/// Moves at most `len` bytes from a pipe to a file's current position, or from anything to a pipe. 0 means end of file;
/// `WouldBlock` that the pipe is empty now, whatever its own blocking mode.
pub fn splice(from: impl AsFd, to: impl AsFd, len: usize) -> io::Result<usize> {
    loop {
        match rustix::pipe::splice(&from, None, &to, None, len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}

/// Bytes in a pipe that nobody has read yet. Either end will do.
pub fn unread(pipe: impl AsFd) -> io::Result<u64> {
    rustix::io::ioctl_fionread(pipe).map_err(Into::into)
}

/// Whether the peer of a Unix stream socket has read all that was sent (`SIOCOUTQ`, unix(7)).
pub fn is_taken(socket: impl AsFd) -> io::Result<bool> {
    let mut queued: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) })?;
    Ok(queued == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Write};

    #[test]
    fn splice_moves_what_is_there_and_tells_empty_from_ended() {
        let (r, w) = pipe().unwrap();
        let to = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(splice(&r, &to, 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut w = File::from(w);
        w.write_all(b"hello").unwrap();
        assert_eq!(splice(&r, &to, 100).unwrap(), 5);
        drop(w);
        assert_eq!(splice(&r, &to, 100).unwrap(), 0);
    }

    #[test]
    fn what_the_other_side_has_not_read_is_known() {
        use std::{io::Read, os::unix::net::UnixStream};
        let (r, w) = pipe().unwrap();
        File::from(w.try_clone().unwrap()).write_all(b"hello").unwrap();
        assert_eq!((unread(&r).unwrap(), unread(&w).unwrap()), (5, 5));
        let (mut a, mut b) = UnixStream::pair().unwrap();
        assert!(is_taken(&a).unwrap());
        a.write_all(b"hello").unwrap();
        b.read_exact(&mut [0; 4]).unwrap();
        assert!(!is_taken(&a).unwrap());
        b.read_exact(&mut [0; 1]).unwrap();
        assert!(is_taken(&a).unwrap());
    }
}
