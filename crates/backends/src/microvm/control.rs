//! The host's side of what pid 1 of a machine is asked. What comes back was written by a guest: it is read in small pieces, and
//! believed only about that guest.

use super::socket::Until;
use csb_wire::machine::{FromMachine, MOST, Numbered, ToMachine};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// For one byte to be taken.
const GREETING: Duration = Duration::from_secs(5);

/// A connection with pid 1 of a machine, which speaks on one at a time.
pub(super) struct Control {
    stream: UnixStream,
    text: Vec<u8>,
    number: u64,
}

impl Control {
    pub(super) fn over(stream: UnixStream) -> io::Result<Self> {
        // Whatever another server was in the middle of ends here, and its answers bear numbers that are not ours.
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Until { stream: &stream, end: Instant::now() + GREETING }.write_all(b"\n")?;
        Ok(Self { stream, text: Vec::new(), number: since.as_nanos() as u64 })
    }

    /// The next message, within `patience`.
    pub(super) fn hear(&mut self, patience: Duration) -> io::Result<Numbered<FromMachine>> {
        let end = Instant::now() + patience;
        loop {
            while let Some(at) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=at).collect();
                if let Ok(message) = serde_json::from_slice(&line) {
                    return Ok(message);
                }
            }
            if self.text.len() > MOST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the machine says no end"));
            }
            let mut piece = [0; 4096];
            match (Until { stream: &self.stream, end }).read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.text.extend_from_slice(&piece[..length]),
            }
        }
    }

    /// Asks, and waits for the answer to that.
    pub(super) fn ask(&mut self, frame: ToMachine, patience: Duration) -> io::Result<FromMachine> {
        self.number += 1;
        let mut line = serde_json::to_vec(&Numbered { number: self.number, frame })?;
        line.push(b'\n');
        let end = Instant::now() + patience;
        Until { stream: &self.stream, end }.write_all(&line)?;
        loop {
            let message = self.hear(end.saturating_duration_since(Instant::now()))?;
            if message.number == self.number {
                return Ok(message.frame);
            }
        }
    }
}
