//! Owns the directory of templates: making them aside, putting them in place at once, finding and forgetting them.
//! Knows nothing of what is in a layer.
//!
//! ```text
//! templates/
//!   .lock                     held while anything below is changed
//!   .host-checked             when the host was last compared with its template
//!   .staging/VERSION/         being made; whatever is here without the lock is rubbish
//!   NAME/current -> VERSION   replaced by a rename
//!   NAME/VERSION/template.json, base/, image/
//!   .private/                 see `private.rs`, as for NAME/VERSION/*.erofs*
//! ```
//! A version is never changed and never removed while it may be in use: running sandboxes have it mounted, and an overlay
//! whose lower directories change is undefined. [`Store::prune`] removes what nobody uses.

use crate::archive;
use crate::base;
use crate::directory::{self, add_stat};
use crate::error::{ImportError, StoreError};
use crate::host;
use crate::layer::{Caps, Layer};
use crate::private::{Images, Private};
use crate::template::{Bind, Source, Template};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOST: &str = "host";
/// Templates that somebody ran by path, without a name.
const AD_HOC: &str = "adhoc-";
const CURRENT: &str = "current";
const STAGING: &str = ".staging";
/// When the host was last compared with its template, by its modification time; holds the boot it was in.
const CHECKED: &str = ".host-checked";

/// The templates of one data directory. Several processes may use the same one.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    caps: Caps,
}

/// What is being made.
struct Draft {
    staging: PathBuf,
    version: String,
    // Dropped last: nobody else makes or removes anything meanwhile.
    _lock: File,
}

/// What the maker of a template found out.
struct Made {
    source: Source,
    layers: Vec<PathBuf>,
    binds: Vec<Bind>,
    bytes: u64,
    entries: u64,
    skipped: u64,
}

