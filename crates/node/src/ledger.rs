//! What this node must remember of each sandbox so that the next server knows whose it is: one small file each, replaced
//! whole. A sandbox that runs and has no readable entry is nobody's, and is released rather than handed to anybody.

use crate::node::lock;
use csb_engine::Meta;
use csb_types::{Kind, Limits, SandboxId, SandboxSpec, StartedBy};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

const PAGE: usize = 4096;
/// Empty files kept.
const MOST_FREE: usize = 64;

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxV1 {
    version: u32,
    pub(crate) id: SandboxId,
    /// Whether it was handed out. What was not has run nobody's code.
    pub(crate) claimed: bool,
    spec: SandboxSpec,
    created_ms: i64,
    started_by: StartedBy,
    start_micros: u64,
    /// Of a `local` one: whether it was paused on request.
    #[serde(default)]
    pub(crate) paused: bool,
}

impl SandboxV1 {
    pub(crate) fn new(id: &SandboxId, claimed: bool, meta: &Meta) -> Self {
        Self {
            version: 1,
            id: id.clone(),
            claimed,
            spec: (*meta.spec).clone(),
            created_ms: meta.created_ms,
            started_by: meta.started_by,
            start_micros: meta.start_micros,
            paused: false,
        }
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.spec.limits = limits;
    }

    /// That which builds it.
    pub(crate) fn kind(&self) -> Kind {
        self.spec.built_as()
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta {
            spec: Arc::new(self.spec.clone()),
            started_by: self.started_by,
            start_micros: self.start_micros,
            created_ms: self.created_ms,
        }
    }
}

/// The directory of entries.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
    /// Empty files.
    free: Mutex<Vec<PathBuf>>,
    /// Taken to write where an entry is, and alone to take one out: what is written late must not be in another's file.
    moving: RwLock<()>,
    freed: AtomicU64,
}

/// Sandboxes of a data directory that are written down, with their kinds.
pub fn known(data_dir: &Path) -> io::Result<Vec<(SandboxId, Kind)>> {
    let mut found = Vec::new();
    Ledger::new(data_dir.join("sandboxes")).read(|entry| found.push((entry.id.clone(), entry.kind())))?;
    Ok(found)
}

/// A file for an entry. Dropped before it is committed, it never was.
#[derive(Debug)]
pub(crate) struct Draft {
    new: PathBuf,
    path: PathBuf,
    file: File,
    committed: bool,
}

impl Draft {
    pub(crate) fn commit(mut self, entry: &SandboxV1) -> io::Result<()> {
        self.file.write_all(&text(entry)?)?;
        fs::rename(&self.new, &self.path)?;
        self.committed = true;
        Ok(())
    }
}

/// An entry as it is in its file: JSON, and blanks up to the end of a page where it fits one.
fn text(entry: &SandboxV1) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(entry).map_err(io::Error::other)?;
    text.resize(text.len().max(PAGE), b'\n');
    Ok(text)
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            // The next server removes what we cannot.
            let _ = fs::remove_file(&self.new);
        }
    }
}

impl Ledger {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, free: Mutex::default(), moving: RwLock::default(), freed: AtomicU64::new(0) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Writes an entry, or replaces it: a reader finds the old or the new one, never a part.
    pub(crate) fn write(&self, entry: &SandboxV1) -> io::Result<()> {
        let moving = self.moving.read().unwrap_or_else(PoisonError::into_inner);
        match File::options().write(true).open(self.path(&entry.id)) {
            // Within one page a write is done whole or not at all, whenever we are killed.
            Ok(file) if file.metadata()?.len() == PAGE as u64 => match text(entry)? {
                text if text.len() == PAGE => return file.write_all_at(&text, 0),
                _ => {}
            },
            _ => {}
        }
        drop(moving);
        self.draft(&entry.id)?.commit(entry)
    }

    /// Makes the file of an entry that is not known yet.
    pub(crate) fn draft(&self, id: &SandboxId) -> io::Result<Draft> {
        let new = self.dir.join(format!("{id}.new"));
        if let Some(empty) = lock(&self.free).pop() {
            // Without one it is made: that costs more, nothing else.
            let _ = fs::rename(empty, &new);
        }
        // The environment in it may hold secrets.
        match File::options().write(true).create(true).truncate(true).mode(0o600).open(&new) {
            Ok(file) => Ok(Draft { new, path: self.path(id), file, committed: false }),
            Err(error) => {
                // The empty file has this name already where only the descriptor is missing.
                let _ = fs::remove_file(&new);
                Err(error)
            }
        }
    }

    /// Takes an entry out. Its file, emptied, is kept for another (see `csb_engine::Shelf` for why).
    pub(crate) fn remove(&self, id: &SandboxId) -> io::Result<()> {
        let path = self.path(id);
        if lock(&self.free).len() >= MOST_FREE {
            return fs::remove_file(path);
        }
        // A name that the next start takes for nobody's. From here on nobody finds the entry, whole or in part.
        let empty = self.dir.join(format!("free-{}", self.freed.fetch_add(1, Ordering::Relaxed)));
        {
            let _moving = self.moving.write().unwrap_or_else(PoisonError::into_inner);
            fs::rename(path, &empty)?;
        }
        if File::options().write(true).open(&empty).and_then(|file| file.set_len(0)).is_err() {
            // Removing needs no descriptor.
            return fs::remove_file(empty);
        }
        lock(&self.free).push(empty);
        Ok(())
    }

