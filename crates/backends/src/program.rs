//! The program that is a container's init: this one, with the libraries it runs with, in a directory of its own, so that it runs
//! in any image, also in one without a C library. Made once for each version of it.
//!
//! ```text
//! DATA/guest/VERSION/csb-guest, ld-linux-x86-64.so.2, libc.so.6, …      shown in containers as `/.csb`, read-only
//! ```

use crate::guests::PLACES;
use csb_wire::guest::{OWNER, PROGRAM, PROGRAMS};
use rustix::fs::{Gid, Uid};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The name of the program itself among its parts.
pub(crate) const PROGRAM_PART: &str = PROGRAM;

/// Where it is, and how it is started in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) directory: PathBuf,
    pub(crate) entrypoint: Vec<String>,
    /// An empty file, to show as the image's `/etc/ld.so.preload`: what that names would be loaded into our init.
    pub(crate) nothing: PathBuf,
}

/// Files that this process runs, by name: what it was started from and what is mapped to be executed.
pub(crate) fn parts() -> io::Result<BTreeMap<String, PathBuf>> {
    let mut parts = BTreeMap::from([(PROGRAM.to_owned(), PathBuf::from("/proc/self/exe"))]);
    let own = fs::metadata("/proc/self/exe")?;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights), Some(path)) = (words.next(), words.next(), words.nth(3)) else { continue };
        let Some(name) = Path::new(path).file_name().and_then(|name| name.to_str()) else { continue };
        // Loaded by the C library's resolver on its own account; an init resolves nothing.
        if !path.starts_with('/') || !rights.contains('x') || name.starts_with("libnss_") {
            continue;
        }
        // By its mapping: the name may be a newer version's by now. Only a process with rights over its host may; in an image
        // nothing is replaced.
        let mapped = Path::new("/proc/self/map_files").join(range);
        let mapped = match fs::metadata(&mapped) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => PathBuf::from(path),
            _ => mapped,
        };
        let meta = fs::metadata(&mapped)?;
        if (meta.dev(), meta.ino()) != (own.dev(), own.ino()) {
            parts.insert(name.to_owned(), mapped);
        }
    }
    Ok(parts)
}

pub(crate) fn version(parts: &BTreeMap<String, PathBuf>) -> io::Result<String> {
    let mut hash = Sha256::new();
    for (name, path) in parts {
        let meta = fs::metadata(path)?;
        let facts = [meta.dev(), meta.ino(), meta.size(), meta.mtime() as u64, meta.mtime_nsec() as u64];
        hash.update(name.as_bytes());
        facts.iter().for_each(|fact| hash.update(fact.to_le_bytes()));
    }
    Ok(hex::encode(&hash.finalize()[..12]))
}

/// The dynamic loader among names of libraries.
pub(crate) fn is_loader(name: &str) -> bool {
    ["ld-linux", "ld-musl", "ld64.", "ld.so"].iter().any(|start| name.starts_with(start))
}

impl Program {
    /// Finds it, or makes it.
    pub(crate) fn ensure(data_dir: &Path) -> io::Result<Self> {
        let parts = parts()?;
        let all = data_dir.join("guest");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        let directory = all.join(version(&parts)?);
        if !directory.exists() {
            let staging = tempfile::Builder::new().prefix(".new-").tempdir_in(&all)?;
            for (name, path) in &parts {
                let mut to =
                    File::options().write(true).create_new(true).mode(0o555).open(staging.path().join(name))?;
                io::copy(&mut File::open(path)?, &mut to)?;
            }
            let made = staging.keep();
            match fs::rename(&made, &directory) {
                // Another process was quicker.
                Err(error) if directory.exists() => {
                    tracing::debug!(%error, "the guest program is there already");
                    fs::remove_dir_all(&made)?;
                }
                other => other?,
            }
        }
        let nothing = all.join("nothing");
        File::options().create(true).append(true).mode(0o444).open(&nothing)?;
        let inside = |name: &str| format!("{PROGRAMS}/{name}");
        let entrypoint = match parts.keys().find(|name| is_loader(name)) {
            Some(loader) => {
                vec![inside(loader), "--library-path".into(), PROGRAMS.into(), inside(PROGRAM)]
            }
            None => vec![inside(PROGRAM)],
        };
        Ok(Self { directory, entrypoint, nothing })
    }
}

