//! A packet connection in the async world.

use crate::watch::watch;
use csb_sys::packet::Conn;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A packet connection in the async world. Each packet is whole, so senders need no order between them.
#[derive(Debug)]
pub(crate) struct Port(AsyncFd<Conn>);

impl Port {
    pub(crate) fn new(conn: Conn) -> io::Result<Self> {
        conn.set_nonblocking(true)?;
        Ok(Self(watch(conn)?))
    }

    /// The next packet; none when the peer is gone. May be dropped while it waits.
    pub(crate) async fn recv(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, Conn::recv).await
    }

    /// The next packet if it is there already.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.get_ref().send(bytes, fds)
    }

    /// Waits until a packet that did not fit may fit, and sends it.
    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.try_send(bytes, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.0.async_io(Interest::WRITABLE, |conn| conn.send(bytes, fds)).await
            }
            done => done,
        }
    }
}
