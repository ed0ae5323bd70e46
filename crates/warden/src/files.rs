//! The file helper: a fork of the init that becomes the sandbox's user and does one file operation.
//!
//! It can do nothing that the user's own program could not, so no link, race or name in the sandbox leads it anywhere else:
//! resolution happens in the sandbox's mount namespace with the sandbox's ids, under its seccomp filter and Landlock domain.
//! It is not dumpable, so the tenant cannot trace it; killed by the tenant, the operation fails and nothing else does.

use crate::{archive, init::only};
use csb_jail::{Tenant, failure};
use csb_sys::process::{self, Fork};
use csb_types::{FileEntry, FileError, FileErrorCode, FileKind};
use csb_wire::{CHUNK, Failure, FileReply, FileRequest, HEADER, Tag, decode_header, encode, encode_header};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
};

const MOST_PATH: usize = 4096;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Forks the helper; the caller goes on at once.
pub(crate) fn start(
    user: Option<&str>,
    request: &FileRequest,
    socket: &OwnedFd,
    tenant: &Tenant,
) -> Result<(), Failure> {
    match process::fork(0, None).map_err(|e| failure("limit", &e))? {
        Fork::Parent(_) => Ok(()),
        Fork::Child => {
            process::unblock_signals();
            let mut link = match become_helper(user, socket, tenant) {
                Ok(link) => link,
                Err(failure) => {
                    refuse(socket, &failure);
                    process::exit_now(1)
                }
            };
            let done = link.answer(request);
            process::exit_now(i32::from(done.is_err()))
        }
    }
}

fn become_helper(user: Option<&str>, socket: &OwnedFd, tenant: &Tenant) -> Result<Link, Failure> {
    let step = |e: io::Error| failure("confine", &e);
    tenant.stand_apart()?;
    tenant.become_user(user, None)?;
    only(&[socket.as_fd()]).map_err(step)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let link = Link::new(socket).map_err(step)?;
    tenant.filter_helper()?;
    Ok(link)
}

/// Answers in the helper's stead when there is none.
pub(crate) fn refuse(socket: &OwnedFd, failure: &Failure) {
    let code = match failure.step.as_str() {
        "user" => FileErrorCode::BadUser,
        _ => FileErrorCode::Interrupted,
    };
    let message = match failure.step.as_str() {
        "limit" => "the sandbox has no process left to do this (pids or memory limit)".to_owned(),
        _ => failure.message.clone(),
    };
    if let Ok(mut link) = Link::new(socket) {
        let end: Result<FileReply, FileError> = Err(FileError { code, message });
        // The server may have hung up; then nobody waits.
        let _ = link.send(Tag::End, &encode(&end));
    }
}

/// The stream socket to the server.
pub(crate) struct Link {
    reader: BufReader<File>,
    writer: File,
}

impl Link {
    pub(crate) fn new(socket: &OwnedFd) -> io::Result<Self> {
        let reader = BufReader::with_capacity(CHUNK, File::from(socket.try_clone()?));
        Ok(Self { reader, writer: File::from(socket.try_clone()?) })
    }

    /// Does what is asked and says how it ended.
    pub(crate) fn answer(&mut self, request: &FileRequest) -> io::Result<()> {
        let end = self.serve(request);
        self.send(Tag::End, &encode(&end))
    }

    pub(crate) fn send(&mut self, tag: Tag, payload: &[u8]) -> io::Result<()> {
        send_all(&self.writer, &encode_header(tag, payload.len()))?;
        send_all(&self.writer, payload)
    }

    /// The next frame of an upload: `Some` bytes, `None` at its end.
    pub(crate) fn data(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut header = [0; HEADER];
        self.reader.read_exact(&mut header)?;
        let (tag, length) = decode_header(header).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let mut payload = vec![0; length];
        self.reader.read_exact(&mut payload)?;
        match tag {
            Tag::Data => Ok(Some(payload)),
            Tag::Finish => Ok(None),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected frame")),
        }
    }

