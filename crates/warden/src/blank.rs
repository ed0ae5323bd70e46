//! A process that waits to become a sandbox: in its namespaces and its cgroup, the host's files left behind. Nothing of any
//! tenant has been near it.

use crate::{
    forker::{Birth, Forkers},
    init::{self, Way},
};
use csb_jail::{Built, Host, Ids, Shell, Step, Trees, build, failure};
use csb_sys::{
    cgroup::{self, CgroupError, Group, Root},
    ns,
    packet::Conn,
    process::{self, Fork, SIGKILL},
};
use csb_types::Limits;
use csb_wire::{Begin, Failure, FromInit, Mode, decode};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Blank {
    pub(crate) pid: i32,
    /// The other end of its control socket.
    pub(crate) control: Conn,
    pub(crate) group: Group,
    pub(crate) limits: Limits,
    pub(crate) slot: u32,
    pub(crate) ids: Ids,
    /// Numbers in it: see [`Made`].
    pub(crate) peer: RawFd,
    pub(crate) tenant: RawFd,
}

/// What an earlier sandbox of a place left that is as good as new. Making either takes longer than the rest together.
#[derive(Debug, Default)]
pub(crate) struct Leavings {
    /// The place's user namespace.
    pub(crate) tenant: Option<OwnedFd>,
    /// A network namespace.
    pub(crate) net: Option<OwnedFd>,
}

/// Those that a process is born in. Its mount namespace it takes from the stage, and its network namespace where there is one.
pub(crate) fn namespaces(net: bool) -> i32 {
    let always = process::CLONE_NEWPID | process::CLONE_NEWIPC | process::CLONE_NEWUTS | process::CLONE_NEWTIME;
    if net { always | process::CLONE_NEWNET } else { always }
}

/// A process that was made.
pub(crate) struct Made {
    pub(crate) pid: i32,
    /// Numbers there of the server's end of its control socket and of its user namespace; -1: none.
    pub(crate) peer: RawFd,
    pub(crate) tenant: RawFd,
}

/// Processes of ours in each sandbox, its init and the one that waits for the next command: not the tenant's, not counted.
pub(crate) const OURS: u32 = 2;

pub(crate) fn limits(of: &Limits) -> cgroup::Limits {
    cgroup::Limits {
        memory: of.memory,
        cpu_milli: of.cpu_milli,
        pids: of.pids.saturating_add(OURS),
        cpu_weight: of.cpu_weight,
    }
}

/// The kernel's answer, with the file it was about.
pub(crate) fn kernel(error: CgroupError) -> io::Error {
    // The server tells what this host cannot do, or not yet, from what failed.
    if matches!(error.source.raw_os_error(), Some(libc::ENOTSUP | libc::EBUSY | libc::ETIMEDOUT)) {
        return error.source;
    }
    io::Error::new(error.source.kind(), format!("{error}: {}", error.source))
}

pub(crate) fn refused(error: CgroupError) -> Failure {
    failure(&error.to_string(), &error.source)
}

impl Blank {
    /// Makes one for place `slot`, in a new cgroup `name`. `life` is what ends it with the warden; without `forkers` it is a fork of
    /// this process.
    pub(crate) fn new(
        (host, cgroups, life): (&Host, &Root, &OwnedFd),
        name: &str,
        limits: &Limits,
        slot: u32,
        leavings: Leavings,
        forkers: Option<&mut Forkers>,
    ) -> Result<Self, Failure> {
        let ids = Ids::take(host, slot, leavings.tenant)?;
        let group = cgroups.create(name, &self::limits(limits)).map_err(refused)?;
        match start(host, ids, &group, leavings.net.as_ref(), life, forkers) {
            Ok((Made { pid, peer, tenant }, control, ids)) => {
                Ok(Self { pid, control, group, limits: limits.clone(), slot, ids, peer, tenant })
            }
            Err(failure) => {
                // The first error is the one to report; an empty group left behind is found again by `leftovers`.
                let _ = group.remove();
                Err(failure)
            }
        }
    }

    /// Why it ended, if it said so.
    pub(crate) fn last_words(&self) -> Option<Failure> {
        self.control.set_nonblocking(true).ok()?;
        let (frame, _) = self.control.recv().ok()??;
        match decode(&frame) {
            Ok(FromInit::Failed(failure)) => Some(failure),
            _ => None,
        }
    }
}