    /// Removes the empty files.
    pub(crate) fn tidy(&self) {
        for empty in lock(&self.free).drain(..) {
            if let Err(error) = fs::remove_file(&empty)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %empty.display(), %error, "cannot remove an empty file");
            }
        }
    }

    /// One entry. Where it is taken out meanwhile, its file is emptied and may be another's: looked at again, it is there or not.
    pub(crate) fn entry(&self, id: &SandboxId) -> io::Result<SandboxV1> {
        let path = self.path(id);
        for _ in 0..3 {
            match read(&path) {
                Err(error) if error.kind() == io::ErrorKind::Other => {}
                found => return found,
            }
        }
        read(&path)
    }

    /// All readable entries, one after another. Unreadable ones are reported and left for somebody to look at.
    pub(crate) fn read(&self, mut take: impl FnMut(SandboxV1)) -> io::Result<()> {
        let files = match fs::read_dir(&self.dir) {
            // Made with the first sandbox that needs it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files?,
        };
        for file in files {
            let path = file?.path();
            match path.extension().and_then(|e| e.to_str()) {
                // Taken out by a server that was killed before it could put the file away.
                Some("json") if fs::metadata(&path)?.len() == 0 => fs::remove_file(path)?,
                Some("json") => match read(&path) {
                    Ok(entry) => take(entry),
                    Err(error) => tracing::error!(path = %path.display(), %error, "unreadable entry in the ledger"),
                },
                // Half written by a server that was killed.
                Some("new") => fs::remove_file(path)?,
                // Kept by it for another entry.
                None => fs::remove_file(path)?,
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<SandboxV1> {
    let entry: SandboxV1 = serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)?;
    let named = path.file_stem().and_then(|s| s.to_str()) == Some(entry.id.as_str());
    if entry.version != 1 || !named {
        return Err(io::Error::other("not an entry of this version under its own name"));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ledger: &Ledger) -> Vec<SandboxV1> {
        let mut entries = Vec::new();
        ledger.read(|entry| entries.push(entry)).unwrap();
        entries
    }

    fn meta() -> Meta {
        let spec = SandboxSpec { env: [("KEY".into(), "secret".into())].into(), ..Default::default() };
        Meta { spec: Arc::new(spec), started_by: StartedBy::Cold, start_micros: 7, created_ms: 1 }
    }

    #[test]
    fn without_a_descriptor_nothing_is_left_of_an_entry_that_was_not_made_and_one_can_still_be_removed() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let dir = std::env::temp_dir().join(format!("csb-ledger-{}", SandboxId::random()));
        fs::create_dir(&dir).unwrap();
        let ledger = Ledger::new(dir.clone());
        let ids = [(); 3].map(|()| SandboxId::random());
        for id in &ids[..2] {
            ledger.write(&SandboxV1::new(id, true, &meta())).unwrap();
        }
        // There is an empty file for the next.
        ledger.remove(&ids[0]).unwrap();
        let before = getrlimit(Resource::Nofile);
        // Each test is a process of its own.
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: before.maximum }).unwrap();
        let made = ledger.draft(&ids[2]).map(drop);
        let removed = ledger.remove(&ids[1]);
        setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::EMFILE));
        removed.unwrap();
        fs::remove_dir(dir).unwrap();
    }

    #[test]
    fn whoever_looks_at_an_entry_that_is_taken_out_finds_it_whole_or_not_at_all() {
        let dir = std::env::temp_dir().join(format!("csb-ledger-{}", SandboxId::random()));
        fs::create_dir(&dir).unwrap();
        let ledger = Ledger::new(dir.clone());
        let ids: Vec<SandboxId> = (0..500).map(|_| SandboxId::random()).collect();
        let at = std::sync::atomic::AtomicUsize::new(0);
        let wrong = std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut wrong = Vec::new();
                while let Some(id) = ids.get(at.load(Ordering::SeqCst)) {
                    match ledger.entry(id) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => wrong.push(error.to_string()),
                        _ => {}
                    }
                }
                wrong
            });
            for id in &ids {
                ledger.write(&SandboxV1::new(id, true, &meta())).unwrap();
                // Late, as by a server that hands out what dies meanwhile: another's file must not be written to.
                let late = scope.spawn(|| ledger.write(&SandboxV1::new(id, false, &meta())).unwrap());
                ledger.remove(id).unwrap();
                late.join().unwrap();
                let _ = ledger.remove(id);
                at.fetch_add(1, Ordering::SeqCst);
            }
            looking.join().unwrap()
        });
        assert_eq!(wrong, [""; 0]);
        assert!(all(&ledger).is_empty());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn entries_are_replaced_whole_and_unreadable_ones_are_nobody_s() {
        let dir = std::env::temp_dir().join(format!("csb-ledger-{}", SandboxId::random()));
        fs::create_dir(&dir).unwrap();
        let ledger = Ledger::new(dir.clone());
        let id = SandboxId::random();
        ledger.write(&SandboxV1::new(&id, false, &meta())).unwrap();
        ledger.write(&SandboxV1::new(&id, true, &meta())).unwrap();
        fs::write(dir.join(format!("{}.json", SandboxId::random())), "{}").unwrap();
        fs::write(ledger.path(&SandboxId::random()), serde_json::to_vec(&SandboxV1::new(&id, true, &meta())).unwrap())
            .unwrap();
        fs::write(dir.join("x.new"), "half").unwrap();
        assert_eq!(all(&ledger), [SandboxV1::new(&id, true, &meta())]);
        assert!(!dir.join("x.new").exists());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(ledger.path(&id)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        ledger.remove(&id).unwrap();
        assert!(ledger.remove(&id).is_err());
        let other = SandboxId::random();
        ledger.write(&SandboxV1::new(&other, true, &meta())).unwrap();
        assert_eq!(all(&ledger), [SandboxV1::new(&other, true, &meta())]);
        ledger.remove(&other).unwrap();
        ledger.tidy();
        assert!(all(&ledger).is_empty());
        fs::remove_dir_all(dir).unwrap();
    }
}
