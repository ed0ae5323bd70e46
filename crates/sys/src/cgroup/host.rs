//! Owns finding out what control groups this host has, where, and whether we may use them.
//! Knows nothing of groups to be made.

use super::files;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::io;
use std::path::{Path, PathBuf};

/// What enforces one kind of limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory limit and OOM kills.
    Memory,
    /// CPU quota.
    Cpu,
    /// Number of processes and threads.
    Pids,
    /// CPU time (v1 only; v2 always counts it).
    Cpuacct,
    /// Freezing (v1 only; v2 always can).
    Freezer,
    /// Disk speed.
    Io,
}

impl Controller {
    const EVERY: [Self; 6] = [Self::Memory, Self::Cpu, Self::Pids, Self::Cpuacct, Self::Freezer, Self::Io];

    /// Those that limit.
    pub(super) const LIMITS: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// As the kernel spells it; on v1 `io` is `blkio`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Cpuacct => "cpuacct",
            Self::Freezer => "freezer",
            Self::Io => "io",
        }
    }

    fn in_list<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let words: Vec<&str> = words.into_iter().collect();
        let listed = |c: &Self| words.contains(&c.name()) || (*c == Self::Io && words.contains(&"blkio"));
        Self::EVERY.into_iter().filter(listed).collect()
    }
}

/// Which interface a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One or a few controllers each.
    V1,
    /// The unified one.
    V2,
}

/// One mounted hierarchy of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Where its top is mounted.
    pub mount: PathBuf,
    /// The group that this process is in.
    pub own: PathBuf,
    /// The group below which ours are made: `own`, or on v2 one above it where `own` was not given to us.
    pub place: PathBuf,
    /// What it can enforce for groups below `place`.
    pub controllers: Vec<Controller>,
    /// Whether we may make groups below `place`.
    pub writable: bool,
}

/// A guarantee that this host cannot give, for `csb doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What is not enforced.
    pub what: &'static str,
    /// How to get it.
    pub remedy: &'static str,
}

/// What control groups this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Every hierarchy that is of use.
    pub hierarchies: Vec<Hierarchy>,
}

impl Host {
    /// Looks at the running system. A host without control groups is an answer, not an error.
    pub fn detect() -> io::Result<Self> {
        Self::around("self")
    }

    /// The same, seen from another process of this host: `own` is where it is.
    pub(super) fn around(process: &str) -> io::Result<Self> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        // Absent where the kernel has no control groups at all.
        let own = match std::fs::read_to_string(format!("/proc/{process}/cgroup")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let mut hierarchies = parse(&mountinfo, &own);
        for hierarchy in &mut hierarchies {
            if hierarchy.version == Version::V2 {
                hierarchy.place = place_on_v2(hierarchy);
                hierarchy.controllers = offered(&hierarchy.place);
            }
            hierarchy.writable = is_writable(&hierarchy.place);
        }
        // A v1 hierarchy of none of our controllers (devices, name=systemd) is of no use.
        hierarchies.retain(|h| h.version == Version::V2 || !h.controllers.is_empty());
        Ok(Self { hierarchies })
    }

    /// The same, with the groups made at the top of each hierarchy, out of reach of whatever ends the unit that we are in.
    pub fn at_top(mut self) -> Self {
        for hierarchy in &mut self.hierarchies {
            hierarchy.own = hierarchy.mount.clone();
            hierarchy.place = hierarchy.mount.clone();
            if hierarchy.version == Version::V2 {
                hierarchy.controllers = offered(&hierarchy.place);
            }
            hierarchy.writable = is_writable(&hierarchy.place);
        }
        self
    }

    /// `v1`, `v2`, `hybrid` or `none`.
    pub fn layout(&self) -> &'static str {
        let has = |version| self.hierarchies.iter().any(|h| h.version == version);
        match (has(Version::V1), has(Version::V2)) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        }
    }

    /// The hierarchy whose groups enforce this; only one that we may write to.
    pub fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.writable && h.controllers.contains(&controller))
    }

    /// The unified hierarchy, where we may write to it.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.writable && h.version == Version::V2)
    }

    /// What is not enforced here, and how to get it.
    pub fn losses(&self) -> Vec<Loss> {
        const REMEDY: &str = "run as root, or in a unit with `Delegate=yes` (rootless: `systemd-run --user --scope -p \
                              Delegate=yes csb …`), on a kernel with the controller";
        let mut losses = Vec::new();
        let mut lose = |lost: bool, what| {
            if lost {
                losses.push(Loss { what, remedy: REMEDY });
            }
        };
        lose(self.with(Controller::Memory).is_none(), "memory limits: a sandbox can use up the host's memory");
        lose(self.with(Controller::Cpu).is_none(), "CPU limits: a sandbox can use every CPU");
        lose(self.with(Controller::Pids).is_none(), "process limits: only the per-user limit stops a fork bomb");
        lose(self.with(Controller::Io).is_none(), "limits of disk speed: a sandbox that asks for one is refused");
        let unified = self.unified().is_some();
        lose(
            !unified && self.with(Controller::Freezer).is_none(),
            "pause: a sandbox's processes cannot be frozen together",
        );
        lose(!unified && self.with(Controller::Cpuacct).is_none(), "CPU time in usage figures");
        losses
    }
}

/// What the processes in the way of v2's delegation are moved to.
pub(super) const SUPERVISOR: &str = "supervisor";

