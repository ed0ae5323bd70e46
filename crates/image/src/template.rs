//! Owns what a template is, and its record on disk.
//! Knows nothing of how templates are made or found.

use crate::error::StoreError;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// What a template was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This host's own programs.
    Host,
    /// A directory that was copied.
    Directory,
    /// A tar file.
    Tar,
}

/// A host directory shown read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path on the host.
    pub host: PathBuf,
    /// Absolute path in the sandbox; the layers have a directory there.
    pub guest: PathBuf,
}

/// Something sandboxes start from. Its layers never change: a template made anew gets new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// What it is asked for by.
    pub name: String,
    /// What it was made from.
    pub source: Source,
    /// Directories for an overlay's read-only part, topmost first.
    pub layers: Vec<PathBuf>,
    /// What lies on top of them.
    pub binds: Vec<Bind>,
    /// When it was made, ms since 1970.
    pub created_ms: i64,
    /// Bytes of its files, binds not counted.
    pub bytes: u64,
    /// Its files, directories and links, binds not counted.
    pub entries: u64,
    /// Device files and sockets that its source had and it has not.
    pub skipped: u64,
    pub(crate) origin: Option<PathBuf>,
    pub(crate) fingerprint: String,
}

/// Links followed before a path is given up, as the kernel counts them.
const MOST_LINKS: usize = 40;

impl Template {
    /// Whether a sandbox of it has a file there (`/usr/bin/node`), links followed as inside the sandbox.
    pub fn has_file(&self, path: &str) -> bool {
        let mut links = 0;
        let mut ahead: VecDeque<OsString> = names(Path::new(path));
        let mut here = PathBuf::from("/");
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            let Some(found) = self.lookup(&next) else { return false };
            match std::fs::read_link(&found) {
                Ok(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return false;
                    }
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    for name in names(&target).into_iter().rev() {
                        ahead.push_front(name);
                    }
                }
                Err(_) => here = next,
            }
        }
        self.lookup(&here).is_some_and(|found| found.symlink_metadata().is_ok_and(|known| known.is_file()))
    }

    /// Where the host keeps a path of the sandbox whose parents are no links.
    fn lookup(&self, path: &Path) -> Option<PathBuf> {
        let bound = self.binds.iter().find_map(|bind| Some(bind.host.join(path.strip_prefix(&bind.guest).ok()?)));
        let inner = path.strip_prefix("/").ok()?;
        let candidates = match bound {
            Some(bound) => vec![bound],
            None => self.layers.iter().map(|layer| layer.join(inner)).collect(),
        };
        candidates.into_iter().find(|candidate| candidate.symlink_metadata().is_ok())
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_os_string())
        .collect()
}

/// What `template.json` holds. Layers are relative to it, so that a data directory can be moved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordV1 {
    version: u32,
    source: Source,
    layers: Vec<PathBuf>,
    binds: Vec<Bind>,
    created_ms: i64,
    bytes: u64,
    entries: u64,
    skipped: u64,
    origin: Option<PathBuf>,
    fingerprint: String,
}

/// Beside the layers.
pub const RECORD: &str = "template.json";

impl Template {
    /// Its record; `layers` must lie in `directory`.
    pub fn save(&self, directory: &Path) -> Result<(), StoreError> {
        let path = directory.join(RECORD);
        let record = RecordV1 {
            version: 1,
            source: self.source,
            layers: self.layers.iter().filter_map(|layer| layer.strip_prefix(directory).ok()).map(Into::into).collect(),
            binds: self.binds.clone(),
            created_ms: self.created_ms,
            bytes: self.bytes,
            entries: self.entries,
            skipped: self.skipped,
            origin: self.origin.clone(),
            fingerprint: self.fingerprint.clone(),
        };
        let text = serde_json::to_vec_pretty(&record).expect("a record holds strings and numbers");
        std::fs::write(&path, text).map_err(|source| StoreError::io("write", path, source))
    }

    /// The template whose record is in `directory`; `None` where there is none.
    pub fn load(name: &str, directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = directory.join(RECORD);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| StoreError::io("read", &path, source))?,
        };
        let record: RecordV1 = serde_json::from_slice(&text).map_err(|source| StoreError::Record { path, source })?;
        Ok(Some(Self {
            name: name.to_owned(),
            source: record.source,
            layers: record.layers.iter().map(|layer| directory.join(layer)).collect(),
            binds: record.binds,
            created_ms: record.created_ms,
            bytes: record.bytes,
            entries: record.entries,
            skipped: record.skipped,
            origin: record.origin,
            fingerprint: record.fingerprint,
        }))
    }
}
