//! File system images for sandboxes whose writes go to disk.
//!
//! An image is needed only until it is mounted: its name is removed then, so nothing is left behind when the sandbox
//! ends, however it ends.
//!
//! Its bytes are reserved: what a sandbox was told it wrote must not depend on what others left of the host's disk. A write
//! that the host cannot take would be lost after the fact, or damage the file system inside.

use crate::BackendError;
use csb_types::{Limits, SandboxId};
use rustix::fs::FallocateFlags;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::process::Command;

/// Bytes of an inode in the images.
const INODE: u64 = 256;
/// An image that still has a name after so long belongs to a server that died while it built a sandbox.
const STALE: Duration = Duration::from_secs(600);

/// An image with a name; the name goes with this value.
#[derive(Debug)]
pub struct Image {
    /// Where it is.
    pub path: PathBuf,
}

impl Drop for Image {
    fn drop(&mut self) {
        // Nothing to tell anybody: `sweep` finds what stays.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes all of the image's bytes from the host now.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            tracing::warn!(
                "the data directory's file system reserves no space: a full disk can damage sandboxes with `storage: disk`"
            );
            file.set_len(bytes)
        }
        other => Ok(other?),
    }
}

fn refused(error: io::Error) -> BackendError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackendError::NoRoom {
            limit: format!("disk space of the data directory ({error})"),
            hint: "ask for less `disk`, free some, or move the data directory".into(),
        },
        _ => failed("make the disk image", error),
    }
}

fn failed(step: &str, message: impl ToString) -> BackendError {
    BackendError::Failed { step: step.into(), message: message.to_string() }
}

/// Size of the image that leaves `limits.disk` bytes for files: block groups, inodes, the root and
/// the 2 % that ext4 keeps for itself cost space.
fn image_bytes(limits: &Limits) -> u64 {
    let content = limits.disk + limits.inodes * INODE;
    (content + content / 32 + (2 << 20)).next_multiple_of(4096)
}

/// Makes an ext4 image for `limits`.
pub async fn make(dir: &Path, id: &SandboxId, limits: &Limits) -> Result<Image, BackendError> {
    let image = Image { path: dir.join(format!("{id}.img")) };
    let bytes = image_bytes(limits);
    let create = || -> io::Result<File> {
        fs::create_dir_all(dir)?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(&image.path)?;
        reserve(&file, bytes)?;
        Ok(file)
    };
    let file = create().map_err(refused)?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-b", "4096", "-I"])
        .arg(INODE.to_string())
        .arg("-N")
        .arg(limits.inodes.to_string())
        .arg(&image.path)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed("make the disk image", "`mkfs.ext4` is missing: install e2fsprogs"),
            _ => failed("run mkfs.ext4", error),
        })?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(failed("run mkfs.ext4", said.lines().last().unwrap_or("it failed")));
    }
    // Where a file is to be zero, mkfs.ext4 punches holes.
    reserve(&file, bytes).map_err(refused)?;
    Ok(image)
}

/// Removes images that no living server made.
pub fn sweep(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if age > STALE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
