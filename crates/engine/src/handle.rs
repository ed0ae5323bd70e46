//! What everyone but the driver holds of a sandbox.

use crate::{
    Exec, ExecError, FileReader, OpError,
    driver::{Command, Driver},
    exec,
    files::{FileCall, Reply, blame},
    journal::{Entry, Journal},
    keeper::Keeper,
    room::{Counted, Lease},
    shelf::Shelf,
    spool::Home,
    verdict::Counters,
    warden::WardenError,
};
use bytes::Bytes;
use csb_sys::packet::Conn;
use csb_types::{
    ExecId, ExecSpec, FileEntry, FileError, Limits, Phase, SandboxId, SandboxSpec, SpecError, StartedBy, Usage,
};
use csb_wire::{Failure, FileRequest};
use futures_util::Stream;
use std::{
    collections::VecDeque,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

/// One sandbox. Clones are the same sandbox; its driver task owns all state.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Sandbox>,
    /// See [`Handle::leased`].
    lease: Option<Arc<Lease>>,
}

/// What is known of a sandbox besides what it does.
#[derive(Debug, Clone)]
pub struct Meta {
    /// What was asked for.
    pub spec: Arc<SandboxSpec>,
    /// How it came to be.
    pub started_by: StartedBy,
    /// From request to ready, µs.
    pub start_micros: u64,
    /// When it was handed out, ms since 1970.
    pub created_ms: i64,
}

/// All a driver needs to begin.
#[derive(Debug)]
pub struct Seat {
    /// Which sandbox.
    pub id: SandboxId,
    /// Control socket of its init.
    pub conn: Conn,
    /// Who holds it.
    pub keeper: Arc<dyn Keeper>,
    /// What is known of it.
    pub meta: Meta,
    /// Directory of its spools; the parent exists.
    pub spool: PathBuf,
    /// Whether execs must be found again by the next server; if not, `spool` is an existing directory for nameless files.
    pub durable: bool,
    /// Where its directory goes when it is gone.
    pub shelf: Arc<Shelf>,
    /// What to do when it is gone, after the spools went.
    pub last: Option<Last>,
    /// None: init was started just now. Some: it was found running, frozen or not.
    pub adopted: Option<bool>,
}

/// For an answer to why a sandbox ended.
const WHY: Duration = Duration::from_secs(5);
/// Longest reason, in characters.
const MOST_WHY: usize = 500;

/// Done when nothing is left of a sandbox but what its node knows of it. May block.
pub struct Last(pub Box<dyn FnOnce() -> io::Result<()> + Send>);

impl fmt::Debug for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Last")
    }
}

/// What the driver, the pumps and the handles share.
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) home: Arc<Home>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) phase: watch::Sender<Phase>,
    meta: Mutex<Meta>,
    execs: Mutex<VecDeque<Arc<exec::Shared>>>,
    counters: Mutex<(Counters, bool)>,
    /// Why it ended, if nobody released it and somebody knows.
    why_ended: OnceLock<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Finds out why it ended. Whoever holds it may not answer; its end does not wait for that.
    pub(crate) async fn ask_why(&self) {
        let asked = tokio::time::timeout(WHY, self.keeper.why_ended(&self.id)).await;
        if let Ok(Ok(Some(why))) = asked {
            // Of programs and clusters: words for people, one line of them.
            let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_WHY).collect();
            tracing::warn!(sandbox = %self.id, why, "a sandbox ended by itself");
            let _ = self.why_ended.set(why);
        }
    }

    pub(crate) fn execs(&self) -> MutexGuard<'_, VecDeque<Arc<exec::Shared>>> {
        lock(&self.execs)
    }

    pub(crate) fn spec(&self) -> Arc<SandboxSpec> {
        lock(&self.meta).spec.clone()
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        let mut meta = lock(&self.meta);
        Arc::make_mut(&mut meta.spec).limits = limits;
    }

    /// Reads the counters, and remembers those that only grow.
    pub(crate) async fn read_usage(&self) -> Result<Usage, WardenError> {
        let usage = self.keeper.usage(&self.id).await?;
        *lock(&self.counters) = ((&usage).into(), false);
        Ok(usage)
    }

    /// The counters last read, and whether an exec ended since.
    pub(crate) fn counters(&self) -> (Counters, bool) {
        *lock(&self.counters)
    }

    pub(crate) fn counters_are_stale(&self) {
        lock(&self.counters).1 = true;
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.shared.id)
            .field("phase", &self.shared.phase())
            .finish_non_exhaustive()
    }
}

