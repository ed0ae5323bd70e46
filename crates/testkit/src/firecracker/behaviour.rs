//! VMMs that a host has to survive: what is written in a file `behaviour` beside the program, as `WORD PATH`, happens when that path
//! is asked for; or [`SERIAL`].

use std::{fs, io, io::Write, os::unix::net::UnixStream, path::Path};

/// Name of the file.
pub const FILE: &str = "behaviour";
/// In the file, for a machine that can be saved.
pub const SERIAL: &str = "serial";
/// What a refusal says: more than is shown, and characters that a terminal would obey.
pub const FAULT: &str = "it is\n\u{1b}[31mred";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Behaviour {
    Good,
    /// As good, with serial ports for vsock: see `ports.rs`.
    Serial,
    /// It ends.
    Dies(String),
    /// Its answer goes on for as long as somebody reads.
    Endless(String),
    /// It never answers, but to others.
    Waits(String),
    /// It refuses, in many words.
    Refuses(String),
}

impl Behaviour {
    pub(super) fn read(beside: &Path) -> io::Result<Self> {
        let Ok(text) = fs::read_to_string(beside.join(FILE)) else { return Ok(Self::Good) };
        if text.trim() == SERIAL {
            return Ok(Self::Serial);
        }
        match text.trim().split_once(' ') {
            Some(("dies", path)) => Ok(Self::Dies(path.into())),
            Some(("endless", path)) => Ok(Self::Endless(path.into())),
            Some(("waits", path)) => Ok(Self::Waits(path.into())),
            Some(("refuses", path)) => Ok(Self::Refuses(path.into())),
            _ => Err(io::Error::other(format!("no behaviour `{text}`"))),
        }
    }

    /// Whether that was all.
    pub(super) fn answered(&self, asked: &str, mut stream: &UnixStream) -> io::Result<bool> {
        match self {
            Self::Dies(path) if path == asked => {
                eprintln!("firecracker: \u{1b}[31mout of luck");
                std::process::exit(3)
            }
            Self::Endless(path) if path == asked => {
                stream.write_all(b"HTTP/1.1 200 \r\n")?;
                loop {
                    stream.write_all(&[b'x'; 4096])?;
                }
            }
            Self::Waits(path) if path == asked => {
                // Open for as long as this process lives.
                std::mem::forget(stream.try_clone()?);
                Ok(true)
            }
            Self::Refuses(path) if path == asked => {
                let fault = serde_json::json!({ "fault_message": format!("{FAULT}{}", "!".repeat(5000)) });
                super::http::answer(stream, 400, Some(&fault))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
