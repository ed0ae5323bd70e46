//! How output travels: bytes in JSON, events of a stream, frames of a WebSocket.

use super::{ExecView, SignalValue};
use crate::Invalid;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use csb_types::Stream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    /// As they are.
    #[serde(rename = "utf-8")]
    Utf8,
    /// RFC 4648, standard alphabet, padded.
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    /// The bytes that `data` stands for.
    pub fn decode(self, data: &str) -> Result<Vec<u8>, Invalid> {
        match self {
            Self::Utf8 => Ok(data.as_bytes().to_vec()),
            Self::Base64 => BASE64_STANDARD.decode(data).map_err(|e| Invalid::new(format!("not base64: {e}"))),
        }
    }
}

/// One text and its encoding: UTF-8 when the bytes are.
pub fn encode_text(bytes: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (BASE64_STANDARD.encode(bytes), Encoding::Base64),
    }
}

/// Two texts with one encoding: UTF-8 when both are.
pub fn encode_pair(stdout: Vec<u8>, stderr: Vec<u8>) -> (String, String, Encoding) {
    match (String::from_utf8(stdout), String::from_utf8(stderr)) {
        (Ok(out), Ok(err)) => (out, err, Encoding::Utf8),
        (out, err) => {
            let bytes = |r: Result<String, std::string::FromUtf8Error>| match r {
                Ok(text) => text.into_bytes(),
                Err(error) => error.into_bytes(),
            };
            (BASE64_STANDARD.encode(bytes(out)), BASE64_STANDARD.encode(bytes(err)), Encoding::Base64)
        }
    }
}

/// Data of a `stdout`, `stderr` or `pty` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputEvent {
    /// Position after these bytes; pass it as `from` to go on behind them.
    pub seq: u64,
    /// The bytes.
    pub data: String,
    /// How they are written.
    pub encoding: Encoding,
}

impl OutputEvent {
    /// From a chunk.
    pub fn new(seq: u64, bytes: &[u8]) -> Self {
        let (data, encoding) = encode_text(bytes);
        Self { seq, data, encoding }
    }
}

/// Text frames of the server on a WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WsServer {
    /// First: what is attached to.
    Start(ExecView),
    /// Last: how it ended.
    End(ExecView),
    /// A client's frame was refused, or the stream ends early.
    Error(crate::ErrorDetail),
}

/// Text frames of the client on a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum WsClient {
    /// The terminal has a new size.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// Send a signal.
    Signal {
        /// Which.
        signal: SignalValue,
        /// To everything the exec started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tree: Option<bool>,
    },
    /// No more stdin.
    CloseStdin,
}

/// A binary frame of the server: one byte stream, eight bytes position (little-endian), the bytes.
pub fn ws_frame(stream: Stream, seq: u64, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + bytes.len());
    frame.push(stream as u8);
    frame.extend_from_slice(&seq.to_le_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// The parts of a binary frame of the server; none when it is not one.
pub fn ws_unframe(frame: &[u8]) -> Option<(Stream, u64, &[u8])> {
    let (head, bytes) = frame.split_at_checked(9)?;
    let stream = match head[0] {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::Pty,
        _ => return None,
    };
    Some((stream, u64::from_le_bytes(head[1..].try_into().ok()?), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_of_bad_utf8_makes_both_base64() {
        let (out, err, encoding) = encode_pair(b"ok".to_vec(), vec![0xff]);
        assert_eq!((out.as_str(), err.as_str(), encoding), ("b2s=", "/w==", Encoding::Base64));
        assert_eq!(encoding.decode(&out).unwrap(), b"ok");
    }

    #[test]
    fn a_ws_frame_is_read_as_written() {
        let frame = ws_frame(Stream::Stderr, 300, b"abc");
        assert_eq!(frame[..9], [2, 44, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ws_unframe(&frame), Some((Stream::Stderr, 300, &b"abc"[..])));
        assert_eq!(ws_unframe(&[1, 2]), None);
        assert_eq!(serde_json::to_string(&WsClient::CloseStdin).unwrap(), r#"{"type":"close_stdin"}"#);
    }
}
