//! Where what must not reach a disk is kept for the next server: a directory in `/dev/shm` for each data directory.
//! Knows nothing of sandboxes.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

const SHM: &str = "/dev/shm";

/// The directory of a data directory, or `/dev/shm` itself for nameless files; none where that is no memory, or where somebody
/// else's lies in the way. It is made when it is needed.
pub(crate) fn find(data_dir: &Path, private: bool) -> Option<PathBuf> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    if rustix::fs::statfs(SHM).ok()?.f_type as u64 != TMPFS_MAGIC {
        return None;
    }
    if private {
        return Some(SHM.into());
    }
    let mut hasher = DefaultHasher::new();
    fs::canonicalize(data_dir).ok()?.hash(&mut hasher);
    let dir = Path::new(SHM).join(format!("csb-{:016x}", hasher.finish()));
    is_ours_or_absent(&dir).then_some(dir)
}

/// Everybody may make names there.
fn is_ours_or_absent(dir: &Path) -> bool {
    match fs::symlink_metadata(dir) {
        Ok(found) => found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Of outputs.
pub(crate) fn spools(memory: &Path) -> PathBuf {
    memory.join("spool")
}

/// Of what the next server must know.
pub(crate) fn ledger(memory: &Path) -> PathBuf {
    memory.join("sandboxes")
}

/// Makes the directories.
pub(crate) fn make(memory: &Path) -> io::Result<()> {
    for dir in [memory, &spools(memory), &ledger(memory)] {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    if is_ours_or_absent(memory) { Ok(()) } else { Err(io::Error::other("a directory in /dev/shm is somebody else's")) }
}

/// Removes the directories that are empty.
pub(crate) fn leave(memory: &Path) {
    for dir in [&spools(memory), &ledger(memory), memory] {
        // What is not empty is needed.
        let _ = fs::remove_dir(dir);
    }
}

/// Removes all that is kept in memory for a data directory whose sandboxes have ended and where no server works.
pub fn forget(data_dir: &Path) -> io::Result<()> {
    match find(data_dir, false).map(fs::remove_dir_all) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
