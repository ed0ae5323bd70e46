//! One sandbox as the warden holds it.

use crate::blank::{Blank, Leavings, OURS, kernel, limits};
use csb_jail::{Host, Step, Trees, failure};
use csb_sys::{
    cgroup::{self, Device, Group, Root},
    ns,
    packet::Conn,
    process::{self, SIGKILL},
};
use csb_types::{IoLimits, Limits, Usage};
use csb_wire::{Begin, Failure, Jail, JailPlan, MOST_DESCRIPTORS, Mode, encode};
use std::{
    fs::File,
    io,
    os::fd::{OwnedFd, RawFd},
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

/// The disk that takes a sandbox's writes, and the one below it; none where they go to memory.
pub(crate) type Disks = Option<(Device, Option<Device>)>;

/// Where the server's end of an init's control socket is kept for the next server.
#[derive(Debug)]
enum Control {
    /// In the init, under this number. A warden of ten thousand sandboxes would copy ten thousand descriptors for each process
    /// that it makes, otherwise.
    InInit(RawFd),
    /// Here: an ordinary user may not take a descriptor out of a process that hides its memory.
    Here(Conn),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) jail: Jail,
    /// Server's end of the init's control socket.
    control: Control,
    pub(crate) group: Group,
    /// The disk that takes its writes and the one below it, where they do not go to memory.
    disks: Disks,
    pub(crate) slot: u32,
    /// Number, in its init, of the descriptor of its user namespace; -1: it has none.
    tenant: RawFd,
    /// What is left of it for the next sandbox.
    pub(crate) leavings: Leavings,
    /// Locks on what it is mounted from.
    pub(crate) _layers: Vec<Rc<File>>,
    /// Requests to answer when it is gone: connection and `seq`.
    pub(crate) waiting: Vec<(u64, u64)>,
}

/// Makes a waiting process the plan's sandbox; what is left to do happens in that process, which reports on its control socket.
/// On an error the blank is what it was, and no good any more.
pub(crate) fn begin(host: &Host, cgroups: &Root, plan: &JailPlan, blank: &Blank) -> Result<Disks, Failure> {
    if blank.limits != plan.limits {
        blank.group.set_limits(&limits(&plan.limits)).map_err(crate::blank::refused)?;
    }
    let trees = match host.mode {
        Mode::Root => Some(Trees::open(host, plan, &blank.ids)?),
        Mode::Rootless => None,
    };
    let disks = trees.as_ref().and_then(Trees::disks);
    limit_disk(cgroups, blank, disks, &plan.limits.io).map_err(|error| failure("limit the disk speed", &error))?;
    let fds = trees.as_ref().map(Trees::descriptors).unwrap_or_default();
    let frame = encode(&Begin { plan: plan.clone(), descriptors: fds.len() as u32 });
    let first = fds.len().min(MOST_DESCRIPTORS);
    // The warden waits for no process; whoever gets this end afterwards may.
    blank.control.set_nonblocking(true).step("wake the init")?;
    blank.control.send(&frame, &fds[..first]).step("wake the init")?;
    for more in fds[first..].chunks(MOST_DESCRIPTORS) {
        blank.control.send(&[], more).step("wake the init")?;
    }
    blank.control.set_nonblocking(false).step("wake the init")?;
    Ok(disks)
}

/// Limits the disk speed of a sandbox that asks for it, before it starts.
fn limit_disk(cgroups: &Root, blank: &Blank, disks: Disks, io: &IoLimits) -> io::Result<()> {
    if let Some((own, _)) = disks {
        // A device passes from one sandbox to the next, and a warden that was killed took no rule away.
        cgroups.forget_io(own).map_err(kernel)?;
    }
    if io.is_none() {
        return Ok(());
    }
    set_disk_speed(&blank.group, disks, io)?;
    // Few sandboxes ask for it, so no process that waits is in a group for it.
    if let Some(tasks) = blank.group.io_fd().map_err(kernel)? {
        rustix::io::write(tasks, blank.pid.to_string().as_bytes())?;
    }
    Ok(())
}

/// Sets rules for both disks. Writes to the lower one are all writes to the upper one; reads are the template's, too.
fn set_disk_speed(group: &Group, disks: Disks, io: &IoLimits) -> io::Result<()> {
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

impl Held {
    /// What a blank became, and the server's end of its control socket.
    pub(crate) fn new(
        host: &Host,
        plan: &JailPlan,
        blank: Blank,
        disks: Disks,
        layers: Vec<Rc<File>>,
    ) -> io::Result<(Self, Conn)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let jail = Jail {
            id: plan.id.clone(),
            pid: blank.pid,
            created_ms: now.as_millis() as i64,
            limits: plan.limits.clone(),
            frozen: false,
            first_uid: blank.ids.first_uid,
        };
        let Blank { control: ours, group, slot, peer, tenant, .. } = blank;
        let control = match host.mode {
            Mode::Root => Control::InInit(peer),
            Mode::Rootless => Control::Here(ours.try_clone()?),
        };
        let held = Self {
            jail,
            control,
            group,
            disks,
            slot,
            tenant,
            leavings: Leavings::default(),
            _layers: layers,
            waiting: Vec::new(),
        };
        Ok((held, ours))
    }

    /// Another descriptor of the server's end of the init's control socket.
    pub(crate) fn control(&self) -> io::Result<OwnedFd> {
        match &self.control {
            Control::InInit(number) => process::take_descriptor(self.jail.pid, *number),
            Control::Here(conn) => conn.try_clone().map(OwnedFd::from),
        }
    }

    /// Takes hold of what the next sandbox may use, as long as there is a process that has it.
    pub(crate) fn keep_leavings(&mut self) {
        let pid = self.jail.pid;
        // What is gone is made anew.
        self.leavings.net = ns::net_of(pid).ok();
        self.leavings.tenant = File::open(format!("/proc/{pid}/fd/{}", self.tenant)).ok().map(OwnedFd::from);
    }

    /// Of what was kept, what may be used again.
    pub(crate) fn checked_leavings(&mut self, host: &Host) -> Leavings {
        let Leavings { tenant, net } = std::mem::take(&mut self.leavings);
        let net = net.filter(|net| host.is_untouched(net).unwrap_or(false));
        Leavings { tenant, net }
    }

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
        let speed = wanted.io != self.jail.limits.io;
        if let Err(error) = self.apply_limits(&wanted, speed) {
            // All or nothing: what was set before the one that was refused is taken back, as far as the kernel lets us.
            let _ = self.apply_limits(&self.jail.limits, speed);
            return Err(error);
        }
        self.jail.limits = wanted;
        Ok(())
    }

    fn apply_limits(&self, wanted: &Limits, speed: bool) -> io::Result<()> {
        if speed {
            // Before memory, which version 2 of control groups makes room for by killing: that is not taken back.
            set_disk_speed(&self.group, self.disks, &wanted.io)?;
        }
        self.group.set_limits(&limits(wanted)).map_err(kernel)
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
            pids: counters.pids.saturating_sub(OURS.into()),
            oom_kills: counters.oom_kills,
            pids_refused: counters.pids_refused,
            disk: stat.as_ref().map_or(0, |s| (s.f_blocks - s.f_bfree.min(s.f_blocks)) * s.f_frsize),
            disk_limit: stat.as_ref().map_or(0, |s| s.f_blocks * s.f_frsize),
            inodes_free: stat.as_ref().map_or(0, |s| s.f_ffree),
        })
    }
}
