//! Owns writing one layer: a directory tree made from paths that somebody else chose.
//! Knows nothing of where the entries come from.
//!
//! A path is split into names, `..` is refused, and parents are opened with `openat2(RESOLVE_BENEATH |
//! RESOLVE_NO_SYMLINKS)` below the layer's own descriptor. So nothing is written outside, whatever links the entries
//! before it made (CVE-2019-14271, CVE-2024-45310 and many tar extractors before them).

use crate::error::ImportError;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// How much one import may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000 }
    }
}

/// What is kept of an entry besides its content. No extended attributes: they hold file capabilities and overlay marks.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since 1970; Python's compiled files depend on it.
    pub modified: Option<(i64, u32)>,
}

/// Highest id that a sandbox's range maps; files of others belong to `nobody` there.
const HIGHEST_ID: u32 = 65_535;
const NOBODY: u32 = 65_534;
/// As deep as `PATH_MAX` allows with one-letter names would be 2048; no tree that people make comes near this.
const DEEPEST: usize = 256;

impl Meta {
    pub fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, modified: None }
    }

    pub fn owned(mode: u32, id: u32) -> Self {
        Self { mode, uid: id, gid: id, modified: None }
    }

    /// Without set-user-id and set-group-id: no program of a template gives anyone more than they have.
    fn permissions(self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o1777)
    }
}

/// One layer being written.
pub struct Layer {
    root: OwnedFd,
    caps: Caps,
    /// Only root can give files away.
    chown: bool,
    bytes: u64,
    entries: u64,
    /// Modes and times of directories come last: a directory without write permission would refuse its own content,
    /// and every entry made in one changes its time.
    directories: Vec<(PathBuf, Meta)>,
    /// Most entries lie in the directory of the one before.
    parent: Option<(PathBuf, OwnedFd)>,
}

fn within(path: &Path) -> Result<(), ImportError> {
    let refuse = |problem| Err(ImportError::Entry { path: path.to_path_buf(), problem });
    if path.as_os_str().as_bytes().contains(&0) {
        return refuse("its name holds a NUL");
    }
    let mut depth = 0;
    for component in path.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => return refuse("its path holds `..`"),
            // tar(1) takes a leading `/` off as well.
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if depth > DEEPEST { refuse("it is more than 256 directories deep") } else { Ok(()) }
}

/// The path relative to the layer; empty for the layer itself.
fn relative(path: &Path) -> Result<PathBuf, ImportError> {
    within(path)?;
    Ok(path.components().filter(|component| matches!(component, Component::Normal(_))).collect())
}

