//! Owns what every template has, whatever it is made from: the directories a sandbox is mounted on, its two users, and
//! the few files of `/etc` that are our own text.
//! Knows nothing of the host.

use crate::error::ImportError;
use crate::layer::{Layer, Meta};
use rustix::fs::FileType;
use std::path::Path;

/// Raised when what this file writes changes, so that templates made before are made again.
pub const VERSION: u32 = 1;

/// The default user of a sandbox.
const USER: u32 = 1000;

/// Directories that are mounted on, or that users must find; modes and owners are right even in an image that has others.
const PLACES: &[(&str, u32, u32)] = &[
    ("proc", 0o555, 0),
    ("dev", 0o755, 0),
    ("sys", 0o555, 0),
    ("run", 0o755, 0),
    ("tmp", 0o1777, 0),
    ("var/tmp", 0o1777, 0),
    ("workspace", 0o755, USER),
    ("home/user", 0o755, USER),
    ("root", 0o700, 0),
];

/// Directories that hold those and others.
const PARENTS: &[&str] =
    &["etc", "home", "mnt", "opt", "opt/csb", "opt/csb/bin", "srv", "usr", "var", "var/cache", "var/lib", "var/log"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    user:x:1000:1000:user:/home/user:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n";

const TEXTS: &[(&str, &str)] = &[
    ("etc/passwd", PASSWD),
    ("etc/group", GROUP),
    ("etc/hosts", "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    // No name server: a sandbox without network has none, and nothing of the host's is copied.
    ("etc/resolv.conf", ""),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
         protocols: files\nservices: files\nethers: files\nrpc: files\n",
    ),
    ("etc/shells", "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n"),
    (
        "etc/profile",
        "# For login shells; PATH and LANG are set by the sandbox.\n\
         for script in /etc/profile.d/*.sh; do\n    [ -r \"$script\" ] && . \"$script\"\ndone\nunset script\n\
         [ -n \"$BASH_VERSION\" ] && [ -r /etc/bash.bashrc ] && . /etc/bash.bashrc\n",
    ),
    (
        "etc/bash.bashrc",
        "# For interactive shells.\n[ -z \"$PS1\" ] && return\nshopt -s checkwinsize\nPS1='\\u@\\h:\\w\\$ '\n",
    ),
];

/// Writes the base into an empty layer.
pub fn write(layer: &mut Layer) -> Result<(), ImportError> {
    for parent in PARENTS {
        layer.directory(Path::new(parent), Meta::root(0o755))?;
    }
    for (path, mode, owner) in PLACES {
        layer.directory(Path::new(path), Meta::owned(*mode, *owner))?;
    }
    for (path, text) in TEXTS {
        layer.file(Path::new(path), Meta::root(0o644), text.len() as u64, &mut text.as_bytes())?;
    }
    for (path, target) in [
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
        ("etc/mtab", "/proc/self/mounts"),
        ("opt/csb/bin/python", "/usr/bin/python3"),
    ] {
        layer.symlink(Path::new(path), Path::new(target), Meta::root(0o777))?;
    }
    Ok(())
}

/// Makes an imported tree fit on top of the base: the places are directories with our modes, and `user` is known.
///
/// A place that is a link or a file in the image is an error, not a repair: what is mounted there would land elsewhere.
pub fn adapt(layer: &mut Layer) -> Result<(), ImportError> {
    let not_a_directory = |path: &str| ImportError::Entry {
        path: path.into(),
        problem: "a sandbox needs a directory there, and the image has a link or a file",
    };
    for (path, mode, owner) in PLACES {
        for above in Path::new(path).ancestors().filter(|above| !above.as_os_str().is_empty()) {
            let name = above.to_str().expect("the table is UTF-8");
            if layer.kind(name).is_some_and(|kind| kind != FileType::Directory) {
                return Err(not_a_directory(name));
            }
        }
        if layer.kind(path).is_some() {
            layer.directory(Path::new(path), Meta::owned(*mode, *owner))?;
        }
    }
    for (path, line) in [("etc/passwd", "user:x:1000:1000:user:/home/user:/bin/sh\n"), ("etc/group", "user:x:1000:\n")]
    {
        // A list that is absent comes from the base; one of megabytes is no list of users.
        let Some(mut text) = layer.read(path, 1 << 20) else { continue };
        if text.split(|byte| *byte == b'\n').any(|entry| entry.starts_with(b"user:")) {
            continue;
        }
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(line.as_bytes());
        layer.file(Path::new(path), Meta::root(0o644), text.len() as u64, &mut text.as_slice())?;
    }
    Ok(())
}
