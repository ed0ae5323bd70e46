//! Owns the images that sandboxes of the kind `hardened` are mounted from: one for each layer and each bind of a template, made
//! when the first such sandbox wants them.
//! Knows nothing of what is in an image, and of who mounts it.
//!
//! ```text
//! templates/
//!   NAME/VERSION/base.erofs1                  of the layer `base/` beside it: it lives and goes with the version
//!   .private/.lock                            held while an image is made: one at a time
//!   .private/.new                             being made; whatever is here without the lock is rubbish
//!   .private/usr/current -> FINGERPRINT.erofs1 of the host's `/usr`
//!   .private/usr/.checked                     when the host was last compared with it, by its modification time
//! ```
//! An image that has its name is whole and on the disk. Who mounts one holds a shared lock (flock(2)) on it meanwhile, and
//! [`Store::prune`](crate::Store::prune) leaves it alone.

use crate::directory;
use crate::erofs;
use crate::error::{ImportError, StoreError};
use crate::layer::Caps;
use crate::store::{boot_id, is_locked, is_recent, remember};
use crate::template::{Bind, Template};
use sha2::{Digest, Sha256};
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Below the templates.
const DIRECTORY: &str = ".private";
const CURRENT: &str = "current";
const CHECKED: &str = ".checked";
/// Of whatever is not a whole image yet.
const NEW: &str = ".new";
/// What was replaced stays so long, for those who have just looked it up.
const GRACE: Duration = Duration::from_secs(300);
/// A host that is being upgraded changes while it is read.
const ATTEMPTS: u32 = 3;

/// What a template's sandboxes are mounted from if they share no file with anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Private {
    /// An image for each layer, topmost first.
    pub layers: Vec<PathBuf>,
    /// For each bind, with its image in place of the host's directory.
    pub binds: Vec<Bind>,
}

impl Private {
    /// Whether nobody has removed any of them.
    pub fn is_there(&self) -> bool {
        self.layers.iter().chain(self.binds.iter().map(|bind| &bind.host)).all(|image| image.is_file())
    }
}

/// The place of images.
pub(crate) struct Images {
    directory: PathBuf,
    caps: Caps,
}

impl Images {
    pub(crate) fn new(templates: &Path, caps: Caps) -> Self {
        Self { directory: templates.join(DIRECTORY), caps }
    }

