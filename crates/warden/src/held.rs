//! One sandbox as the warden holds it: made by `create`, given back by `give_back` when its init has ended.

use crate::init;
use csb_jail::{Host, Prepared, Step, build, failure, prepare};
use csb_sys::{
    cgroup::{self, CgroupError, Device, Group, Root},
    packet::Conn,
    process::{self, Fork, SIGKILL},
};
use csb_types::{IoLimits, Limits, Usage};
use csb_wire::{Failure, Jail, JailPlan, Mode};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) jail: Jail,
    /// Server's end of the init's control socket.
    pub(crate) control: Conn,
    pub(crate) group: Group,
    /// The disk that takes its writes and the one below it, where they do not go to memory.
    disks: Option<(Device, Option<Device>)>,
    pub(crate) slot: u32,
    /// Locks on what it is mounted from.
    pub(crate) _layers: Vec<Rc<File>>,
    /// Requests to answer when it is gone: connection and `seq`.
    pub(crate) waiting: Vec<(u64, u64)>,
}

const NAMESPACES: i32 = process::CLONE_NEWNS
    | process::CLONE_NEWPID
    | process::CLONE_NEWIPC
    | process::CLONE_NEWUTS
    | process::CLONE_NEWNET
    | process::CLONE_NEWTIME;

/// Makes the cgroup and the process; the rest happens in the new process, which reports on its control socket.
pub(crate) fn create(
    host: &Host,
    cgroups: &Root,
    plan: &JailPlan,
    slot: u32,
    layers: Vec<Rc<File>>,
    life: &OwnedFd,
) -> Result<Held, Failure> {
    let prepared = prepare(host, plan, slot)?;
    let group = cgroups.create(plan.id.as_str(), &limits(&plan.limits)).map_err(refused)?;
    // Few sandboxes have one, and finding out what is below it takes reads of /sys.
    let disks = prepared.disks();
    let started = limit_disk(cgroups, &group, disks, &plan.limits.io)
        .map_err(|error| failure("limit the disk speed", &error))
        .and_then(|()| start(host, plan, &prepared, &group, life));
    match started {
        Ok((pid, control)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let jail = Jail {
                id: plan.id.clone(),
                pid,
                created_ms: now.as_millis() as i64,
                limits: plan.limits.clone(),
                frozen: false,
                first_uid: prepared.first_uid,
            };
            Ok(Held { jail, control, group, disks, slot, _layers: layers, waiting: Vec::new() })
        }
        Err(failure) => {
            // The first error is the one to report; an empty group left behind is found again by `leftovers`.
            let _ = group.remove();
            Err(failure)
        }
    }
}

fn limits(of: &Limits) -> cgroup::Limits {
    cgroup::Limits { memory: of.memory, cpu_milli: of.cpu_milli, pids: of.pids, cpu_weight: of.cpu_weight }
}

/// Limits the disk speed of a sandbox that asks for it, before it starts.
fn limit_disk(cgroups: &Root, group: &Group, disks: Option<(Device, Option<Device>)>, io: &IoLimits) -> io::Result<()> {
    if let Some((own, _)) = disks {
        // A device passes from one sandbox to the next, and a warden that was killed took no rule away.
        cgroups.forget_io(own).map_err(kernel)?;
    }
    if io.is_none() { Ok(()) } else { set_disk_speed(group, disks, io) }
}

/// Sets rules for both disks. Writes to the lower one are all writes to the upper one; reads are the template's, too.
fn set_disk_speed(group: &Group, disks: Option<(Device, Option<Device>)>, io: &IoLimits) -> io::Result<()> {
    let Some((own, below)) = disks else { return Err(io::Error::from_raw_os_error(libc::ENOTSUP)) };
    let rules = cgroup::IoLimits {
        read_bps: io.read_bps,
        write_bps: io.write_bps,
        read_iops: io.read_iops,
        write_iops: io.write_iops,
    };
    group.set_io(own, &rules).map_err(kernel)?;
    match below {
        Some(below) => group.set_io(below, &rules.of_reads()).map_err(kernel),
        None => Ok(()),
    }
}

/// The kernel's answer, with the file it was about.
fn kernel(error: CgroupError) -> io::Error {
    // The server tells what this host cannot do from what failed.
    if error.source.raw_os_error() == Some(libc::ENOTSUP) {
        return error.source;
    }
    io::Error::new(error.source.kind(), format!("{error}: {}", error.source))
}

fn refused(error: CgroupError) -> Failure {
    csb_jail::failure(&error.to_string(), &error.source)
}

