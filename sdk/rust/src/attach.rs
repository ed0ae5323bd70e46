//! A two-way connection to one exec over a WebSocket: what a terminal needs.

use crate::{
    ApiError, Chunk, Error, Exec,
    exec::signal_value,
    output::fresh,
    transport::{Repeat, parse},
};
use bytes::Bytes;
use csb_api::{ExecView, WsClient, WsServer, ws_unframe};
use csb_types::{PtySize, Stream};
use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, header};
use std::time::Duration;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::client::generate_key,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

const WHAT: &str = "talk to a command";
/// Connections that bring nothing new before an attachment gives up.
const FRUITLESS: u32 = 8;

/// What comes from an attached exec.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Output.
    Output(Chunk),
    /// It ended; nothing follows.
    End(Box<ExecView>),
}

/// An attached exec. Output re-attaches by position when the connection breaks; input that was under way then may be lost.
pub struct Attachment {
    exec: Exec,
    position: u64,
    socket: Option<WebSocketStream<reqwest::Upgraded>>,
    fruitless: u32,
}

impl Attachment {
    pub(crate) async fn open(exec: Exec, position: u64) -> Result<Self, Error> {
        let mut attachment = Self { exec, position, socket: None, fruitless: 0 };
        attachment.connect().await?;
        Ok(attachment)
    }

    /// Position in the output of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    async fn connect(&mut self) -> Result<&mut WebSocketStream<reqwest::Upgraded>, Error> {
        if self.socket.is_none() {
            let transport = &self.exec.sandbox.client.transport;
            let path = format!("{}/ws", self.exec.path);
            let key = generate_key();
            let response = transport
                .send(WHAT, Repeat::Always, || {
                    transport
                        .request(Method::GET, &path)
                        .query(&[("from", self.position)])
                        .header(header::CONNECTION, "Upgrade")
                        .header(header::UPGRADE, "websocket")
                        .header(header::SEC_WEBSOCKET_VERSION, "13")
                        .header(header::SEC_WEBSOCKET_KEY, &key)
                })
                .await?;
            let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
            if accepted.is_none_or(|a| a.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
                return Err(Error::protocol("it does not speak WebSocket"));
            }
            let io = response.upgrade().await.map_err(|source| Error::Lost { what: WHAT, source: source.into() })?;
            let config = WebSocketConfig::default().max_message_size(Some(16 << 20));
            self.socket = Some(WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await);
        }
        Ok(self.socket.as_mut().expect("it was just set"))
    }

    /// What comes next. May be dropped while it waits (`select!`) without losing anything.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let lost = match self.receive().await {
                Ok(Some(Message::Binary(bytes))) => match self.output(bytes)? {
                    Some(chunk) => return Ok(Event::Output(chunk)),
                    None => continue,
                },
                Ok(Some(Message::Text(text))) => match parse(text.as_bytes())? {
                    WsServer::Start(_) => continue,
                    WsServer::End(view) => return Ok(Event::End(Box::new(view))),
                    WsServer::Error(detail) => match Error::Api(Box::new(ApiError::of_stream(detail))) {
                        // The server behind the server.
                        error if error.is_away() => Some(error),
                        error => return Err(error),
                    },
                },
                Ok(Some(Message::Close(_)) | None) => None,
                Ok(Some(_)) => continue,
                // The server may be on its way back.
                Err(error) if error.is_away() => Some(error),
                Err(error) => return Err(error),
            };
            self.socket = None;
            self.fruitless += 1;
            if self.fruitless > FRUITLESS {
                return Err(lost.unwrap_or_else(|| Error::Lost {
                    what: WHAT,
                    source: "the connection ends before the command does".into(),
                }));
            }
            tokio::time::sleep(Duration::from_millis(20 << self.fruitless)).await;
        }
    }

    async fn receive(&mut self) -> Result<Option<Message>, Error> {
        let message = self.connect().await?.next().await.transpose();
        message.map_err(|error| Error::Lost { what: WHAT, source: error.into() })
    }

    fn output(&mut self, bytes: Bytes) -> Result<Option<Chunk>, Error> {
        let (stream, seq, bytes) = frame(bytes)?;
        let bytes = fresh(self.position, seq, &bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.fruitless = 0;
        self.position = seq;
        Ok(Some(Chunk { seq, stream, bytes }))
    }

    async fn send(&mut self, message: Message) -> Result<(), Error> {
        let sent = self.connect().await?.send(message).await;
        sent.map_err(|error| {
            self.socket = None;
            Error::Lost { what: WHAT, source: error.into() }
        })
    }

    /// Writes to its stdin or terminal.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.send(Message::Binary(bytes.into())).await
    }

    /// Closes its stdin.
    pub async fn close_stdin(&mut self) -> Result<(), Error> {
        self.note(&WsClient::CloseStdin).await
    }

    /// Changes the size of its terminal.
    pub async fn resize(&mut self, size: PtySize) -> Result<(), Error> {
        self.note(&WsClient::Resize { cols: size.cols, rows: size.rows }).await
    }

    /// Sends a signal by name.
    pub async fn signal(&mut self, signal: &str) -> Result<(), Error> {
        self.note(&WsClient::Signal { signal: signal_value(signal), tree: None }).await
    }

    async fn note(&mut self, note: &WsClient) -> Result<(), Error> {
        let text = serde_json::to_string(note).expect("a note holds nothing that JSON cannot write");
        self.send(Message::Text(text.into())).await
    }
}

/// The parts of an output frame.
fn frame(bytes: Bytes) -> Result<(Stream, u64, Bytes), Error> {
    let (stream, seq, output) = ws_unframe(&bytes)
        .ok_or_else(|| Error::protocol("an output frame that is cut short or of an unknown stream"))?;
    Ok((stream, seq, bytes.slice_ref(output)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_frames_are_taken_apart() {
        let good = Bytes::from_static(&[3, 5, 0, 0, 0, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(frame(good).unwrap(), (Stream::Pty, 5, Bytes::from_static(b"hi")));
        for bad in [&[][..], &[1][..], &[1, 0, 0, 0, 0, 0, 0, 0][..], &[9, 0, 0, 0, 0, 0, 0, 0, 0][..]] {
            assert!(frame(Bytes::from_static(bad)).is_err(), "{bad:?}");
        }
    }
}
