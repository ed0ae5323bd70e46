//! Owns one group: its limits, its counters, who is in it, freezing, killing and removing it.
//! Knows nothing of where its parent was put.

use super::root::{Root, Tree};
use super::{CgroupError, Controller, Host, Version, files};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, OFlags, unlinkat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory; swap is never allowed on top.
    pub memory: u64,
    /// Thousandths of a CPU.
    pub cpu_milli: u32,
    /// Processes and threads at once.
    pub pids: u32,
    /// Share of a busy CPU beside other groups, 1 to 10000; none: the kernel's default, which is 100.
    pub cpu_weight: Option<u32>,
}

/// What a group uses and has used; 0 where this host does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time, µs.
    pub cpu_usec: u64,
    /// Bytes charged now.
    pub memory: u64,
    /// Most bytes charged at once.
    pub memory_peak: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes that the OOM killer took.
    pub oom_kills: u64,
    /// Forks that the pids limit refused.
    pub pids_refused: u64,
}

/// The CFS period, the kernel's default: shorter ones cost more, longer ones make throttled programs stutter.
const PERIOD_MICROS: u64 = 100_000;
/// A process in uninterruptible sleep can keep a group from freezing for as long as its disk takes.
const FREEZE_WAIT: Duration = Duration::from_millis(500);
/// The last process of a group is out of it a moment after its parent has reaped it.
const REMOVE_WAIT: Duration = Duration::from_millis(20);

/// One group. It keeps its name; files are opened when used. Dropping it leaves the group as it is.
#[derive(Debug, Clone)]
pub struct Group {
    root: Root,
    id: Box<str>,
}

