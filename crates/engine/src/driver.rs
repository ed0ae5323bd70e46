//! The one task that owns a sandbox: it talks to init and to the warden, and serialises what changes the sandbox.
//!
//! It never waits for a command's output (the pumps do) and never for a client.

use crate::{
    Exec, ExecError, OpError,
    admit::{Request, Verdict, admit},
    end::FIRST_PAUSE,
    exec::Shared,
    handle::{Last, Sandbox},
    journal::{Entry, Journal, StartV1},
    plan,
    port::Port,
    pump::Exit,
    shelf::Shelf,
    warden::WardenError,
};
use csb_sys::packet::Conn;
use csb_types::{ExecId, ExecSpec, Limits, Phase, PtySize, SandboxSpec, SpecError, Upper};
use csb_wire::{Failure, FileRequest, FromInit, ToInit};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Ended execs that can still be looked up.
const HISTORY: usize = 256;
/// Output of ended execs that is kept, bytes: a sandbox must not fill the host's disk by running many that say much.
const OUTPUT: u64 = 256 << 20;
/// Frames that wait for init; it reads them at once unless it is frozen or out of CPU.
const MOST_WAITING: usize = 1024;
/// A command told to die that has not: it is told again.
const INSIST: Duration = Duration::from_secs(1);
/// After an exec, files are closed and counters read so that the next one starts from fresh ones.
const SETTLE: Duration = Duration::from_millis(10);
type Reply = oneshot::Sender<Result<(), OpError>>;

/// What others ask of the driver, and what its own tasks tell it.
pub(crate) enum Command {
    Exec {
        spec: Box<ExecSpec>,
        reply: oneshot::Sender<Result<Exec, ExecError>>,
    },
    Signal {
        exec: ExecId,
        signal: i32,
        tree: bool,
        reply: Reply,
    },
    CloseStdin {
        exec: ExecId,
        reply: Reply,
    },
    Resize {
        exec: ExecId,
        size: PtySize,
        reply: Reply,
    },
    File {
        user: Option<String>,
        request: Box<FileRequest>,
        fd: OwnedFd,
    },
    Freeze {
        frozen: bool,
        reply: Reply,
    },
    SetLimits {
        limits: Box<Limits>,
        reply: Reply,
    },
    /// Every command is to be killed for what it wrote.
    Overrun,
    Release {
        reply: Reply,
    },
    Detach {
        reply: oneshot::Sender<()>,
    },
    /// The warden no longer has the sandbox.
    Lost,
    /// A new connection to the warden works.
    Relinked,
    /// The warden's answer to a release.
    Released(Result<(), WardenError>),
    /// A release that was refused is tried once more.
    ReleaseAgain,
    /// An exec's result was published.
    Finished {
        exec: ExecId,
    },
    /// No process holds an exec's pipes any more.
    Drained {
        exec: ExecId,
    },
}

/// An exec whose first process runs, or whose pipes somebody still holds.
pub(crate) struct Live {
    pub(crate) exec: Arc<Shared>,
    /// None once its end was told.
    pub(crate) exit: Option<oneshot::Sender<Exit>>,
}

pub(crate) struct Starting {
    pub(crate) exec: Arc<Shared>,
    pub(crate) sources: [Option<OwnedFd>; 2],
    pub(crate) reply: oneshot::Sender<Result<Exec, ExecError>>,
}

pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

pub(crate) enum Next {
    Go,
    End,
    Detach(oneshot::Sender<()>),
}

