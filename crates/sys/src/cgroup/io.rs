//! Owns limits of disk speed: rules of one group for block devices. Nothing is made for groups that have none.
//! Knows nothing of file systems.
//!
//! On v2 the rules of a group hold for all it causes. On v1 they hold for what its processes do themselves: what they wrote
//! to the page cache is written out by threads of the kernel, which belong to the top group. A device that only one
//! group uses therefore gets its rules for writes there as well.

use super::group::Group;
use super::root::{Root, Tree};
use super::{CgroupError, Controller, Hierarchy, Version, files};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, unlinkat};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

/// How fast a device may be used; none: as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoLimits {
    /// Bytes read a second.
    pub read_bps: Option<u64>,
    /// Bytes written a second.
    pub write_bps: Option<u64>,
    /// Reads a second.
    pub read_iops: Option<u64>,
    /// Writes a second.
    pub write_iops: Option<u64>,
}

impl IoLimits {
    /// The same for reads alone.
    pub fn of_reads(self) -> Self {
        Self { write_bps: None, write_iops: None, ..self }
    }

    /// The same for writes alone.
    fn of_writes(self) -> Self {
        Self { read_bps: None, read_iops: None, ..self }
    }

    /// Files of v1 and what is written to them; 0 is no limit.
    fn files(self) -> [(&'static str, Option<u64>); 4] {
        [
            ("blkio.throttle.read_bps_device", self.read_bps),
            ("blkio.throttle.write_bps_device", self.write_bps),
            ("blkio.throttle.read_iops_device", self.read_iops),
            ("blkio.throttle.write_iops_device", self.write_iops),
        ]
    }
}

/// A block device: a whole disk, not a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Whether no other group uses it.
    pub exclusive: bool,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Device {
    /// The disk that a file system with this device number is on, if it is on one.
    pub fn under(number: u64) -> Option<Self> {
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let entry = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let disk = if entry.join("partition").exists() { entry.parent()?.to_owned() } else { entry };
        let text = std::fs::read_to_string(disk.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()?, exclusive: false })
    }
}

/// Where rules are kept, from the first group that has any.
#[derive(Debug)]
pub(super) struct Io {
    hierarchy: Option<Hierarchy>,
    name: String,
    tree: OnceLock<Tree>,
}

impl Io {
    pub fn new(hierarchy: Option<&Hierarchy>, name: &str) -> Self {
        Self { hierarchy: hierarchy.cloned(), name: name.into(), tree: OnceLock::new() }
    }

    /// The parent's directory on v1, if there is one.
    pub fn path(&self) -> Option<PathBuf> {
        let hierarchy = self.hierarchy.as_ref().filter(|h| h.version == Version::V1)?;
        Some(hierarchy.place.join(&self.name))
    }

    /// The same, opened; none where nobody has made it.
    pub fn made(&self) -> Option<&Tree> {
        if self.tree.get().is_none()
            && let Some(path) = self.path()
            && let Ok(dir) =
                rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        {
            let _ = self.tree.set(Tree { version: Version::V1, path, dir, controllers: vec![Controller::Io] });
        }
        self.tree.get()
    }

    fn make(&self) -> Result<&Tree, CgroupError> {
        let unsupported = || CgroupError::new("limit disk speed in", &self.name, Errno::NOTSUP);
        let path = self.path().ok_or_else(unsupported)?;
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.made().ok_or_else(unsupported),
            Err(error) => Err(CgroupError::new("make the control group", path, error)),
        }
    }
}

impl Root {
    /// Takes away what an earlier group that used this device exclusively has left behind.
    pub fn forget_io(&self, device: Device) -> Result<(), CgroupError> {
        let Some(hierarchy) = self.io.hierarchy.as_ref().filter(|h| h.version == Version::V1) else { return Ok(()) };
        for (file, _) in IoLimits::default().files() {
            let path = hierarchy.mount.join(file);
            let rules = std::fs::read_to_string(&path).unwrap_or_default();
            if rules.lines().any(|line| line.split(' ').next() == Some(&device.to_string())) {
                let rule = format!("{device} 0");
                files::write(CWD, &path.to_string_lossy(), &rule)
                    .map_err(|error| CgroupError::new("write", path, error))?;
            }
        }
        Ok(())
    }
}