fn start(
    host: &Host,
    ids: Ids,
    group: &Group,
    net: Option<&OwnedFd>,
    life: &OwnedFd,
    forkers: Option<&mut Forkers>,
) -> Result<(Made, Conn, Ids), Failure> {
    let (ours, theirs) = Conn::pair().step("make the control socket")?;
    let joins = group.join_fds().map_err(refused)?;
    let directory = group.dir_fd().map_err(refused)?;
    let (wait, go) = csb_sys::pipe::pipe().step("make a pipe")?;
    if let Some(forkers) = forkers {
        let dir = directory.as_ref();
        let birth = Birth { ids: &ids, ends: (&theirs, &ours), wait: &wait, joins: &joins, dir, net };
        let made = forkers.fork(host, life, &birth)?;
        let _ = rustix::io::write(&go, b"x");
        return Ok((made, ours, ids));
    }
    let mut flags = namespaces(net.is_none());
    // A rootless init has its rights only in a namespace of its own; its parent writes the maps, so it waits for them.
    let rootless = host.mode == Mode::Rootless;
    if rootless {
        flags |= process::CLONE_NEWUSER | process::CLONE_NEWNS;
        // The init inherits it, makes its inner namespace, and drops it before anything of a tenant runs.
        process::set_dumpable().step("make the process")?;
    }
    match process::fork(flags, directory.as_ref().map(AsFd::as_fd)).step("make the process")? {
        Fork::Child => {
            drop(go);
            become_init(host, ids, &joins, net, (theirs, ours), &wait, life);
            process::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(wait);
            if rootless {
                let mapped = host.map_self(pid).and_then(|()| process::set_undumpable());
                if let Err(e) = mapped {
                    process::kill(pid, SIGKILL).step("make the process")?;
                    return Err(failure("map the user", &e));
                }
            }
            // If it is dead already, its end is reported like any other.
            let _ = rustix::io::write(&go, b"x");
            let made = Made { pid, peer: ours.as_raw_fd(), tenant: ids.as_raw_fd().unwrap_or(-1) };
            Ok((made, ours, ids))
        }
    }
}

/// In the new process.
pub(crate) fn become_init(
    host: &Host,
    ids: Ids,
    joins: &[OwnedFd],
    net: Option<&OwnedFd>,
    (conn, peer): (Conn, Conn),
    wait: &OwnedFd,
    life: &OwnedFd,
) {
    // Kept open for the next server, whom the warden gives a copy. A rootless warden keeps its own.
    let kept = (host.mode == Mode::Root).then_some(peer.as_raw_fd());
    match prepare(host, ids, joins, net, (&conn, kept), wait, life) {
        Ok(Some(built)) => {
            // An error here is the loss of the control socket: the end.
            let _ = init::run(Way::Kept { conn, life }, built);
        }
        // Nobody wants it.
        Ok(None) => {}
        Err(failure) => {
            // A frame that nobody has read when this end closes would take the report with it. What is said before anybody
            // asks stays for whoever does.
            let _ = conn.set_nonblocking(true);
            while let Ok(Some(_)) = conn.recv() {}
            init::report_failure(&conn, failure);
        }
    }
}

fn prepare(
    host: &Host,
    ids: Ids,
    joins: &[OwnedFd],
    net: Option<&OwnedFd>,
    (conn, peer): (&Conn, Option<RawFd>),
    wait: &OwnedFd,
    life: &OwnedFd,
) -> Result<Option<Built>, Failure> {
    process::set_parent_death_signal(SIGKILL).step("tie the init to the warden")?;
    // Until the maps are written we are nobody. No byte: the warden died before the line above could tell.
    if rustix::io::read(wait, &mut [0u8; 1]).step("wait for the warden")? == 0 {
        return Ok(None);
    }
    Group::join(joins).step("enter the cgroup")?;
    if let Some(net) = net {
        ns::enter_net(net).step("enter the network namespace")?;
    }
    host.assert_away()?;
    let mut keep = vec![conn.as_raw_fd(), life.as_raw_fd()];
    keep.extend(peer);
    keep_only(host, &ids, keep.clone())?;
    process::set_name(c"csb-blank");
    csb_sys::ns::unshare(process::CLONE_NEWCGROUP).step("make the cgroup namespace")?;
    // A rootless init opens the plan's paths itself, so it stays where they are.
    let mut shell = match host.mode {
        Mode::Root => Some(Shell::enter(host)?),
        Mode::Rootless => None,
    };
    let Some((frame, mut fds)) = conn.recv().step("hear the plan")? else { return Ok(None) };
    let begin: Begin = decode(&frame).map_err(|e| failure("hear the plan", &io::Error::other(e)))?;
    while fds.len() < begin.descriptors as usize {
        let Some((_, more)) = conn.recv().step("hear the plan")? else { return Ok(None) };
        if more.is_empty() {
            return Err(failure("hear the plan", &io::Error::from_raw_os_error(libc::EMFILE)));
        }
        fds.extend(more);
    }
    process::set_name(c"csb-init");
    let trees = match host.mode {
        Mode::Root => Trees::collect(&begin.plan, fds)?,
        Mode::Rootless => Trees::open(host, &begin.plan, &ids)?,
    };
    let shell = match shell.take() {
        Some(shell) => shell,
        None => Shell::enter(host)?,
    };
    let built = build(host, &begin.plan, ids, shell, trees)?;
    // Again: a change of ids clears it.
    process::set_parent_death_signal(SIGKILL).step("tie the init to the warden")?;
    keep.extend([0, 1, 2, built.proc.as_raw_fd()]);
    keep.extend(built.tenant.as_raw_fd());
    process::close_all_but(&keep).step("close descriptors")?;
    Ok(Some(built))
}

/// Closes what the warden had open but `keep`: other sandboxes' sockets above all.
fn keep_only(host: &Host, ids: &Ids, mut keep: Vec<RawFd>) -> Result<(), Failure> {
    keep.extend(host.descriptors());
    keep.extend(ids.as_raw_fd());
    let null =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).step("open /dev/null")?;
    for number in 0..3 {
        process::set_stdio(null.as_fd(), number).step("close descriptors")?;
    }
    drop(null);
    keep.extend([0, 1, 2]);
    process::close_all_but(&keep).step("close descriptors")
}
