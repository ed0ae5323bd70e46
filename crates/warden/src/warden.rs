//! The warden's loop: one server at a time, its requests, the ends of sandboxes.

use crate::{
    blank::Blank,
    held::{self, Held},
    layers::Layers,
    outbox::Outbox,
    stock::{self, Stock},
};
use csb_jail::{Host, failure};
use csb_sys::{
    cgroup::{CgroupError, Group, Root},
    packet::{Conn, Listener},
    process::{self, SIGCHLD, SIGINT, SIGKILL, SIGPIPE, SIGTERM},
};
use csb_types::SandboxId;
use csb_wire::{Failure, FromWarden, JailPlan, Mode, ToWarden, VERSION, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Frames a server may leave untaken before it is given up.
const MOST_WAITING: usize = 200_000;
/// Requests served before signals are looked at again.
const BATCH: usize = 16;

/// A connected server.
struct Server {
    conn: Conn,
    /// Tells connections apart, so that an answer never reaches another server than the one that asked.
    number: u64,
    outbox: Outbox,
}

/// Between two attempts to remove a cgroup that is still busy.
const BUSY_GROUP: Duration = Duration::from_millis(2);
/// What a killed warden's sandboxes take to die, at most.
const DYING: Duration = Duration::from_secs(30);
/// From a child's signal until all children are looked at: of several that end at once, the kernel names one.
const SWEEP: Duration = Duration::from_millis(5);

/// See the module.
pub(crate) struct Warden {
    host: Host,
    /// A pipe that nothing is written to: inits hold the read end, we the only write end, and its end is ours.
    life: (OwnedFd, OwnedFd),
    cgroups: Root,
    listener: Option<Listener>,
    server: Option<Server>,
    connections: u64,
    held: HashMap<SandboxId, Held>,
    by_pid: HashMap<i32, SandboxId>,
    stock: Stock,
    layers: Layers,
    /// Cgroups that were still busy when their sandbox ended.
    dying: Vec<String>,
    /// Sandboxes that a new server has not been told of yet, and whether it still waits for the end of them.
    greeting: Vec<SandboxId>,
    greets: bool,
    /// When to look for children that ended without being named.
    sweep: Option<Instant>,
    stopping: Option<(u64, u64)>,
    ending: bool,
}

impl Warden {
    /// With a `listener` it serves one server after another; without, it ends with its only connection.
    pub(crate) fn new(host: Host, cgroups: Root, listener: Option<Listener>, conn: Option<Conn>) -> io::Result<Self> {
        // Not for a rootless one: an init made early would look at the host's mounts as they were then.
        let size = if listener.is_some() && host.mode == Mode::Root { stock::size() } else { 0 };
        let mut warden = Self {
            host,
            life: csb_sys::pipe::pipe()?,
            cgroups,
            listener,
            server: None,
            connections: 0,
            held: HashMap::new(),
            by_pid: HashMap::new(),
            stock: Stock::new(size),
            layers: Layers::default(),
            dying: Vec::new(),
            greeting: Vec::new(),
            greets: false,
            sweep: None,
            stopping: None,
            ending: false,
        };
        if let Some(conn) = conn {
            warden.accept(conn)?;
        }
        Ok(warden)
    }

    /// Runs until told to stop, and until every sandbox is gone then.
    pub(crate) fn run(mut self) -> io::Result<()> {
        // SIGPIPE: a process that dies while it is told something is no reason to die as well.
        let signals = process::signal_fd(&[SIGCHLD, SIGTERM, SIGINT, SIGPIPE])?;
        if self.listener.is_none() && self.host.mode == Mode::Root {
            // A warden for one command makes one while its caller prepares to ask.
            self.restock();
        }
        while self.stock.wants() && self.restock() {}
        loop {
            self.flush();
            self.bury();
            if self.ending && self.held.is_empty() && self.stock.is_gone() {
                self.finish();
                return Ok(());
            }
            self.turn(&signals)?;
        }
    }

    fn turn(&mut self, signals: &OwnedFd) -> io::Result<()> {
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        let serving = self.server.is_some();
        if let Some(server) = &self.server {
            let mut wanted = PollFlags::IN;
            wanted.set(PollFlags::OUT, !server.outbox.is_empty());
            polled.push(PollFd::new(&server.conn, wanted));
        }
        if let Some(listener) = &self.listener {
            polled.push(PollFd::new(listener, PollFlags::IN));
        }
        let soon = (!self.dying.is_empty()).then_some(BUSY_GROUP);
        let sweep = self.sweep.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = soon.into_iter().chain(sweep).chain(self.stock.due()).min();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let ready = rustix::event::poll(&mut polled, timeout.as_ref());
        match ready {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let signalled = !polled[0].revents().is_empty();
        let talking = serving && polled[1].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let calling = self.listener.is_some() && !polled[polled.len() - 1].revents().is_empty();
        if signalled {
            while let Some((signal, pid)) = process::next_signal(signals) {
                match signal {
                    SIGTERM | SIGINT => self.end_all(),
                    SIGCHLD => {
                        self.sweep.get_or_insert_with(|| Instant::now() + SWEEP);
                        if let Some((pid, status)) = process::reap_one(pid) {
                            self.reaped(pid, status);
                        }
                    }
                    _ => {}
                }
            }
        }
        if ready == Ok(0) && self.stock.due().is_some_and(|left| left.is_zero()) && !self.stock.gives_way() {
            self.restock();
        }
        if self.sweep.is_some_and(|at| at <= Instant::now()) {
            self.sweep = None;
            while let Some((pid, status)) = process::reap() {
                self.reaped(pid, status);
            }
        }
        if talking {
            self.listen();
        }
        if calling && let Some(listener) = &self.listener {
            match listener.accept() {
                Ok(conn) => self.accept(conn)?,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
                // No descriptor left for a new server: the sandboxes go on, the server tries again. The listener stays
                // readable, so without a pause this loop would spin.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
        Ok(())
    }

    fn accept(&mut self, conn: Conn) -> io::Result<()> {
        // The socket's mode keeps others out; this is for the day somebody changes it.
        let peer = conn.peer_uid()?;
        if peer != rustix::process::geteuid().as_raw() && peer != 0 {
            return Ok(());
        }
        conn.set_nonblocking(true)?;
        self.connections += 1;
        self.server = Some(Server { conn, number: self.connections, outbox: Outbox::default() });
        Ok(())
    }

    fn lose_server(&mut self) {
        self.server = None;
        self.greets = false;
        if self.listener.is_none() {
            self.end_all();
        }
    }

    fn listen(&mut self) {
        for _ in 0..BATCH {
            let Some(server) = &self.server else { return };
            match server.conn.recv() {
                Ok(Some((bytes, _))) => match decode(&bytes) {
                    Ok(request) => self.serve(request),
                    Err(_) => return self.lose_server(),
                },
                Ok(None) => return self.lose_server(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.lose_server(),
            }
        }
    }

    fn say(&mut self, frame: &FromWarden, fds: Vec<OwnedFd>) {
        if let Some(server) = &mut self.server {
            server.outbox.push(encode(frame), fds);
        }
    }

    /// Sends what the server takes now.
    fn flush(&mut self) {
        loop {
            self.greet();
            let Some(server) = &mut self.server else { return };
            let lost = server.outbox.flush(&server.conn).is_err() || server.outbox.len() > MOST_WAITING;
            let full = !server.outbox.is_empty();
            if lost {
                return self.lose_server();
            }
            // Nothing wakes us for what is left to tell but a server that is behind.
            if full || !self.greets {
                return;
            }
        }
    }

    fn answer(&mut self, seq: u64, done: Result<(), Failure>) {
        match done {
            Ok(()) => self.say(&FromWarden::Done { seq }, vec![]),
            Err(failure) => self.say(&FromWarden::Failed { seq, failure }, vec![]),
        }
    }

    fn serve(&mut self, request: ToWarden) {
        match request {
            ToWarden::Hello { version } => self.hello(version),
            ToWarden::Create { seq, plan } => self.create(seq, &plan),
            ToWarden::Release { seq, id } => self.release(seq, &id),
            ToWarden::Freeze { seq, id, frozen } => {
                let done = self.with(&id, |held| held.freeze(frozen));
                self.answer(seq, done);
            }
            ToWarden::SetLimits { seq, id, limits } => {
                let done = self.with(&id, |held| held.set_limits(limits));
                self.answer(seq, done);
            }
            ToWarden::Usage { seq, id } => match self.with(&id, |held| held.usage()) {
                Ok(usage) => self.say(&FromWarden::Usage { seq, usage }, vec![]),
                Err(failure) => self.answer(seq, Err(failure)),
            },
            ToWarden::Stop { seq } => {
                self.stopping = self.server.as_ref().map(|s| (s.number, seq));
                self.end_all();
            }
        }
    }

    fn with<T>(&mut self, id: &SandboxId, act: impl FnOnce(&mut Held) -> io::Result<T>) -> Result<T, Failure> {
        let held = self.held.get_mut(id).ok_or_else(|| unknown(id))?;
        act(held).map_err(|e| failure("change the sandbox", &e))
    }

    fn hello(&mut self, version: u32) {
        let welcome = FromWarden::Welcome {
            version: VERSION,
            pid: std::process::id() as i32,
            mode: self.host.mode,
            held: self.held.len() as u32,
        };
        self.say(&welcome, vec![]);
        if version != VERSION {
            return;
        }
        self.greeting = self.held.keys().cloned().collect();
        self.greets = true;
    }

    /// Tells a new server of sandboxes, some at a time: each descriptor is open here until it is taken.
    fn greet(&mut self) {
        while self.greets && self.server.as_ref().is_some_and(|server| server.outbox.len() < BATCH) {
            let Some(id) = self.greeting.pop() else {
                self.greets = false;
                return self.say(&FromWarden::HeldEnd, vec![]);
            };
            let Some(held) = self.held.get(&id) else { continue };
            match held.control() {
                Ok(control) => self.say(&FromWarden::Held(held.jail.clone()), vec![control]),
                // Its init is dead, which is said when it is reaped.
                Err(error) => eprintln!("csb-warden: cannot share the control socket of {id}: {error}"),
            }
        }
    }

    fn create(&mut self, seq: u64, plan: &JailPlan) {
        if self.held.contains_key(&plan.id) || self.ending {
            let error = io::Error::from(io::ErrorKind::AlreadyExists);
            return self.answer(seq, Err(failure("take the id", &error)));
        }
        match self.make(plan) {
            Ok((held, control)) => {
                let jail = held.jail.clone();
                self.by_pid.insert(jail.pid, jail.id.clone());
                self.held.insert(jail.id.clone(), held);
                self.say(&FromWarden::Created { seq, jail }, vec![control.into()]);
            }
            Err(failure) => self.answer(seq, Err(failure)),
        }
    }

    fn make(&mut self, plan: &JailPlan) -> Result<(Held, Conn), Failure> {
        let layers = self.layers.hold(plan).map_err(|e| failure("open the template's layers", &e))?;
        self.stock.taken(&plan.limits);
        loop {
            let waited = self.stock.pop();
            let fresh = waited.is_none();
            let blank = match waited {
                Some(blank) => blank,
                None => self.blank()?,
            };
            match held::begin(&self.host, &self.cgroups, plan, &blank) {
                Ok(disks) => {
                    let pid = blank.pid;
                    return Held::new(&self.host, plan, blank, disks, layers).map_err(|error| {
                        // Nobody knows of it yet; it is reaped as a stranger, and its group found when this warden ends.
                        let _ = process::kill(pid, SIGKILL);
                        failure("share the control socket", &error)
                    });
                }
                Err(failure) => {
                    let dead = failure.errno == libc::EPIPE || failure.errno == libc::ECONNRESET;
                    let reason = blank.last_words().unwrap_or(failure);
                    self.stock.spoil(blank);
                    // One that died while it waited is no reason to refuse.
                    if fresh || !dead {
                        return Err(reason);
                    }
                }
            }
        }
    }

    fn blank(&mut self) -> Result<Blank, Failure> {
        self.stock.make(&self.host, &self.cgroups, &self.life.0)
    }

    /// Makes one more process that waits. False: it cannot be done now.
    fn restock(&mut self) -> bool {
        match self.blank() {
            Ok(blank) => {
                self.stock.push(blank);
                true
            }
            Err(failure) => {
                eprintln!("csb-warden: cannot make a sandbox ahead of time: {failure}");
                self.stock.pause();
                false
            }
        }
    }

    fn release(&mut self, seq: u64, id: &SandboxId) {
        let Some(number) = self.server.as_ref().map(|s| s.number) else { return };
        match self.held.get_mut(id) {
            // Nothing is left of it, which is what was asked for.
            None => self.answer(seq, Ok(())),
            Some(held) => {
                held.waiting.push((number, seq));
                if self.stock.wants() {
                    held.keep_leavings();
                }
                self.end(id);
            }
        }
    }

    fn end(&mut self, id: &SandboxId) {
        if let Some(held) = self.held.get_mut(id) {
            // A group that cannot be thawed still dies when its processes are killed; the reaper sees it then.
            let _ = held.kill();
        }
    }

    fn end_all(&mut self) {
        self.ending = true;
        self.stock.end();
        for held in self.held.values_mut() {
            let _ = held.kill();
        }
    }

    fn reaped(&mut self, pid: i32, status: i32) {
        if let Some(group) = self.stock.reaped(pid) {
            return self.dying.push(group.id().to_owned());
        }
        let Some(id) = self.by_pid.remove(&pid) else { return };
        let Some(mut held) = self.held.remove(&id) else { return };
        let leavings = held.checked_leavings(&self.host);
        self.stock.give_back(held.slot, leavings);
        self.dying.push(held.group.id().to_owned());
        self.bury();
        self.say(&FromWarden::Gone { id, status }, vec![]);
        let number = self.server.as_ref().map(|s| s.number);
        for (asker, seq) in held.waiting {
            if Some(asker) == number {
                self.say(&FromWarden::Done { seq }, vec![]);
            }
        }
    }

    /// Removes cgroups whose last process has just gone; what is still busy is tried again.
    fn bury(&mut self) {
        self.dying.retain(|id| {
            let removed = self.cgroups.open(id).and_then(Group::remove);
            removed.is_err_and(|e| e.source.kind() == io::ErrorKind::ResourceBusy)
        });
    }

    fn finish(&mut self) {
        for _ in 0..500 {
            self.bury();
            if self.dying.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // Empty now, unless another warden shares it.
        let _ = self.cgroups.clone().remove();
        if let (Some((number, seq)), Some(server)) = (self.stopping, &self.server)
            && number == server.number
        {
            self.say(&FromWarden::Done { seq }, vec![]);
            self.flush_all();
        }
    }
}

impl Warden {
    /// Sends everything, to a server that reads: of thousands of sandboxes that ended there is much to say before the last word.
    fn flush_all(&mut self) {
        loop {
            self.flush();
            let Some(server) = self.server.as_ref().filter(|server| !server.outbox.is_empty()) else { return };
            let most = Timespec { tv_sec: 5, tv_nsec: 0 };
            match rustix::event::poll(&mut [PollFd::new(&server.conn, PollFlags::OUT)], Some(&most)) {
                Ok(1..) | Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

fn unknown(id: &SandboxId) -> Failure {
    Failure { step: "find the sandbox".into(), message: format!("no sandbox {id} on this host"), errno: libc::ENOENT }
}

/// Ends what a warden that died left behind: its sandboxes died with it, their cgroups did not. Who has much memory, or had no
/// turn, takes a while to die.
pub(crate) fn clear_leftovers(cgroups: &Root) -> Result<(), CgroupError> {
    let left = cgroups.leftovers()?;
    for id in &left {
        cgroups.open(id)?.kill()?;
    }
    let patience = Instant::now() + DYING;
    for id in &left {
        loop {
            match cgroups.open(id)?.remove() {
                Err(error) if error.source.kind() == io::ErrorKind::ResourceBusy && Instant::now() < patience => {}
                done => break done?,
            }
        }
    }
    Ok(())
}
