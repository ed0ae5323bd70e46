//! Trees of files that belong to tenants, whose programs may change them while they are looked at: measured and removed by
//! descriptor, through no link, with few descriptors open however deep they are.

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    collections::HashSet,
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
};

/// What is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Measured {
    /// Bytes that its files and directories take on the disk.
    pub(crate) bytes: u64,
    /// Files and directories, the top one not counted.
    pub(crate) files: u64,
    /// When the last of them was changed, seconds since 1970. Its owner can have it say what he likes, but no time to come.
    pub(crate) modified: i64,
}

/// Opens a directory below another, whatever it leads to; a link is refused.
pub(crate) fn open_dir(at: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn stat(dir: &OwnedFd, name: &CString) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        // Removed while we looked.
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whoever sets a time sets the time of the change as well, and that to now.
pub(crate) fn changed(stat: &Stat) -> i64 {
    stat.st_mtime.min(stat.st_ctime)
}

struct Level {
    place: (u64, u64),
    pending: Vec<CString>,
}

/// Measures a tree. `EAGAIN`: a directory was moved meanwhile, and what is in the tree is not known.
pub(crate) fn measure(top: &OwnedFd) -> io::Result<Measured> {
    let mut found = Measured::default();
    // Of files with several names, those that were counted.
    let mut linked: HashSet<(u64, u64)> = HashSet::new();
    let top = open_dir(top, ".")?;
    let mut levels = vec![look(&top, &mut found, &mut linked)?];
    let mut at = top;
    loop {
        let Some(level) = levels.last_mut() else { return Ok(found) };
        if let Some(name) = level.pending.pop() {
            match open_dir(&at, &name) {
                Ok(child) => {
                    levels.push(look(&child, &mut found, &mut linked)?);
                    at = child;
                }
                Err(error) => match Errno::from_io_error(&error) {
                    // Gone, or something else by now.
                    Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                    _ => return Err(error),
                },
            }
            continue;
        }
        levels.pop();
        let Some(level) = levels.last() else { return Ok(found) };
        let parent = open_dir(&at, "..")?;
        let stat = rustix::fs::fstat(&parent)?;
        if (stat.st_dev, stat.st_ino) != level.place {
            return Err(Errno::AGAIN.into());
        }
        at = parent;
    }
}

/// Counts what is in one directory.
fn look(dir: &OwnedFd, found: &mut Measured, linked: &mut HashSet<(u64, u64)>) -> io::Result<Level> {
    let own = rustix::fs::fstat(dir)?;
    found.bytes += own.st_blocks as u64 * 512;
    found.modified = found.modified.max(changed(&own));
    let mut pending = Vec::new();
    for name in names(dir)? {
        let Some(stat) = stat(dir, &name)? else { continue };
        found.files += 1;
        if is_dir(&stat) {
            // Another file system that is mounted here is none of the workspace.
            if stat.st_dev == own.st_dev {
                pending.push(name);
            }
            continue;
        }
        if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        found.bytes += stat.st_blocks as u64 * 512;
        found.modified = found.modified.max(changed(&stat));
    }
    Ok(Level { place: (own.st_dev, own.st_ino), pending })
}

/// Removes what is in a directory that nobody else knows any more. Directories that are not empty are brought up to it first, so
/// that none is ever deep.
pub(crate) fn empty(top: &OwnedFd) -> io::Result<()> {
    // Names that no earlier call used, which may have been cut short.
    let (run, mut number) = (csb_types::SandboxId::random(), 0_u64);
    let mut fresh = || {
        number += 1;
        format!("{run}.{number}")
    };
    loop {
        let all = names(top)?;
        if all.is_empty() {
            return Ok(());
        }
        for name in &all {
            remove(top, top, name, &mut fresh)?;
        }
    }
}

/// Removes an entry of `dir`, or moves what is in it up to `top`.
fn remove(top: &OwnedFd, dir: &OwnedFd, name: &CString, fresh: &mut impl FnMut() -> String) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = open_dir(dir, name)?;
    for name in names(&inner)? {
        let stat = stat(&inner, &name)?;
        if stat.is_some_and(|stat| is_dir(&stat)) {
            rustix::fs::renameat(&inner, &name, top, fresh())?;
        } else {
            rustix::fs::unlinkat(&inner, &name, AtFlags::empty())?;
        }
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::Path};

    fn scratch() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("csb-tree-{}", csb_types::SandboxId::random()));
        fs::create_dir(&dir).unwrap();
        dir
    }

    fn open(path: &Path) -> OwnedFd {
        open_dir(rustix::fs::CWD, path).unwrap()
    }

    #[test]
    fn a_tree_is_measured_once_for_each_file_and_through_no_link() {
        let dir = scratch();
        fs::create_dir_all(dir.join("a/b")).unwrap();
        let bare = measure(&open(&dir)).unwrap();
        assert_eq!(bare.files, 2);
        fs::write(dir.join("a/b/f"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.join("a/b/f"), dir.join("g")).unwrap();
        symlink("/usr", dir.join("a/out")).unwrap();
        let found = measure(&open(&dir)).unwrap();
        assert_eq!(found.files, 5);
        let grown = found.bytes - bare.bytes;
        assert!((100_000..120_000).contains(&grown), "{grown}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_any_stack_is_measured_and_removed_and_what_its_links_name_stays() {
        let dir = scratch();
        let (tree, outside) = (dir.join("tree"), dir.join("outside"));
        fs::create_dir(&tree).unwrap();
        fs::write(&outside, "stays").unwrap();
        let mut at = open(&tree);
        const DEPTH: u64 = 20_000;
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&outside, &at, "l").unwrap();
            at = open_dir(&at, "d").unwrap();
        }
        drop(at);
        assert_eq!(measure(&open(&tree)).unwrap().files, 2 * DEPTH);
        empty(&open(&tree)).unwrap();
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
        assert_eq!(fs::read(&outside).unwrap(), b"stays");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_an_earlier_removal_left_behind_is_removed_with_the_rest() {
        let dir = scratch();
        for name in ["1.up/left/over", "2.up/left/over", "a/b/c", "d/e/f"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        empty(&open(&dir)).unwrap();
        fs::remove_dir(dir).unwrap();
    }

    #[test]
    fn no_file_was_changed_in_the_future() {
        let dir = scratch();
        let file = fs::File::create(dir.join("f")).unwrap();
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_secs(86400);
        let modified = |time| {
            file.set_modified(time).unwrap();
            open(&dir);
            fs::File::open(&dir).unwrap().set_modified(now - 9 * day).unwrap();
            measure(&open(&dir)).unwrap().modified
        };
        let seconds =
            |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert_eq!(modified(now - 5 * day), seconds(now - 5 * day));
        assert!(modified(now + 5 * day) <= seconds(now) + 60);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_tree_that_is_moved_while_it_is_measured_leads_nowhere_else() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = scratch();
        let (tree, other) = (dir.join("tree"), dir.join("other"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(&other).unwrap();
        for i in 0..2000 {
            fs::write(other.join(i.to_string()), "").unwrap();
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = fs::rename(tree.join("a/b"), other.join("b"));
                    let _ = fs::rename(other.join("b"), tree.join("a/b"));
                }
            });
            let top = open(&tree);
            for _ in 0..3000 {
                match measure(&top) {
                    Ok(found) => assert!(found.files <= 3, "{found:?}"),
                    Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::AGAIN)),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        fs::remove_dir_all(dir).unwrap();
    }
}
