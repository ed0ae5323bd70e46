//! File operations of one sandbox: the server's side of the protocol with the file helper (see `csb_wire::FileFrame`).
//!
//! The helper runs with a sandboxed user's rights; all it sends is treated as hostile: sizes are bounded, silence ends
//! the operation, and nothing it says is used but as bytes and words to show.

use crate::{driver::Command, handle::Sandbox, room::Lease};
use bytes::Bytes;
use csb_types::{FileEntry, FileError, FileErrorCode, Phase};
use csb_wire::{CHUNK, FileReply, FileRequest, HEADER, Tag, decode_header, encode_header};
use futures_util::{Stream, StreamExt};
use std::{io, pin::pin, sync::Arc, time::Duration};
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

/// Why nothing can be done to files in this phase.
fn not_now(phase: Phase) -> FileError {
    match phase {
        Phase::Running => interrupted("the operation was not done"),
        Phase::Paused => FileError { code: FileErrorCode::Paused, message: "the sandbox is paused".into() },
        Phase::Releasing | Phase::Gone => {
            FileError { code: FileErrorCode::Gone, message: "the sandbox is gone".into() }
        }
    }
}

/// How long the news of a sandbox's end may take after its helper's.
const NEWS: Duration = Duration::from_millis(100);

/// An interruption is the sandbox's, where that was paused or has ended meanwhile.
pub(crate) async fn blame<T>(sandbox: &Sandbox, result: Result<T, FileError>) -> Result<T, FileError> {
    let Err(error) = result else { return result };
    if error.code != FileErrorCode::Interrupted {
        return Err(error);
    }
    let mut phase = sandbox.phase.subscribe();
    let _ = timeout(NEWS, phase.wait_for(|phase| *phase != Phase::Running)).await;
    Err(match sandbox.phase() {
        Phase::Running => error,
        phase => not_now(phase),
    })
}

fn vanished() -> FileError {
    interrupted("the file helper in the sandbox ended before the operation was done")
}

/// One operation under way.
pub(crate) struct FileCall {
    stream: UnixStream,
    idle: Duration,
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
            phase => return Err(not_now(phase)),
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
        sandbox.commands.send(command).map_err(|_| not_now(Phase::Gone))?;
        Ok(Self { stream, idle: IDLE })
    }

    /// Waits for the one answer.
    pub(crate) async fn end(mut self) -> Result<Reply, FileError> {
        match next_frame(&mut self.stream, self.idle).await? {
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
            let (tag, payload) = next_frame(&mut self.stream, self.idle).await?;
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
        let mut reader = FileReader {
            stream: Some(self.stream),
            idle: self.idle,
            ended: false,
            first: None,
            left: length.unwrap_or(u64::MAX),
            _lease: None,
        };
        reader.first = reader.receive().await?;
        Ok(reader)
    }

    /// Sends `body`; an answer that comes early is an error of the helper's, and ends it.
    pub(crate) async fn upload(
        mut self,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Reply, FileError> {
        let idle = self.idle;
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
                    sent = timeout(idle, sent) => early |= sent.map_err(|_| silent())?.is_err(),
                }
            }
            // A helper that failed said why before it closed its end.
            if early {
                break;
            }
        }
        if !early {
            let header = encode_header(Tag::Finish, 0);
            early = timeout(idle, to.write_all(&header)).await.map_err(|_| silent())?.is_err();
        }
        let reply = timeout(idle, answer).await.map_err(|_| silent())??;
        if early { Err(hostile()) } else { Ok(reply) }
    }
}

