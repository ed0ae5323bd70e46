//! This process's stdin, stdout and stderr without threads and without ever blocking the runtime on another process.
//!
//! The descriptors are shared with whoever started us, so `O_NONBLOCK`, which would change them for everyone, is never set:
//! readiness is asked for before each call, and a call is kept so small that a ready descriptor takes it whole.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{io, os::fd::BorrowedFd};
use tokio::io::{Interest, unix::AsyncFd};

/// A pipe that is ready for writing takes this much without blocking (`PIPE_BUF`, pipe(7)).
const SMALL: usize = 4096;

/// One of the three.
pub struct Stdio {
    fd: BorrowedFd<'static>,
    interest: Interest,
    poll: Option<AsyncFd<BorrowedFd<'static>>>,
    /// A file or `/dev/null`: never makes anyone wait, and epoll refuses it.
    plain: bool,
}

impl Stdio {
    /// Standard input.
    pub fn stdin() -> Self {
        Self::new(rustix::stdio::stdin(), Interest::READABLE)
    }

    /// Standard output.
    pub fn stdout() -> Self {
        Self::new(rustix::stdio::stdout(), Interest::WRITABLE)
    }

    /// Standard error.
    pub fn stderr() -> Self {
        Self::new(rustix::stdio::stderr(), Interest::WRITABLE)
    }

    fn new(fd: BorrowedFd<'static>, interest: Interest) -> Self {
        Self { fd, interest, poll: None, plain: false }
    }

    fn is_ready(&self) -> io::Result<bool> {
        let flags = if self.interest.is_readable() { PollFlags::IN } else { PollFlags::OUT };
        let mut list = [PollFd::from_borrowed_fd(self.fd, flags)];
        match poll(&mut list, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            // Hang-up and error are also answers that a call returns without waiting.
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a call will not block. May be dropped while it waits.
    async fn ready(&mut self) -> io::Result<()> {
        while !self.plain && !self.is_ready()? {
            if self.poll.is_none() {
                #[expect(deprecated, reason = "what it cannot check is true: these descriptors are never closed")]
                let registered = AsyncFd::with_interest(self.fd, self.interest);
                match registered {
                    Ok(poll) => self.poll = Some(poll),
                    Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                        self.plain = true;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            let Some(poll) = &self.poll else { continue };
            if self.interest.is_readable() {
                poll.readable().await?.clear_ready();
            } else {
                poll.writable().await?.clear_ready();
            }
        }
        Ok(())
    }

    /// Reads what is there; 0 at the end. May be dropped while it waits without losing a byte.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.ready().await?;
            match rustix::io::read(self.fd, &mut *buffer) {
                Ok(count) => return Ok(count),
                // Set by whoever shares the descriptor.
                Err(Errno::AGAIN) => tokio::task::yield_now().await,
                Err(Errno::INTR) => {}
                // The other end of a terminal is gone.
                Err(Errno::IO) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes everything.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.ready().await?;
            let part = if self.plain { bytes } else { &bytes[..bytes.len().min(SMALL)] };
            match rustix::io::write(self.fd, part) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => tokio::task::yield_now().await,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
