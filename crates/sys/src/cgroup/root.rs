//! Owns the parent group of one warden: where it is put in each hierarchy, and what is found below it.
//! Knows nothing of what its groups limit.

use super::group::{Group, Limits};
use super::host::{SUPERVISOR, is_top};
use super::io::Io;
use super::{CgroupError, Controller, Hierarchy, Host, Version, files};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, unlinkat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The parent's directory in one hierarchy, and what it is used for.
#[derive(Debug)]
pub(super) struct Tree {
    pub version: Version,
    pub path: PathBuf,
    pub dir: OwnedFd,
    pub controllers: Vec<Controller>,
}

impl Tree {
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// The directory that a process's group is in, and what that group is limited by.
    pub fn above(hierarchy: &Hierarchy) -> Result<Self, CgroupError> {
        let path = hierarchy.own.parent().unwrap_or(&hierarchy.mount).to_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map_err(|error| CgroupError::new("open the control group", &path, error))?;
        let controllers = match hierarchy.version {
            Version::V1 => hierarchy.controllers.clone(),
            Version::V2 => super::host::offered(&hierarchy.own),
        };
        Ok(Self { version: hierarchy.version, path, dir, controllers })
    }

    /// Whether groups here can be frozen.
    pub fn freezes(&self) -> bool {
        self.version == Version::V2 || self.has(Controller::Freezer)
    }
}

/// The parent of all groups of one warden. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Root {
    pub(super) trees: Arc<Vec<Tree>>,
    pub(super) io: Arc<Io>,
}

impl Host {
    /// Makes, or finds again, the parent group `name` below the group that we are in.
    ///
    /// On v2 a group that has processes cannot have controllers for its children: we move to a leaf named `supervisor`
    /// first, or, in a group that was not given to us (a login session), use the nearest group above that is free.
    /// Whatever controller cannot be had is left out; [`Root::controllers`] tells.
    pub fn root(&self, name: &str) -> Result<Root, CgroupError> {
        check_name(name)?;
        let unified = self.unified();
        let mut used = Controller::LIMITS.to_vec();
        if unified.is_none() {
            // The unified hierarchy freezes, kills and counts CPU time without any controller.
            used.extend([Controller::Freezer, Controller::Cpuacct]);
        }
        let mut trees = Vec::new();
        for hierarchy in &self.hierarchies {
            let mut controllers = used.clone();
            controllers.retain(|controller| self.with(*controller) == Some(hierarchy));
            if !controllers.is_empty() || unified == Some(hierarchy) {
                trees.push(tree(hierarchy, controllers, name)?);
            }
        }
        let io = Arc::new(Io::new(self.with(Controller::Io), name));
        Ok(Root { trees: Arc::new(trees), io })
    }
}

impl Root {
    /// No control groups: its groups accept everything and do nothing.
    pub fn none() -> Self {
        Self { trees: Arc::default(), io: Arc::new(Io::new(None, "")) }
    }

    /// What is enforced for groups below.
    pub fn controllers(&self) -> Vec<Controller> {
        self.trees.iter().flat_map(|tree| tree.controllers.iter().copied()).collect()
    }

    /// Whether groups can be frozen.
    pub fn can_freeze(&self) -> bool {
        self.trees.iter().any(Tree::freezes)
    }

