//! A command's output as it comes, across lost connections: no byte lost, none twice.

use crate::{
    ApiError, Error, Exec, Sandbox,
    exec::decode,
    request::idempotency_key,
    sse::{SseEvent, SseParser},
    transport::{IDEMPOTENCY_KEY, Repeat, parse},
};
use bytes::Bytes;
use csb_api::{ErrorBody, ExecView, OutputEvent};
use csb_types::Stream;
use futures_util::{StreamExt, stream::BoxStream};
use reqwest::{Method, Response, header::ACCEPT};
use serde::Serialize;
use std::{collections::VecDeque, time::Duration};

/// Connections that bring nothing new before a stream gives up.
const FRUITLESS: u32 = 8;
const READ: &str = "read a command's output";

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Position in both streams together after this piece; give it to [`Exec::output`] to go on from here.
    pub seq: u64,
    /// Where it came from.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Bytes,
}

/// Output of one exec from some position to its end.
pub struct OutputStream {
    exec: Exec,
    position: u64,
    connection: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    parser: SseParser,
    ready: VecDeque<SseEvent>,
    fruitless: u32,
    follow: bool,
    end: Option<ExecView>,
}

impl OutputStream {
    pub(crate) fn of(exec: Exec, position: u64) -> Self {
        Self {
            exec,
            position,
            follow: true,
            connection: None,
            parser: SseParser::default(),
            ready: VecDeque::new(),
            fruitless: 0,
            end: None,
        }
    }

    /// Ends with what is there when the server is asked.
    pub(crate) fn so_far(self) -> Self {
        Self { follow: false, ..self }
    }

    /// Starts a command and reads its `start` event, after which the stream can re-attach.
    pub(crate) async fn start(sandbox: &Sandbox, path: &str, request: &impl Serialize) -> Result<Self, Error> {
        const WHAT: &str = "start a command";
        let transport = &sandbox.client.transport;
        let key = idempotency_key();
        let response = transport
            .send(WHAT, Repeat::Always, || {
                let request = transport.request(Method::POST, path).header(IDEMPOTENCY_KEY, &key).json(request);
                request.header(ACCEPT, "text/event-stream")
            })
            .await?;
        let mut stream = Self::of(Exec::new(sandbox, String::new()), 0);
        stream.connect(response);
        match stream.event().await {
            Ok(Some(event)) if event.name == "start" => {
                let view: ExecView = parse(event.data.as_bytes())?;
                stream.exec = Exec::new(sandbox, view.exec_id);
                Ok(stream)
            }
            Ok(Some(event)) => Err(Error::protocol(format!("a stream that begins with `{}`", event.name))),
            Ok(None) => Err(Error::Lost { what: WHAT, source: "the stream ended before it began".into() }),
            Err(source) => Err(Error::Lost { what: WHAT, source: source.into() }),
        }
    }

    /// The exec whose output this is.
    pub fn exec(&self) -> &Exec {
        &self.exec
    }

    /// Position in both streams together of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How the exec ended (or, of [`Exec::output_so_far`], how it is), once [`OutputStream::next`] has returned none.
    pub fn end(&self) -> Option<&ExecView> {
        self.end.as_ref()
    }

    /// The next piece; none when the exec has ended and everything was delivered.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Error> {
        while self.end.is_none() {
            let lost = match self.step().await {
                Ok(Some(event)) => match self.take(event) {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) => continue,
                    // The server behind the server.
                    Err(error) if error.is_away() => Some(error),
                    Err(error) => return Err(error),
                },
                Ok(None) => None,
                // The server may be on its way back.
                Err(error) if error.is_away() => Some(error),
                Err(error) => return Err(error),
            };
            self.connection = None;
            self.ready.clear();
            self.fruitless += 1;
            if self.fruitless > FRUITLESS {
                return Err(lost.unwrap_or_else(|| Error::Lost {
                    what: READ,
                    source: "the stream ends before the command does".into(),
                }));
            }
            tokio::time::sleep(Duration::from_millis(20 << self.fruitless)).await;
        }
        Ok(None)
    }

    /// The next event, of a new connection if there is none; none when the connection ends.
    async fn step(&mut self) -> Result<Option<SseEvent>, Error> {
        if self.connection.is_none() {
            self.attach().await?;
        }
        self.event().await.map_err(|source| Error::Lost { what: READ, source: source.into() })
    }

    fn connect(&mut self, response: Response) {
        self.parser = SseParser::default();
        self.connection = Some(response.bytes_stream().boxed());
    }

    async fn attach(&mut self) -> Result<(), Error> {
        let transport = &self.exec.sandbox.client.transport;
        let path = format!("{}/output", self.exec.path);
        let response = transport
            .send(READ, Repeat::Always, || {
                transport
                    .request(Method::GET, &path)
                    .header(ACCEPT, "text/event-stream")
                    .query(&[("from", self.position)])
                    .query(&[("follow", self.follow)])
            })
            .await?;
        self.connect(response);
        Ok(())
    }

    /// The next event of this connection; none when it ends.
    async fn event(&mut self) -> Result<Option<SseEvent>, reqwest::Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(connection) = &mut self.connection else { return Ok(None) };
            let Some(bytes) = connection.next().await.transpose()? else { return Ok(None) };
            match self.parser.push(&bytes) {
                Ok(events) => self.ready.extend(events),
                Err(_) => return Ok(None),
            }
        }
    }

    fn take(&mut self, event: SseEvent) -> Result<Option<Chunk>, Error> {
        let stream = match event.name.as_str() {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            "pty" => Stream::Pty,
            "end" => {
                self.end = Some(parse(event.data.as_bytes())?);
                return Ok(None);
            }
            "running" if !self.follow => {
                self.end = Some(parse(event.data.as_bytes())?);
                return Ok(None);
            }
            "error" => {
                let body: ErrorBody = parse(event.data.as_bytes())?;
                return Err(Error::Api(Box::new(ApiError::of_stream(body.error))));
            }
            // The exec's own `start`, and what later servers may add.
            _ => return Ok(None),
        };
        let chunk: OutputEvent = parse(event.data.as_bytes())?;
        let bytes = Bytes::from(decode(chunk.data, chunk.encoding)?);
        let fresh = fresh(self.position, chunk.seq, &bytes)?;
        if fresh.is_empty() {
            return Ok(None);
        }
        self.fruitless = 0;
        self.position = chunk.seq;
        Ok(Some(Chunk { seq: chunk.seq, stream, bytes: fresh }))
    }
}

/// The part of a chunk that ends at `seq` which lies past `position`; a hole before it is an error.
pub(crate) fn fresh(position: u64, seq: u64, bytes: &Bytes) -> Result<Bytes, Error> {
    let start = seq.checked_sub(bytes.len() as u64).ok_or_else(|| Error::protocol("a chunk before the start"))?;
    if start > position {
        return Err(Error::protocol(format!("output from byte {position} to {start} is missing")));
    }
    let known = (position - start).min(bytes.len() as u64);
    Ok(bytes.slice(known as usize..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_bytes_are_dropped_and_missing_ones_are_an_error() {
        let bytes = Bytes::from_static(b"abcde");
        assert_eq!(fresh(10, 15, &bytes).unwrap(), "abcde");
        assert_eq!(fresh(12, 15, &bytes).unwrap(), "cde");
        assert_eq!(fresh(15, 15, &bytes).unwrap(), "");
        assert_eq!(fresh(99, 15, &bytes).unwrap(), "");
        assert!(fresh(9, 15, &bytes).is_err());
        assert!(fresh(0, 3, &bytes).is_err());
    }
}