impl Store {
    /// Opens the directory, which is made where missing. What a dead process left half made is removed.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        // Others of this host have no business in the layers: a template may hold what they must not read.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| StoreError::io("make", &directory, source))?;
        let directory =
            std::fs::canonicalize(&directory).map_err(|source| StoreError::io("open", &directory, source))?;
        let store = Self { directory, caps: Caps::default() };
        // Held by somebody: what is in staging is theirs, and alive.
        if let Ok(lock) = store.lock_file()
            && lock.try_lock().is_ok()
        {
            let staging = store.directory.join(STAGING);
            if staging.exists() {
                remove_tree(&staging).map_err(|source| StoreError::io("remove", staging, source))?;
            }
        }
        Ok(store)
    }

    /// The same with other caps on imports.
    pub fn with_caps(mut self, caps: Caps) -> Self {
        self.caps = caps;
        self
    }

    /// The `host` template; made, or made anew, when the host has changed. Costs a few hundred `stat` calls when not.
    pub fn ensure_host(&self) -> Result<Template, ImportError> {
        let fresh = |fingerprint: &str| -> Result<Option<Template>, ImportError> {
            let known = self.load(HOST)?;
            Ok(known.filter(|template| template.fingerprint == fingerprint))
        };
        let fingerprint = format!("{} {}", host::fingerprint()?, boot_id()?);
        if let Some(template) = fresh(&fingerprint)? {
            return Ok(template);
        }
        let draft = self.draft()?;
        // Another process may have made it while we waited.
        if let Some(template) = fresh(&fingerprint)? {
            return Ok(template);
        }
        self.make(HOST, draft, None, fingerprint, |staging| {
            let root = staging.join("image");
            let mut layer = create(&root, self.caps)?;
            host::write(&mut layer)?;
            let (bytes, entries) = (layer.bytes(), layer.entries());
            layer.finish()?;
            Ok(Made { source: Source::Host, layers: vec![root], binds: host::binds()?, bytes, entries, skipped: 0 })
        })
    }

    /// The same, taken on trust when anybody made sure of it less than `age` ago: for a program that runs one command,
    /// the `stat` calls would cost more than all else.
    pub fn recent_host(&self, age: Duration) -> Result<Template, ImportError> {
        let stamp = self.directory.join(CHECKED);
        let boot = boot_id()?;
        if is_recent(&stamp, &boot, age)
            && let Some(template) = self.load(HOST)?
        {
            return Ok(template);
        }
        let template = self.ensure_host()?;
        remember(&stamp, &boot);
        Ok(template)
    }

    /// The images that sandboxes of a template are mounted from if they share no file with anything; made where missing, and
    /// those of the host's directories made anew when the host has changed. They are taken on trust when anybody made sure of
    /// them less than `trust` ago; looking costs one `stat` for each of their files.
    ///
    /// The first time, everything in them is copied, which may take a minute: `progress` hears the bytes written so far, of each
    /// image anew. One is made at a time; who wants the same one waits.
    pub fn private(
        &self,
        template: &Template,
        trust: Duration,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Private, ImportError> {
        Images::new(&self.directory, self.caps).of(template, trust, progress)
    }

    /// Makes a template from a directory, which is copied: numbers of owners are kept as those inside a sandbox,
    /// set-user-id bits, extended attributes, devices and sockets are not.
    pub fn import_dir(&self, name: &str, path: &Path) -> Result<Template, ImportError> {
        nameable(name)?;
        self.import_dir_as(name, path, None, String::new())
    }

    /// Makes a template from a tar archive: plain, gzip or zstd.
    pub fn import_tar(&self, name: &str, reader: impl Read) -> Result<Template, ImportError> {
        nameable(name)?;
        self.import_tar_as(name, reader, None, String::new())
    }

    /// The template of a directory or tar file that was given by path, imported when it is new or has changed.
    pub fn resolve_ad_hoc(&self, path: &Path) -> Result<Template, ImportError> {
        let open_failed = |source| ImportError::Open { path: path.to_path_buf(), source };
        let origin = std::fs::canonicalize(path).map_err(open_failed)?;
        let known = rustix::fs::stat(&origin).map_err(|error| open_failed(error.into()))?;
        let kind = rustix::fs::FileType::from_raw_mode(known.st_mode);
        let mut hash = match (kind.is_dir(), kind.is_file()) {
            (true, _) => directory::fingerprint(&origin)?,
            (_, true) => Sha256::new(),
            _ => return Err(ImportError::Kind { path: path.to_path_buf() }),
        };
        add_stat(&mut hash, &known);
        hash.update(base::VERSION.to_le_bytes());
        hash.update(boot_id()?);
        let fingerprint = hex::encode(hash.finalize());
        let name = format!("{AD_HOC}{}", &hex::encode(Sha256::digest(origin.as_os_str().as_bytes()))[..16]);
        if let Some(template) = self.load(&name)?
            && template.fingerprint == fingerprint
        {
            return Ok(template);
        }
        if kind.is_dir() {
            self.import_dir_as(&name, &origin, Some(origin.clone()), fingerprint)
        } else {
            let file = File::open(&origin).map_err(open_failed)?;
            self.import_tar_as(&name, file, Some(origin), fingerprint)
        }
    }

    /// The template of that name.
    pub fn get(&self, name: &str) -> Result<Template, StoreError> {
        let missing = || StoreError::NotFound { name: name.chars().take(64).collect() };
        if !is_name(name) {
            return Err(missing());
        }
        self.load(name)?.ok_or_else(missing)
    }

    /// Every template that has been given a name, by name.
    pub fn list(&self) -> Result<Vec<Template>, StoreError> {
        let mut templates = Vec::new();
        for name in self.names()? {
            if !name.starts_with(AD_HOC) {
                templates.extend(self.load(&name)?);
            }
        }
        Ok(templates)
    }

    /// Forgets a template. Its layers stay until [`Store::prune`], for sandboxes that run on them.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        if name == HOST {
            return Err(StoreError::Host);
        }
        self.get(name)?;
        let _lock = self.lock()?;
        let current = self.directory.join(name).join(CURRENT);
        std::fs::remove_file(&current).map_err(|source| StoreError::io("remove", current, source))
    }

    /// Removes every version that is not its template's current one and that nobody holds, and what was run by path when
    /// that path is gone. Returns how many versions went.
    ///
    /// Held is a version while a process has a shared lock (flock(2)) on one of its layers or their images, as the warden has for
    /// every sandbox; the same goes for images of the host's directories. Held is also a version of which a layer is mounted somewhere, as
    /// those of containers are, which outlive their server. What was replaced or forgotten less than `grace` ago stays: somebody may be on
    /// the way from `get` to it.
    /// Never waits: while a template is being made, nothing goes.
    pub fn prune(&self, grace: Duration) -> Result<usize, StoreError> {
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(0),
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::io("lock", self.directory.join(".lock"), source));
            }
        }
        let mut removed = Images::new(&self.directory, self.caps).prune(grace)?;
        let mounts = PathBuf::from("/proc/self/mountinfo");
        let mounts = std::fs::read_to_string(&mounts).map_err(|source| StoreError::io("read", mounts, source))?;
        for name in self.names()? {
            let directory = self.directory.join(&name);
            let list_failed = |source| StoreError::io("list", &directory, source);
            if let Some(template) = self.load(&name)?
                && template.origin.is_some_and(|origin| !origin.exists())
            {
                let current = directory.join(CURRENT);
                std::fs::remove_file(&current).map_err(|source| StoreError::io("remove", current, source))?;
            }
            // Replacing and forgetting both change the directory.
            let changed = directory.metadata().and_then(|known| known.modified()).map_err(list_failed)?;
            if changed.elapsed().unwrap_or_default() < grace {
                continue;
            }
            let current = std::fs::read_link(directory.join(CURRENT)).ok();
            for entry in std::fs::read_dir(&directory).map_err(list_failed)? {
                let entry = entry.map_err(list_failed)?;
                let version = entry.path();
                let is_current = current.as_deref() == Some(Path::new(&entry.file_name()));
                if is_current || !entry.file_type().map_err(list_failed)?.is_dir() {
                    continue;
                }
                if is_mounted(&mounts, &name, &entry.file_name()) || is_held(&version)? {
                    continue;
                }
                remove_tree(&version).map_err(|source| StoreError::io("remove", version, source))?;
                removed += 1;
            }
            // Stays while a version does.
            let _ = std::fs::remove_dir(&directory);
        }
        Ok(removed)
    }

    fn import_dir_as(
        &self,
        name: &str,
        path: &Path,
        origin: Option<PathBuf>,
        fingerprint: String,
    ) -> Result<Template, ImportError> {
        let source =
            std::fs::canonicalize(path).map_err(|source| ImportError::Open { path: path.to_path_buf(), source })?;
        if self.directory.starts_with(&source) {
            return Err(ImportError::HoldsStore { path: path.to_path_buf() });
        }
        self.import(name, origin, fingerprint, Source::Directory, |layer| directory::import(layer, &source))
    }

    fn import_tar_as(
        &self,
        name: &str,
        reader: impl Read,
        origin: Option<PathBuf>,
        fingerprint: String,
    ) -> Result<Template, ImportError> {
        self.import(name, origin, fingerprint, Source::Tar, |layer| archive::import(layer, reader))
    }

    fn import(
        &self,
        name: &str,
        origin: Option<PathBuf>,
        fingerprint: String,
        source: Source,
        fill: impl FnOnce(&mut Layer) -> Result<archive::Skipped, ImportError>,
    ) -> Result<Template, ImportError> {
        let draft = self.draft()?;
        self.make(name, draft, origin, fingerprint, |staging| {
            let (below, above) = (staging.join("base"), staging.join("image"));
            let mut layer = create(&below, self.caps)?;
            base::write(&mut layer)?;
            layer.finish()?;
            let mut layer = create(&above, self.caps)?;
            let skipped = fill(&mut layer)?.specials;
            base::adapt(&mut layer)?;
            let (bytes, entries) = (layer.bytes(), layer.entries());
            layer.finish()?;
            Ok(Made { source, layers: vec![above, below], binds: Vec::new(), bytes, entries, skipped })
        })
    }

    /// Makes a version aside and puts it in place; on failure nothing of it is left.
    fn make(
        &self,
        name: &str,
        draft: Draft,
        origin: Option<PathBuf>,
        fingerprint: String,
        fill: impl FnOnce(&Path) -> Result<Made, ImportError>,
    ) -> Result<Template, ImportError> {
        let outcome = fill(&draft.staging).and_then(|made| {
            let template = Template {
                name: name.to_owned(),
                source: made.source,
                layers: made.layers,
                binds: made.binds,
                created_ms: now_ms(),
                bytes: made.bytes,
                entries: made.entries,
                skipped: made.skipped,
                origin,
                fingerprint,
            };
            template.save(&draft.staging)?;
            Ok(self.publish(name, &draft, &template.fingerprint)?)
        });
        if outcome.is_err() {
            // What cannot be removed now, the next `open` tries again.
            let _ = remove_tree(&draft.staging);
        }
        outcome
    }

    fn publish(&self, name: &str, draft: &Draft, fingerprint: &str) -> Result<Template, StoreError> {
        // A power cut after the rename must not find empty files behind a template that looks whole. What has a
        // fingerprint is made anew after a boot, for milliseconds, instead of waiting here for every disk write of the host.
        if fingerprint.is_empty() {
            let written =
                File::open(&draft.staging).map_err(|source| StoreError::io("open", &draft.staging, source))?;
            rustix::fs::syncfs(&written).map_err(|source| StoreError::io("write out", &draft.staging, source))?;
        }
        let directory = self.directory.join(name);
        let version = directory.join(&draft.version);
        let link = directory.join(".current");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| StoreError::io("make", &directory, source))?;
        std::fs::rename(&draft.staging, &version).map_err(|source| StoreError::io("make", &version, source))?;
        let _ = std::fs::remove_file(&link);
        let current = directory.join(CURRENT);
        let switched =
            std::os::unix::fs::symlink(&draft.version, &link).and_then(|()| std::fs::rename(&link, &current));
        if let Err(source) = switched {
            let _ = remove_tree(&version);
            return Err(StoreError::io("make", current, source));
        }
        self.get(name)
    }

    fn load(&self, name: &str) -> Result<Option<Template>, StoreError> {
        let directory = self.directory.join(name);
        match std::fs::read_link(directory.join(CURRENT)) {
            Ok(version) => Template::load(name, &directory.join(version)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::io("read", directory.join(CURRENT), source)),
        }
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::io("list", &self.directory, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().into_string()
                && is_name(&name)
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn draft(&self) -> Result<Draft, StoreError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let lock = self.lock()?;
        let version = format!("{:013}-{}-{}", now_ms(), std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let staging = self.directory.join(STAGING).join(&version);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&staging)
            .map_err(|source| StoreError::io("make", &staging, source))?;
        Ok(Draft { staging, version, _lock: lock })
    }

    fn lock_file(&self) -> Result<File, StoreError> {
        let path = self.directory.join(".lock");
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        options.open(&path).map_err(|source| StoreError::io("open", path, source))
    }

    /// Released when the file is closed, also by a death.
    fn lock(&self) -> Result<File, StoreError> {
        let file = self.lock_file()?;
        file.lock().map_err(|source| StoreError::io("lock", self.directory.join(".lock"), source))?;
        Ok(file)
    }
}

