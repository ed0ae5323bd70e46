//! QMP: what is asked of a QEMU that runs (its QEMU Machine Protocol: JSON, a line each, over a Unix socket).

use super::socket::connect;
use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, IoSlice, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

/// For one answer. A machine's memory is saved in the background, and asked after.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of one answer: the largest is a console, each character of it escaped.
const MOST: u64 = 1 << 20;

/// A connection. QEMU talks with one at a time.
pub(super) struct Qmp {
    lines: BufReader<UnixStream>,
}

fn refused(error: &Value) -> io::Error {
    io::Error::other(error["desc"].as_str().unwrap_or("QEMU refused").to_owned())
}

impl Qmp {
    /// Connects, and agrees on what both understand.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let stream = connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut qmp = Self { lines: BufReader::new(stream) };
        qmp.line()?;
        qmp.ask("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        match (&mut self.lines).take(MOST).read_line(&mut line)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if !line.ends_with('\n') => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of QEMU has no end"));
            }
            _ => {}
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// One command and its answer; events between them are nobody's.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        self.ask_with(command, arguments, None)
    }

    fn ask_with(&mut self, command: &str, arguments: Value, fd: Option<BorrowedFd<'_>>) -> io::Result<Value> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        match fd {
            None => self.lines.get_mut().write_all(text.as_bytes())?,
            Some(fd) => send_with(self.lines.get_ref(), text.as_bytes(), fd)?,
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let mut answer = self.line()?;
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
        self.ask_with("getfd", json!({ "fdname": name }), Some(fd)).map(drop)
    }

    /// Whether the machine runs, or why not, in QEMU's words: `paused`, `inmigrate`, …
    pub(super) fn status(&mut self) -> io::Result<String> {
        Ok(self.ask("query-status", json!({}))?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits for a migration to its end.
    pub(super) fn migrated(&mut self) -> io::Result<()> {
        loop {
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
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let fds = [fd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    beside.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let said = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = 0;
            while said < 64 * MOST && stream.write_all(&[b' '; 65536]).is_ok() {
                said += 65536;
            }
            said
        });
        assert!(Qmp::connect(&path).is_err());
        assert!(said.join().unwrap() < 4 * MOST);
    }
}