    /// Makes the group `id`. On failure nothing of it is left.
    pub fn create(&self, id: &str, limits: &Limits) -> Result<Group, CgroupError> {
        check_name(id)?;
        for (made, tree) in self.trees.iter().enumerate() {
            if let Err(error) = mkdirat(&tree.dir, id, Mode::from_raw_mode(0o755)) {
                for tree in &self.trees[..made] {
                    // Just made and empty: nothing stands against it.
                    let _ = unlinkat(&tree.dir, id, AtFlags::REMOVEDIR);
                }
                return Err(CgroupError::new("make the control group", tree.path.join(id), error));
            }
        }
        let group = Group::new(self.clone(), id);
        if let Err(error) = group.set_limits(limits) {
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// The group `id`, made earlier, by whomever. It need not exist in every hierarchy: one half made is removed as well.
    pub fn open(&self, id: &str) -> Result<Group, CgroupError> {
        check_name(id)?;
        Ok(Group::new(self.clone(), id))
    }

    /// Limits the processes of all groups together; where processes are not counted, nothing.
    pub fn limit_pids(&self, most: u32) -> Result<(), CgroupError> {
        for tree in self.trees.iter().filter(|tree| tree.has(Controller::Pids)) {
            files::write(&tree.dir, "pids.max", &most.to_string())
                .map_err(|error| CgroupError::new("write", tree.path.join("pids.max"), error))?;
        }
        Ok(())
    }

    /// Names of all groups below, also of those that a dead warden left.
    pub fn leftovers(&self) -> Result<Vec<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for tree in self.trees.iter().chain(self.io.made()) {
            let failed = |error: Errno| CgroupError::new("list", &tree.path, error);
            for entry in Dir::read_from(&tree.dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_string_lossy();
                if entry.file_type().is_dir() && !name.starts_with('.') {
                    names.insert(name.into_owned());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Removes parent groups beside this one whose name is `prefix` and the pid of a process that no longer exists, where
    /// nothing runs in them any more. What cannot be removed is left for the next time.
    pub fn sweep(&self, prefix: &str) {
        let paths = self.trees.iter().map(|tree| tree.path.clone()).chain(self.io.path());
        for path in paths {
            let Some(beside) = path.parent() else { continue };
            let Ok(entries) = std::fs::read_dir(beside) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let pid =
                    name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|pid| pid.parse::<u32>().ok());
                if pid.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
                    continue;
                }
                let below = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
                for group in below.filter(|group| group.file_type().is_ok_and(|kind| kind.is_dir())) {
                    // Refused while there is a process in it.
                    let _ = rustix::fs::rmdir(group.path());
                }
                let _ = rustix::fs::rmdir(entry.path());
            }
        }
    }

    /// Removes the parent group, which must have no group left below it. Goes on after a failure and reports the first.
    pub fn remove(self) -> Result<(), CgroupError> {
        let mut first = Ok(());
        for tree in self.trees.iter().chain(self.io.made()) {
            match rustix::fs::rmdir(&tree.path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) if first.is_ok() => {
                    first = Err(CgroupError::new("remove the control group", &tree.path, error));
                }
                Err(_) => {}
            }
        }
        first
    }
}

/// Names become path components.
fn check_name(name: &str) -> Result<(), CgroupError> {
    let good = !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    if good { Ok(()) } else { Err(CgroupError::new("use the name", name, Errno::INVAL)) }
}

fn tree(hierarchy: &Hierarchy, mut controllers: Vec<Controller>, name: &str) -> Result<Tree, CgroupError> {
    if hierarchy.version == Version::V2 && !controllers.is_empty() {
        make_way(hierarchy, &controllers)?;
        // What cannot be enabled (not delegated) is not enforced; `controllers()` says so.
        enable(&hierarchy.place, &mut controllers);
    }
    let path = hierarchy.place.join(name);
    match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(CgroupError::new("make the control group", path, error)),
    }
    if hierarchy.version == Version::V2 {
        enable(&path, &mut controllers);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, &path, flags, Mode::empty())
        .map_err(|error| CgroupError::new("open the control group", &path, error))?;
    Ok(Tree { version: hierarchy.version, path, dir, controllers })
}

/// Enables controllers for the children of `group`, one by one, and keeps those that work.
fn enable(group: &Path, controllers: &mut Vec<Controller>) {
    let file = group.join("cgroup.subtree_control");
    controllers.retain(|controller| {
        let order = format!("+{}", controller.name());
        files::write(CWD, &file.to_string_lossy(), &order).is_ok()
    });
}

/// Moves the processes of our group to a leaf, where they would stand in the way of controllers for its children.
fn make_way(hierarchy: &Hierarchy, wanted: &[Controller]) -> Result<(), CgroupError> {
    let own = &hierarchy.own;
    if hierarchy.place != *own || is_top(own) || has_children_enabled(own, wanted) {
        return Ok(());
    }
    let leaf = own.join(SUPERVISOR);
    match rustix::fs::mkdir(&leaf, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(CgroupError::new("make the control group", leaf, error)),
    }
    let into = leaf.join("cgroup.procs");
    for pid in processes(own)? {
        match files::write(CWD, &into.to_string_lossy(), &pid.to_string()) {
            // It has ended since.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other.map_err(|error| CgroupError::new("move a process to", &leaf, error))?,
        }
    }
    Ok(())
}

fn has_children_enabled(group: &Path, wanted: &[Controller]) -> bool {
    let text = files::read(CWD, &group.join("cgroup.subtree_control").to_string_lossy()).unwrap_or_default();
    wanted.iter().all(|controller| text.split_whitespace().any(|word| word == controller.name()))
}

fn processes(group: &Path) -> Result<Vec<i32>, CgroupError> {
    let file = group.join("cgroup.procs");
    let text = files::read_all(CWD, &file.to_string_lossy()).map_err(|error| CgroupError::new("read", &file, error))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
