//! QMP: what is asked of a QEMU that runs (its QEMU Machine Protocol: JSON, a line each, over a Unix socket). It may have been
//! taken over by its guest: what it answers is bounded in size and in time.

use super::socket::{Until, connect, late};
use serde_json::{Value, json};
use std::{
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

/// For one answer. A machine's memory is saved in the background, and asked after.
const PATIENCE: Duration = Duration::from_secs(20);
/// For a machine's memory to be written or read.
const LONG: Duration = Duration::from_secs(600);
/// Bytes of one answer: the largest is a console, each character of it escaped.
const MOST: usize = 1 << 20;

/// A connection. QEMU talks with one at a time.
pub(super) struct Qmp {
    stream: UnixStream,
    /// What was read of the next line, and of more.
    text: Vec<u8>,
    patience: Duration,
}

fn refused(error: &Value) -> io::Error {
    io::Error::other(error["desc"].as_str().unwrap_or("QEMU refused").to_owned())
}

impl Qmp {
    /// Connects, and agrees on what both understand.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        Self::within(path, PATIENCE)
    }

    /// `patience`: for one answer.
    fn within(path: &Path, patience: Duration) -> io::Result<Self> {
        let mut qmp = Self { stream: connect(path)?, text: Vec::new(), patience };
        let end = Instant::now() + patience;
        qmp.line(end)?;
        qmp.ask_until("qmp_capabilities", json!({}), None, end)?;
        Ok(qmp)
    }

    fn line(&mut self, end: Instant) -> io::Result<Value> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.text[seen..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=seen + at).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            seen = self.text.len();
            if seen > MOST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of QEMU has no end"));
            }
            let mut piece = [0; 16 << 10];
            match (Until { stream: &self.stream, end }).read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.text.extend_from_slice(&piece[..length]),
            }
        }
    }

    /// One command and its answer; events between them are nobody's.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        self.ask_until(command, arguments, None, Instant::now() + self.patience)
    }

    fn ask_until(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        end: Instant,
    ) -> io::Result<Value> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        let mut until = Until { stream: &self.stream, end };
        match fd {
            None => until.write_all(text.as_bytes())?,
            Some(fd) => send_with(&until, text.as_bytes(), fd)?,
        }
        loop {
            let mut answer = self.line(end)?;
            // Nor are its events listened to for ever.
            if Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Some(error) = answer.get("error") {
                return Err(refused(error));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Gives QEMU a descriptor, under a name.
    pub(super) fn give(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let end = Instant::now() + self.patience;
        self.ask_until("getfd", json!({ "fdname": name }), Some(fd), end).map(drop)
    }

    /// Whether the machine runs, or why not, in QEMU's words: `paused`, `inmigrate`, …
    pub(super) fn status(&mut self) -> io::Result<String> {
        Ok(self.ask("query-status", json!({}))?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits for a migration to its end.
    pub(super) fn migrated(&mut self) -> io::Result<()> {
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            let state = self.ask("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let why = state["error-desc"].as_str().unwrap_or("QEMU does not say why");
                    return Err(io::Error::other(why.to_owned()));
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "a machine's memory was not moved in time"))
    }
}

fn send_with(until: &Until<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let fds = [fd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    beside.push(SendAncillaryMessage::ScmRights(&fds));
    until.stream.set_write_timeout(Some(until.left()?))?;
    let sent = rustix::net::sendmsg(until.stream.as_fd(), &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)
        .map_err(|error| late(error.into()))?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    /// What a peer at the other end of a connection does.
    fn against<T: Send + 'static>(
        peer: impl FnOnce(UnixStream) -> T + Send + 'static,
        ours: impl FnOnce(&Path) -> io::Error,
    ) -> (T, io::Error) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let done = thread::spawn(move || peer(listener.accept().unwrap().0));
        let error = ours(&path);
        (done.join().unwrap(), error)
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        let flood = |mut stream: UnixStream| {
            let mut said = 0;
            while said < 64 * MOST && stream.write_all(&[b' '; 65536]).is_ok() {
                said += 65536;
            }
            said
        };
        let (said, _) = against(flood, |path| Qmp::connect(path).err().unwrap());
        assert!(said < 4 * MOST);
    }

    /// Says the same again and again, slowly; how often, before nobody listens any more.
    fn drip(stream: &mut UnixStream, what: &[u8]) -> usize {
        let said = |stream: &mut UnixStream| {
            thread::sleep(Duration::from_millis(20));
            stream.write_all(what)
        };
        (0..1000).take_while(|_| said(stream).is_ok()).count()
    }

    #[test]
    fn one_that_says_its_answer_a_byte_at_a_time_is_not_heard_out() {
        let few = Duration::from_millis(200);
        let (said, error) = against(|mut stream| drip(&mut stream, b" "), |path| Qmp::within(path, few).err().unwrap());
        assert!(error.kind() == io::ErrorKind::TimedOut && said < 1000, "{error}, {said}");
        let events = |mut stream: UnixStream| {
            stream.write_all(b"{}\n").unwrap();
            drip(&mut stream, b"{\"event\":\"STOP\"}\n")
        };
        let (said, error) = against(events, |path| Qmp::within(path, few).err().unwrap());
        assert!(error.kind() == io::ErrorKind::TimedOut && said < 1000, "{error}, {said}");
    }
}