/// Hierarchies from `/proc/self/mountinfo` and `/proc/self/cgroup` (proc(5), cgroups(7)); each once.
fn parse(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (&[_, _, _, top, mount, ..], &[kind, _, options]) = (left.as_slice(), right.as_slice()) else { continue };
        let (version, controllers) = match kind {
            "cgroup" => (Version::V1, Controller::in_list(options.split(','))),
            "cgroup2" => (Version::V2, Vec::new()),
            _ => continue,
        };
        let same = |h: &Hierarchy| h.version == version && h.controllers == controllers;
        if found.iter().any(same) {
            continue;
        }
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, list, path) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = match version {
                Version::V2 => list.is_empty(),
                Version::V1 => !controllers.is_empty() && Controller::in_list(list.split(',')) == controllers,
            };
            ours.then_some(path)
        });
        let Some(path) = path else { continue };
        let mount = PathBuf::from(unescape(mount));
        // A mount may show only a part of the hierarchy: a container's without a namespace of its own shows its group.
        let below = Path::new(path).strip_prefix(unescape(top)).unwrap_or(Path::new(""));
        let own = if below.as_os_str().is_empty() { mount.clone() } else { mount.join(below) };
        let place = own.clone();
        found.push(Hierarchy { version, own, place, mount, controllers, writable: false });
    }
    found
}

/// Where on v2 groups with controllers can be made. A group that has processes cannot have any for its children, and
/// the processes of a login session are not ours to move: then it is the nearest group above that is free, or the top.
fn place_on_v2(hierarchy: &Hierarchy) -> PathBuf {
    let own = &hierarchy.own;
    // An earlier warden of this group moved us out of its way: the group that was given to us is the one above.
    if own.file_name().is_some_and(|name| name == SUPERVISOR)
        && let Some(above) = own.parent()
        && is_given_to_us(&hierarchy.mount, above)
        && is_writable(above)
        && files::read(CWD, &above.join("cgroup.subtree_control").to_string_lossy())
            .is_ok_and(|on| !on.trim().is_empty())
    {
        return above.to_path_buf();
    }
    if is_top(own) || is_given_to_us(&hierarchy.mount, own) {
        return own.clone();
    }
    let above = own.ancestors().skip(1).take_while(|group| group.starts_with(&hierarchy.mount));
    let free = |group: &&Path| {
        let empty =
            || files::read(CWD, &group.join("cgroup.procs").to_string_lossy()).is_ok_and(|pids| pids.is_empty());
        is_writable(group) && offered(group).starts_with(&Controller::LIMITS) && (is_top(group) || empty())
    };
    above.into_iter().find(free).unwrap_or(own).to_path_buf()
}

fn is_writable(group: &Path) -> bool {
    accessat(CWD, group, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// Controllers that a group on v2 can enable for its children.
pub(super) fn offered(group: &Path) -> Vec<Controller> {
    let listed = files::read(CWD, &group.join("cgroup.controllers").to_string_lossy());
    Controller::in_list(listed.unwrap_or_default().split_whitespace())
}

/// The real top of the v2 hierarchy has no type, and may have processes and controllers at once.
pub(super) fn is_top(group: &Path) -> bool {
    !group.join("cgroup.type").exists()
}

/// A container's own top (it is all there is), a unit with `Delegate=yes`, or a directory of an ordinary user.
fn is_given_to_us(mount: &Path, group: &Path) -> bool {
    let marked = |name: &str| {
        let mut value = [0u8; 1];
        rustix::fs::getxattr(group, name, &mut value[..]).is_ok_and(|length| &value[..length] == b"1")
    };
    group.starts_with(mount)
        && (group == mount
            || !rustix::process::geteuid().is_root()
            || marked("trusted.delegate")
            || marked("user.delegate"))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mountinfo: &str, own: &str, expected: &[(Version, &str, &str, &[Controller])]) {
        let found = parse(mountinfo, own);
        let found: Vec<_> = found
            .iter()
            .map(|h| (h.version, h.mount.to_str().unwrap(), h.own.to_str().unwrap(), h.controllers.as_slice()))
            .filter(|(version, _, _, controllers)| *version == Version::V2 || !controllers.is_empty())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_systemd_host_with_v2() {
        check(
            "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
            "0::/system.slice/csb.service\n",
            &[(Version::V2, "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/csb.service", &[])],
        );
    }

    #[test]
    fn a_hybrid_host_with_controllers_mounted_together() {
        check(
            "33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             36 31 0:32 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "5:devices:/\n4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/c\n",
            &[
                (
                    Version::V1,
                    "/sys/fs/cgroup/cpu,cpuacct",
                    "/sys/fs/cgroup/cpu,cpuacct/a",
                    &[Controller::Cpu, Controller::Cpuacct],
                ),
                (Version::V1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b", &[Controller::Memory]),
                (Version::V2, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/c", &[]),
            ],
        );
    }

    #[test]
    fn a_container_that_sees_only_its_own_part() {
        check(
            "35 31 0:31 /docker/12ab /sys/fs/cgroup/my\\040memory ro - cgroup cgroup rw,memory\n",
            "4:memory:/docker/12ab\n",
            &[(Version::V1, "/sys/fs/cgroup/my memory", "/sys/fs/cgroup/my memory", &[Controller::Memory])],
        );
    }

    #[test]
    fn a_host_without_control_groups_loses_every_limit() {
        assert_eq!(parse("22 27 0:21 / /proc rw - proc proc rw\n", ""), []);
        let host = Host { hierarchies: Vec::new() };
        assert_eq!((host.layout(), host.losses().len()), ("none", 6));
    }
}