    /// See [`Store::private`](crate::Store::private).
    pub(crate) fn of(
        &self,
        template: &Template,
        trust: Duration,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Private, ImportError> {
        let mut layers = Vec::with_capacity(template.layers.len());
        for layer in &template.layers {
            layers.push(self.of_layer(layer, progress)?);
        }
        let mut binds = Vec::with_capacity(template.binds.len());
        for bind in &template.binds {
            binds.push(Bind { host: self.of_host(&bind.host, trust, progress)?, guest: bind.guest.clone() });
        }
        Ok(Private { layers, binds })
    }

    /// A layer never changes, so neither does its image.
    fn of_layer(&self, layer: &Path, progress: &mut dyn FnMut(u64)) -> Result<PathBuf, ImportError> {
        let image = layer.with_extension(extension());
        if image.is_file() {
            return Ok(image);
        }
        let _lock = self.lock()?;
        // Another process may have made it while we waited.
        if !image.is_file() {
            self.make(layer, progress)?;
            self.publish(&image)?;
        }
        Ok(image)
    }

    /// A directory of the host, as it was less than `trust` ago.
    fn of_host(&self, host: &Path, trust: Duration, progress: &mut dyn FnMut(u64)) -> Result<PathBuf, ImportError> {
        let name: Vec<_> = host.iter().skip(1).map(|part| part.to_string_lossy()).collect();
        let directory = self.directory.join(name.join("-"));
        let (current, stamp) = (directory.join(CURRENT), directory.join(CHECKED));
        let boot = boot_id()?;
        let known = |wanted: Option<&Path>| {
            let target = std::fs::read_link(&current).ok()?;
            let fits = wanted.is_none_or(|wanted| wanted == target) && target.extension()? == extension().as_str();
            let image = directory.join(target);
            (fits && image.is_file()).then_some(image)
        };
        if is_recent(&stamp, &boot, trust)
            && let Some(image) = known(None)
        {
            return Ok(image);
        }
        let mut wanted = file_name(host)?;
        if let Some(image) = known(Some(&wanted)) {
            remember(&stamp, &boot);
            return Ok(image);
        }
        make_directory(&directory)?;
        let _lock = self.lock()?;
        if let Some(image) = known(Some(&wanted)) {
            return Ok(image);
        }
        // Before the next one takes its room: an image of `/usr` is as large as that.
        self.prune_host(&directory, GRACE)?;
        for _ in 0..ATTEMPTS {
            let made = self.make(host, progress);
            let now = file_name(host)?;
            if now == wanted {
                made?;
                let image = directory.join(&wanted);
                self.publish(&image)?;
                switch(&current, &wanted)?;
                remember(&stamp, &boot);
                return Ok(image);
            }
            wanted = now;
        }
        let _ = std::fs::remove_file(self.directory.join(NEW));
        let problem = "it changes while it is read: wait until whatever installs programs is done";
        Err(ImportError::Entry { path: host.to_path_buf(), problem })
    }

    /// Writes the image of a directory aside, down to the disk. On failure nothing of it is left. The lock is held.
    fn make(&self, from: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), ImportError> {
        let path = self.directory.join(NEW);
        let mut options = File::options();
        options.create(true).truncate(true).read(true).write(true).mode(0o600);
        let image = options.open(&path).map_err(|source| StoreError::io("make", &path, source))?;
        let mut uuid = [0; 16];
        let seed =
            Sha256::new_with_prefix(from.as_os_str().as_bytes()).chain_update(crate::store::now_ms().to_le_bytes());
        uuid.copy_from_slice(&seed.finalize()[..16]);
        let written = erofs::write(from, &image, uuid, self.caps, progress).and_then(|_| {
            // It is trusted by its name alone, after a power cut as well.
            image.sync_all().map_err(|source| ImportError::Write { path: from.to_path_buf(), source })
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        written
    }

    fn publish(&self, image: &Path) -> Result<(), StoreError> {
        std::fs::rename(self.directory.join(NEW), image).map_err(|source| StoreError::io("make", image, source))
    }

    fn lock_file(&self) -> Result<File, StoreError> {
        make_directory(&self.directory)?;
        let path = self.directory.join(".lock");
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600);
        options.open(&path).map_err(|source| StoreError::io("open", path, source))
    }

    /// Released when the file is closed, also by a death.
    fn lock(&self) -> Result<File, StoreError> {
        let file = self.lock_file()?;
        file.lock().map_err(|source| StoreError::io("lock", self.directory.join(".lock"), source))?;
        Ok(file)
    }

    /// Removes images of the host that were replaced, as [`Store::prune`](crate::Store::prune) does with versions, and what
    /// a dead process left half made. Never waits.
    pub(crate) fn prune(&self, grace: Duration) -> Result<usize, StoreError> {
        if !self.directory.exists() {
            return Ok(0);
        }
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(0),
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &self.directory, source)),
        }
        let _ = std::fs::remove_file(self.directory.join(NEW));
        let mut removed = 0;
        for entry in list(&self.directory)? {
            if entry.is_dir() {
                removed += self.prune_host(&entry, grace)?;
            }
        }
        Ok(removed)
    }

    fn prune_host(&self, directory: &Path, grace: Duration) -> Result<usize, StoreError> {
        let changed = directory.metadata().and_then(|known| known.modified());
        let changed = changed.map_err(|source| StoreError::io("list", directory, source))?;
        if changed.elapsed().unwrap_or_default() < grace {
            return Ok(0);
        }
        let current = std::fs::read_link(directory.join(CURRENT)).ok();
        let mut removed = 0;
        for image in list(directory)? {
            let is_image = image.extension().is_some_and(|kind| kind.as_bytes().starts_with(b"erofs"));
            if !is_image || image.file_name() == current.as_deref().map(Path::as_os_str) || is_locked(&image)? {
                continue;
            }
            std::fs::remove_file(&image).map_err(|source| StoreError::io("remove", image, source))?;
            removed += 1;
        }
        Ok(removed)
    }
}

fn extension() -> String {
    format!("erofs{}", erofs::VERSION)
}

/// What the image of a host's directory is called: different when anything below it has changed.
fn file_name(host: &Path) -> Result<PathBuf, ImportError> {
    let hash = hex::encode(directory::fingerprint(host)?.finalize());
    Ok(PathBuf::from(format!("{}.{}", &hash[..32], extension())))
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StoreError::io("make", path, source))
}

/// Points `link` elsewhere, at once.
fn switch(link: &Path, target: &Path) -> Result<(), StoreError> {
    let aside = link.with_extension("new");
    let _ = std::fs::remove_file(&aside);
    let switched = std::os::unix::fs::symlink(target, &aside).and_then(|()| std::fs::rename(&aside, link));
    switched.map_err(|source: io::Error| StoreError::io("make", link, source))
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::io("list", directory, source);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

#[cfg(test)]
mod tests;
