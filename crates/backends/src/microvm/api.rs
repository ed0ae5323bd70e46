//! Firecracker's API: one HTTP request for each connection, over the socket that it makes. The VMM may have been taken over by its
//! guest: what it answers is bounded in size and time, and shown with its control characters escaped.

use super::{
    seat::Seat,
    socket::{Until, connect_of},
};
use csb_wire::machine::VMM_RUN;
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    time::{Duration, Instant},
};

/// Name of its socket.
pub(super) const SOCKET: &str = "api.sock";
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// For one that comes when a machine's memory is written.
const LONG: Duration = Duration::from_secs(600);
/// Bytes of an answer, its head included.
const MOST: usize = 64 << 10;
/// Characters of a refusal that are shown.
const SHOWN: usize = 400;

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// It may take long.
    pub(super) long: bool,
}

impl Request {
    pub(super) fn get(path: &str) -> Self {
        Self { method: "GET", path: path.into(), body: None, long: false }
    }

    pub(super) fn put(path: &str, body: Value) -> Self {
        Self { method: "PUT", path: path.into(), body: Some(body), long: false }
    }

    pub(super) fn patch(path: &str, body: Value) -> Self {
        Self { method: "PATCH", ..Self::put(path, body) }
    }

    pub(super) fn long(self) -> Self {
        Self { long: true, ..self }
    }
}

/// Asks, and waits for the answer; null where that has no content.
pub(super) fn ask(seat: &Seat, request: &Request) -> io::Result<Value> {
    let what = format!("{} {}", request.method, request.path);
    let stream = connect_of(seat, &format!("{VMM_RUN}/{SOCKET}"))?;
    let end = Instant::now() + if request.long { LONG } else { PATIENCE };
    let mut stream = Until { stream: &stream, end };
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let body = request.body.as_ref().map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{what} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).map_err(failed)?;
    let (status, text) = answer(&mut stream).map_err(failed)?;
    let value = serde_json::from_slice::<Value>(&text);
    match status {
        200..300 if text.is_empty() => Ok(Value::Null),
        200..300 => value.map_err(|error| failed(error.into())),
        status => {
            let said = value.ok().and_then(|value| value["fault_message"].as_str().map(plain));
            let said = said.unwrap_or_else(|| format!("status {status}, and it does not say why"));
            Err(io::Error::other(format!("Firecracker refuses {what}: {said}")))
        }
    }
}

/// Status and body.
fn answer(stream: &mut impl Read) -> io::Result<(u16, Vec<u8>)> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let mut seen = 0;
    let head = loop {
        if let Some(at) = bytes[seen..].windows(4).position(|four| four == b"\r\n\r\n") {
            break seen + at;
        }
        // The end may have begun.
        seen = bytes.len().saturating_sub(3);
        if bytes.len() > MOST {
            return Err(invalid("its answer has no end"));
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => bytes.extend_from_slice(&piece[..length]),
        }
    };
    let mut body = bytes.split_off(head + 4);
    let text = std::str::from_utf8(&bytes).map_err(|_| invalid("its answer is no HTTP"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|rest| rest.get(2..5));
    let status = status.and_then(|status| status.parse().ok()).ok_or_else(|| invalid("its answer is no HTTP"))?;
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = match length {
        // No content (RFC 9110, 15.3.5).
        None => 0,
        Some((_, length)) => length.trim().parse().map_err(|_| invalid("its answer has no length"))?,
    };
    if length > MOST {
        return Err(invalid("its answer is too long"));
    }
    while body.len() < length {
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => body.extend_from_slice(&piece[..count]),
        }
    }
    body.truncate(length);
    Ok((status, body))
}

/// Words of a VMM that are fit for a terminal and a log.
pub(super) fn plain(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).fold(String::new(), |mut shown, c| {
        if c.is_control() {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    });
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<(u16, &str), &str>) {
        let got = answer(&mut &*bytes).map(|(status, body)| (status, String::from_utf8(body).unwrap()));
        match (got, expected) {
            (Ok((status, body)), Ok(wanted)) => assert_eq!((status, &*body), wanted),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (got, wanted) => panic!("{got:?} instead of {wanted:?}"),
        }
    }

    #[test]
    fn answers_are_read_to_their_end_and_no_further() {
        check(b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", Ok((204, "")));
        check(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}HTTP/1.1", Ok((200, "{}")));
        check(b"HTTP/1.1 400 \r\ncontent-length:3\r\n\r\n{", Err(""));
        check(b"", Err(""));
        check(b"220 mail\r\n\r\n", Err("no HTTP"));
        check(b"HTTP/1.1 \xff\xff\xff\r\n\r\n", Err("no HTTP"));
        check(b"HTTP/1.1 200 \r\nContent-Length: 99999999\r\n\r\n", Err("too long"));
        check(b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n", Err("no length"));
        check(&[b'x'; MOST + 5000], Err("no end"));
    }

    #[test]
    fn an_answer_may_come_in_any_pieces() {
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let most = buffer.len().min(self.1);
                self.0.read(&mut buffer[..most])
            }
        }
        let whole = b"HTTP/1.1 200 \r\nServer: Firecracker API\r\nContent-Length: 2\r\n\r\n{}";
        for size in 1..whole.len() {
            assert_eq!(answer(&mut Pieces(whole, size)).unwrap(), (200, b"{}".to_vec()), "pieces of {size}");
        }
    }

    #[test]
    fn what_a_vmm_says_moves_no_cursor() {
        assert_eq!(plain("bad\n\x1b[2Jkernel"), "bad\\n\\u{1b}[2Jkernel");
        assert_eq!(plain(&"é".repeat(9999)).chars().count(), SHOWN + 1);
    }
}