/// Whether a mount shows a directory of this version (proc_pid_mountinfo(5): the fourth field is the mount's root in its file system).
/// A version's name is unique on a host, and holds nothing that is escaped there.
fn is_mounted(mounts: &str, template: &str, version: &OsStr) -> bool {
    let place = format!("/{template}/{}/", version.to_string_lossy());
    mounts.lines().filter_map(|line| line.split(' ').nth(3)).any(|root| root.contains(&place))
}

/// Whether somebody has a lock on a layer of this version, or on the image of one.
fn is_held(version: &Path) -> Result<bool, StoreError> {
    let failed = |source| StoreError::io("list", version, source);
    for entry in std::fs::read_dir(version).map_err(failed)? {
        if is_locked(&entry.map_err(failed)?.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether somebody has a lock on a file or directory.
pub(crate) fn is_locked(path: &Path) -> Result<bool, StoreError> {
    match File::open(path).map_err(|source| StoreError::io("open", path, source))?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(StoreError::io("lock", path, source)),
    }
}

/// Whether something was looked at less than `age` ago, and in this boot.
pub(crate) fn is_recent(stamp: &Path, boot: &str, age: Duration) -> bool {
    // A clock that went back makes it no fresher.
    let then = std::fs::metadata(stamp).and_then(|meta| meta.modified());
    then.is_ok_and(|then| then.elapsed().is_ok_and(|ago| ago < age))
        && std::fs::read_to_string(stamp).is_ok_and(|text| text == boot)
}

/// Now something was looked at. Where it cannot be written, the next one looks again.
pub(crate) fn remember(stamp: &Path, boot: &str) {
    let _ = std::fs::write(stamp, boot);
}

fn create(path: &Path, caps: Caps) -> Result<Layer, ImportError> {
    Layer::create(path, caps).map_err(|source| StoreError::io("make", path, source).into())
}

/// Different after every boot of the host.
pub(crate) fn boot_id() -> Result<String, StoreError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(path).map_err(|source| StoreError::io("read", path, source))?;
    Ok(id.trim().to_owned())
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-:".contains(&c))
}

/// Names that imports may take.
fn nameable(name: &str) -> Result<(), ImportError> {
    if !is_name(name) {
        return Err(ImportError::Name { name: name.chars().take(64).collect() });
    }
    if name == HOST || name.starts_with(AD_HOC) {
        return Err(ImportError::Reserved { name: name.to_owned() });
    }
    Ok(())
}

/// As `remove_dir_all`, also through directories whose modes keep an ordinary user out of what is theirs.
fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    open_up(path)?;
    std::fs::remove_dir_all(path)
}

fn open_up(directory: &Path) -> io::Result<()> {
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
