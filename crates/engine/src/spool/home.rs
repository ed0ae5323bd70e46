//! The directory of one sandbox's spools: makes their files, and passes empty ones on.
//! Knows nothing of what is in them.

use crate::{journal, shelf::Shelf};
use csb_types::ExecId;
use rustix::fs::{Mode, OFlags};
use std::{
    collections::HashSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The directory of one sandbox's spools.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    pub(super) durable: bool,
    /// Bytes of all spools together.
    pub(super) used: AtomicU64,
    /// Empty files of execs that nobody has any more, for the next ones.
    free: Mutex<Vec<PathBuf>>,
    freed: AtomicU64,
}

/// Empty files kept by one sandbox.
pub(super) const MOST_FREE: usize = 8;

impl Home {
    /// With `durable`, spools have names in `dir` (made now, or taken from the shelf) and outlive this process; else they are
    /// nameless files.
    pub(crate) fn open(dir: PathBuf, durable: bool, shelf: &Shelf) -> io::Result<Self> {
        let mut free = Vec::new();
        if durable {
            match if dir.exists() { None } else { shelf.take(&dir) } {
                Some(files) => free = files,
                None => match rustix::fs::mkdir(&dir, Mode::RWXU) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                },
            }
        }
        let (used, freed) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { dir, durable, used, free: Mutex::new(free), freed })
    }

    /// Gives the directory to the shelf. Files of execs that somebody still reads are removed instead: an empty file that
    /// becomes another sandbox's would show its output to them.
    pub(crate) fn give_back(&self, shelf: &Shelf, read: &HashSet<ExecId>) -> io::Result<()> {
        let is_read = |name: &str| {
            let id = name.split('.').next().and_then(|id| id.parse::<ExecId>().ok());
            id.is_some_and(|id| read.contains(&id))
        };
        shelf.put(&self.dir, journal::NAME, is_read)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn durable(&self) -> bool {
        self.durable
    }

    pub(super) fn path(&self, id: &ExecId, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }

    pub(super) fn free(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties a file and keeps it for the next exec of this sandbox.
    pub(super) fn recycle(&self, path: &Path) -> io::Result<()> {
        // Another form of name than the shelf's.
        let empty = self.dir.join(format!("empty-{}", self.freed.fetch_add(1, Ordering::Relaxed)));
        File::options().write(true).open(path)?.set_len(0)?;
        std::fs::rename(path, &empty)?;
        self.free().push(empty);
        Ok(())
    }

    /// Opens a file to write at its end, which is `at`.
    pub(super) fn create(&self, id: &ExecId, extension: &str, at: u64) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let base = OFlags::RDWR | OFlags::CLOEXEC;
        if self.durable {
            let path = self.path(id, extension);
            if at == 0
                && let Some(empty) = self.free().pop()
            {
                // Without one the file is made: that costs more, nothing else.
                let _ = std::fs::rename(empty, &path);
            }
            let file = File::from(rustix::fs::open(path, base | OFlags::CREATE, mode)?);
            if at > 0 {
                // O_APPEND would make splice(2) refuse it.
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(at))?;
            }
            return Ok(file);
        }
        match rustix::fs::open(&self.dir, base | OFlags::TMPFILE, mode) {
            Ok(fd) => Ok(fd.into()),
            // Some file systems have no nameless files.
            Err(_) => {
                let path = self.path(id, extension);
                let file = File::from(rustix::fs::open(&path, base | OFlags::CREATE | OFlags::EXCL, mode)?);
                std::fs::remove_file(path)?;
                Ok(file)
            }
        }
    }
}