pub(crate) struct Driver {
    pub(crate) sandbox: Arc<Sandbox>,
    /// None once init has closed its end.
    pub(crate) port: Option<Arc<Port>>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) outbox: VecDeque<Outgoing>,
    pub(crate) journal: Option<Journal>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) last: Option<Last>,
    pub(crate) ready: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Execs of an earlier server that init has not spoken of yet; `Some` until it has spoken of all.
    pub(crate) unreported: Option<HashMap<ExecId, Arc<Shared>>>,
    pub(crate) starting: HashMap<ExecId, Starting>,
    pub(crate) live: HashMap<ExecId, Live>,
    pub(crate) deadlines: BTreeSet<(Instant, ExecId)>,
    pub(crate) pumps: JoinSet<()>,
    pub(crate) releases: Vec<Reply>,
    /// Whether the warden was asked to release it and has not answered.
    pub(crate) releasing: bool,
    /// Until a release that is refused is tried again.
    pub(crate) pause: Duration,
    /// Whether that waits to be tried.
    pub(crate) retries: bool,
    pub(crate) refresh_at: Option<Instant>,
    /// Those that ended and whose pipes nobody holds, in this order.
    pub(crate) ended: VecDeque<Arc<Shared>>,
    /// When the counters were last read for an exec that started.
    pub(crate) counters_read: Option<Instant>,
    /// When to close the files of `open`.
    pub(crate) close_at: Option<Instant>,
    /// Ended just now: whoever waited for that reads their output, and need not open the files again.
    pub(crate) open: Vec<Arc<Shared>>,
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

impl Driver {
    pub(crate) fn new(
        sandbox: Arc<Sandbox>,
        conn: Conn,
        inbox: mpsc::UnboundedReceiver<Command>,
        journal: Option<Journal>,
        (shelf, last): (Arc<Shelf>, Option<Last>),
        ready: oneshot::Sender<Result<(), Failure>>,
    ) -> io::Result<Self> {
        Ok(Self {
            sandbox,
            port: Some(Arc::new(Port::new(conn)?)),
            inbox,
            outbox: VecDeque::new(),
            journal,
            shelf,
            last,
            ready: Some(ready),
            unreported: None,
            starting: HashMap::new(),
            live: HashMap::new(),
            deadlines: BTreeSet::new(),
            pumps: JoinSet::new(),
            releases: Vec::new(),
            releasing: false,
            pause: FIRST_PAUSE,
            retries: false,
            refresh_at: None,
            ended: VecDeque::new(),
            counters_read: None,
            close_at: None,
            open: Vec::new(),
        })
    }

