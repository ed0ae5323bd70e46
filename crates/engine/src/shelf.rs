//! Emptied directories of sandboxes that are gone, for the next ones. ext4 does not use an inode again for some seconds after
//! its file was removed, and looks at each such inode when it makes a new file (`recently_deleted`): where hundreds of
//! sandboxes a second come and go, making four files for each took 4 ms.
//! Knows nothing of what the files hold; whoever puts a directory here vouches that nobody has a file of it open.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Directories kept.
const MOST: usize = 64;
/// Empty files kept in each, besides those that stay under their names.
const MOST_FILES: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct Shelf {
    free: Mutex<Vec<Shelved>>,
    made: AtomicU64,
}

#[derive(Debug)]
struct Shelved {
    dir: PathBuf,
    /// Of empty files in it.
    names: Vec<OsString>,
    since: Instant,
}

/// Name of a kept thing; no id of ours has this form.
pub(crate) fn name(number: u64) -> String {
    format!("free-{number}")
}

impl Shelf {
    fn free(&self) -> MutexGuard<'_, Vec<Shelved>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a kept directory at `dir`, beside which it lies. The paths of its empty files; none: there is no directory.
    pub(crate) fn take(&self, dir: &Path) -> Option<Vec<PathBuf>> {
        let kept = self.free().pop()?;
        // Somebody cleaned up behind our back: then it is made anew.
        fs::rename(&kept.dir, dir).ok()?;
        Some(kept.names.iter().map(|name| dir.join(name)).collect())
    }

    /// Takes a directory that nobody needs. The file `stay` is emptied and keeps its name, those that somebody has open are
    /// removed, others are emptied.
    pub(crate) fn put(&self, dir: &Path, stay: &str, is_open: impl Fn(&str) -> bool) -> io::Result<()> {
        if self.free().len() >= MOST {
            return fs::remove_dir_all(dir);
        }
        match self.empty(dir, stay, is_open) {
            Ok(shelved) => {
                self.free().push(shelved);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // What cannot be emptied goes.
            Err(_) => fs::remove_dir_all(dir),
        }
    }

    fn empty(&self, dir: &Path, stay: &str, is_open: impl Fn(&str) -> bool) -> io::Result<Shelved> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let (path, file) = (entry.path(), entry.file_name());
            let file = file.to_string_lossy();
            if is_open(&file) || (file != stay && names.len() == MOST_FILES) {
                fs::remove_file(path)?;
                continue;
            }
            File::options().write(true).open(&path)?.set_len(0)?;
            if file != stay {
                let kept = OsString::from(name(self.made.fetch_add(1, Ordering::Relaxed)));
                fs::rename(path, dir.join(&kept))?;
                names.push(kept);
            }
        }
        let to = dir.with_file_name(name(self.made.fetch_add(1, Ordering::Relaxed)));
        fs::rename(dir, &to)?;
        Ok(Shelved { dir: to, names, since: Instant::now() })
    }

    /// Removes what nobody has wanted for so long. Whether nothing was put here meanwhile.
    pub fn tidy(&self, age: Duration) -> bool {
        let old: Vec<Shelved> = {
            let mut free = self.free();
            if free.last().is_some_and(|newest| newest.since.elapsed() < age) {
                return false;
            }
            free.drain(..).collect()
        };
        for shelved in old {
            if let Err(error) = fs::remove_dir_all(&shelved.dir)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %shelved.dir.display(), %error, "cannot remove an empty directory");
            }
        }
        true
    }
}