impl Group {
    pub(super) fn new(root: Root, id: &str) -> Self {
        Self { root, id: id.into() }
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// The group that a process of this host is in, made and limited by another program, where that has one of its own in a
    /// hierarchy: one that a process is at the top of is everybody's.
    pub fn of_process(pid: i32) -> Result<Self, CgroupError> {
        let failed = |error: io::Error| CgroupError::new("find the control group of", format!("/proc/{pid}"), error);
        let host = Host::around(&pid.to_string()).map_err(failed)?;
        let own = host.hierarchies.iter().filter(|hierarchy| hierarchy.own != hierarchy.mount);
        let id = own.clone().find_map(|hierarchy| hierarchy.own.file_name()?.to_str());
        let Some(id) = id else { return Err(failed(io::ErrorKind::NotFound.into())) };
        let trees = own.filter(|hierarchy| hierarchy.own.ends_with(id)).map(Tree::above);
        let trees = Arc::new(trees.collect::<Result<Vec<_>, _>>()?);
        Ok(Self::new(Root { trees, io: Arc::new(super::io::Io::new(None, "")) }, id))
    }

    /// Whether it stands still, or is about to.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        // Whoever froze it may have used either of two hierarchies.
        for tree in self.root.trees.iter().filter(|tree| tree.freezes()) {
            let frozen = match tree.version {
                Version::V1 => self.text(tree, "freezer.state")?.trim() != "THAWED",
                Version::V2 => self.number(tree, "cgroup.freeze")? == 1,
            };
            if frozen {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// For `CLONE_INTO_CGROUP`: the group's directory on the unified hierarchy, where there is one. A child must also go
    /// where this does not take it: see [`Group::join_fds`].
    pub fn dir_fd(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(tree) = self.unified() else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        files::open(&tree.dir, &self.id, flags).map(Some).map_err(|error| self.failed("open", tree, "", error))
    }

    /// One descriptor for each hierarchy that [`Group::dir_fd`] does not cover; the child gives them to [`Group::join`].
    pub fn join_fds(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let older = self.root.trees.iter().filter(|tree| tree.version == Version::V1);
        older
            .map(|tree| {
                files::open(&tree.dir, &self.path("tasks"), OFlags::WRONLY)
                    .map_err(|error| self.failed("open", tree, "tasks", error))
            })
            .collect()
    }

    /// Moves the calling thread into the group, in each hierarchy of [`Group::join_fds`]. Allocates nothing.
    pub fn join(fds: &[OwnedFd]) -> io::Result<()> {
        for fd in fds {
            // 0 is the writer. A thread that moves itself needs no lock against all forks of the host, as moving
            // a process from outside does (cgroup_threadgroup_rwsem: milliseconds on a busy host).
            rustix::io::write(fd, b"0")?;
        }
        Ok(())
    }

    /// Sets every limit, whatever it was.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        for tree in self.root.trees.iter() {
            if tree.has(Controller::Memory) {
                self.set_memory(tree, limits.memory)?;
            }
            if tree.has(Controller::Cpu) {
                let quota = u64::from(limits.cpu_milli) * PERIOD_MICROS / 1000;
                match tree.version {
                    // The kernel looks at every group of the host for each of these writes; the period of a new group is ours.
                    Version::V1 => self.write(tree, "cpu.cfs_quota_us", &quota.to_string())?,
                    Version::V2 => self.write(tree, "cpu.max", &format!("{quota} {PERIOD_MICROS}"))?,
                }
                match (limits.cpu_weight, tree.version) {
                    (None, _) => {}
                    // The default is 1024 there and 100 here; 2 is the least.
                    (Some(weight), Version::V1) => {
                        let shares = (u64::from(weight) * 1024 / 100).max(2);
                        self.write(tree, "cpu.shares", &shares.to_string())?;
                    }
                    (Some(weight), Version::V2) => self.write(tree, "cpu.weight", &weight.to_string())?,
                }
            }
            if tree.has(Controller::Pids) {
                self.write(tree, "pids.max", &limits.pids.to_string())?;
            }
        }
        Ok(())
    }

    fn set_memory(&self, tree: &Tree, bytes: u64) -> Result<(), CgroupError> {
        let bytes = bytes.to_string();
        let optional = |file, value: &str| match self.write(tree, file, value) {
            // The kernel was built, or booted, without swap accounting: there is no swap to forbid.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        match tree.version {
            Version::V1 => {
                // `memsw` (memory + swap) may never be below `limit`: raising goes from the outside in, lowering from
                // the inside out.
                let lowered = self.write(tree, "memory.limit_in_bytes", &bytes);
                if lowered.as_ref().is_err_and(|error| error.source.raw_os_error() == Some(libc::EBUSY)) {
                    // More is in use than can be reclaimed; what comes next would say "invalid".
                    return lowered;
                }
                optional("memory.memsw.limit_in_bytes", &bytes)?;
                if lowered.is_err() {
                    self.write(tree, "memory.limit_in_bytes", &bytes)?;
                }
                optional("memory.swappiness", "0")
            }
            Version::V2 => {
                self.write(tree, "memory.max", &bytes)?;
                optional("memory.swap.max", "0")
            }
        }
    }

    /// Stops every process of the group and waits until they stand (`true`), or lets them go on (`false`).
    ///
    /// Gives up after 500 ms with `ETIMEDOUT`, the processes running again. `Unsupported` where nothing can freeze.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(tree) = self.freezer() else {
            let unsupported = io::Error::from_raw_os_error(libc::ENOTSUP);
            return Err(CgroupError::new("freeze the control group", &*self.id, unsupported));
        };
        let (file, on, off) = match tree.version {
            Version::V1 => ("freezer.state", "FROZEN", "THAWED"),
            Version::V2 => ("cgroup.freeze", "1", "0"),
        };
        if !frozen {
            return self.write(tree, file, off);
        }
        let quota = self.lift_cpu();
        self.write(tree, file, on)?;
        let stands = match tree.version {
            Version::V1 => self.wait_frozen_v1(tree),
            Version::V2 => self.wait_frozen_v2(tree),
        };
        if let Some((tree, file, quota)) = quota {
            self.write(tree, file, &quota)?;
        }
        stands.map_err(|error| {
            // Half frozen is neither paused nor running; running is where the caller was.
            let _ = self.write(tree, file, off);
            self.failed("freeze", tree, "", error)
        })
    }

    /// Takes the CPU limit off, for a group that is brought to a halt: processes that starve would take seconds, or for ever, to
    /// get to the point where they stand still, or end. Answers where the limit was, and what. Where it cannot be lifted the
    /// halt only takes longer.
    fn lift_cpu(&self) -> Option<(&Tree, &'static str, String)> {
        let tree = self.root.trees.iter().find(|tree| tree.has(Controller::Cpu))?;
        let (file, none) = match tree.version {
            Version::V1 => ("cpu.cfs_quota_us", "-1"),
            Version::V2 => ("cpu.max", "max"),
        };
        let quota = self.text(tree, file).ok()?;
        self.write(tree, file, none).ok()?;
        Some((tree, file, quota.trim().to_owned()))
    }

    /// Lets a group that is about to be killed end without waiting for its turns, if it has less than a CPU or ever waited for one:
    /// lifting the limit makes the kernel look at every group of the host. There is no way back but `set_limits`.
    pub fn hasten(&self) {
        let Some(tree) = self.root.trees.iter().find(|tree| tree.has(Controller::Cpu)) else { return };
        let file = if tree.version == Version::V1 { "cpu.cfs_quota_us" } else { "cpu.max" };
        let quota = self.text(tree, file).ok().and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let waited = self.text(tree, "cpu.stat").map_or(1, |stat| files::keyed(&stat, "nr_throttled"));
        if waited > 0 || quota.is_none_or(|quota| quota < PERIOD_MICROS) {
            self.lift_cpu();
        }
    }

    fn wait_frozen_v1(&self, tree: &Tree) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_WAIT;
        loop {
            // Reading the state is what makes the kernel look at the processes again.
            if files::read(&tree.dir, &self.path("freezer.state"))?.trim() == "FROZEN" {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn wait_frozen_v2(&self, tree: &Tree) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_WAIT;
        let events = files::open(&tree.dir, &self.path("cgroup.events"), OFlags::RDONLY)?;
        loop {
            if files::keyed(&files::read_again(&events)?, "frozen") == 1 {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends `SIGKILL` to every process of the group, frozen or not, and thaws it. `false`: there is no group to kill by.
    /// They die on their own time; [`Group::is_empty`] tells when.
    pub fn kill(&self) -> Result<bool, CgroupError> {
        self.hasten();
        if let Some(tree) = self.unified() {
            // One order, atomic: signalling pid by pid would miss a child forked between listing and killing.
            match self.write(tree, "cgroup.kill", "1") {
                Ok(()) => return Ok(true),
                // Before Linux 5.14.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let Some(tree) = self.freezer().or_else(|| self.root.trees.first()) else { return Ok(false) };
        // Frozen, nobody forks; where freezing fails, a few rounds still outrun anything but a fork bomb, and a fork
        // bomb's pids limit is reached.
        let _ = self.freeze(true);
        for _ in 0..8 {
            let pids = self.processes(tree)?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    // Gone already is what was wanted.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            if self.freezer().is_some() {
                self.freeze(false)?;
            }
        }
        Ok(true)
    }

    /// Reads every counter.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        let mut usage = Usage::default();
        for tree in self.root.trees.iter() {
            let number = |file| self.number(tree, file);
            let text = |file| self.text(tree, file);
            match tree.version {
                Version::V2 => usage.cpu_usec = files::keyed(&text("cpu.stat")?, "usage_usec"),
                Version::V1 if tree.has(Controller::Cpuacct) => usage.cpu_usec = number("cpuacct.usage")? / 1000,
                Version::V1 => {}
            }
            if tree.has(Controller::Memory) {
                match tree.version {
                    Version::V1 => {
                        usage.memory = number("memory.usage_in_bytes")?;
                        usage.memory_peak = number("memory.max_usage_in_bytes")?;
                        usage.oom_kills = files::keyed(&text("memory.oom_control")?, "oom_kill");
                    }
                    Version::V2 => {
                        usage.memory = number("memory.current")?;
                        // Since Linux 5.19.
                        usage.memory_peak = number("memory.peak").unwrap_or(usage.memory);
                        usage.oom_kills = files::keyed(&text("memory.events")?, "oom_kill");
                    }
                }
            }
            if tree.has(Controller::Pids) {
                usage.pids = number("pids.current")?;
                usage.pids_refused = files::keyed(&text("pids.events")?, "max");
            }
        }
        Ok(usage)
    }

    /// Whether no process is left in it.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        if let Some(tree) = self.unified() {
            return Ok(files::keyed(&self.text(tree, "cgroup.events")?, "populated") == 0);
        }
        self.root.trees.first().map_or(Ok(true), |tree| Ok(self.processes(tree)?.is_empty()))
    }

    /// Removes the group from every hierarchy; one that is gone already is no error. Goes on after a failure and reports
    /// the first; a group whose processes are still ending is tried for 20 ms.
    pub fn remove(self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_WAIT;
        let mut first = Ok(());
        loop {
            match self.remove_io() {
                Ok(()) => break,
                Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(200)),
                Err(error) => {
                    first = Err(CgroupError::new("remove the disk rules of", &*self.id, error));
                    break;
                }
            }
        }
        for tree in self.root.trees.iter() {
            loop {
                match unlinkat(&tree.dir, &*self.id, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => break,
                    Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(200)),
                    Err(error) => {
                        if first.is_ok() {
                            first = Err(self.failed("remove", tree, "", error.into()));
                        }
                        break;
                    }
                }
            }
        }
        first
    }

    pub(super) fn unified(&self) -> Option<&Tree> {
        self.root.trees.iter().find(|tree| tree.version == Version::V2)
    }

    fn freezer(&self) -> Option<&Tree> {
        self.root.trees.iter().find(|tree| tree.freezes())
    }

    fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.id)
    }

    pub(super) fn write(&self, tree: &Tree, file: &str, value: &str) -> Result<(), CgroupError> {
        files::write(tree.dir.as_fd(), &self.path(file), value).map_err(|error| self.failed("write", tree, file, error))
    }

    fn text(&self, tree: &Tree, file: &str) -> Result<String, CgroupError> {
        files::read(&tree.dir, &self.path(file)).map_err(|error| self.failed("read", tree, file, error))
    }

    fn number(&self, tree: &Tree, file: &str) -> Result<u64, CgroupError> {
        files::number(&tree.dir, &self.path(file)).map_err(|error| self.failed("read", tree, file, error))
    }

    pub(super) fn processes(&self, tree: &Tree) -> Result<Vec<i32>, CgroupError> {
        let text = files::read_all(&tree.dir, &self.path("cgroup.procs"))
            .map_err(|error| self.failed("read", tree, "cgroup.procs", error))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn failed(&self, action: &'static str, tree: &Tree, file: &str, source: io::Error) -> CgroupError {
        CgroupError::new(action, tree.path.join(&*self.id).join(file), source)
    }
}