    pub(crate) async fn run(mut self, adopted: Option<(bool, Vec<Entry>)>) {
        if let Some((frozen, entries)) = adopted {
            let have = self.remember(entries);
            self.tell(&ToInit::Report { have });
            // A frozen init answers once it is resumed.
            if frozen && let Some(ready) = self.ready.take() {
                let _ = ready.send(Ok(()));
            }
        }
        loop {
            match self.step().await {
                Next::Go => {}
                Next::End => return self.end().await,
                Next::Detach(reply) => {
                    // Pumps are stopped between two moves of bytes, never within one.
                    self.pumps.shutdown().await;
                    self.live.values().for_each(|live| live.exec.let_go());
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    async fn step(&mut self) -> Next {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let wake_at = deadline.into_iter().chain(self.refresh_at).chain(self.close_at).min();
        let port = self.port.clone();
        tokio::select! {
            biased;
            packet = receive(port.as_deref()), if port.is_some() => match packet {
                Ok(Some((bytes, fds))) => self.on_packet(&bytes, fds),
                Ok(None) => self.on_eof(),
                Err(error) => {
                    tracing::error!(sandbox = %self.sandbox.id, %error, "the connection to a sandbox's init failed");
                    self.on_eof();
                }
            },
            command = self.inbox.recv() => match command {
                Some(command) => return self.on_command(command).await,
                // Impossible while `sandbox` holds a sender.
                None => return Next::End,
            },
            sent = flush(port.as_deref(), self.outbox.front()), if port.is_some() && !self.outbox.is_empty() => {
                if let Err(error) = sent {
                    tracing::debug!(sandbox = %self.sandbox.id, %error, "a frame to init could not be sent");
                }
                self.outbox.pop_front();
            }
            () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => self.on_time(Instant::now()),
        }
        Next::Go
    }

    /// Sends to init now, or in order once it takes more.
    pub(crate) fn send(&mut self, frame: &ToInit, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(port) = &self.port else { return Ok(()) };
        let bytes = csb_wire::encode(frame);
        if self.outbox.is_empty() {
            match port.try_send(&bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A broken connection shows when reading, and is dealt with there.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                done => return done,
            }
        }
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
        self.outbox.push_back(Outgoing { bytes, fds });
        Ok(())
    }

    /// As `send`, for frames without descriptors.
    pub(crate) fn tell(&mut self, frame: &ToInit) {
        if let Err(error) = self.send(frame, &[]) {
            tracing::error!(sandbox = %self.sandbox.id, %error, "cannot send to a sandbox's init");
        }
    }

    pub(crate) fn is_clogged(&self) -> bool {
        self.outbox.len() >= MOST_WAITING
    }

    pub(crate) fn admit(&self, request: Request) -> Result<bool, OpError> {
        let phase = self.sandbox.phase();
        match admit(phase, request) {
            Verdict::Accept => Ok(true),
            Verdict::AlreadyDone => Ok(false),
            Verdict::Refuse if phase == Phase::Gone => Err(OpError::Gone),
            Verdict::Refuse => Err(OpError::WrongPhase(phase)),
        }
    }

    async fn on_command(&mut self, command: Command) -> Next {
        match command {
            Command::Exec { spec, reply } => {
                self.launch(*spec, reply);
            }
            Command::Signal { exec, signal, tree, reply } => {
                let _ = reply.send(self.signal(exec, signal, tree));
            }
            Command::CloseStdin { exec, reply } => {
                let admitted = self.admit(Request::Touch).map(|_| ());
                if admitted.is_ok() {
                    self.tell(&ToInit::CloseStdin { exec });
                }
                let _ = reply.send(admitted);
            }
            Command::Resize { exec, size, reply } => {
                let admitted = self.admit(Request::Touch).map(|_| ());
                if admitted.is_ok() {
                    self.tell(&ToInit::Resize { exec, size });
                }
                let _ = reply.send(admitted);
            }
            Command::File { user, request, fd } => {
                // Refused, the descriptor closes, and that is what the caller sees.
                if self.admit(Request::Touch).is_ok()
                    && !self.is_clogged()
                    && let Err(error) = self.send(&ToInit::File { user, request: *request }, &[fd.as_fd()])
                {
                    tracing::error!(sandbox = %self.sandbox.id, %error, "cannot ask for a file helper");
                }
            }
            Command::Freeze { frozen, reply } => {
                let _ = reply.send(self.freeze(frozen).await);
            }
            Command::SetLimits { limits, reply } => {
                let _ = reply.send(self.set_limits(*limits).await);
            }
            Command::Overrun => {
                let running = self.live.values().filter(|live| live.exit.is_some());
                let ids: Vec<ExecId> = running.map(|live| live.exec.id.clone()).collect();
                for exec in ids {
                    self.live[&exec].exec.deeds().overran = true;
                    self.tell(&ToInit::Signal { exec, signal: libc::SIGKILL, tree: true });
                }
            }
            Command::Release { reply } => {
                self.releases.push(reply);
                self.release();
            }
            Command::Detach { reply } => return Next::Detach(reply),
            Command::Lost => {
                self.hear_last_words();
                return Next::End;
            }
            Command::ReleaseAgain => {
                self.retries = false;
                if self.sandbox.phase() == Phase::Releasing {
                    self.release();
                }
            }
            Command::Relinked if self.sandbox.phase() == Phase::Releasing => self.release(),
            Command::Relinked => {}
            Command::Released(done) => return self.on_released(done),
            Command::Finished { exec } => self.on_finished(&exec),
            Command::Drained { exec } => {
                if let Some(live) = self.live.remove(&exec) {
                    self.ended.push_back(live.exec.clone());
                    self.open.push(live.exec);
                    self.close_at.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                self.tell(&ToInit::Forget { exec });
                self.trim();
                while self.pumps.try_join_next().is_some() {}
            }
        }
        Next::Go
    }

    fn signal(&mut self, exec: ExecId, signal: i32, tree: bool) -> Result<(), OpError> {
        self.admit(Request::Touch)?;
        let live = self.live.get(&exec).filter(|live| live.exit.is_some()).ok_or(OpError::ExecEnded)?;
        live.exec.deeds().sent |= 1 << signal.clamp(0, 63);
        self.tell(&ToInit::Signal { exec, signal, tree });
        Ok(())
    }

    async fn freeze(&mut self, frozen: bool) -> Result<(), OpError> {
        let request = if frozen { Request::Pause } else { Request::Resume };
        if !self.admit(request)? {
            return Ok(());
        }
        self.sandbox.keeper.freeze(&self.sandbox.id, frozen).await.map_err(warden_failed)?;
        self.sandbox.set_phase(if frozen { Phase::Paused } else { Phase::Running });
        Ok(())
    }

    async fn set_limits(&mut self, limits: Limits) -> Result<(), OpError> {
        if !self.admit(Request::SetLimits)? {
            return Ok(());
        }
        let spec = self.sandbox.spec();
        may_change(&spec, &limits)?;
        if limits == spec.limits {
            return Ok(());
        }
        self.sandbox.keeper.set_limits(&self.sandbox.id, limits.clone()).await.map_err(|error| match error {
            // Control groups of version 1 do not go below what cannot be reclaimed; those of version 2 kill.
            WardenError::Failed(failure) if failure.errno == libc::EBUSY => {
                OpError::Limit { what: "it uses more memory now than the new limit allows".into() }
            }
            error => warden_failed(error),
        })?;
        self.sandbox.set_limits(limits);
        Ok(())
    }

    /// The warden may tell of an init's end before we have read what it said: which commands ended, or why it could not begin.
    fn hear_last_words(&mut self) {
        while let Some(Ok(Some((bytes, fds)))) = self.port.as_deref().map(Port::try_recv) {
            self.on_packet(&bytes, fds);
        }
    }

    fn on_packet(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        let frame: FromInit = match csb_wire::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(sandbox = %self.sandbox.id, %error, "init sent a frame that is none of ours");
                return self.on_eof();
            }
        };
        match frame {
            FromInit::Known { exec, pid, ended, age_usec, stdin, .. } if self.unreported.is_some() => {
                self.on_known(exec, pid, ended, age_usec, stdin, fds);
            }
            FromInit::KnownEnd => self.on_known_end(),
            FromInit::Failed(failure) => {
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Err(failure));
                }
            }
            // Meant for an earlier server; the report that follows says it again.
            _ if self.unreported.is_some() => {}
            FromInit::Ready => {
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Ok(()));
                }
            }
            FromInit::Started { exec, pid } => self.on_started(exec, pid, fds),
            FromInit::NotStarted { exec, failure } => {
                if let Some(journal) = &mut self.journal
                    && let Err(error) = journal.dropped(&exec)
                {
                    tracing::warn!(%exec, %error, "cannot write the exec journal");
                }
                if let Some(starting) = self.starting.remove(&exec) {
                    let _ = starting.reply.send(Err(plan::not_started(&starting.exec.spec, &failure)));
                }
            }
            FromInit::Exited { exec, status, duration_usec } => {
                if let Some(exit) = self.live.get_mut(&exec).and_then(|live| live.exit.take()) {
                    let _ = exit.send(Exit::Ended { status, duration_usec });
                }
            }
            FromInit::Known { .. } => {}
        }
    }

    fn on_finished(&mut self, id: &ExecId) {
        let Some(live) = self.live.get(id) else { return };
        if let (Some(journal), Some(result)) = (&mut self.journal, live.exec.result())
            && let Err(error) = journal.ended(result)
        {
            tracing::warn!(exec = %id, %error, "cannot write the exec journal");
        }
        if self.sandbox.counters().1 {
            self.refresh_at.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }

    /// Forgets the execs that ended first, and makes the journal short again.
    fn trim(&mut self) {
        let mut execs = self.sandbox.execs();
        let mut kept: u64 = self.ended.iter().map(|exec| exec.spool.len()).sum();
        while self.ended.len() > HISTORY || (kept > OUTPUT && self.ended.len() > 1) {
            let Some(exec) = self.ended.pop_front() else { break };
            kept -= exec.spool.len();
            execs.retain(|other| other.id != exec.id);
            match Arc::try_unwrap(exec) {
                Ok(exec) => exec.spool.recycle(),
                Err(shared) => {
                    shared.spool.pin();
                    shared.spool.remove();
                }
            }
        }
        if let Some(journal) = &mut self.journal
            && journal.is_long()
        {
            let entries: Vec<Entry> = execs
                .iter()
                .map(|exec| Entry {
                    start: StartV1::new(&exec.id, &exec.spec, exec.started_ms),
                    end: exec.result().cloned(),
                })
                .collect();
            if let Err(error) = journal.rewrite(&entries) {
                tracing::warn!(sandbox = %self.sandbox.id, %error, "cannot shorten the exec journal");
            }
        }
    }

    fn on_time(&mut self, now: Instant) {
        if self.close_at.is_some_and(|at| at <= now) {
            self.close_at = None;
            self.open.drain(..).for_each(|exec| exec.spool.close());
            if self.live.is_empty() && self.starting.is_empty() {
                self.journal.iter_mut().for_each(Journal::close);
            }
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            if self.sandbox.phase() == Phase::Running {
                let sandbox = self.sandbox.clone();
                self.pumps.spawn(async move {
                    if let Err(error) = sandbox.read_usage().await {
                        tracing::debug!(sandbox = %sandbox.id, %error, "cannot read counters");
                    }
                });
            }
        }
        while let Some((at, _)) = self.deadlines.first()
            && *at <= now
        {
            let Some((_, exec)) = self.deadlines.pop_first() else { break };
            let Some(live) = self.live.get(&exec).filter(|live| live.exit.is_some()) else { continue };
            live.exec.deeds().timed_out = true;
            self.deadlines.insert((now + INSIST, exec.clone()));
            // A frozen init would find one for each second it slept.
            if self.sandbox.phase() == Phase::Running {
                self.tell(&ToInit::Signal { exec, signal: libc::SIGKILL, tree: true });
            }
        }
    }
}

