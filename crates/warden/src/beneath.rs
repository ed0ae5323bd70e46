//! What an archive holds, placed below one directory: each name is resolved by the kernel, so that no link leads out, also
//! none that a program puts there meanwhile.
//!
//! Links that stay below the directory are followed, as `tar` does. Knows nothing of archives.

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

/// While others rename, the kernel may not tell whether a name stayed below, and says to try again (openat2(2)).
const TRIES: u32 = 1000;

/// A directory that nothing leaves: a name or link that leads out is `EXDEV`.
pub(crate) struct Beneath {
    root: OwnedFd,
}

/// A name as archives have it: `/` in front and `.` in between mean nothing. None where it climbs.
pub(crate) fn plain(name: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => return None,
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(plain)
}

impl Beneath {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root })
    }

    fn open(&self, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            match rustix::fs::openat2(&self.root, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS) => return self.walk(name, flags),
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// As `open` on a kernel without openat2(2), which is gVisor's: links are not followed at all.
    fn walk(&self, name: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = self.root.try_clone()?;
        for part in name.parent().into_iter().flat_map(Path::components) {
            at = rustix::fs::openat(&at, part.as_os_str(), step, Mode::empty())?;
        }
        let last = name.file_name().unwrap_or(OsStr::new("."));
        Ok(rustix::fs::openat(&at, last, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Makes a directory and its missing parents; one that is there, also behind a link, is fine.
    pub(crate) fn directory(&self, name: &Path) -> io::Result<OwnedFd> {
        let reach = || self.open(name, OFlags::PATH | OFlags::DIRECTORY);
        match reach() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (parent, last) = self.parent(name)?;
        match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => reach(),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory that `name` is in, made where it is missing, and the last part of the name.
    fn parent<'a>(&self, name: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let last = name.file_name().ok_or(Errno::INVAL)?;
        Ok((self.directory(name.parent().unwrap_or(Path::new("")))?, last))
    }

    /// Permission bits of what is there.
    pub(crate) fn set_mode(&self, name: &Path, mode: u32) -> io::Result<()> {
        let file = self.open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
    }

    /// A new file that takes the place of what has its name and is no directory.
    pub(crate) fn file(&self, name: &Path) -> io::Result<File> {
        let (parent, last) = self.parent(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = replacing(&parent, last, || rustix::fs::openat(&parent, last, flags, Mode::from_raw_mode(0o644)))?;
        Ok(file.into())
    }

    /// A new symbolic link in the same way. It may point anywhere: it is followed by nobody here.
    pub(crate) fn symlink(&self, name: &Path, target: &Path, modified: Option<u64>) -> io::Result<()> {
        let (parent, last) = self.parent(name)?;
        replacing(&parent, last, || rustix::fs::symlinkat(target, &parent, last))?;
        if let Some(modified) = modified {
            // The link's own time is worth no failure.
            let _ = rustix::fs::utimensat(&parent, last, &times(modified), AtFlags::SYMLINK_NOFOLLOW);
        }
        Ok(())
    }

    /// Another name, made in the same way, of a file that is below the directory as well.
    pub(crate) fn hard_link(&self, name: &Path, target: &Path) -> io::Result<()> {
        if name == target {
            return Ok(());
        }
        let from_name = target.file_name().ok_or(Errno::INVAL)?;
        let from = self.open(target.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)?;
        let (parent, last) = self.parent(name)?;
        replacing(&parent, last, || rustix::fs::linkat(&from, from_name, &parent, last, AtFlags::empty()))
    }
}

fn replacing<T>(parent: &OwnedFd, name: &OsStr, make: impl Fn() -> rustix::io::Result<T>) -> io::Result<T> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            Ok(make()?)
        }
        other => Ok(other?),
    }
}

/// Times of a file modified so many seconds after the epoch; when it was read stays.
pub(crate) fn times(modified: u64) -> Timestamps {
    let seconds = i64::try_from(modified).unwrap_or(i64::MAX);
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write, os::unix::fs::symlink};

    #[test]
    fn links_that_stay_below_are_followed_and_all_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink("../root/real", root.join("climbs")).unwrap();
        symlink("real", root.join("stays")).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../outside", root.join("relative")).unwrap();
        let below = Beneath::new(&root).unwrap();
        let write = |name: &str| below.file(Path::new(name)).and_then(|mut file| file.write_all(b"x"));
        write("stays/deep/er/file").unwrap();
        assert_eq!(fs::read(root.join("real/deep/er/file")).unwrap(), b"x");
        for name in ["absolute/file", "relative/file", "absolute/deep/file", "climbs/file"] {
            assert_eq!(write(name).unwrap_err().raw_os_error(), Some(libc::EXDEV), "{name}");
            let linked = below.hard_link(Path::new("hard"), Path::new(name));
            assert_eq!(linked.unwrap_err().raw_os_error(), Some(libc::EXDEV), "{name}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // A link with the name itself is replaced, not followed.
        write("absolute").unwrap();
        below.symlink(Path::new("stays"), Path::new("/anywhere"), Some(1)).unwrap();
        below.hard_link(Path::new("real/other"), Path::new("absolute")).unwrap();
        assert_eq!(fs::read(root.join("real/other")).unwrap(), b"x");
        assert_eq!(fs::read_link(root.join("stays")).unwrap(), Path::new("/anywhere"));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_climbs_is_none() {
        for (name, expected) in [("/a/./b", Some("a/b")), ("./", Some("")), ("a/../b", None), ("..", None)] {
            assert_eq!(plain(Path::new(name)).as_deref(), expected.map(Path::new), "{name}");
        }
    }
}
