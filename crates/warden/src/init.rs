//! The init of one sandbox: pid 1 of its PID namespace. Starts commands, reaps, reports; keeps a copy of the server's end of
//! every pipe, so that a server's death breaks none.
//! Reads only from its control socket, never what a tenant wrote.

use crate::{exec, files, outbox::Outbox, parked::Parked};
use csb_jail::{Built, Mark};
use csb_sys::{
    packet::{Conn, Listener},
    process::{self, SIGCHLD, SIGCONT, SIGKILL, SIGSTOP},
    tty,
};
use csb_types::ExecId;
use csb_wire::{ExecPlan, Failure, FileRequest, FromInit, ToInit, decode, encode};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
};
use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Times the tree of an exec is searched for new processes before everything in the sandbox is stopped for a moment.
const PATIENT_PASSES: usize = 3;
/// And before everything is ended.
const MOST_PASSES: usize = 200;

/// Many a sandbox runs one short command and is released: what would wait for a second one is not made meanwhile.
const PARK_LATER: Duration = Duration::from_millis(2);
/// Between two parked processes that are killed before they are used.
const PARK_AGAIN: Duration = Duration::from_millis(100);

struct Record {
    pid: i32,
    /// Of the exec and all its descendants.
    mark: Mark,
    since: Instant,
    ended: Option<(i32, u64)>,
    pty: bool,
    /// `[stdout_r, stderr_r]`, or the terminal's master.
    outputs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
}

/// How servers reach an init.
pub(crate) enum Way<'a> {
    /// By one connection, whose other end the warden keeps for the next server. `life` is readable once the warden is gone.
    Kept { conn: Conn, life: &'a OwnedFd },
    /// By a socket in a directory that they and the container's init have in common. The newest is the one there is; `once`, it
    /// is the only one.
    Door { door: Listener, once: bool },
}

struct Init {
    /// None while there is no server.
    conn: Option<Conn>,
    built: Built,
    execs: HashMap<ExecId, Record>,
    by_pid: HashMap<i32, ExecId>,
    /// Waits to become the next command.
    parked: Option<Parked>,
    /// When another is to be made, none being there.
    park_at: Option<Instant>,
    /// Whether a command was asked for before.
    ran: bool,
    /// Commands follow each other quickly here: the next one should find a process at once.
    busy: bool,
    outbox: Outbox,
}

