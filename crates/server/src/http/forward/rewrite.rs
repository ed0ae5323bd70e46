//! One field of a JSON object gets another value while the object passes, however large its other fields are.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::BodyDataStream;

/// Where in the object the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Outside of texts.
    Plain,
    /// In a text; whether the byte before was a backslash.
    Text { escaped: bool },
    /// In the value that is replaced.
    Value { escaped: bool },
}

/// Replaces the text that a field of the outermost object has.
#[derive(Debug)]
struct Rewriter {
    name: Vec<u8>,
    value: Vec<u8>,
    at: At,
    depth: u32,
    /// Whether the next text is a field's name.
    name_next: bool,
    /// The name being read, as far as it can still be ours.
    read: Option<Vec<u8>>,
    /// Whether the next value is the one to be replaced.
    hit: bool,
}

impl Rewriter {
    fn new(name: &str, value: &str) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
            at: At::Plain,
            depth: 0,
            name_next: false,
            read: None,
            hit: false,
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut BytesMut) {
        for &byte in bytes {
            match self.at {
                At::Plain => {
                    match byte {
                        b'{' | b'[' => {
                            self.depth += 1;
                            self.name_next = self.depth == 1 && byte == b'{';
                        }
                        b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                        b',' if self.depth == 1 => (self.name_next, self.hit) = (true, false),
                        b':' if self.depth == 1 => self.name_next = false,
                        b'"' if self.depth == 1 && self.hit && !self.name_next => {
                            self.at = At::Value { escaped: false };
                            out.extend_from_slice(b"\"");
                            out.extend_from_slice(&self.value);
                            continue;
                        }
                        b'"' => {
                            self.at = At::Text { escaped: false };
                            self.read = (self.depth == 1 && self.name_next).then(Vec::new);
                        }
                        _ => {}
                    }
                    out.extend_from_slice(&[byte]);
                }
                At::Text { escaped } => {
                    out.extend_from_slice(&[byte]);
                    self.at = match byte {
                        b'"' if !escaped => {
                            self.hit = self.read.take().is_some_and(|read| read == self.name);
                            At::Plain
                        }
                        _ => {
                            if let Some(read) = &mut self.read
                                && read.len() <= self.name.len()
                            {
                                read.push(byte);
                            }
                            At::Text { escaped: byte == b'\\' && !escaped }
                        }
                    };
                }
                At::Value { escaped } => {
                    self.at = match byte {
                        b'"' if !escaped => {
                            out.extend_from_slice(b"\"");
                            self.hit = false;
                            At::Plain
                        }
                        _ => At::Value { escaped: byte == b'\\' && !escaped },
                    };
                }
            }
        }
    }
}

/// A body whose outermost field `name`, where it is a text, has `value`.
pub fn field(body: reqwest::Body, name: &str, value: String) -> Body {
    let mut rewriter = Rewriter::new(name, &value);
    Body::from_stream(BodyDataStream::new(body).map(move |piece| {
        piece.map(|piece: Bytes| {
            let mut out = BytesMut::with_capacity(piece.len() + 32);
            rewriter.push(&piece, &mut out);
            out.freeze()
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        for cut in 0..=text.len() {
            let mut rewriter = Rewriter::new("id", "new");
            let mut out = BytesMut::new();
            rewriter.push(&text.as_bytes()[..cut], &mut out);
            rewriter.push(&text.as_bytes()[cut..], &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn the_outermost_field_alone_is_replaced_wherever_the_network_cuts() {
        check(
            r#"{"a":"id","id" : "old\"x","b":{"id":"old"},"c":["id","old"]}"#,
            r#"{"a":"id","id" : "new","b":{"id":"old"},"c":["id","old"]}"#,
        );
        check(r#"{"out":"\"id\":\"old\"","id":"old"}"#, r#"{"out":"\"id\":\"old\"","id":"new"}"#);
        check(r#"{"id":null,"x":"y"}"#, r#"{"id":null,"x":"y"}"#);
        check(r#"{"id":{"k":"old"}}"#, r#"{"id":{"k":"old"}}"#);
        check(r#"[{"id":"old"}]"#, r#"[{"id":"old"}]"#);
        check("not json at all", "not json at all");
    }
}
