//! How a driver starts an exec: pipes, a line in the journal, a frame to init; once it runs, a pump.

use crate::{
    Exec, ExecError, OpError,
    admit::Request,
    driver::{Driver, Live, Starting, now_ms},
    exec::Shared,
    journal::StartV1,
    plan,
    pump::Pump,
    spool::Spool,
    verdict::Baseline,
    watch::watch,
};
use csb_types::{ExecId, ExecSpec, Phase};
use csb_wire::{ExecPlan, ToInit};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, LazyLock, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    time::Instant,
};

/// Counters this young are not read again for an exec that starts beside others.
const FRESH: Duration = Duration::from_millis(50);

/// What descriptors are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// One more sandbox, which keeps some for as long as it lives.
    Sandbox,
    /// One more exec in a sandbox that is there.
    Exec,
}

/// The first descriptor number that is too high. Sandboxes are refused long before execs in those that are there, and
/// those before what must not fail: accepting the connection that asks for a release, opening a spool.
fn too_high(limit: u64, need: Need) -> u64 {
    let reserve = match need {
        Need::Sandbox => (limit / 4).min(4096) + 32,
        Need::Exec => 32,
    };
    limit.saturating_sub(reserve)
}

/// Whether this process is about to run out of descriptors, judged by the number of one just opened.
pub fn scarce(fd: impl AsFd, need: Need) -> bool {
    static LIMIT: LazyLock<u64> =
        LazyLock::new(|| rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX));
    fd.as_fd().as_raw_fd() as u64 >= too_high(*LIMIT, need)
}

/// Ends of pipes: standard output, standard error and, if asked for, standard input.
#[derive(Default)]
struct Pipes {
    ours: Vec<OwnedFd>,
    theirs: Vec<OwnedFd>,
}

impl Pipes {
    fn open(plan: &ExecPlan) -> io::Result<Self> {
        let mut pipes = Self::default();
        if plan.pty.is_some() {
            return Ok(pipes);
        }
        for _ in 0..2 {
            let (read, write) = csb_sys::pipe::pipe()?;
            pipes.ours.push(read);
            pipes.theirs.push(write);
        }
        if plan.stdin {
            let (read, write) = csb_sys::pipe::pipe()?;
            // The flag belongs to our end's description; the command's end stays blocking.
            rustix::io::ioctl_fionbio(&write, true)?;
            pipes.ours.push(write);
            pipes.theirs.push(read);
        }
        match pipes.theirs.last() {
            Some(last) if scarce(last, Need::Exec) => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            _ => Ok(pipes),
        }
    }

    /// In the order of `ToInit::Exec`.
    fn for_init(&self) -> Vec<BorrowedFd<'_>> {
        let outputs = self.theirs.iter().take(2).chain(self.ours.iter().take(2));
        let stdin = self.theirs.iter().skip(2).chain(self.ours.iter().skip(2));
        outputs.chain(stdin).map(AsFd::as_fd).collect()
    }
}

