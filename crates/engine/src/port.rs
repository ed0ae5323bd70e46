//! A packet connection in the async world.

use crate::watch::watch;
use csb_sys::packet::Conn;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

/// Between two attempts to send to a peer that does not read. Watching for it to read would wake us after every frame
/// that it does read, which is nearly all of them.
const RETRY: Duration = Duration::from_millis(2);

/// A packet connection in the async world. Each packet is whole, so senders need no order between them.
#[derive(Debug)]
pub(crate) struct Port(AsyncFd<Conn>);

impl Port {
    pub(crate) fn new(conn: Conn) -> io::Result<Self> {
        conn.set_nonblocking(true)?;
        Ok(Self(watch(conn, Interest::READABLE)?))
    }

    /// The next packet; none when the peer is gone. May be dropped while it waits.
    pub(crate) async fn recv(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, Conn::recv).await
    }

    /// Sends a packet, or says `WouldBlock`.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.get_ref().send(bytes, fds)
    }

    /// Waits until a packet that did not fit may fit, and sends it. May be dropped while it waits.
    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match self.try_send(bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(RETRY).await,
                done => return done,
            }
        }
    }
}
