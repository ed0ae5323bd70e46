//! As much of HTTP/1.1 as Firecracker's server speaks.

use serde_json::Value;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
};

/// What Firecracker takes of a body by default.
const MOST: usize = 51_200;

pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

/// The next request of a connection; none at its end.
pub(super) fn read(stream: &UnixStream) -> io::Result<Option<Request>> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(io::Error::other("no request"));
    };
    let mut length = 0;
    loop {
        let mut header = String::new();
        if lines.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    if length > MOST {
        return Err(io::Error::other("the body is too long"));
    }
    let mut text = vec![0; length];
    lines.read_exact(&mut text)?;
    let body = if text.is_empty() { None } else { Some(serde_json::from_slice(&text)?) };
    Ok(Some(Request { method, path, body }))
}

pub(super) fn answer(mut stream: &UnixStream, status: u16, body: Option<&Value>) -> io::Result<()> {
    let text = body.map(Value::to_string).unwrap_or_default();
    let mut head = format!("HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n");
    if body.is_some() {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", text.len());
    }
    stream.write_all(format!("{head}\r\n{text}").as_bytes())
}
