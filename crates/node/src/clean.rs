//! Removes workspaces that nobody has used for long. A workspace is what lies directly in a user's directory; one of a sandbox that
//! exists, awake or not, is in use.

use crate::{
    Node,
    local::Locals,
    node::{Inner, lock},
    tree::{self, Measured},
};
use csb_sys::mount::{make_beneath, open_beneath, open_directory};
use csb_types::SandboxId;
use rustix::{
    fs::{AtFlags, CWD, Dir},
    io::Errno,
};
use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where workspaces are while they are removed; no user's directory begins with a dot.
const TRASH: &str = ".trash";

/// One workspace that was, or would be, removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// Where it is below the directory of workspaces.
    pub path: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files and directories in it.
    pub files: u64,
    /// When something in it was last changed, or a sandbox began or ceased to use it, ms since 1970.
    pub used_ms: i64,
}

/// What a cleaning found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleaning {
    /// Removed, or what would be.
    pub removed: Vec<Cleaned>,
    /// How many were used more recently.
    pub recent: u64,
    /// How many belong to sandboxes that exist.
    pub in_use: u64,
    /// What could not be looked at or removed, and why.
    pub failed: Vec<(String, String)>,
}

/// Whether a workspace is one of these, or holds one, or is in one. Pure.
fn is_used(used: &HashSet<PathBuf>, workspace: &Path) -> bool {
    used.iter().any(|used| used.starts_with(workspace) || workspace.starts_with(used))
}

/// As they are, whatever bytes tenants name their files with.
fn names(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Node {
    /// Removes workspaces that nobody has used for so long, or says which it would.
    pub async fn clean_workspaces(&self, older: Duration, dry_run: bool) -> io::Result<Cleaning> {
        let Some(locals) = self.inner.locals.clone() else { return Ok(Cleaning::default()) };
        let inner = self.inner.clone();
        let cleaning = tokio::task::spawn_blocking(move || clean(&inner, &locals, older, dry_run));
        cleaning.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Cleans. Blocks.
pub(crate) fn clean(inner: &Inner, locals: &Locals, older: Duration, dry_run: bool) -> io::Result<Cleaning> {
    let mut done = Cleaning::default();
    let top = match open_directory(&locals.config.dir) {
        Ok(top) => tree::open_dir(&top, ".")?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(done),
        Err(error) => return Err(error),
    };
    let _recording = Recording::start(locals)?;
    let used = used(inner, &locals.ids());
    if !dry_run {
        empty_trash(&top);
    }
    let oldest = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(older);
    for user in names(&top)?.into_iter().filter(|name| !name.as_bytes().starts_with(b".")) {
        let users = match tree::open_dir(&top, &*user) {
            Ok(users) => users,
            Err(error) => {
                done.failed.push((user.display().to_string(), error.to_string()));
                continue;
            }
        };
        for name in names(&users)? {
            let path = Path::new(&user).join(&name);
            if is_used(&used, &path) {
                done.in_use += 1;
                continue;
            }
            let shown = path.display().to_string();
            match measured(&users, &name) {
                Ok(found) if found.modified > oldest.as_secs() as i64 => done.recent += 1,
                Ok(found) => {
                    let cleaned = Cleaned {
                        path: shown.clone(),
                        bytes: found.bytes,
                        files: found.files,
                        used_ms: found.modified * 1000,
                    };
                    match if dry_run { Ok(true) } else { take(locals, &top, &users, &path, &name) } {
                        Ok(true) => done.removed.push(cleaned),
                        Ok(false) => done.in_use += 1,
                        Err(error) => done.failed.push((shown, error.to_string())),
                    }
                }
                Err(error) => done.failed.push((shown, error.to_string())),
            }
        }
        if !dry_run {
            let founding = lock(&locals.founding);
            let path = Path::new(&user);
            // Not empty, it stays. Empty, it may be all of somebody's workspace.
            if !is_used(&used, path) && !founding.as_ref().is_some_and(|since| is_used(since, path)) {
                let _ = rustix::fs::unlinkat(&top, &*user, AtFlags::REMOVEDIR);
            }
        }
    }
    if !dry_run {
        empty_trash(&top);
    }
    Ok(done)
}

/// While it lives, `founding` has every directory that a sandbox is made on.
struct Recording<'a>(&'a Locals);

impl<'a> Recording<'a> {
    fn start(locals: &'a Locals) -> io::Result<Self> {
        let mut founding = lock(&locals.founding);
        if founding.is_some() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "workspaces are being cleaned already"));
        }
        *founding = Some(HashSet::new());
        Ok(Self(locals))
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        *lock(&self.0.founding) = None;
    }
}

fn used(inner: &Inner, ids: &[SandboxId]) -> HashSet<PathBuf> {
    let entries = ids.iter().filter_map(|id| inner.written(id).ok());
    entries.filter_map(|entry| entry.meta().spec.options.work_dir.as_ref().map(PathBuf::from)).collect()
}

fn measured(users: &OwnedFd, name: &OsStr) -> io::Result<Measured> {
    match tree::open_dir(users, name) {
        Ok(dir) => tree::measure(&dir),
        // A file that somebody whose workspace is all of the user's directory left there.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTDIR | Errno::LOOP)) => {
            let stat = rustix::fs::statat(users, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Measured { bytes: stat.st_blocks as u64 * 512, files: 1, modified: tree::changed(&stat) })
        }
        Err(error) => Err(error),
    }
}

/// Moves a workspace where no sandbox finds it, unless one was made on it meanwhile; from there it is removed.
fn take(locals: &Locals, top: &OwnedFd, users: &OwnedFd, path: &Path, name: &OsStr) -> io::Result<bool> {
    let trash = make_beneath(top, TRASH)?;
    let founding = lock(&locals.founding);
    if founding.as_ref().is_some_and(|since| is_used(since, path)) {
        return Ok(false);
    }
    rustix::fs::renameat(users, name, &trash, SandboxId::random().as_str())?;
    Ok(true)
}

/// Also what an earlier server left when it was killed.
fn empty_trash(top: &OwnedFd) {
    let emptied = match tree::open_dir(top, TRASH) {
        Ok(trash) => tree::empty(&trash),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = emptied {
        tracing::error!(%error, "cannot remove workspaces that nobody uses");
    }
}

/// Marks a workspace as used now.
pub(crate) fn touch(dir: &Path, name: &str) {
    let touched = open_directory(dir).and_then(|top| open_beneath(top, name)).and_then(|place| {
        // By its descriptor: what its name leads to may be something else by now.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
    });
    if let Err(error) = touched {
        tracing::debug!(name, %error, "cannot mark a workspace as used");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_above_or_below_one_in_use_is_in_use() {
        let used: HashSet<PathBuf> = ["ann/a/b", "bob"].map(PathBuf::from).into();
        for (path, expected) in
            [("ann/a", true), ("ann/ab", false), ("ann/c", false), ("bob/x", true), ("bobby/x", false)]
        {
            assert_eq!(is_used(&used, Path::new(path)), expected, "{path}");
        }
    }
}
