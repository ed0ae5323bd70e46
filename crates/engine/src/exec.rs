//! One command in a sandbox, as everyone but its driver sees it.

use crate::{
    OpError,
    driver::Command,
    order::{Cursor, Lane},
    spool::Spool,
    verdict::{Baseline, Deeds},
};
use bytes::Bytes;
use csb_types::{ExecId, ExecResult, ExecSpec, PtySize, Stream};
use std::{
    fmt,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
};

/// Bytes a reader takes at once.
const READ: u64 = 64 * 1024;
/// Control-D, which a terminal in its usual mode takes for the end of input.
const END_OF_INPUT: u8 = 4;

/// One command in a sandbox. Clones are the same exec.
#[derive(Clone)]
pub struct Exec(pub(crate) Arc<Shared>);

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Position in the combined stream after this chunk: what to resume from.
    pub seq: u64,
    /// Which stream it is from.
    pub stream: Stream,
    /// The bytes; never empty.
    pub bytes: Bytes,
}

/// What its driver, its pump and all others share.
pub(crate) struct Shared {
    pub(crate) id: ExecId,
    pub(crate) spec: ExecSpec,
    pub(crate) started_ms: i64,
    pub(crate) pid: AtomicI32,
    pub(crate) spool: Arc<Spool>,
    /// Locked by a writer for as long as the pipe is full.
    pub(crate) stdin: tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>,
    master: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    result: OnceLock<ExecResult>,
    deeds: Mutex<Deeds>,
    baseline: Mutex<Baseline>,
    driver: mpsc::UnboundedSender<Command>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        spec: ExecSpec,
        started_ms: i64,
        spool: Arc<Spool>,
        id: ExecId,
        baseline: Baseline,
        driver: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self {
            id,
            spec,
            started_ms,
            pid: AtomicI32::new(0),
            spool,
            stdin: tokio::sync::Mutex::new(None),
            master: Mutex::new(None),
            result: OnceLock::new(),
            deeds: Mutex::new(Deeds::default()),
            baseline: Mutex::new(baseline),
            driver,
        }
    }

    pub(crate) fn deeds(&self) -> MutexGuard<'_, Deeds> {
        lock(&self.deeds)
    }

    pub(crate) fn baseline(&self) -> MutexGuard<'_, Baseline> {
        lock(&self.baseline)
    }

    pub(crate) fn set_master(&self, master: Option<Arc<AsyncFd<OwnedFd>>>) {
        *lock(&self.master) = master;
    }

    pub(crate) fn result(&self) -> Option<&ExecResult> {
        self.result.get()
    }

    /// Tells everyone how it ended. The first result stands.
    pub(crate) fn publish(&self, result: ExecResult) {
        let _ = self.result.set(result);
        self.let_go();
        self.spool.changed.notify_waiters();
    }

    /// Closes this server's way to its input. A write under way closes it itself when it hears of the end.
    pub(crate) fn let_go(&self) {
        self.set_master(None);
        if let Ok(mut stdin) = self.stdin.try_lock() {
            *stdin = None;
        }
    }

    async fn ended(&self) -> &ExecResult {
        loop {
            let changed = self.spool.changed.notified();
            if let Some(result) = self.result.get() {
                return result;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("id", &self.0.id).field("result", &self.0.result.get()).finish_non_exhaustive()
    }
}

impl Exec {
    /// Which.
    pub fn id(&self) -> &ExecId {
        &self.0.id
    }

    /// Pid inside the sandbox.
    pub fn pid(&self) -> i32 {
        self.0.pid.load(Ordering::Relaxed)
    }

    /// What was asked for. After a restart of the server without the environment, which is not written to disk.
    pub fn spec(&self) -> &ExecSpec {
        &self.0.spec
    }

    /// When it was started, ms since 1970.
    pub fn started_ms(&self) -> i64 {
        self.0.started_ms
    }

    /// How it ended; none while it runs.
    pub fn result(&self) -> Option<ExecResult> {
        self.0.result.get().cloned()
    }

    /// Waits for its end. All output of its first process can be read by then.
    pub async fn wait(&self) -> ExecResult {
        self.0.ended().await.clone()
    }

    /// Output from byte `from` of the combined stream on (0: from the start).
    pub fn output(&self, from: u64) -> OutputReader {
        OutputReader { exec: self.clone(), cursor: Cursor::start(), from, files: [None, None], broken: false }
    }

    /// Bytes of output kept so far, both streams together.
    pub fn output_len(&self) -> u64 {
        self.0.spool.len()
    }

    /// Whether output past `max_output` was dropped so far.
    pub fn truncated(&self) -> bool {
        self.0.spool.truncated()
    }

    /// All output so far: stdout (or the terminal's), stderr.
    pub async fn read_all(&self) -> (Vec<u8>, Vec<u8>) {
        let read = |lane| {
            self.0.spool.read_lane(lane).unwrap_or_else(|error| {
                tracing::warn!(exec = %self.0.id, %error, "cannot read kept output");
                Vec::new()
            })
        };
        (read(Lane::Out), read(Lane::Err))
    }

    /// Writes to its stdin (or terminal); returns when the pipe has taken all bytes.
    pub async fn write_stdin(&self, bytes: Bytes) -> Result<(), OpError> {
        if let Some(master) = self.master()? {
            return self.write_to(&master, &bytes).await;
        }
        let mut stdin = self.0.stdin.lock().await;
        let Some(fd) = &*stdin else { return Err(self.without_stdin()) };
        let done = self.write_to(fd, &bytes).await;
        if done.is_err() {
            *stdin = None;
        }
        done
    }

    /// Why nothing can be written.
    fn without_stdin(&self) -> OpError {
        match self.0.result.get() {
            Some(_) => OpError::ExecEnded,
            None if self.0.spec.stdin => OpError::StdinClosed,
            None => OpError::NoStdin,
        }
    }

    fn master(&self) -> Result<Option<Arc<AsyncFd<OwnedFd>>>, OpError> {
        if self.0.result.get().is_some() {
            return Err(OpError::ExecEnded);
        }
        Ok(lock(&self.0.master).clone())
    }

    async fn write_to(&self, fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> Result<(), OpError> {
        while !bytes.is_empty() {
            let write = fd.async_io(Interest::WRITABLE, |fd| rustix::io::write(fd, bytes).map_err(Into::into));
            let written = tokio::select! {
                written = write => written,
                _ = self.0.ended() => return Err(OpError::ExecEnded),
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(OpError::StdinClosed),
                Err(error) => return Err(OpError::Internal(format!("cannot write to the command's stdin: {error}"))),
            }
        }
        Ok(())
    }

    /// Closes its stdin once all earlier writes are done; on a terminal sends an end-of-file character.
    pub async fn close_stdin(&self) -> Result<(), OpError> {
        if let Some(master) = self.master()? {
            return self.write_to(&master, &[END_OF_INPUT]).await;
        }
        if self.0.stdin.lock().await.take().is_none() {
            return Err(self.without_stdin());
        }
        // Init keeps a copy of the write end: the command sees the end only when both are closed.
        self.ask(|reply| Command::CloseStdin { exec: self.0.id.clone(), reply }).await
    }

    /// Sends a signal to its first process's group or, with `tree`, to all its descendants.
    pub async fn signal(&self, signal: i32, tree: bool) -> Result<(), OpError> {
        if !(1..=64).contains(&signal) {
            let rule = "a number from 1 to 64";
            return Err(OpError::Spec(csb_types::SpecError::Value { what: "signal", rule }));
        }
        if self.0.result.get().is_some() {
            return Err(OpError::ExecEnded);
        }
        self.ask(|reply| Command::Signal { exec: self.0.id.clone(), signal, tree, reply }).await
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<(), OpError>>) -> Command) -> Result<(), OpError> {
        let (reply, answer) = oneshot::channel();
        self.0.driver.send(command(reply)).map_err(|_| OpError::Gone)?;
        answer.await.unwrap_or(Err(OpError::Gone))
    }

    /// Tells its terminal a new size.
    pub async fn resize(&self, size: PtySize) -> Result<(), OpError> {
        let master = self.master()?.ok_or(OpError::NoPty)?;
        match csb_sys::tty::set_size(master.get_ref(), size.cols, size.rows) {
            // The terminal itself is elsewhere.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                self.ask(|reply| Command::Resize { exec: self.0.id.clone(), size, reply }).await
            }
            done => done.map_err(|error| OpError::Internal(format!("cannot resize the terminal: {error}"))),
        }
    }
}

