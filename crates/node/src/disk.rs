//! File system images for sandboxes whose writes go to disk.
//!
//! An image is needed only until it is mounted: its name is removed then, so nothing is left behind when the sandbox
//! ends, however it ends.

use crate::CreateError;
use csb_types::{Limits, SandboxId};
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
pub(crate) struct Image {
    pub(crate) path: PathBuf,
}

impl Drop for Image {
    fn drop(&mut self) {
        // Nothing to tell anybody: `sweep` finds what stays.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(step: &str, message: impl ToString) -> CreateError {
    CreateError::Jail { step: step.into(), message: message.to_string() }
}

/// Size of the image that leaves `limits.disk` bytes for files: block groups, inodes, the root and
/// the 2 % that ext4 keeps for itself cost space.
fn image_bytes(limits: &Limits) -> u64 {
    let content = limits.disk + limits.inodes * INODE;
    (content + content / 32 + (2 << 20)).next_multiple_of(4096)
}

/// Makes a sparse ext4 image for `limits`.
pub(crate) async fn make(dir: &Path, id: &SandboxId, limits: &Limits) -> Result<Image, CreateError> {
    let image = Image { path: dir.join(format!("{id}.img")) };
    let create = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(&image.path)?;
        file.set_len(image_bytes(limits))
    };
    create().map_err(|error| failed("make the disk image", error))?;
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
    Ok(image)
}

/// Removes images that no living server made.
pub(crate) fn sweep(dir: &Path) -> io::Result<()> {
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
