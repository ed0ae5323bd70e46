//! Short-lived processes that fork the processes that wait to become sandboxes, which are the warden's children all the same.
//!
//! Forks share their parent's pages, and for each page the kernel keeps a list of all processes that could map it: the parent
//! and every fork of it that lives. Whenever it moves or samples such a page (compaction, DAMON) it walks over that list. Were
//! all of ten thousand sandboxes forks of the warden, that would be most of what the host does; so few are forks of one process,
//! and that process begins with a program of its own and not as a fork.

use crate::blank::{self, Made};
use csb_jail::{Host, Ids, Step, failure};
use csb_sys::{
    packet::Conn,
    process::{self, Fork, SIGKILL},
};
use csb_wire::{Failure, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

/// `argv[0]` of one.
pub(crate) const NAME: &str = "csb-forker";
/// Step of a failure that is the forker's own.
pub(crate) const DIED: &str = "hear the process that forks";
/// How many processes one forks: a start takes as long as some forks.
const MOST: u32 = 64;
/// The next one is started when so many are left to this one, so that nobody waits for its start.
const EARLY: u32 = 16;
/// A fork takes less than a millisecond; one that takes this long is stopped, and all sandboxes would wait with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Numbers of what it is started with, from `FIRST` on: its socket, the stage, the host's network namespace, the warden's life.
const FIRST: i32 = 3;

/// What one fork is asked for: the first host id, and whether a network namespace and a directory for `CLONE_INTO_CGROUP` are
/// among the descriptors.
type Order = (u32, bool, bool);
/// Its pid, and the numbers there of the server's end of the control socket and of the user namespace.
type Answer = Result<(i32, i32, i32), Failure>;

#[derive(Debug)]
struct Forker {
    conn: Conn,
    left: u32,
}

/// See the module. The warden's side.
#[derive(Debug, Default)]
pub(crate) struct Forkers {
    now: Option<Forker>,
    next: Option<Forker>,
}

impl Forker {
    fn start(host: &Host, life: &OwnedFd) -> Result<Self, Failure> {
        let (stage, net) =
            host.shared().ok_or_else(|| failure("start a forker", &io::ErrorKind::Unsupported.into()))?;
        let (ours, theirs) = Conn::pair().step("start a forker")?;
        process::spawn_self(NAME, &[theirs.as_fd(), stage, net, life.as_fd()]).step("start a forker")?;
        ours.send(&encode(&(host.idmap, host.limits_processes)), &[]).step("start a forker")?;
        Ok(Self { conn: ours, left: MOST })
    }
}

/// What a process is born with, besides what all have: its ids, its ends of the control socket and the server's, the pipe on which
/// it hears that it may go on, its cgroups, and a network namespace where there is one.
pub(crate) struct Birth<'a> {
    pub(crate) ids: &'a Ids,
    pub(crate) ends: (&'a Conn, &'a Conn),
    pub(crate) wait: &'a OwnedFd,
    pub(crate) joins: &'a [OwnedFd],
    pub(crate) dir: Option<&'a OwnedFd>,
    pub(crate) net: Option<&'a OwnedFd>,
}

impl Forkers {
    /// Has a process forked that becomes an init.
    pub(crate) fn fork(&mut self, host: &Host, life: &OwnedFd, birth: &Birth<'_>) -> Result<Made, Failure> {
        let order: Order = (birth.ids.first_uid, birth.net.is_some(), birth.dir.is_some());
        let tenant = birth.ids.namespace().ok_or_else(|| failure("fork", &io::ErrorKind::Unsupported.into()))?;
        let (theirs, ours) = birth.ends;
        let mut fds = vec![theirs.as_fd(), ours.as_fd(), birth.wait.as_fd(), tenant];
        fds.extend(birth.net.into_iter().chain(birth.dir).chain(birth.joins).map(AsFd::as_fd));
        let mut forker = loop {
            let (forker, fresh) = match self.now.take().or_else(|| self.next.take()) {
                Some(forker) => (forker, false),
                None => (Forker::start(host, life)?, true),
            };
            match forker.conn.send(&encode(&order), &fds) {
                Ok(()) => break forker,
                Err(error) if fresh => return Err(failure("fork", &error)),
                // It died while nobody wanted anything of it.
                Err(_) => {}
            }
        };
        // One that dies now may have forked: what it made ends with `wait`, and is not made once more with the same ends.
        let dead = || failure(DIED, &io::Error::other("it died while it was asked"));
        let patience = Timespec::try_from(PATIENCE).ok();
        if poll(&mut [PollFd::new(&forker.conn, PollFlags::IN)], patience.as_ref()) == Ok(0) {
            return Err(failure(DIED, &io::ErrorKind::TimedOut.into()));
        }
        let (answer, _) = forker.conn.recv().step(DIED)?.ok_or_else(dead)?;
        let answer: Answer = decode(&answer).map_err(|error| failure("fork", &io::Error::other(error)))?;
        forker.left -= 1;
        if forker.left == EARLY && self.next.is_none() {
            // If it cannot be had now, whoever needs it hears why.
            self.next = Forker::start(host, life).ok();
        }
        self.now = (forker.left > 0).then_some(forker);
        let (pid, peer, tenant) = answer?;
        Ok(Made { pid, peer, tenant })
    }
}

/// The forker's own life: one fork for each order, until the warden wants no more of it.
pub(crate) fn run() -> io::Result<()> {
    process::set_name(c"csb-forker");
    process::set_parent_death_signal(SIGKILL)?;
    process::set_undumpable()?;
    let mut inherited = Vec::new();
    for number in FIRST..FIRST + 4 {
        inherited.push(process::inherited_fd(number)?);
    }
    let [conn, stage, net, life] = <[OwnedFd; 4]>::try_from(inherited).map_err(|_| io::ErrorKind::InvalidInput)?;
    let conn = Conn::from(conn);
    let Some((known, _)) = conn.recv()? else { return Ok(()) };
    let host = Host::inherited(stage, net, decode(&known).map_err(io::Error::other)?);
    while let Some((order, fds)) = conn.recv()? {
        let order: Order = decode(&order).map_err(io::Error::other)?;
        let answer = serve((&conn, &host, &life), order, fds);
        conn.send(&encode(&answer), &[])?;
    }
    Ok(())
}

fn serve(
    (conn, host, life): (&Conn, &Host, &OwnedFd),
    (first_uid, has_net, has_dir): Order,
    fds: Vec<OwnedFd>,
) -> Answer {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| failure("fork", &io::Error::from_raw_os_error(libc::EMFILE)));
    let (theirs, ours, wait, tenant) = (Conn::from(next()?), Conn::from(next()?), next()?, next()?);
    let net = if has_net { Some(next()?) } else { None };
    let dir = if has_dir { Some(next()?) } else { None };
    let joins: Vec<OwnedFd> = fds.collect();
    let (peer, number) = (ours.as_raw_fd(), tenant.as_raw_fd());
    let flags = blank::namespaces(net.is_none());
    match process::fork_for_parent(flags, dir.as_ref().map(AsFd::as_fd)).step("make the process")? {
        Fork::Child => {
            // First of all: if the forker dies now, the warden hears it by the end of this socket, and this process waits for
            // the warden.
            drop(process::inherited_fd(conn.as_raw_fd()));
            let ids = Ids::received(first_uid, tenant);
            blank::become_init(host, ids, &joins, net.as_ref(), (theirs, ours), &wait, life);
            process::exit_now(0)
        }
        Fork::Parent(pid) => Ok((pid, peer, number)),
    }
}