/// For the node, which makes sandboxes, hands them out and hears of their ends.
impl Handle {
    /// Starts the driver. Wait for `ready` before use.
    pub fn seat(seat: Seat) -> io::Result<(Handle, Readiness)> {
        let home = Arc::new(Home::open(seat.spool, seat.durable, &seat.shelf)?);
        let (journal, entries) = if seat.durable {
            let (journal, entries) = Journal::open(home.dir())?;
            (Some(journal), entries)
        } else {
            (None, Vec::<Entry>::new())
        };
        let (commands, inbox) = mpsc::unbounded_channel();
        let phase = if seat.adopted == Some(true) { Phase::Paused } else { Phase::Running };
        let shared = Arc::new(Sandbox {
            id: seat.id,
            keeper: seat.keeper,
            home,
            commands,
            phase: watch::Sender::new(phase),
            meta: Mutex::new(seat.meta),
            execs: Mutex::default(),
            counters: Mutex::new((Counters::default(), seat.adopted.is_some())),
            why_ended: OnceLock::new(),
        });
        let (ready, readiness) = oneshot::channel();
        let driver = Driver::new(shared.clone(), seat.conn, inbox, journal, (seat.shelf, seat.last), ready)?;
        tokio::spawn(driver.run(seat.adopted.map(|frozen| (frozen, entries))));
        Ok((Handle { shared, lease: None }, Readiness(readiness)))
    }

    /// Hands a sandbox from the pool to its user.
    pub fn assign(&self, meta: Meta) {
        *lock(&self.shared.meta) = meta;
    }

    /// The same sandbox, with something that is dropped when the last clone is, and the last reader of its files.
    pub fn leased(&self, lease: Arc<Lease>) -> Self {
        Self { shared: self.shared.clone(), lease: Some(lease) }
    }

    /// Whether both are the same seat of the same sandbox.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether a command runs.
    pub fn is_working(&self) -> bool {
        self.shared.execs().iter().any(|exec| exec.result().is_none())
    }

    /// Kills every command: together they have written more than they may.
    pub fn overrun(&self) {
        let _ = self.shared.commands.send(Command::Overrun);
    }

    /// Stops every process for a moment, which nobody is to notice, or lets them go on.
    pub async fn hold(&self, held: bool) -> Result<(), WardenError> {
        self.shared.keeper.freeze(&self.shared.id, held).await
    }

    /// Ends its processes and the driver; what is known of its execs stays in its directory, for another seat.
    pub async fn vacate(&self) -> Result<(), OpError> {
        self.detach().await;
        let released = self.shared.keeper.release(&self.shared.id).await;
        self.shared.set_phase(Phase::Gone);
        match released {
            Err(WardenError::Failed(failure)) if failure.errno == libc::ENOENT => Ok(()),
            other => other.map_err(crate::driver::warden_failed),
        }
    }

    /// Why it ended, where nobody released it and whoever held it knows.
    pub fn why_ended(&self) -> Option<String> {
        self.shared.why_ended.get().cloned()
    }

    /// What is known of it.
    pub fn meta(&self) -> Meta {
        lock(&self.shared.meta).clone()
    }

    /// Tells it that the warden no longer has it.
    pub fn lost(&self) {
        let _ = self.shared.commands.send(Command::Lost);
    }

    /// Tells it that a new connection to the warden works: what was cut short goes on.
    pub fn relinked(&self) {
        let _ = self.shared.commands.send(Command::Relinked);
    }

