//! File operations of one sandbox: the server's side of the protocol with the file helper (see `csb_wire::FileFrame`).
//!
//! The helper runs with a sandboxed user's rights; all it sends is treated as hostile: sizes are bounded, silence ends
//! the operation, and nothing it says is used but as bytes and words to show.

use crate::{driver::Command, handle::Sandbox};
use bytes::Bytes;
use csb_types::{FileEntry, FileError, FileErrorCode, Phase};
use csb_wire::{CHUNK, FileReply, FileRequest, HEADER, Tag, decode_header, encode_header};
use futures_util::{Stream, StreamExt};
use std::{io, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// A helper that neither takes nor gives a byte for so long is given up.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of all entries of one listing, as encoded.
const MOST_LISTING: usize = 64 << 20;
/// Bytes of an error's text that are passed on.
const MOST_MESSAGE: usize = 1024;

fn interrupted(message: impl Into<String>) -> FileError {
    FileError { code: FileErrorCode::Interrupted, message: message.into() }
}

fn hostile() -> FileError {
    interrupted("the file helper in the sandbox did not keep to its protocol")
}

fn silent() -> FileError {
    interrupted("the file helper in the sandbox stopped answering")
}

fn vanished() -> FileError {
    interrupted("the file helper in the sandbox ended before the operation was done")
}

/// One operation under way.
pub(crate) struct FileCall {
    stream: UnixStream,
}

/// A reply, with what it must hold made sure of.
pub(crate) struct Reply {
    pub(crate) bytes: u64,
    entry: Option<FileEntry>,
    truncated: bool,
}

impl Reply {
    pub(crate) fn into_entry(self) -> Result<FileEntry, FileError> {
        self.entry.ok_or_else(hostile)
    }
}

impl FileCall {
    /// Asks init for a helper. Whether one could be started shows in the first answer.
    pub(crate) fn open(sandbox: &Sandbox, user: Option<&str>, request: FileRequest) -> Result<Self, FileError> {
        match sandbox.phase() {
            Phase::Running => {}
            Phase::Paused => return Err(interrupted("the sandbox is paused; resume it first")),
            Phase::Releasing | Phase::Gone => return Err(interrupted("the sandbox is gone")),
        }
        let io = |error: io::Error| FileError {
            code: FileErrorCode::Io,
            message: format!("cannot open a socket to the sandbox: {error}"),
        };
        // The helper's end stays blocking: the flag belongs to each end.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(io)?;
        ours.set_nonblocking(true).map_err(io)?;
        let stream = UnixStream::from_std(ours).map_err(io)?;
        let command = Command::File { user: user.map(Into::into), request: Box::new(request), fd: theirs.into() };
        sandbox.commands.send(command).map_err(|_| interrupted("the sandbox is gone"))?;
        Ok(Self { stream })
    }

    /// Waits for the one answer.
    pub(crate) async fn end(mut self) -> Result<Reply, FileError> {
        match next_frame(&mut self.stream).await? {
            (Tag::End, payload) => parse_end(&payload),
            _ => Err(hostile()),
        }
    }

    /// Waits for the one answer, which holds an entry.
    pub(crate) async fn entry(self) -> Result<FileEntry, FileError> {
        self.end().await?.into_entry()
    }

    /// Collects at most `limit` entries.
    pub(crate) async fn list(mut self, limit: u32) -> Result<(Vec<FileEntry>, bool), FileError> {
        let mut entries = Vec::new();
        let mut size = 0;
        loop {
            let (tag, payload) = next_frame(&mut self.stream).await?;
            size += payload.len();
            match tag {
                Tag::Entry if entries.len() < limit as usize && size <= MOST_LISTING => {
                    entries.push(csb_wire::decode(&payload).map_err(|_| hostile())?);
                }
                Tag::End => return parse_end(&payload).map(|reply| (entries, reply.truncated)),
                _ => return Err(hostile()),
            }
        }
    }

    /// Waits for the first piece and hands the rest to a reader.
    pub(crate) async fn download(self, length: Option<u64>) -> Result<FileReader, FileError> {
        let mut reader =
            FileReader { stream: Some(self.stream), ended: false, first: None, left: length.unwrap_or(u64::MAX) };
        reader.first = reader.receive().await?;
        Ok(reader)
    }

    /// Sends `body`; an answer that comes early is an error of the helper's, and ends it.
    pub(crate) async fn upload(
        mut self,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Reply, FileError> {
        let (mut from, mut to) = self.stream.split();
        let mut body = pin!(body);
        let mut answer = pin!(async {
            match read_frame(&mut from).await? {
                (Tag::End, payload) => parse_end(&payload),
                _ => Err(hostile()),
            }
        });
        let mut early = false;
        loop {
            let piece = tokio::select! {
                biased;
                answer = &mut answer => return answer.and(Err(hostile())),
                piece = body.next() => piece,
            };
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|error| interrupted(format!("the upload was cut short: {error}")))?;
            for chunk in piece.chunks(CHUNK) {
                let sent = async {
                    to.write_all(&encode_header(Tag::Data, chunk.len())).await?;
                    to.write_all(chunk).await
                };
                tokio::select! {
                    biased;
                    answer = &mut answer => return answer.and(Err(hostile())),
                    sent = timeout(IDLE, sent) => early |= sent.map_err(|_| silent())?.is_err(),
                }
            }
            // A helper that failed said why before it closed its end.
            if early {
                break;
            }
        }
        if !early && to.write_all(&encode_header(Tag::Finish, 0)).await.is_err() {
            early = true;
        }
        let reply = timeout(IDLE, answer).await.map_err(|_| silent())??;
        if early { Err(hostile()) } else { Ok(reply) }
    }
}

async fn next_frame(stream: &mut UnixStream) -> Result<(Tag, Vec<u8>), FileError> {
    timeout(IDLE, read_frame(stream)).await.map_err(|_| silent())?
}

/// The whole frame within one `IDLE`: a byte now and then is as good as silence.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Tag, Vec<u8>), FileError> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.map_err(|_| vanished())?;
    let (tag, length) = decode_header(header).map_err(|_| hostile())?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.map_err(|_| vanished())?;
    Ok((tag, payload))
}

fn parse_end(payload: &[u8]) -> Result<Reply, FileError> {
    let end: Result<FileReply, FileError> = csb_wire::decode(payload).map_err(|_| hostile())?;
    match end {
        Ok(reply) => Ok(Reply { bytes: reply.bytes, entry: reply.entry, truncated: reply.truncated }),
        Err(mut error) => {
            if error.message.len() > MOST_MESSAGE {
                let cut = error.message.floor_char_boundary(MOST_MESSAGE);
                error.message.truncate(cut);
            }
            Err(error)
        }
    }
}

/// A file or archive that is being read. Dropped before its end, the operation ends.
#[derive(Debug)]
pub struct FileReader {
    /// None once the end has come, or while a frame is being received: a reader dropped within one must not go on.
    stream: Option<UnixStream>,
    ended: bool,
    first: Option<Bytes>,
    left: u64,
}

impl FileReader {
    /// The next piece, never empty; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, FileError> {
        if self.ended {
            return Ok(None);
        }
        let mut stream = self.stream.take().ok_or_else(vanished)?;
        match next_frame(&mut stream).await? {
            (Tag::Data, payload) if !payload.is_empty() && payload.len() as u64 <= self.left => {
                self.left -= payload.len() as u64;
                self.stream = Some(stream);
                Ok(Some(payload.into()))
            }
            (Tag::End, payload) => {
                parse_end(&payload)?;
                self.ended = true;
                Ok(None)
            }
            _ => Err(hostile()),
        }
    }
}