/// Reads an exec's output from any position, at its own pace.
pub struct OutputReader {
    exec: Exec,
    cursor: Cursor,
    from: u64,
    files: [Option<Arc<File>>; 2],
    broken: bool,
}

impl fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputReader").field("exec", &self.exec.0.id).field("from", &self.from).finish_non_exhaustive()
    }
}

impl OutputReader {
    /// The next piece; none once the exec has ended and all was delivered, or when it cannot be read
    /// ([`OutputReader::is_broken`] tells). May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Chunk> {
        let exec = self.exec.0.clone();
        loop {
            let changed = exec.spool.changed.notified();
            // Read before the order is: bytes that came before the end must not be taken for missing.
            let ended = exec.result.get().is_some();
            let piece = self.next_now();
            if piece.is_some() || ended || self.broken {
                return piece;
            }
            changed.await;
        }
    }

    /// The next piece that is there already.
    pub fn next_now(&mut self) -> Option<Chunk> {
        let exec = self.exec.0.clone();
        let piece = exec.spool.next(&mut self.cursor, self.from, READ)?;
        let mut bytes = vec![0; piece.len as usize];
        if let Err(error) = self.file(piece.lane).and_then(|f| f.read_exact_at(&mut bytes, piece.offset)) {
            tracing::warn!(exec = %exec.id, %error, "cannot read kept output");
            self.broken = true;
            return None;
        }
        exec.spool.read(&piece);
        let stream = match piece.lane {
            Lane::Out if exec.spec.pty.is_some() => Stream::Pty,
            Lane::Out => Stream::Stdout,
            Lane::Err => Stream::Stderr,
        };
        Some(Chunk { seq: piece.seq, stream, bytes: bytes.into() })
    }

    /// Whether output that was kept could not be read: what was delivered is not all.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn file(&mut self, lane: Lane) -> io::Result<&File> {
        let file = &mut self.files[lane as usize];
        if file.is_none() {
            *file = Some(self.exec.0.spool.file(lane)?);
        }
        Ok(file.as_ref().expect("opened just now"))
    }
}