    /// Ends the driver without touching the sandbox: the next server will find all as it is.
    pub async fn detach(&self) {
        let (reply, done) = oneshot::channel();
        if self.shared.commands.send(Command::Detach { reply }).is_ok() {
            let _ = done.await;
        }
    }
}

/// Tells when a sandbox is ready.
#[derive(Debug)]
pub struct Readiness(oneshot::Receiver<Result<(), Failure>>);

impl Readiness {
    /// Waits until execs will run (or, if found running, until its execs are known). On error it is going away.
    pub async fn wait(self) -> Result<(), Failure> {
        let gone = || Failure { step: "start init".into(), message: "it ended at once".into(), errno: 0 };
        self.0.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Handle {
    /// Which.
    pub fn id(&self) -> &SandboxId {
        &self.shared.id
    }

    /// What was asked for, with the limits as they are now.
    pub fn spec(&self) -> Arc<SandboxSpec> {
        self.shared.spec()
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// How it came to be.
    pub fn started_by(&self) -> StartedBy {
        lock(&self.shared.meta).started_by
    }

    /// From request to ready, µs.
    pub fn start_micros(&self) -> u64 {
        lock(&self.shared.meta).start_micros
    }

    /// When it was handed out, ms since 1970.
    pub fn created_ms(&self) -> i64 {
        lock(&self.shared.meta).created_ms
    }

    /// Starts a command; returns once it runs or was refused.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Exec, ExecError> {
        spec.check()?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Exec { spec: Box::new(spec), reply };
        self.shared.commands.send(command).map_err(|_| ExecError::Gone)?;
        answer.await.unwrap_or(Err(ExecError::Gone))
    }

    /// Running and recently ended execs, oldest first.
    pub fn execs(&self) -> Vec<Exec> {
        self.shared.execs().iter().cloned().map(Exec).collect()
    }

    /// One of `execs`.
    pub fn find_exec(&self, id: &ExecId) -> Option<Exec> {
        self.shared.execs().iter().rev().find(|exec| exec.id == *id).cloned().map(Exec)
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<(), OpError>>) -> Command) -> Result<(), OpError> {
        let (reply, answer) = oneshot::channel();
        self.shared.commands.send(command(reply)).map_err(|_| OpError::Gone)?;
        answer.await.unwrap_or(Err(OpError::Gone))
    }

    /// Freezes every process; memory is kept. Timeouts go on: a command past its deadline dies on `resume`.
    pub async fn pause(&self) -> Result<(), OpError> {
        self.ask(|reply| Command::Freeze { frozen: true, reply }).await
    }

    /// Undoes `pause`.
    pub async fn resume(&self) -> Result<(), OpError> {
        self.ask(|reply| Command::Freeze { frozen: false, reply }).await
    }

    /// Changes limits of memory, CPU, pids and disk speed; the others must stay as they are.
    pub async fn set_limits(&self, limits: Limits) -> Result<(), OpError> {
        limits.check().map_err(SpecError::from)?;
        self.ask(|reply| Command::SetLimits { limits: Box::new(limits), reply }).await
    }

    /// What it uses.
    pub async fn usage(&self) -> Result<Usage, OpError> {
        if self.phase() == Phase::Gone {
            return Err(OpError::Gone);
        }
        self.shared.read_usage().await.map_err(|error| match error {
            WardenError::Failed(_) if matches!(self.phase(), Phase::Releasing | Phase::Gone) => OpError::Gone,
            error => OpError::Internal(format!("cannot read the sandbox's counters: {error}")),
        })
    }

    /// Ends it; returns when nothing is left of it. A second call is not an error.
    pub async fn release(&self) -> Result<(), OpError> {
        match self.ask(|reply| Command::Release { reply }).await {
            Err(OpError::Gone) if self.phase() == Phase::Gone => Ok(()),
            Err(OpError::Gone) => Err(OpError::Internal("this server no longer drives the sandbox".into())),
            done => done,
        }
    }

    /// Waits until it is gone, for whatever reason.
    pub async fn gone(&self) {
        // The sender lives in `shared`, so this ends by the phase only.
        let _ = self.shared.phase.subscribe().wait_for(|phase| *phase == Phase::Gone).await;
    }

    fn call(&self, user: Option<&str>, request: FileRequest) -> Result<FileCall, FileError> {
        FileCall::open(&self.shared, user, request)
    }

    async fn entry(&self, user: Option<&str>, request: FileRequest) -> Result<FileEntry, FileError> {
        blame(&self.shared, self.call(user, request)?.entry().await).await
    }

    /// Streams a regular file; `length` none: to its end. `user` none: uid 1000, here and below.
    pub async fn read_file(
        &self,
        user: Option<&str>,
        path: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileReader, FileError> {
        let call = self.call(user, FileRequest::Read { path: path.into(), offset, length })?;
        let mut reader = blame(&self.shared, call.download(length).await).await?;
        reader._lease = self.lease.clone();
        Ok(reader)
    }

    /// Replaces a file at once, or appends to it. An error in `body` leaves the old file.
    pub async fn write_file(
        &self,
        user: Option<&str>,
        path: &str,
        mode: Option<u32>,
        append: bool,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<FileEntry, FileError> {
        let counted = Counted::begin(self.lease.as_ref(), path).await?;
        let call = self.call(user, FileRequest::Write { path: path.into(), mode, append })?;
        let done = call.upload(Counted::bound(counted.clone(), body)).await.and_then(Reply::into_entry);
        blame(&self.shared, Counted::end(counted, done)).await
    }

    /// Entries of a directory sorted by path, and whether `limit` cut the list. `depth` 1: the directory itself.
    pub async fn list_files(
        &self,
        user: Option<&str>,
        path: &str,
        depth: u32,
        limit: u32,
    ) -> Result<(Vec<FileEntry>, bool), FileError> {
        let call = self.call(user, FileRequest::List { path: path.into(), depth, limit })?;
        blame(&self.shared, call.list(limit).await).await
    }

    /// One entry; links are not followed.
    pub async fn stat_file(&self, user: Option<&str>, path: &str) -> Result<FileEntry, FileError> {
        self.entry(user, FileRequest::Stat { path: path.into() }).await
    }

    /// Makes a directory and its missing parents.
    pub async fn make_dir(&self, user: Option<&str>, path: &str) -> Result<FileEntry, FileError> {
        self.entry(user, FileRequest::MakeDir { path: path.into() }).await
    }

    /// Renames.
    pub async fn move_file(&self, user: Option<&str>, from: &str, to: &str) -> Result<FileEntry, FileError> {
        self.entry(user, FileRequest::Move { from: from.into(), to: to.into() }).await
    }

    /// Removes a file, a link or a directory.
    pub async fn remove_file(&self, user: Option<&str>, path: &str, recursive: bool) -> Result<(), FileError> {
        let call = self.call(user, FileRequest::Remove { path: path.into(), recursive })?;
        blame(&self.shared, call.end().await.map(drop)).await
    }

    /// Streams a directory or file as a tar archive.
    pub async fn pack(&self, user: Option<&str>, path: &str) -> Result<FileReader, FileError> {
        let call = self.call(user, FileRequest::Pack { path: path.into() })?;
        let mut reader = blame(&self.shared, call.download(None).await).await?;
        reader._lease = self.lease.clone();
        Ok(reader)
    }

    /// Unpacks a tar archive below a directory; returns the bytes of file content written.
    pub async fn unpack(
        &self,
        user: Option<&str>,
        path: &str,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<u64, FileError> {
        let counted = Counted::begin(self.lease.as_ref(), path).await?;
        let call = self.call(user, FileRequest::Unpack { path: path.into() })?;
        let done = call.upload(Counted::bound(counted.clone(), body)).await.map(|reply| reply.bytes);
        blame(&self.shared, Counted::end(counted, done)).await
    }
}
