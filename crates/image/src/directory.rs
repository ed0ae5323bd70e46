//! Owns copying a host directory into a layer.
//! Knows nothing of templates.
//!
//! The directory may belong to somebody who changes it meanwhile: it is walked by descriptors, no link is followed, and
//! what is opened is looked at again.

use crate::archive::Skipped;
use crate::error::ImportError;
use crate::layer::{Layer, Meta};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Whether a walk enters the directory that it has shown.
pub enum Choice {
    Take,
    Leave,
}

/// Copies all below `from`. Other file systems mounted below are not entered: their mount points stay empty.
pub fn import(layer: &mut Layer, from: &Path) -> Result<Skipped, ImportError> {
    let mut copy = Copy { layer, skipped: Skipped::default(), names: HashMap::new() };
    walk(from, &mut |seen| copy.entry(seen))?;
    Ok(copy.skipped)
}

/// Changes when anything below `from` is changed, without reading a file's content.
pub fn fingerprint(from: &Path) -> Result<Sha256, ImportError> {
    let mut hash = Sha256::new();
    walk(from, &mut |seen| {
        hash.update(seen.path.as_os_str().as_bytes());
        hash.update([0]);
        add_stat(&mut hash, seen.stat);
        Ok(Choice::Take)
    })?;
    Ok(hash)
}

/// A file's identity as far as `stat` tells it.
pub fn add_stat(hash: &mut Sha256, stat: &Stat) {
    let numbers = [
        stat.st_dev,
        stat.st_ino,
        stat.st_mode.into(),
        stat.st_size as u64,
        stat.st_mtime as u64,
        stat.st_mtime_nsec,
        stat.st_ctime as u64,
        stat.st_ctime_nsec,
    ];
    for number in numbers {
        hash.update(number.to_le_bytes());
    }
}

/// One entry of a walk: its directory is open.
pub struct Seen<'a> {
    pub parent: &'a OwnedFd,
    pub name: &'a OsString,
    /// Relative to the start.
    pub path: &'a Path,
    pub stat: &'a Stat,
}

impl Seen<'_> {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub fn failed(&self, error: Errno) -> ImportError {
        ImportError::Read { path: self.path.to_path_buf(), source: error.into() }
    }

    /// Where a symbolic link leads.
    pub fn target(&self) -> Result<PathBuf, ImportError> {
        let target = rustix::fs::readlinkat(self.parent, self.name, Vec::new()).map_err(|error| self.failed(error))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Opens what was a regular file a moment ago; another kind put in its place is an error, and is not waited for.
    pub fn open_regular(&self) -> Result<(File, Stat), ImportError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(self.parent, self.name, flags, Mode::empty()).map_err(|error| self.failed(error))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| self.failed(error))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            let path = self.path.to_path_buf();
            return Err(ImportError::Entry { path, problem: "it changed while it was read" });
        }
        Ok((File::from(file), stat))
    }

    /// Owner, mode and time for the layer.
    pub fn meta(&self) -> Meta {
        Meta {
            mode: self.stat.st_mode,
            uid: self.stat.st_uid,
            gid: self.stat.st_gid,
            modified: Some((self.stat.st_mtime, self.stat.st_mtime_nsec as u32)),
        }
    }
}

type Visit<'a> = dyn FnMut(&Seen<'_>) -> Result<Choice, ImportError> + 'a;

/// Visits every entry below `from`, each directory before what is in it, in the order of names.
pub fn walk(from: &Path, visit: &mut Visit<'_>) -> Result<(), ImportError> {
    let open_failed = |error: Errno| ImportError::Open { path: from.to_path_buf(), source: error.into() };
    // The starting point itself may be a link: its owner named it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(from, flags, Mode::empty()).map_err(open_failed)?;
    let device = rustix::fs::fstat(&top).map_err(open_failed)?.st_dev;
    below(&top, Path::new(""), device, visit)
}

fn below(directory: &OwnedFd, path: &Path, device: u64, visit: &mut Visit<'_>) -> Result<(), ImportError> {
    let failed = |path: &Path, error: Errno| ImportError::Read { path: path.to_path_buf(), source: error.into() };
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(|error| failed(path, error))? {
        let name = entry.map_err(|error| failed(path, error))?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    // The same tree gives the same layer and the same fingerprint.
    names.sort();
    for name in &names {
        let path = path.join(name);
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since it was listed.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed(&path, error)),
        };
        let choice = visit(&Seen { parent: directory, name, path: &path, stat: &stat })?;
        let enter = FileType::from_raw_mode(stat.st_mode).is_dir() && stat.st_dev == device;
        if enter && matches!(choice, Choice::Take) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner =
                rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error| failed(&path, error))?;
            below(&inner, &path, device, visit)?;
        }
    }
    Ok(())
}

struct Copy<'a> {
    layer: &'a mut Layer,
    skipped: Skipped,
    /// First name in the layer of each file with several.
    names: HashMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    fn entry(&mut self, seen: &Seen<'_>) -> Result<Choice, ImportError> {
        match seen.kind() {
            FileType::Directory => self.layer.directory(seen.path, seen.meta())?,
            FileType::Symlink => self.layer.symlink(seen.path, &seen.target()?, seen.meta())?,
            FileType::RegularFile => self.file(seen)?,
            FileType::Fifo => self.layer.fifo(seen.path, seen.meta())?,
            _ => self.skipped.specials += 1,
        }
        Ok(Choice::Take)
    }

    fn file(&mut self, seen: &Seen<'_>) -> Result<(), ImportError> {
        let Seen { path, stat, .. } = *seen;
        if stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&(stat.st_dev, stat.st_ino)) {
                return self.layer.hard_link(path, first);
            }
            self.names.insert((stat.st_dev, stat.st_ino), path.to_path_buf());
        }
        let (mut file, now) = seen.open_regular()?;
        self.layer.file(path, seen.meta(), now.st_size as u64, &mut file)
    }
}