impl Driver {
    /// Asks init to start a command. The answer comes when init has one.
    pub(crate) fn launch(&mut self, spec: ExecSpec, reply: oneshot::Sender<Result<Exec, ExecError>>) {
        match self.ask_init(spec) {
            Ok((exec, sources)) => {
                self.starting.insert(exec.id.clone(), Starting { exec, sources, reply });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn ask_init(&mut self, spec: ExecSpec) -> Result<(Arc<Shared>, [Option<OwnedFd>; 2]), ExecError> {
        match self.admit(Request::Exec) {
            Ok(_) if self.port.is_none() => return Err(ExecError::Gone),
            Ok(_) if self.is_clogged() => {
                return Err(ExecError::Internal("the sandbox takes no more commands at the moment".into()));
            }
            Ok(_) => {}
            Err(OpError::WrongPhase(Phase::Paused)) => return Err(ExecError::Paused),
            Err(_) => return Err(ExecError::Gone),
        }
        let id = ExecId::random();
        let plan = plan::exec_plan(id.clone(), &self.sandbox.spec(), &spec);
        let no_pipes = |error: io::Error| match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ExecError::Capacity { what: "open descriptors of the server".into() },
            _ => ExecError::Internal(format!("cannot make its pipes: {error}")),
        };
        let mut pipes = Pipes::open(&plan).map_err(no_pipes)?;
        let started_ms = now_ms();
        // Before it can run: a command that nothing tells of would have no deadline after a restart.
        if let Some(journal) = &mut self.journal {
            let written = journal.started(&StartV1::new(&id, &spec, started_ms));
            written.map_err(|error| ExecError::Internal(format!("cannot record it on this host: {error}")))?;
        }
        let exec = self.exec(id, spec, started_ms, None);
        self.refresh_baseline(&exec);
        let sent = self.send(&ToInit::Exec(Box::new(plan)), &pipes.for_init());
        if let Some(stdin) = pipes.ours.get(2).is_some().then(|| pipes.ours.remove(2)) {
            let stdin = watch(stdin, Interest::WRITABLE).map_err(no_pipes)?;
            *exec.stdin.try_lock().expect("nobody else knows this exec") = Some(stdin);
        }
        sent.map_err(|error| ExecError::Internal(format!("cannot ask the sandbox's init: {error}")))?;
        let mut sources = pipes.ours.into_iter();
        Ok((exec, [sources.next(), sources.next()]))
    }

    /// Beside others that run, counters of some time ago would blame this exec for what those did before it began.
    fn refresh_baseline(&mut self, exec: &Arc<Shared>) {
        let now = Instant::now();
        if self.live.is_empty() || self.counters_read.is_some_and(|at| now < at + FRESH) {
            return;
        }
        self.counters_read = Some(now);
        let (sandbox, exec) = (self.sandbox.clone(), exec.clone());
        self.pumps.spawn(async move {
            // Without an answer the old ones stand, marked as stale.
            if let Ok(usage) = sandbox.read_usage().await {
                *exec.baseline() = Baseline { counters: (&usage).into(), stale: false };
            }
        });
    }

    /// An exec with `spool`, or with an empty one.
    pub(crate) fn exec(&self, id: ExecId, spec: ExecSpec, started_ms: i64, spool: Option<Spool>) -> Arc<Shared> {
        let mut spool = spool.unwrap_or_else(|| Spool::new(self.sandbox.home.clone(), id.clone()));
        if spec.stream {
            spool = spool.streamed();
        }
        let (counters, stale) = self.sandbox.counters();
        // What other execs do meanwhile is not this one's doing, but looks like it.
        let baseline = Baseline { counters, stale: stale || !self.live.is_empty() };
        Arc::new(Shared::new(spec, started_ms, Arc::new(spool), id, baseline, self.sandbox.commands.clone()))
    }

    pub(crate) fn on_started(&mut self, id: ExecId, pid: i32, fds: Vec<OwnedFd>) {
        let Some(Starting { exec, sources, reply }) = self.starting.remove(&id) else { return };
        exec.pid.store(pid, Ordering::Relaxed);
        if let Some(limit) = exec.spec.timeout {
            self.deadlines.insert((Instant::now() + limit, id.clone()));
        }
        let sources = if exec.spec.pty.is_some() { [fds.into_iter().next(), None] } else { sources };
        match self.pump(&exec, sources) {
            Ok(()) => {
                self.sandbox.execs().push_back(exec.clone());
                let _ = reply.send(Ok(Exec(exec)));
            }
            Err(error) => {
                self.tell(&ToInit::Signal { exec: id.clone(), signal: libc::SIGKILL, tree: true });
                self.tell(&ToInit::Forget { exec: id });
                let _ = reply.send(Err(ExecError::Internal(format!("cannot watch its output: {error}"))));
            }
        }
    }

    /// Starts to move output; from then on the exec is `live`.
    pub(crate) fn pump(&mut self, exec: &Arc<Shared>, sources: [Option<OwnedFd>; 2]) -> io::Result<()> {
        let [out, err] = sources;
        // A terminal is written to as well.
        let interest = match exec.spec.pty {
            Some(_) => Interest::READABLE | Interest::WRITABLE,
            None => Interest::READABLE,
        };
        let watched = |fd: Option<OwnedFd>| -> io::Result<Option<Arc<AsyncFd<OwnedFd>>>> {
            let Some(fd) = fd else { return Ok(None) };
            Ok(Some(Arc::new(watch(fd, interest)?)))
        };
        let sources = [watched(out)?, watched(err)?];
        // Pipes need no flag: splice(2) is told each time not to wait.
        if exec.spec.pty.is_some()
            && let Some(master) = &sources[0]
        {
            rustix::io::ioctl_fionbio(master.get_ref(), true)?;
            exec.set_master(Some(master.clone()));
        }
        let (sender, exit) = oneshot::channel();
        let sender = exec.result().is_none().then_some(sender);
        self.live.insert(exec.id.clone(), Live { exec: exec.clone(), exit: sender });
        let pump = Pump { exec: exec.clone(), sandbox: self.sandbox.clone(), sources, exit };
        self.pumps.spawn(pump.run());
        Ok(())
    }
}
