//! Owns the frames that a peer has not taken yet, so that no single-threaded loop ever waits for a peer.

use csb_sys::packet::Conn;
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<(Vec<u8>, Vec<OwnedFd>)>);

impl Outbox {
    pub(crate) fn push(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        self.0.push_back((bytes, fds));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sends what the peer takes now. An error other than a full buffer means the peer is lost.
    pub(crate) fn flush(&mut self, conn: &Conn) -> io::Result<()> {
        while let Some((bytes, fds)) = self.0.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match conn.send(bytes, &borrowed) {
                Ok(()) => drop(self.0.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