impl Group {
    /// Sets all rules for a device, whatever they were, for what runs in the group and what will. `Unsupported` where this host cannot keep them.
    pub fn set_io(&self, device: Device, limits: &IoLimits) -> Result<(), CgroupError> {
        let unsupported = || CgroupError::new("limit the disk speed of", self.id(), Errno::NOTSUP);
        let hierarchy = self.root().io.hierarchy.as_ref().ok_or_else(unsupported)?;
        match hierarchy.version {
            Version::V1 => self.set_io_v1(hierarchy, device, limits),
            Version::V2 => self.set_io_v2(device, limits),
        }
    }

    fn set_io_v2(&self, device: Device, limits: &IoLimits) -> Result<(), CgroupError> {
        let tree =
            self.unified().ok_or_else(|| CgroupError::new("limit the disk speed of", self.id(), Errno::NOTSUP))?;
        for group in tree.path.parent().into_iter().chain([tree.path.as_path()]) {
            let file = group.join("cgroup.subtree_control");
            files::write(CWD, &file.to_string_lossy(), "+io")
                .map_err(|error| CgroupError::new("write", file, error))?;
        }
        let value = |limit: Option<u64>| limit.map_or("max".into(), |limit| limit.to_string());
        let rule = format!(
            "{device} rbps={} wbps={} riops={} wiops={}",
            value(limits.read_bps),
            value(limits.write_bps),
            value(limits.read_iops),
            value(limits.write_iops)
        );
        self.write(tree, "io.max", &rule)
    }

    fn set_io_v1(&self, hierarchy: &Hierarchy, device: Device, limits: &IoLimits) -> Result<(), CgroupError> {
        // Only the top of the real hierarchy has this file.
        let top = hierarchy.mount.join("release_agent").exists();
        let writes = limits.of_writes();
        if writes != IoLimits::default() && device.exclusive && !top {
            return Err(CgroupError::new("limit the disk speed of", self.id(), Errno::NOTSUP));
        }
        let tree = self.root().io.make()?;
        match mkdirat(&tree.dir, self.id(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(CgroupError::new("make the control group", tree.path.join(self.id()), error)),
        }
        for (file, limit) in limits.files() {
            self.write(tree, file, &format!("{device} {}", limit.unwrap_or(0)))?;
        }
        if device.exclusive && top {
            for (file, limit) in writes.files() {
                let path = hierarchy.mount.join(file);
                files::write(CWD, &path.to_string_lossy(), &format!("{device} {}", limit.unwrap_or(0)))
                    .map_err(|error| CgroupError::new("write", path, error))?;
            }
        }
        self.move_into(tree)
    }

    /// Moves what runs in the group to its directory in `tree`; what is forked meanwhile, too.
    fn move_into(&self, tree: &Tree) -> Result<(), CgroupError> {
        let Some(known) = self.root().trees.first() else { return Ok(()) };
        for _ in 0..64 {
            let there = self.processes(tree)?;
            let mut missing = self.processes(known)?;
            missing.retain(|pid| !there.contains(pid));
            if missing.is_empty() {
                return Ok(());
            }
            for pid in missing {
                match self.write(tree, "cgroup.procs", &pid.to_string()) {
                    // It has ended since.
                    Err(error) if error.source.raw_os_error() == Some(libc::ESRCH) => {}
                    other => other?,
                }
            }
        }
        Err(CgroupError::new("move all processes of", self.id(), io::ErrorKind::TimedOut))
    }

    /// For [`Group::join`], of a group that has rules: what a process needs to be under them.
    pub fn io_fd(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(tree) = self.root().io.made() else { return Ok(None) };
        let path = format!("{}/tasks", self.id());
        match files::open(&tree.dir, &path, OFlags::WRONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(|error| CgroupError::new("open", tree.path.join(path), error)),
        }
    }

    pub(super) fn remove_io(&self) -> Result<(), Errno> {
        match self.root().io.made().map(|tree| unlinkat(&tree.dir, self.id(), AtFlags::REMOVEDIR)) {
            None | Some(Ok(()) | Err(Errno::NOENT)) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }
}
