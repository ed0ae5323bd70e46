//! Directories of `local` sandboxes: how a name becomes a place. Every step is by descriptor, through no link, below the
//! directory of workspaces: what is in there belongs to tenants, whose programs may change it at any moment.

use crate::{CreateError, WorkspaceConfig};
use csb_sys::mount::{make_beneath, open_beneath, open_directory};
use csb_types::{SandboxSpec, SpecError, Volume, WORKSPACE};
use rustix::{fs::FileType, io::Errno};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Component, Path, PathBuf},
};

/// Deeper than any program of ours looks.
const MOST_DEPTH: usize = 32;
const MOST_BYTES: usize = 1024;

/// A name below the directory of workspaces, as `a/b`. Pure.
pub(crate) fn relative(name: &str) -> Result<PathBuf, SpecError> {
    let bad = |rule| Err(SpecError::Value { what: "workDir", rule });
    let mut path = PathBuf::new();
    if name.len() > MOST_BYTES || name.contains('\0') {
        return bad("it is at most 1024 bytes and holds no NUL");
    }
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) if part.len() <= 255 => path.push(part),
            Component::CurDir => {}
            Component::Normal(_) => return bad("each of its names is at most 255 bytes"),
            Component::ParentDir => return bad("it holds no `..`"),
            Component::RootDir | Component::Prefix(_) => return bad("it is relative to the directory of workspaces"),
        }
    }
    match path.components().count() {
        0 => bad("it names a directory below the directory of workspaces"),
        depth if depth > MOST_DEPTH => bad("it is at most 32 directories deep"),
        _ => Ok(path),
    }
}

fn top(config: &WorkspaceConfig) -> io::Result<OwnedFd> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.dir)?;
    open_directory(&config.dir)
}

/// The last name is opened as what it is, a link as a link.
fn directory(place: OwnedFd) -> io::Result<OwnedFd> {
    match FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) {
        FileType::Directory => Ok(place),
        FileType::Symlink => Err(Errno::LOOP.into()),
        _ => Err(Errno::NOTDIR.into()),
    }
}

/// Makes the directory of a sandbox where it is missing, and sees that all it shows is there.
pub(crate) fn prepare(config: &WorkspaceConfig, spec: &SandboxSpec) -> Result<(), CreateError> {
    let name = relative(spec.options.work_dir.as_deref().unwrap_or_default())?;
    let made = top(config).and_then(|top| make_beneath(top, &name.to_string_lossy())).and_then(directory);
    made.map_err(|error| refused("workDir", &name, &error))?;
    for path in &spec.options.allow_paths {
        let (below, rest) = allowed(config, path)?;
        let found =
            open_directory(below).and_then(|top| open_beneath(top, &rest.to_string_lossy())).and_then(directory);
        found.map_err(|error| refused("allowPaths", Path::new(path), &error))?;
    }
    Ok(())
}

/// What a sandbox shows of the host.
pub(crate) fn volumes(config: &WorkspaceConfig, spec: &SandboxSpec) -> Result<Vec<Volume>, CreateError> {
    let name = relative(spec.options.work_dir.as_deref().unwrap_or_default())?;
    let below = Some(config.dir.clone());
    let mut volumes = vec![Volume { host: name, below, guest: WORKSPACE.into(), read_only: false }];
    for path in &spec.options.allow_paths {
        let (below, rest) = allowed(config, path)?;
        volumes.push(Volume { host: rest, below: Some(below.clone()), guest: path.into(), read_only: true });
    }
    Ok(volumes)
}

/// Which of the directories that the operator allows a path is in, and where. Pure.
fn allowed<'a>(config: &'a WorkspaceConfig, path: &str) -> Result<(&'a PathBuf, PathBuf), CreateError> {
    let given = Path::new(path);
    let plain =
        given.is_absolute() && !path.contains('\0') && given.components().all(|part| part != Component::ParentDir);
    if !plain || given == Path::new("/") || given.starts_with(WORKSPACE) {
        let rule = "each is an absolute path without `..`, neither `/` nor below `/workspace`";
        return Err(SpecError::Value { what: "allowPaths", rule }.into());
    }
    let found = config.allow.iter().find_map(|top| Some((top, given.strip_prefix(top).ok()?.to_owned())));
    found.ok_or_else(|| CreateError::NotAllowed {
        what: format!("allowPaths `{path}` is not below a directory that this server's operator allows"),
    })
}

fn refused(what: &str, name: &Path, error: &io::Error) -> CreateError {
    let name = name.display();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP | Errno::XDEV) => CreateError::NotAllowed {
            what: format!("{what} `{name}` leads through a symbolic link, and links are not followed"),
        },
        Some(Errno::NOTDIR | Errno::NOENT) => CreateError::Missing {
            what: format!("the directory {what} `{name}`"),
            hint: "name a directory; another kind of file may be in its place".into(),
        },
        Some(Errno::NOSPC | Errno::DQUOT) => crate::error::record_failed(error),
        _ => CreateError::Jail { step: format!("open {what} `{name}`"), message: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_the_directory_of_workspaces() {
        for (name, expected) in [("a", "a"), ("./a/b", "a/b"), ("a//b/", "a/b"), ("a/./b", "a/b"), (" ", " ")] {
            assert_eq!(relative(name), Ok(expected.into()), "{name}");
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(33);
        for name in ["", ".", "./", "..", "a/../b", "../a", "/a", "a\0b", &long, &deep] {
            assert!(relative(name).is_err(), "{name}");
        }
    }

    #[test]
    fn only_what_the_operator_allows_is_shown() {
        let config = WorkspaceConfig { allow: vec!["/srv/data".into()], ..WorkspaceConfig::at("/w") };
        let check = |path| allowed(&config, path).map(|(top, rest)| (top.clone(), rest));
        assert_eq!(check("/srv/data"), Ok(("/srv/data".into(), "".into())));
        assert_eq!(check("/srv/data/a/b"), Ok(("/srv/data".into(), "a/b".into())));
        for path in ["/srv", "/srv/database", "/etc", "/w"] {
            assert!(matches!(check(path), Err(CreateError::NotAllowed { .. })), "{path}");
        }
        for path in ["/srv/data/../x", "data", "/", "/workspace/x"] {
            assert!(matches!(check(path), Err(CreateError::Spec(_))), "{path}");
        }
    }
}