/// The loader's name where [`install`] puts it, whatever the build's own is called.
pub(crate) const LOADER: &str = "ld.so";
/// Directory of the init's socket in the volume that is shown as [`csb_wire::guest::SHARED`].
pub(crate) const RUN: &str = "run";
/// An empty file, to cover what would be loaded into our init.
pub(crate) const NOTHING: &str = "nothing";
/// What is shown as `/etc/hosts`.
pub(crate) const HOSTS: &str = "hosts";

/// Copies this program with what it is loaded with, as an init container of a pod does it: into `programs`; makes the
/// sandbox's directories in `files`, and in `shared` what the init and its bridge have in common. Both are there and empty.
pub fn install(programs: &Path, files: &Path, shared: &Path) -> io::Result<()> {
    let parts = parts()?;
    let loader = parts.keys().find(|name| is_loader(name)).cloned();
    let loader = loader.ok_or_else(|| io::Error::other("this program is linked statically, which has no loader"))?;
    for (name, path) in &parts {
        let name = if *name == loader { LOADER } else { name };
        let mut to = File::options().write(true).create_new(true).mode(0o555).open(programs.join(name))?;
        io::copy(&mut File::open(path)?, &mut to)?;
    }
    let text = |name: &str, text: &str| -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o444).open(programs.join(name))?;
        io::Write::write_all(&mut file, text.as_bytes())
    };
    text(NOTHING, "")?;
    text(HOSTS, "127.0.0.1 localhost sandbox\n::1 localhost\n")?;
    for (name, _, owner, mode) in PLACES {
        own(&files.join(name), owner, mode)?;
    }
    own(&shared.join(RUN), OWNER, 0o700)
}

/// Makes a directory of an owner.
fn own(path: &Path, owner: u32, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().create(path)?;
    // Before it is somebody else's: changing the mode of that needs a capability more.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(rustix::fs::chown(path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?)
}

/// Removes versions that were made some time ago. Called where no container has one of them.
pub(crate) fn prune(data_dir: &Path) -> io::Result<()> {
    const AGE: Duration = Duration::from_secs(86400);
    let entries = match fs::read_dir(data_dir.join("guest")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() && SystemTime::now().duration_since(meta.modified()?).is_ok_and(|age| age > AGE) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_is_given_is_whole_and_its_directories_are_their_owners() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (programs, files, shared) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        install(programs.path(), files.path(), shared.path()).unwrap();
        let own = fs::read("/proc/self/exe").unwrap();
        assert!(fs::read(programs.path().join(PROGRAM)).unwrap() == own);
        assert!(programs.path().join(LOADER).exists());
        assert_eq!(fs::metadata(programs.path().join(NOTHING)).unwrap().len(), 0);
        let facts = |path: PathBuf| fs::metadata(path).map(|meta| (meta.uid(), meta.mode() & 0o7777)).unwrap();
        assert_eq!(facts(files.path().join("workspace")), (1000, 0o755));
        assert_eq!(facts(files.path().join("tmp")), (0, 0o1777));
        assert_eq!(facts(shared.path().join(RUN)), (OWNER, 0o700));
    }

    #[test]
    fn it_is_made_once_and_holds_all_it_is_loaded_with() {
        let data = tempfile::tempdir().unwrap();
        let program = Program::ensure(data.path()).unwrap();
        assert_eq!(Program::ensure(data.path()).unwrap(), program);
        let own = fs::read("/proc/self/exe").unwrap();
        assert!(fs::read(program.directory.join(PROGRAM)).unwrap() == own);
        let loader = Path::new(&program.entrypoint[0]).file_name().unwrap();
        assert!(program.directory.join(loader).exists());
    }
}