/// Serves servers. Of the kept connection: until the warden ends this process, or ends itself; rootless, where no end of the
/// server's is kept here, also until every one of them is closed. At a door: for ever, but for `once`.
pub(crate) fn run(way: Way<'_>, built: Built) -> io::Result<()> {
    let signals = process::signal_fd(&[SIGCHLD])?;
    let mut init = Init {
        conn: None,
        built,
        execs: HashMap::new(),
        by_pid: HashMap::new(),
        parked: None,
        park_at: Some(Instant::now()),
        ran: false,
        busy: false,
        outbox: Outbox::default(),
    };
    let (other, door, once) = match way {
        Way::Kept { conn, life } => {
            init.meet(conn)?;
            (life.as_fd(), None, true)
        }
        Way::Door { ref door, once } => {
            door.set_nonblocking(true)?;
            (door.as_fd(), Some(door), once)
        }
    };
    loop {
        let lost = init.turn(&signals, other, door);
        match lost {
            Ok(Turn::Next) => {}
            Ok(Turn::Lost) | Err(_) if !once => init.part(),
            Ok(Turn::Lost) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// What came of one look around.
enum Turn {
    Next,
    /// The server is gone.
    Lost,
}

impl Init {
    /// Waits for something to do, and does it. `other` is who made us or, where there is a `door`, who knocks.
    fn turn(&mut self, signals: &OwnedFd, other: BorrowedFd<'_>, door: Option<&Listener>) -> io::Result<Turn> {
        if let Some(conn) = &self.conn {
            self.outbox.flush(conn)?;
        }
        let timeout = self.park();
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, !self.outbox.is_empty());
        let [conn, child, other] = {
            let mut polled = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(&other, PollFlags::IN)];
            polled.extend(self.conn.as_ref().map(|conn| PollFd::new(conn, wanted)));
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let seen = |place: usize| polled.get(place).map_or(PollFlags::empty(), PollFd::revents);
            [seen(2), seen(0), seen(1)]
        };
        match door {
            // Nothing is ever written there: the warden is gone, and nobody is left to give back what we hold.
            None if !other.is_empty() => return Ok(Turn::Lost),
            Some(door) if !other.is_empty() => self.open(door),
            _ => {}
        }
        if !child.is_empty() {
            while process::next_signal(signals).is_some() {}
            self.reap();
        }
        if conn.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return self.listen();
        }
        Ok(Turn::Next)
    }

    fn listen(&mut self) -> io::Result<Turn> {
        let Some(conn) = &self.conn else { return Ok(Turn::Next) };
        match conn.recv() {
            Ok(Some((bytes, fds))) => {
                // A server of another version cannot have got this far; ignoring keeps the sandbox alive.
                if let Ok(request) = decode(&bytes) {
                    self.serve(request, fds);
                }
            }
            Ok(None) => return Ok(Turn::Lost),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // A frame that arrived without its descriptors (none left): the request is lost, the sandbox is not.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
            Err(e) => return Err(e),
        }
        Ok(Turn::Next)
    }

    /// Lets in whoever knocks from outside the container. What is in it has a pid that we can see.
    fn open(&mut self, door: &Listener) {
        while let Ok(conn) = door.accept() {
            if conn.peer_pid().is_ok_and(|pid| pid == 0) {
                self.part();
                // Broken already: the next one is waited for.
                let _ = self.meet(conn);
            }
        }
    }

    fn meet(&mut self, conn: Conn) -> io::Result<()> {
        conn.set_nonblocking(true)?;
        self.conn = Some(conn);
        self.say(&FromInit::Ready, vec![]);
        Ok(())
    }

    /// Without a server commands go on. The next one asks what became of them.
    fn part(&mut self) {
        self.conn = None;
        self.outbox = Outbox::default();
    }

    fn say(&mut self, frame: &FromInit, fds: Vec<OwnedFd>) {
        if self.conn.is_none() {
            return;
        }
        self.outbox.push(encode(frame), fds);
    }

    fn serve(&mut self, request: ToInit, fds: Vec<OwnedFd>) {
        match request {
            ToInit::Exec(plan) => self.exec(&plan, fds),
            ToInit::File { user, request } => self.file(user, &request, fds),
            ToInit::Signal { exec, signal, tree } => self.signal(&exec, signal, tree),
            ToInit::CloseStdin { exec } => {
                if let Some(record) = self.execs.get_mut(&exec) {
                    record.stdin = None;
                }
            }
            ToInit::Forget { exec } => {
                if self.execs.get(&exec).is_some_and(|r| r.ended.is_some()) {
                    self.execs.remove(&exec);
                }
            }
            ToInit::Report { have: _ } => self.report(),
            ToInit::Resize { exec, size } => {
                if let Some(record) = self.execs.get(&exec)
                    && record.pty
                    && let Some(master) = record.outputs.first()
                {
                    // The terminal may have ended.
                    let _ = tty::set_size(master, size.cols, size.rows);
                }
            }
        }
    }

    /// Makes the process that waits for the next command, if it is time to. How long to wait for that time.
    fn park(&mut self) -> Option<Timespec> {
        let left = self.park_at?.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Timespec::try_from(left).ok();
        }
        // Refused by a limit: the next command says so, if it is still refused then.
        self.parked = Parked::new(&self.built, None).ok();
        self.park_at = None;
        None
    }

    fn exec(&mut self, plan: &ExecPlan, fds: Vec<OwnedFd>) {
        self.busy |= self.parked.is_none() && self.ran;
        self.ran = true;
        let started = exec::start(plan, fds, &self.built, &mut self.parked);
        if self.parked.is_none() {
            let pause = if self.busy { Duration::ZERO } else { PARK_LATER };
            self.park_at = Some(Instant::now() + pause);
        }
        match started {
            Ok(started) => {
                let master = if plan.pty.is_some() {
                    started.outputs.iter().filter_map(|fd| fd.try_clone().ok()).collect()
                } else {
                    vec![]
                };
                self.by_pid.insert(started.pid, plan.id.clone());
                self.execs.insert(
                    plan.id.clone(),
                    Record {
                        pid: started.pid,
                        mark: started.mark,
                        since: started.at,
                        ended: None,
                        pty: plan.pty.is_some(),
                        outputs: started.outputs,
                        stdin: started.stdin,
                    },
                );
                self.say(&FromInit::Started { exec: plan.id.clone(), pid: started.pid }, master);
            }
            Err(failure) => self.say(&FromInit::NotStarted { exec: plan.id.clone(), failure }, vec![]),
        }
    }

    fn file(&mut self, user: Option<String>, request: &FileRequest, mut fds: Vec<OwnedFd>) {
        let Some(socket) = fds.pop() else { return };
        if let Err(failure) = files::start(user.as_deref(), request, &socket, &self.built.tenant) {
            files::refuse(&socket, &failure);
        }
    }

    fn signal(&mut self, exec: &ExecId, signal: i32, tree: bool) {
        let Some(record) = self.execs.get(exec) else { return };
        let (pid, mark) = (record.pid, record.mark);
        if !tree {
            // Once it is reaped its number may be another's.
            if record.ended.is_none() && !process::kill(-pid, signal).unwrap_or(false) {
                let _ = process::kill(pid, signal);
            }
            return;
        }
        // A process with SIGKILL pending forks no more, so a pass that meets only processes signalled before it is the last.
        let mut met = HashSet::new();
        for pass in 0..MOST_PASSES {
            if pass == PATIENT_PASSES {
                // It forks faster than we look, on the little CPU that it leaves us. This stops all at one moment.
                let _ = process::kill(-1, SIGSTOP);
            }
            if !self.signal_marked(mark, signal, &mut met) || signal != SIGKILL {
                if pass >= PATIENT_PASSES {
                    let _ = process::kill(-1, SIGCONT);
                }
                return;
            }
        }
        let _ = process::kill(-1, SIGKILL);
    }

    /// Signals every living process with `mark` that was not met before; whether there was one.
    fn signal_marked(&self, mark: Mark, signal: i32, met: &mut HashSet<i32>) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(entries) =
            rustix::fs::openat(&self.built.proc, ".", flags, Mode::empty()).and_then(rustix::fs::Dir::new)
        else {
            return false;
        };
        let mut found = false;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().ok().and_then(|n| n.parse::<i32>().ok()) else { continue };
            if pid > 1 && mark.is_on(&self.built.proc, pid) && met.insert(pid) {
                found = true;
                // It may have ended since; that is what was wanted.
                let _ = process::kill(pid, signal);
            }
        }
        found
    }

    fn reap(&mut self) {
        while let Some((pid, status)) = process::reap() {
            if self.parked.as_ref().is_some_and(|parked| parked.pid == pid) {
                // Killed by a program of the tenant, which may go on doing so: the next one has time.
                self.parked = None;
                self.park_at = Some(Instant::now() + PARK_AGAIN);
            }
            let Some(id) = self.by_pid.remove(&pid) else { continue };
            let Some(record) = self.execs.get_mut(&id) else { continue };
            let duration_usec = record.since.elapsed().as_micros() as u64;
            record.ended = Some((status, duration_usec));
            record.stdin = None;
            self.say(&FromInit::Exited { exec: id, status, duration_usec }, vec![]);
        }
    }

    fn report(&mut self) {
        let mut frames = Vec::new();
        for (id, record) in &self.execs {
            let fds: io::Result<Vec<OwnedFd>> =
                record.outputs.iter().chain(&record.stdin).map(OwnedFd::try_clone).collect();
            // Out of descriptors: the server sees fewer and says so; the next report may do better.
            let Ok(fds) = fds else { continue };
            let frame = FromInit::Known {
                exec: id.clone(),
                pid: record.pid,
                ended: record.ended,
                age_usec: record.since.elapsed().as_micros() as u64,
                pty: record.pty,
                stdin: record.stdin.is_some(),
            };
            frames.push((frame, fds));
        }
        for (frame, fds) in frames {
            self.say(&frame, fds);
        }
        self.say(&FromInit::KnownEnd, vec![]);
    }
}

/// What a fresh child of the init keeps open: its streams and `keep`.
pub(crate) fn only(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut all = vec![0, 1, 2];
    all.extend(keep.iter().map(AsRawFd::as_raw_fd));
    process::close_all_but(&all)
}

/// Tells the server why there will be no sandbox.
pub(crate) fn report_failure(conn: &Conn, failure: Failure) {
    // The server may be gone; then nobody waits for the reason.
    let _ = conn.send(&encode(&FromInit::Failed(failure)), &[]);
}