fn start(
    host: &Host,
    plan: &JailPlan,
    prepared: &Prepared,
    group: &Group,
    life: &OwnedFd,
) -> Result<(i32, Conn), Failure> {
    let (ours, theirs) = Conn::pair().step("make the control socket")?;
    let mut joins = group.join_fds().map_err(refused)?;
    if !plan.limits.io.is_none() {
        joins.extend(group.io_fd().map_err(refused)?);
    }
    let directory = group.dir_fd().map_err(refused)?;
    let mut flags = NAMESPACES;
    // A rootless init has its rights only in a namespace of its own; its parent writes the maps, so it waits for them.
    let rootless = host.mode == Mode::Rootless;
    if rootless {
        flags |= process::CLONE_NEWUSER;
        // The init inherits it, makes its inner namespace, and drops it before anything of a tenant runs.
        process::set_dumpable().step("make the process")?;
    }
    let (wait, go) = csb_sys::pipe::pipe().step("make a pipe")?;
    match process::fork(flags, directory.as_ref().map(AsFd::as_fd)).step("make the process")? {
        Fork::Child => {
            drop(go);
            become_init(host, plan, prepared, &joins, theirs, &wait, life);
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
            Ok((pid, ours))
        }
    }
}

/// In the new process.
fn become_init(
    host: &Host,
    plan: &JailPlan,
    prepared: &Prepared,
    joins: &[OwnedFd],
    conn: Conn,
    wait: &OwnedFd,
    life: &OwnedFd,
) {
    let result = (|| -> Result<_, Failure> {
        process::set_parent_death_signal(SIGKILL).step("tie the init to the warden")?;
        // Until the maps are written we are nobody. No byte: the warden died before the line above could tell.
        if rustix::io::read(wait, &mut [0u8; 1]).step("wait for the warden")? == 0 {
            process::exit_now(1);
        }
        Group::join(joins).step("enter the cgroup")?;
        keep_only(host, prepared, &conn, life)?;
        process::set_name(c"csb-init");
        let built = build(host, plan, prepared)?;
        // Again: a change of ids clears it.
        process::set_parent_death_signal(SIGKILL).step("tie the init to the warden")?;
        let ours = [conn.as_raw_fd(), life.as_raw_fd(), built.proc.as_raw_fd(), built.tenant.as_raw_fd()];
        process::close_all_but(&[&[0, 1, 2], &ours[..]].concat()).step("close descriptors")?;
        Ok(built)
    })();
    match result {
        Ok(built) => {
            // An error here is the loss of the control socket: the end.
            let _ = init::run(conn, built, life);
        }
        Err(failure) => init::report_failure(&conn, failure),
    }
}

/// Closes what the warden had open: other sandboxes' sockets above all.
fn keep_only(host: &Host, prepared: &Prepared, conn: &Conn, life: &OwnedFd) -> Result<(), Failure> {
    let mut keep: Vec<RawFd> = vec![conn.as_raw_fd(), life.as_raw_fd()];
    keep.extend(host.descriptors());
    keep.extend(prepared.descriptors());
    let null =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).step("open /dev/null")?;
    for number in 0..3 {
        process::set_stdio(null.as_fd(), number).step("close descriptors")?;
    }
    drop(null);
    keep.extend([0, 1, 2]);
    process::close_all_but(&keep).step("close descriptors")
}

impl Held {
    /// Ends every process. The kernel ends all others of the PID namespace when its init dies.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        if self.jail.frozen {
            self.freeze(false)?;
        }
        self.group.hasten();
        if !self.jail.limits.io.is_none() {
            // What it wrote last is written out at its pace, otherwise, and its end waits for that.
            let _ = set_disk_speed(&self.group, self.disks, &IoLimits::default());
        }
        process::kill(self.jail.pid, SIGKILL).map(drop)
    }

    /// Stops every process, or lets them go on.
    pub(crate) fn freeze(&mut self, frozen: bool) -> io::Result<()> {
        self.group.freeze(frozen).map_err(kernel)?;
        self.jail.frozen = frozen;
        Ok(())
    }

    /// Changes what can be changed on a living sandbox: memory, CPU, processes, disk speed.
    pub(crate) fn set_limits(&mut self, wanted: Limits) -> io::Result<()> {
        if wanted.io != self.jail.limits.io {
            set_disk_speed(&self.group, self.disks, &wanted.io)?;
            self.jail.limits.io = wanted.io;
        }
        self.group.set_limits(&limits(&wanted)).map_err(kernel)?;
        self.jail.limits = wanted;
        Ok(())
    }

    /// Counters of the cgroup and of the root file system.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let counters = self.group.usage().map_err(kernel)?;
        // The init's root is an overlay that we mounted; its numbers are those of the upper.
        let root = rustix::fs::open(
            format!("/proc/{}/root", self.jail.pid),
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let stat = match root {
            Ok(root) => Some(rustix::fs::fstatvfs(root)?),
            // An ordinary user may not look into a process that hides its memory: 0 of 0 bytes means unknown.
            Err(rustix::io::Errno::ACCESS) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Usage {
            cpu_usec: counters.cpu_usec,
            memory: counters.memory,
            memory_peak: counters.memory_peak,
            pids: counters.pids,
            oom_kills: counters.oom_kills,
            pids_refused: counters.pids_refused,
            disk: stat.as_ref().map_or(0, |s| (s.f_blocks - s.f_bfree.min(s.f_blocks)) * s.f_frsize),
            disk_limit: stat.as_ref().map_or(0, |s| s.f_blocks * s.f_frsize),
            inodes_free: stat.as_ref().map_or(0, |s| s.f_ffree),
        })
    }
}
