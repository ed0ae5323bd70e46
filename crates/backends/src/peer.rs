//! Connecting with sockets on which whoever runs in a sandbox may listen. Nobody who takes no connection is waited for, as
//! connect(2) does where the queue of a Unix socket is full: that is `WouldBlock`.
//! Knows nothing of what is said.

use csb_sys::packet::Conn;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// A stream to the socket that a descriptor was opened on (`O_PATH`): however long its path is, where an address holds 107 bytes.
pub(crate) fn stream(socket: impl AsFd) -> io::Result<UnixStream> {
    connected(socket, SocketType::STREAM).map(UnixStream::from)
}

/// As [`stream`], of frames and descriptors.
pub(crate) fn packets(socket: impl AsFd) -> io::Result<Conn> {
    connected(socket, SocketType::SEQPACKET).map(Conn::from)
}

fn connected(socket: impl AsFd, kind: SocketType) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let ours = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    rustix::net::connect(&ours, &address)?;
    rustix::io::ioctl_fionbio(&ours, false)?;
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    #[test]
    fn nobody_waits_for_a_listener_that_takes_no_connection() {
        let directory = tempfile::tempdir().unwrap();
        for (name, kind) in [("stream", SocketType::STREAM), ("packets", SocketType::SEQPACKET)] {
            let path = directory.path().join(name);
            let listener = rustix::net::socket(AddressFamily::UNIX, kind, None).unwrap();
            rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
            rustix::net::listen(&listener, 1).unwrap();
            let socket = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
            let connect = || match kind {
                SocketType::STREAM => stream(&socket).map(OwnedFd::from),
                _ => packets(&socket).map(OwnedFd::from),
            };
            let mut queued = Vec::new();
            let refused = loop {
                match connect() {
                    Ok(ours) => queued.push(ours),
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
            // Once one is taken there is room again, and what is read then is waited for.
            drop(rustix::net::accept(&listener).unwrap());
            let flags = rustix::fs::fcntl_getfl(connect().unwrap()).unwrap();
            assert!(!flags.contains(OFlags::NONBLOCK));
        }
    }
}
