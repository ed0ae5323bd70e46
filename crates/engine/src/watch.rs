//! Registers a descriptor with tokio.

use std::{io, os::fd::AsRawFd};
use tokio::io::{Interest, unix::AsyncFd};

/// Watches `fd` for `interest`. All that is watched here owns one descriptor for as long as it lives, as tokio asks.
#[expect(deprecated, reason = "its successor is unsafe, which only csb-sys may use, and what it asks for holds here")]
pub(crate) fn watch<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}