async fn next_frame(stream: &mut UnixStream, idle: Duration) -> Result<(Tag, Vec<u8>), FileError> {
    timeout(idle, read_frame(stream)).await.map_err(|_| silent())?
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
        // Only we know that.
        Err(FileError { code: FileErrorCode::Paused | FileErrorCode::Gone | FileErrorCode::QuotaExceeded, .. }) => {
            Err(hostile())
        }
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
    idle: Duration,
    ended: bool,
    first: Option<Bytes>,
    left: u64,
    /// What its sandbox is kept awake by.
    pub(crate) _lease: Option<Arc<Lease>>,
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
        match next_frame(&mut stream, self.idle).await? {
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

#[cfg(test)]
mod tests {
    use super::*;
    use csb_types::FileKind;
    use futures_util::stream;
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream as Peer,
        thread::JoinHandle,
    };

    /// A call whose helper is `script`.
    fn helper<T: Send + 'static>(script: impl FnOnce(Peer) -> T + Send + 'static) -> (FileCall, JoinHandle<T>) {
        let (ours, theirs) = Peer::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(ours).unwrap();
        (FileCall { stream, idle: Duration::from_millis(300) }, std::thread::spawn(move || script(theirs)))
    }

    fn frame(tag: Tag, payload: &[u8]) -> Vec<u8> {
        [&encode_header(tag, payload.len())[..], payload].concat()
    }

    fn end(end: &Result<FileReply, FileError>) -> Vec<u8> {
        frame(Tag::End, &csb_wire::encode(end))
    }

    fn entry(path: &str) -> FileEntry {
        FileEntry {
            name: path.into(),
            path: path.into(),
            kind: FileKind::File,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            modified_ms: 0,
            target: None,
        }
    }

    /// What a reader makes of a helper that sends `bytes` and ends.
    async fn download(bytes: Vec<u8>, length: Option<u64>) -> Result<Vec<u8>, FileError> {
        let (call, _peer) = helper(move |mut peer| peer.write_all(&bytes));
        let mut reader = call.download(length).await?;
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    fn interrupted<T: std::fmt::Debug>(result: Result<T, FileError>) {
        assert_eq!(result.unwrap_err().code, FileErrorCode::Interrupted);
    }

    #[tokio::test]
    async fn an_honest_helper_is_read_to_its_end() {
        let ok = end(&Ok(FileReply { bytes: 5, ..FileReply::default() }));
        let bytes = [frame(Tag::Data, b"abc"), frame(Tag::Data, b"de"), ok.clone()].concat();
        assert_eq!(download(bytes, Some(5)).await.unwrap(), b"abcde");
        assert_eq!(download(ok, None).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_cut_file_is_an_error_and_never_a_short_file() {
        let good = [frame(Tag::Data, b"abc"), end(&Ok(FileReply::default()))].concat();
        for cut in 0..good.len() {
            interrupted(download(good[..cut].to_vec(), None).await);
        }
    }

    #[tokio::test]
    async fn frames_that_no_honest_helper_sends_end_the_operation() {
        let huge = [Tag::Data as u8, 0xff, 0xff, 0xff, 0x7f].to_vec();
        let unknown = vec![77, 0, 0, 0, 0];
        let garbage = frame(Tag::End, &[0xff; 40]);
        for bytes in [huge, unknown, garbage, frame(Tag::Data, b""), frame(Tag::Finish, b""), frame(Tag::Entry, b"x")] {
            interrupted(download(bytes, None).await);
        }
        // More than was asked for would run over a length that was promised already.
        interrupted(download(frame(Tag::Data, b"abcd"), Some(3)).await);
    }

    #[tokio::test]
    async fn a_silent_helper_is_given_up() {
        let quiet = |mut peer: Peer| {
            peer.write_all(&frame(Tag::Data, b"abc")[..6]).unwrap();
            peer.read_exact(&mut [0]).unwrap_err();
        };
        let (call, peer) = helper(quiet);
        assert!(call.download(None).await.unwrap_err().message.contains("stopped answering"));
        peer.join().unwrap();
    }

    #[tokio::test]
    async fn a_reader_dropped_in_the_middle_of_a_frame_does_not_end_well() {
        let (call, _peer) = helper(|mut peer| {
            peer.write_all(&frame(Tag::Data, b"abc")).unwrap();
            peer.write_all(&frame(Tag::Data, b"def")[..6]).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            peer.write_all(&end(&Ok(FileReply::default())))
        });
        let mut reader = call.download(None).await.unwrap();
        reader.next().await.unwrap().unwrap();
        assert!(timeout(Duration::from_millis(50), reader.next()).await.is_err());
        interrupted(reader.next().await);
    }

    #[tokio::test]
    async fn a_listing_without_end_is_cut() {
        let (call, peer) = helper(|mut peer| {
            let one = frame(Tag::Entry, &csb_wire::encode(&entry("/x")));
            while peer.write_all(&one).is_ok() {}
        });
        interrupted(call.list(100).await);
        peer.join().unwrap();
        let large = entry(&"x".repeat(400_000));
        let (call, peer) = helper(move |mut peer| {
            let one = frame(Tag::Entry, &csb_wire::encode(&large));
            while peer.write_all(&one).is_ok() {}
        });
        interrupted(call.list(u32::MAX).await);
        peer.join().unwrap();
    }

    #[tokio::test]
    async fn a_failed_upload_tells_what_the_helper_said_and_not_that_a_pipe_broke() {
        let full = FileError { code: FileErrorCode::DiskFull, message: "no room".repeat(1000) };
        let (call, _peer) = helper(move |mut peer| {
            peer.read_exact(&mut [0; 100]).unwrap();
            peer.write_all(&end(&Err(full)))
        });
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 100_000])));
        let error = call.upload(endless).await.err().unwrap();
        assert_eq!(error.code, FileErrorCode::DiskFull);
        assert!(error.message.len() <= MOST_MESSAGE);
    }

    #[tokio::test]
    async fn an_upload_is_done_only_when_all_was_taken() {
        // Success before the end of the body is a lie.
        let (call, _peer) = helper(|mut peer| {
            peer.write_all(&end(&Ok(FileReply::default()))).unwrap();
            std::io::copy(&mut peer, &mut std::io::sink())
        });
        let body = stream::iter((0..100).map(|_| Ok(Bytes::from_static(&[0; 100_000]))));
        interrupted(call.upload(body).await.map(|reply| reply.bytes));
        let (call, peer) = helper(|mut peer| {
            let mut taken = vec![0; 2 * HEADER + 3];
            peer.read_exact(&mut taken).unwrap();
            peer.write_all(&end(&Ok(FileReply { bytes: 3, ..FileReply::default() }))).unwrap();
            taken
        });
        let reply = call.upload(stream::iter([Ok(Bytes::from_static(b"abc"))])).await.ok().unwrap();
        assert_eq!(reply.bytes, 3);
        assert_eq!(peer.join().unwrap(), [frame(Tag::Data, b"abc"), frame(Tag::Finish, b"")].concat());
        // An answer without the entry it must hold.
        interrupted(reply.into_entry());
    }

    #[tokio::test]
    async fn a_body_that_fails_is_never_finished() {
        let (call, peer) = helper(|mut peer| {
            let mut taken = Vec::new();
            peer.read_to_end(&mut taken).unwrap();
            taken
        });
        let body = stream::iter([Ok(Bytes::from_static(b"abc")), Err(io::Error::other("gone"))]);
        interrupted(call.upload(body).await.map(|reply| reply.bytes));
        assert_eq!(peer.join().unwrap(), frame(Tag::Data, b"abc"));
    }

    #[tokio::test]
    async fn a_helper_that_takes_nothing_is_given_up() {
        let (call, peer) = helper(|peer| {
            std::thread::sleep(Duration::from_millis(800));
            drop(peer);
        });
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 100_000])));
        let error = call.upload(endless).await.err().unwrap();
        assert!(error.message.contains("stopped answering"), "{error}");
        peer.join().unwrap();
    }
}