    fn serve(&mut self, request: &FileRequest) -> Result<FileReply, FileError> {
        match request {
            FileRequest::Read { path, offset, length } => self.read(clean(path)?, *offset, *length),
            FileRequest::Write { path, mode, append } => self.write(clean(path)?, *mode, *append),
            FileRequest::List { path, depth, limit } => self.list(clean(path)?, *depth, *limit),
            FileRequest::Stat { path } => entry_reply(clean(path)?),
            FileRequest::MakeDir { path } => make_dir(clean(path)?),
            FileRequest::Move { from, to } => rename(clean(from)?, clean(to)?),
            FileRequest::Remove { path, recursive } => remove(clean(path)?, *recursive),
            FileRequest::Pack { path } => archive::pack(self, clean(path)?),
            FileRequest::Unpack { path } => archive::unpack(self, clean(path)?),
        }
    }

    fn read(&mut self, path: &Path, offset: u64, length: Option<u64>) -> Result<FileReply, FileError> {
        let mut file = open_regular(path)?;
        let fail = |e: io::Error| error("read", path, &e);
        let mut left = length.unwrap_or(u64::MAX);
        if offset > file.metadata().map_err(fail)?.len() {
            // The kernel refuses places that no file reaches.
            left = 0;
        } else {
            file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        }
        let entry = entry(path).map_err(fail)?;
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = file.read(&mut buffer[..most]).map_err(|e| error("read", path, &e))?;
            if n == 0 {
                break;
            }
            self.send(Tag::Data, &buffer[..n]).map_err(|e| hung_up(&e))?;
            bytes += n as u64;
            left -= n as u64;
        }
        Ok(FileReply { bytes, entry: Some(entry), truncated: false })
    }

    fn write(&mut self, path: &Path, mode: Option<u32>, append: bool) -> Result<FileReply, FileError> {
        let mut target = Target::open(path, mode, append)?;
        let mut bytes = 0;
        loop {
            match self.data() {
                Ok(Some(chunk)) => {
                    if let Err(e) = target.file.write_all(&chunk) {
                        let found = error("write", path, &e);
                        target.undo(bytes + chunk.len() as u64);
                        // What the server still sends is read, so that it sees this answer and not a broken pipe.
                        while let Ok(Some(_)) = self.data() {}
                        return Err(found);
                    }
                    bytes += chunk.len() as u64;
                }
                Ok(None) => break,
                Err(e) => {
                    target.undo(bytes);
                    return Err(hung_up(&e));
                }
            }
        }
        let end = target.finish(path)?;
        let entry = entry(&end).map_err(|e| error("write", path, &e))?;
        Ok(FileReply { bytes, entry: Some(entry), truncated: false })
    }

    fn list(&mut self, path: &Path, depth: u32, limit: u32) -> Result<FileReply, FileError> {
        let mut left = limit;
        let complete = self.list_level(path, depth.max(1), &mut left)?;
        Ok(FileReply { bytes: 0, entry: None, truncated: !complete })
    }

    fn list_level(&mut self, path: &Path, depth: u32, left: &mut u32) -> Result<bool, FileError> {
        let mut found = Vec::new();
        for name in fs::read_dir(path).map_err(|e| error("list", path, &e))? {
            found.push(name.map_err(|e| error("list", path, &e))?.path());
            // Names of one directory are sorted in memory; a directory of millions is cut rather than swallowed whole.
            if found.len() > 1_000_000 {
                break;
            }
        }
        found.sort_unstable();
        for path in found {
            if *left == 0 {
                return Ok(false);
            }
            // Gone in between: a listing is a moment, not a promise.
            let Ok(entry) = entry(&path) else { continue };
            *left -= 1;
            self.send(Tag::Entry, &encode(&entry)).map_err(|e| hung_up(&e))?;
            if entry.kind == FileKind::Directory && depth > 1 {
                match self.list_level(&path, depth - 1, left) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    // A directory below that may not be read is listed, but not entered.
                    Err(e) if matches!(e.code, FileErrorCode::Denied | FileErrorCode::NotFound) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(true)
    }
}

/// A file being written: a temporary beside its target, or the target itself where it can only be written in place.
struct Target {
    file: File,
    temporary: Option<PathBuf>,
    real: PathBuf,
    /// Length before something is appended.
    before: Option<u64>,
}

impl Target {
    fn open(path: &Path, mode: Option<u32>, append: bool) -> Result<Self, FileError> {
        let fail = |e: io::Error| error("write", path, &e);
        // Through a link, the file it names is replaced, not the link.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let old = fs::metadata(&real).ok();
        if old.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(fail(io_error(libc::EISDIR)));
        }
        let parent = real.parent().unwrap_or(Path::new("/"));
        if old.is_none() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(fail)?;
        }
        // Set-user-id means nothing in a sandbox, and too much on a volume of the host.
        let mode = mode.map(|m| m & 0o1777);
        if append {
            let file = open_in_place(&real, mode.unwrap_or(0o644), true).map_err(fail)?;
            let before = file.metadata().ok().filter(fs::Metadata::is_file).map(|m| m.len());
            return Ok(Self { file, temporary: None, real, before });
        }
        let temporary = parent.join(format!(".csb-{:016x}.part", random()));
        match File::options().write(true).create_new(true).mode(0o600).open(&temporary) {
            Ok(file) => {
                let target = Self { file, temporary: Some(temporary), real, before: None };
                let bits = mode.or(old.map(|m| m.mode() & 0o1777)).unwrap_or(0o644);
                if let Err(e) = target.file.set_permissions(fs::Permissions::from_mode(bits)) {
                    let found = fail(e);
                    target.undo(0);
                    return Err(found);
                }
                Ok(target)
            }
            // The directory is not ours, but the file may be (or it is a device): written in place, not at once.
            Err(e) if old.is_some() && matches!(e.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM)) => {
                let file = open_in_place(&real, 0o644, false).map_err(fail)?;
                Ok(Self { file, temporary: None, real, before: None })
            }
            Err(e) => Err(fail(e)),
        }
    }

    fn finish(self, path: &Path) -> Result<PathBuf, FileError> {
        if let Some(temporary) = &self.temporary
            && let Err(e) = fs::rename(temporary, &self.real)
        {
            let found = error("write", path, &e);
            self.undo(0);
            return Err(found);
        }
        Ok(self.real)
    }

    /// Takes back what was written so far, at most so many bytes.
    fn undo(&self, written: u64) {
        // Unless somebody else appended as well.
        if let Some(before) = self.before
            && self.file.metadata().is_ok_and(|m| (before..=before + written).contains(&m.len()))
        {
            let _ = self.file.set_len(before);
        }
        if let Some(temporary) = &self.temporary {
            // Best effort: the sandbox's own processes may have moved it away.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn open_in_place(path: &Path, mode: u32, append: bool) -> io::Result<File> {
    // Never waits for a FIFO's reader.
    let how = if append { OFlags::APPEND } else { OFlags::TRUNC };
    let file = open_plain(path, OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | how, mode)?;
    refuse_proc(&file)?;
    Ok(file)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // A name that is taken fails `create_new`; it is no secret.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

/// Opens a file for reading without ever waiting, and only if it is a file of the sandbox: `/proc/self` here is the helper, whose
/// memory came from the warden.
pub(crate) fn open_regular(path: &Path) -> Result<File, FileError> {
    let fail = |e: io::Error| error("read", path, &e);
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open_plain(path, OFlags::RDONLY | flags, 0).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if meta.is_dir() {
        return Err(fail(io_error(libc::EISDIR)));
    }
    refuse_proc(&file).map_err(fail)?;
    if !meta.is_file() {
        return Err(not_regular(path));
    }
    Ok(file)
}

/// Opens, but through none of `/proc`'s links to what is open here: `/proc/self/exe` is this very program, on the host
/// (CVE-2019-5736).
fn open_plain(path: &Path, flags: OFlags, mode: u32) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let mode = Mode::from_raw_mode(mode);
    match rustix::fs::openat2(rustix::fs::CWD, path, flags, mode, resolve) {
        // gVisor's kernel, whose `/proc` shows no program of the host's.
        Err(rustix::io::Errno::NOSYS) => Ok(rustix::fs::open(path, flags, mode)?.into()),
        opened => Ok(opened?.into()),
    }
}

pub(crate) fn refuse_proc(file: &File) -> io::Result<()> {
    match rustix::fs::fstatfs(file) {
        Ok(stat) if stat.f_type == PROC_SUPER_MAGIC => Err(io::Error::new(io::ErrorKind::Unsupported, "a /proc file")),
        Ok(_) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn not_regular(path: &Path) -> FileError {
    let message = format!("cannot read `{}`: it is neither a regular file nor a directory", path.display());
    FileError { code: FileErrorCode::NotRegular, message }
}

fn make_dir(path: &Path) -> Result<FileReply, FileError> {
    let builder = |p: &Path| fs::DirBuilder::new().recursive(true).mode(0o755).create(p);
    builder(path).map_err(|e| error("make", path, &e))?;
    entry_reply(path)
}

fn rename(from: &Path, to: &Path) -> Result<FileReply, FileError> {
    match fs::rename(from, to) {
        Ok(()) => entry_reply(to),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            let message = format!("cannot move `{}`: `{}` is inside it", from.display(), to.display());
            Err(FileError { code: FileErrorCode::Inside, message })
        }
        Err(e) => Err(error("move", from, &e)),
    }
}

fn remove(path: &Path, recursive: bool) -> Result<FileReply, FileError> {
    let fail = |e: io::Error| error("remove", path, &e);
    let meta = fs::symlink_metadata(path).map_err(fail)?;
    let done = match (meta.is_dir(), recursive) {
        (false, _) => fs::remove_file(path),
        (true, false) => fs::remove_dir(path),
        (true, true) => fs::remove_dir_all(path),
    };
    done.map_err(fail)?;
    Ok(FileReply::default())
}

fn entry_reply(path: &Path) -> Result<FileReply, FileError> {
    let entry = entry(path).map_err(|e| error("stat", path, &e))?;
    Ok(FileReply { bytes: 0, entry: Some(entry), truncated: false })
}

/// What is at `path`, links not followed.
pub(crate) fn entry(path: &Path) -> io::Result<FileEntry> {
    let stat = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let target = match kind {
        FileKind::Symlink => fs::read_link(path).ok().map(|t| t.to_string_lossy().into_owned()),
        _ => None,
    };
    Ok(FileEntry {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        path: path.to_string_lossy().into_owned(),
        kind,
        size: stat.st_size as u64,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_ms: stat.st_mtime * 1000 + stat.st_mtime_nsec as i64 / 1_000_000,
        target,
    })
}

/// Refuses what is not a plain absolute path.
pub(crate) fn clean(path: &str) -> Result<&Path, FileError> {
    let bad = |why: &str| FileError { code: FileErrorCode::BadPath, message: format!("path is not valid: {why}") };
    if path.contains('\0') {
        return Err(bad("it holds a NUL"));
    }
    if path.len() >= MOST_PATH {
        return Err(bad("it is longer than 4095 bytes"));
    }
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(bad("it must be absolute, such as `/workspace/file`"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(bad("it holds `..`"));
    }
    Ok(path)
}

fn io_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

pub(crate) fn hung_up(error: &io::Error) -> FileError {
    FileError { code: FileErrorCode::Interrupted, message: format!("the connection ended: {error}") }
}

/// A kernel error in the API's words.
pub(crate) fn error(what: &str, path: &Path, error: &io::Error) -> FileError {
    use FileErrorCode as C;
    let code = match error.raw_os_error() {
        Some(libc::ENOENT) => C::NotFound,
        Some(libc::EACCES | libc::EPERM) => C::Denied,
        Some(libc::EEXIST) => C::Exists,
        Some(libc::EISDIR) => C::IsDirectory,
        Some(libc::ENOTDIR) => C::NotDirectory,
        Some(libc::ENOTEMPTY) => C::NotEmpty,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => C::DiskFull,
        Some(libc::EROFS) => C::ReadOnly,
        Some(libc::ENXIO | libc::ENODEV) => C::NotRegular,
        Some(libc::ELOOP) => C::LinkLoop,
        Some(libc::ENAMETOOLONG | libc::EINVAL) => C::BadPath,
        _ if error.kind() == io::ErrorKind::Unsupported => C::NotRegular,
        _ => C::Io,
    };
    FileError { code, message: format!("cannot {what} `{}`: {error}", path.display()) }
}

/// Writes everything to the socket; `MSG_NOSIGNAL`, as a reader that hung up is no reason to die.
fn send_all(socket: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(socket.as_fd(), bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_pass() {
        for bad in ["", "a", "./a", "/a/../b", "/..", "/a\0b", &format!("/{}", "a".repeat(5000))] {
            assert_eq!(clean(bad).unwrap_err().code, FileErrorCode::BadPath, "{bad:?}");
        }
        for good in ["/", "/a", "/a//b", "/a/./b", "/a/..b"] {
            assert!(clean(good).is_ok(), "{good}");
        }
    }
}
