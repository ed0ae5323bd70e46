//! Pipes and the movement of bytes between descriptors without copying them through our memory (pipe(7), splice(2)).

use rustix::pipe::{PipeFlags, SpliceFlags};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
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
}
