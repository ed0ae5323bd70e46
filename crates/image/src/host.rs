//! Owns the `host` template's layer: which few files of the host's `/etc` a sandbox sees, and which host directories are
//! shown in place.
//! Knows nothing of where the layer is kept.
//!
//! An allowlist, and two rules that hold for whatever it names: only what every user of the host may read is copied, and
//! no link is followed. So `shadow`, private keys, host names, tokens in `/etc/pip.conf` or `/etc/npmrc`, and what
//! `/etc` links to elsewhere stay outside.

use crate::base;
use crate::directory::{Choice, Seen, add_stat, walk};
use crate::error::ImportError;
use crate::layer::{Layer, Meta};
use crate::template::Bind;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Names in `/etc` (a `*` at the end stands for any rest), each with its reason.
const SEEN: &[(&str, &str)] = &[
    ("ld.so.cache", "where programs find their libraries"),
    ("ld.so.conf", "the same, for ldconfig"),
    ("ld.so.conf.d", "the same, for ldconfig"),
    ("alternatives", "Debian's `java`, `awk`, `cc` … are links through it"),
    ("ssl/certs", "certificates of authorities; never ssl/private"),
    ("ssl/cert.pem", "the same under another name"),
    ("ssl/openssl.cnf", "OpenSSL refuses some commands without"),
    ("ca-certificates", "the same, for tools that build bundles"),
    ("ca-certificates.conf", "the same, for tools that build bundles"),
    ("pki/tls", "certificates on Red Hat's family; private keys are not world-readable"),
    ("pki/ca-trust/extracted", "certificates on Red Hat's family"),
    ("crypto-policies", "OpenSSL's configuration there"),
    ("localtime", "the host's time zone"),
    ("timezone", "the host's time zone"),
    ("protocols", "getprotobyname()"),
    ("services", "getservbyname()"),
    ("rpc", "getrpcbyname()"),
    ("host.conf", "the resolver"),
    ("gai.conf", "the resolver"),
    ("mime.types", "Python's mimetypes and others"),
    ("magic", "file(1)"),
    ("magic.mime", "file(1)"),
    ("os-release", "which distribution programs think they are on"),
    ("debian_version", "the same"),
    ("lsb-release", "the same"),
    ("inputrc", "keys in interactive shells"),
    ("terminfo", "terminals"),
    ("fonts", "fontconfig: plots and PDFs"),
    ("python3*", "Debian's and Python's own configuration"),
    ("java*", "JVMs do not start without"),
    ("perl", "Perl's own configuration"),
];

/// A template holds configuration, not data: a file this large in `/etc` is something else.
const LARGEST: u64 = 16 << 20;