/// Refuses limits that a sandbox that is there cannot get.
pub fn may_change(spec: &SandboxSpec, limits: &Limits) -> Result<(), OpError> {
    limits.check().map_err(SpecError::from)?;
    let now = &spec.limits;
    if (limits.disk, limits.inodes, limits.nofile) != (now.disk, now.inodes, now.nofile) {
        let what =
            "disk, inodes and nofile of a living sandbox cannot be changed; memory, cpu, cpu_weight, pids and io can";
        return Err(OpError::Unsupported { what: what.into() });
    }
    if !limits.io.is_none() && spec.decided_upper() == Upper::Memory {
        return Err(OpError::Unsupported { what: SpecError::NoDisk.to_string() });
    }
    Ok(())
}

pub(crate) fn warden_failed(error: WardenError) -> OpError {
    match error {
        WardenError::Failed(failure) if failure.errno == libc::ENOENT => OpError::Gone,
        WardenError::Failed(failure) if failure.errno == libc::ENOTSUP => {
            OpError::Unsupported { what: "this host gives the server no cgroup for it; `csb doctor` says more".into() }
        }
        error => OpError::Internal(error.to_string()),
    }
}

async fn receive(port: Option<&Port>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    match port {
        Some(port) => port.recv().await,
        None => std::future::pending().await,
    }
}

async fn flush(port: Option<&Port>, front: Option<&Outgoing>) -> io::Result<()> {
    let (Some(port), Some(front)) = (port, front) else { return Ok(()) };
    let fds: Vec<BorrowedFd<'_>> = front.fds.iter().map(AsFd::as_fd).collect();
    port.send(&front.bytes, &fds).await
}
