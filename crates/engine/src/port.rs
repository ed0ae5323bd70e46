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

    /// The next packet that is there; `WouldBlock` where there is none.
    pub(crate) fn try_recv(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.0.get_ref().recv()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_peer_said_before_it_died_is_heard_though_it_read_nothing() {
        let (ours, theirs) = Conn::pair().unwrap();
        let port = Port::new(ours).unwrap();
        port.send(b"a plan that nobody reads", &[]).await.unwrap();
        theirs.send(b"why not", &[]).unwrap();
        drop(theirs);
        assert_eq!(port.recv().await.unwrap().unwrap().0, b"why not");
        assert!(port.recv().await.unwrap().is_none());
    }
}