/// Directories at the host's top that programs live in.
fn program_directories() -> Result<Vec<(String, FileType)>, ImportError> {
    let failed = |error: Errno| ImportError::Read { path: "/".into(), source: error.into() };
    let top =
        rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let mut found = Vec::new();
    for entry in Dir::read_from(&top).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let programs = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32"];
        if programs.contains(&name.as_str()) {
            let stat = rustix::fs::statat(&top, &*name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            found.push((name, FileType::from_raw_mode(stat.st_mode)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Host directories that sandboxes of this template see read-only in place.
pub fn binds() -> Result<Vec<Bind>, ImportError> {
    let directories = program_directories()?.into_iter().filter(|(_, kind)| kind.is_dir());
    Ok(directories
        .map(|(name, _)| {
            let path = PathBuf::from(format!("/{name}"));
            Bind { host: path.clone(), guest: path }
        })
        .collect())
}

/// Changes when the layer would come out differently.
pub fn fingerprint() -> Result<String, ImportError> {
    let mut hash = Sha256::new();
    hash.update(base::VERSION.to_le_bytes());
    for (name, kind) in program_directories()? {
        hash.update(name.as_bytes());
        hash.update(kind.as_raw_mode().to_le_bytes());
    }
    visit_etc(&mut |path, seen| {
        hash.update(path.as_os_str().as_bytes());
        hash.update([0]);
        add_stat(&mut hash, seen.stat);
        Ok(())
    })?;
    Ok(hex::encode(hash.finalize()))
}

/// Writes the layer.
pub fn write(layer: &mut Layer) -> Result<(), ImportError> {
    base::write(layer)?;
    for (name, kind) in program_directories()? {
        let path = Path::new("/").join(&name);
        if kind.is_symlink() {
            let target = std::fs::read_link(&path).map_err(|source| ImportError::Read { path, source })?;
            layer.symlink(Path::new(&name), &target, Meta::root(0o777))?;
        } else if kind.is_dir() {
            layer.directory(Path::new(&name), Meta::root(0o755))?;
        }
    }
    visit_etc(&mut |path, seen| copy(layer, path, seen))
}

fn copy(layer: &mut Layer, path: &Path, seen: &Seen<'_>) -> Result<(), ImportError> {
    // Root's on every host, also one where a packager left another owner: nothing in a sandbox may change it.
    let meta = Meta { uid: 0, gid: 0, mode: seen.stat.st_mode & 0o755, ..seen.meta() };
    match seen.kind() {
        FileType::Directory => layer.directory(path, meta),
        FileType::Symlink => {
            let target = seen.target()?;
            if stays_inside(path, &target) { layer.symlink(path, &target, meta) } else { Ok(()) }
        }
        FileType::RegularFile if seen.stat.st_size as u64 <= LARGEST => {
            let (mut file, now) = seen.open_regular()?;
            layer.file(path, meta, now.st_size as u64, &mut file)
        }
        _ => Ok(()),
    }
}

/// Whether a link leads to what the sandbox sees: the program directories, or the part of `/etc` that is copied.
/// By its text alone: a link to `/run/…` or `/opt/…` would dangle, and tell about the host.
fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut place: Vec<&std::ffi::OsStr> = Vec::new();
    if !target.is_absolute() {
        place.extend(link.parent().into_iter().flat_map(|parent| parent.iter()));
    }
    for component in target.components() {
        match component {
            std::path::Component::ParentDir => {
                place.pop();
            }
            std::path::Component::Normal(name) => place.push(name),
            _ => {}
        }
    }
    let place: Vec<&str> = place.iter().filter_map(|name| name.to_str()).collect();
    match place.as_slice() {
        ["usr" | "bin" | "sbin" | "lib" | "lib32" | "lib64", ..] => true,
        ["etc", rest @ ..] => allowed(&rest.join("/")),
        _ => false,
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Whether a path below `/etc` is one that is copied, as far as its name goes.
fn allowed(path: &str) -> bool {
    SEEN.iter().any(|(pattern, _)| {
        let depth = pattern.split('/').count();
        let start: Vec<&str> = path.split('/').take(depth).collect();
        start.len() == depth && matches(pattern, &start.join("/"))
    })
}

/// Every entry of `/etc` that a sandbox may see, parents before what is in them; paths start with `etc`.
fn visit_etc(visit: &mut dyn FnMut(&Path, &Seen<'_>) -> Result<(), ImportError>) -> Result<(), ImportError> {
    if !Path::new("/etc").is_dir() {
        return Ok(());
    }
    walk(Path::new("/etc"), &mut |seen| {
        let Some(name) = seen.path.to_str() else { return Ok(Choice::Leave) };
        // `ssl` is not listed, `ssl/certs` is: its parent is entered, and only that is taken from it.
        let leads_on =
            SEEN.iter().any(|(pattern, _)| pattern.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')));
        let world = if seen.kind().is_dir() { 0o005 } else { 0o004 };
        let readable = seen.kind().is_symlink() || seen.stat.st_mode & world == world;
        if !readable || !(allowed(name) || leads_on) {
            return Ok(Choice::Leave);
        }
        visit(&Path::new("etc").join(seen.path), seen)?;
        Ok(Choice::Take)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_seen() {
        for seen in ["ld.so.cache", "ld.so.conf.d/x.conf", "ssl/certs/a.pem", "python3.11/x", "java-17-openjdk/y"] {
            assert!(allowed(seen), "{seen}");
        }
        for hidden in [
            "shadow",
            "shadow-",
            "gshadow",
            "ssl",
            "ssl/private",
            "ssl/private/key.pem",
            "ssh/sshd_config",
            "hostname",
            "fstab",
            "machine-id",
            "pip.conf",
            "npmrc",
            "passwd",
            "group",
            "hosts",
            "resolv.conf",
            "sudoers",
            "krb5.keytab",
        ] {
            assert!(!allowed(hidden), "{hidden}");
        }
    }

    #[test]
    fn links_that_leave_what_is_seen_are_left_out() {
        let check = |link: &str, target: &str, expected| {
            assert_eq!(stays_inside(Path::new(link), Path::new(target)), expected, "{link} -> {target}");
        };
        check("etc/localtime", "/usr/share/zoneinfo/Etc/UTC", true);
        check("etc/os-release", "../usr/lib/os-release", true);
        check("etc/alternatives/java", "/usr/lib/jvm/java-17/bin/java", true);
        check("etc/ssl/certs/a.0", "a.pem", true);
        check("etc/java-17-openjdk/x", "/etc/shadow", false);
        check("etc/alternatives/tool", "/opt/tool/bin/tool", false);
        check("etc/localtime", "../../../home/someone/zone", false);
        check("etc/ssl/certs/b", "../private/key.pem", false);
        check("etc/resolv", "/run/systemd/resolve/stub-resolv.conf", false);
    }
}