impl Layer {
    /// Makes `path`, which must not exist, and writes below it.
    pub fn create(path: &Path, caps: Caps) -> io::Result<Self> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o700))?;
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut layer = Self {
            root,
            caps,
            chown: rustix::process::geteuid().is_root(),
            bytes: 0,
            entries: 0,
            directories: Vec::new(),
            parent: None,
        };
        // Whatever the source's own top directory was (mktemp makes 0700), users must get through this one.
        layer.directories.push((PathBuf::new(), Meta::root(0o755)));
        Ok(layer)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Makes a directory, or gives the one that is there this owner and mode.
    pub fn directory(&mut self, path: &Path, meta: Meta) -> Result<(), ImportError> {
        let path = relative(path)?;
        let Some(name) = path.file_name() else { return Ok(()) };
        self.count(0)?;
        let parent = self.parent_of(&path)?;
        let failed = |error| write_failed(&path, error);
        let made = rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700));
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) if is_directory(&parent, name).map_err(failed)? => {}
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(failed)?;
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        self.put_back(&path, parent);
        self.directories.push((path, meta));
        Ok(())
    }

    /// Writes a file of `size` bytes, replacing what is there. `size` is counted before anything is read.
    pub fn file(&mut self, path: &Path, meta: Meta, size: u64, content: &mut dyn Read) -> Result<(), ImportError> {
        self.count(size)?;
        let (path, parent) = self.place(path)?;
        let name = path.file_name().expect("place() refuses the layer itself");
        let failed = |error: io::Error| ImportError::Write { path: path.clone(), source: error };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| failed(error.into()))?;
        let mut file = File::from(file);
        copy(content, &mut file, size, &path)?;
        (|| {
            if self.chown {
                let (uid, gid) = owner(meta.uid, meta.gid);
                rustix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            rustix::fs::fchmod(&file, meta.permissions())?;
            rustix::fs::futimens(&file, &times(meta))
        })()
        .map_err(|error| failed(error.into()))?;
        self.put_back(&path, parent);
        Ok(())
    }

    /// Makes a symbolic link. Where it leads is the sandbox's affair: nothing here ever follows it.
    pub fn symlink(&mut self, path: &Path, target: &Path, meta: Meta) -> Result<(), ImportError> {
        self.count(0)?;
        if target.as_os_str().is_empty() || target.as_os_str().as_bytes().contains(&0) {
            return Err(ImportError::Entry { path: path.to_path_buf(), problem: "the link leads nowhere" });
        }
        let (path, parent) = self.place(path)?;
        let name = path.file_name().expect("place() refuses the layer itself");
        (|| {
            rustix::fs::symlinkat(target, &parent, name)?;
            self.own(&parent, name, meta)?;
            rustix::fs::utimensat(&parent, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
        })()
        .map_err(|error| write_failed(&path, error))?;
        self.put_back(&path, parent);
        Ok(())
    }

    /// Makes another name for a file that this layer has already.
    pub fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), ImportError> {
        self.count(0)?;
        let refuse = |problem| Err(ImportError::Entry { path: path.to_path_buf(), problem });
        let target = relative(target)?;
        let Some(target_name) = target.file_name() else { return refuse("it links to the layer itself") };
        let Ok(target_parent) = self.open_directory(target.parent().unwrap_or(Path::new(""))) else {
            return refuse("it links to a file that is not in the archive before it");
        };
        match rustix::fs::statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {}
            Ok(_) => return refuse("it links to a directory"),
            Err(_) => return refuse("it links to a file that is not in the archive before it"),
        }
        if relative(path)? == target {
            return Ok(());
        }
        let (path, parent) = self.place(path)?;
        let name = path.file_name().expect("place() refuses the layer itself");
        rustix::fs::linkat(&target_parent, target_name, &parent, name, AtFlags::empty())
            .map_err(|error| write_failed(&path, error))?;
        self.put_back(&path, parent);
        Ok(())
    }

    /// Makes a FIFO.
    pub fn fifo(&mut self, path: &Path, meta: Meta) -> Result<(), ImportError> {
        self.count(0)?;
        let (path, parent) = self.place(path)?;
        let name = path.file_name().expect("place() refuses the layer itself");
        (|| {
            rustix::fs::mkfifoat(&parent, name, meta.permissions())?;
            self.own(&parent, name, meta)?;
            // The mode again: mkfifo's is cut by the umask.
            rustix::fs::chmodat(&parent, name, meta.permissions(), AtFlags::empty())
        })()
        .map_err(|error| write_failed(&path, error))?;
        self.put_back(&path, parent);
        Ok(())
    }

    /// Whether the layer has something there, followed through no link.
    pub fn kind(&self, path: &str) -> Option<rustix::fs::FileType> {
        let stat = self.open(Path::new(path), OFlags::PATH | OFlags::NOFOLLOW).and_then(rustix::fs::fstat);
        stat.ok().map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode))
    }

    /// A regular file's content, when it is there and at most `most` bytes.
    pub fn read(&self, path: &str, most: u64) -> Option<Vec<u8>> {
        // O_NONBLOCK: opening a FIFO would wait for its other end.
        let file = File::from(self.open(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
        let known = file.metadata().ok()?;
        if !known.is_file() || known.len() > most {
            return None;
        }
        let mut content = Vec::new();
        file.take(most).read_to_end(&mut content).ok()?;
        Some(content)
    }

    /// Gives directories their modes, owners and times: the deepest first, each parent after all that changes its time.
    pub fn finish(mut self) -> Result<(), ImportError> {
        self.parent = None;
        let mut directories = std::mem::take(&mut self.directories);
        // An archive may name a directory twice; the last one counts, as with tar(1).
        directories.reverse();
        directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        let mut done = std::collections::HashSet::new();
        for (path, meta) in &directories {
            if !done.insert(path) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = match self.open(path, flags) {
                Ok(fd) => fd,
                // A later entry put something else in its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(write_failed(path, error)),
            };
            (|| {
                if self.chown {
                    let (uid, gid) = owner(meta.uid, meta.gid);
                    rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
                }
                rustix::fs::fchmod(&fd, meta.permissions())?;
                rustix::fs::futimens(&fd, &times(*meta))
            })()
            .map_err(|error| write_failed(path, error))?;
        }
        Ok(())
    }

    fn count(&mut self, size: u64) -> Result<(), ImportError> {
        self.entries += 1;
        if self.entries > self.caps.entries {
            return Err(ImportError::TooMany { limit: self.caps.entries });
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.caps.bytes {
            return Err(ImportError::TooLarge { limit: self.caps.bytes });
        }
        Ok(())
    }

    /// The relative path and its open parent, with nothing of that name in it.
    fn place(&mut self, path: &Path) -> Result<(PathBuf, OwnedFd), ImportError> {
        let path = relative(path)?;
        let Some(name) = path.file_name() else {
            return Err(ImportError::Entry { path, problem: "only a directory can be the top of a layer" });
        };
        let parent = self.parent_of(&path)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((path, parent)),
            Err(Errno::ISDIR) => Err(ImportError::Entry { path, problem: "a directory of that name came before it" }),
            Err(error) => Err(write_failed(&path, error)),
        }
    }

    /// The directory that `path` is in, made where missing.
    fn parent_of(&mut self, path: &Path) -> Result<OwnedFd, ImportError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some((known, fd)) = self.parent.take()
            && known == parent
        {
            return Ok(fd);
        }
        match self.open_directory(parent) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(through(path, error)),
        }
        // An archive need not name its directories.
        let mut made = PathBuf::new();
        for name in parent {
            made.push(name);
            let above = self.open_directory(made.parent().unwrap_or(Path::new(""))).map_err(|e| through(path, e))?;
            match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => self.directories.push((made.clone(), Meta::root(0o755))),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(write_failed(&made, error)),
            }
        }
        self.open_directory(parent).map_err(|error| through(path, error))
    }

    fn put_back(&mut self, path: &Path, parent: OwnedFd) {
        self.parent = Some((path.parent().unwrap_or(Path::new("")).to_path_buf(), parent));
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn own(&self, parent: &OwnedFd, name: &std::ffi::OsStr, meta: Meta) -> rustix::io::Result<()> {
        if !self.chown {
            return Ok(());
        }
        let (uid, gid) = owner(meta.uid, meta.gid);
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// An owner as a layer or an image keeps it.
pub fn owner(uid: u32, gid: u32) -> (Uid, Gid) {
    let mapped = |id| if id > HIGHEST_ID { NOBODY } else { id };
    (Uid::from_raw(mapped(uid)), Gid::from_raw(mapped(gid)))
}

fn times(meta: Meta) -> Timestamps {
    let (tv_sec, tv_nsec) = meta.modified.map_or((0, UTIME_OMIT), |(s, n)| (s, n.into()));
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec },
    }
}

fn is_directory(parent: &OwnedFd, name: &std::ffi::OsStr) -> rustix::io::Result<bool> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Opening a parent failed: say so when a link was the reason.
fn through(path: &Path, error: Errno) -> ImportError {
    match error {
        Errno::LOOP => {
            ImportError::Entry { path: path.to_path_buf(), problem: "its path leads through a symbolic link" }
        }
        Errno::NOTDIR => ImportError::Entry { path: path.to_path_buf(), problem: "its path leads through a file" },
        error => write_failed(path, error),
    }
}

fn write_failed(path: &Path, error: Errno) -> ImportError {
    ImportError::Write { path: path.to_path_buf(), source: error.into() }
}

fn copy(content: &mut dyn Read, file: &mut File, size: u64, path: &Path) -> Result<(), ImportError> {
    let mut buffer = vec![0; size.clamp(1, 128 * 1024) as usize];
    let mut left = size;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let length = match content.read(&mut buffer[..most]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other,
        };
        let length = length.map_err(|source| ImportError::Read { path: path.to_path_buf(), source })?;
        file.write_all(&buffer[..length]).map_err(|source| ImportError::Write { path: path.to_path_buf(), source })?;
        left -= length as u64;
    }
    Ok(())
}
