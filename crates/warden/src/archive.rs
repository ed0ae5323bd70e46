//! Directories as tar streams, packed and unpacked inside the sandbox by the file helper, with the sandbox user's rights.

use crate::{
    beneath::{Beneath, plain, times},
    files::{Link, entry, error, hung_up, refuse_proc},
};
use csb_types::{FileError, FileErrorCode};
use csb_wire::{CHUNK, FileReply, Tag};
use rustix::fs::{Mode, OFlags};
use std::{
    ffi::{CStr, OsStr},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::Path,
};

/// Sends `path` as an archive: a directory's content with names relative to it, or one file under its own name.
pub(crate) fn pack(link: &mut Link, path: &Path) -> Result<FileReply, FileError> {
    let fail = |e: &io::Error| error("pack", path, e);
    let meta = fs::metadata(path).map_err(|e| fail(&e))?;
    let mut out = Sender { link, buffer: Vec::with_capacity(CHUNK), bytes: 0 };
    let done = (|| {
        let mut builder = tar::Builder::new(&mut out);
        builder.sparse(false);
        if meta.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            pack_directory(&mut builder, &rustix::fs::open(path, flags, Mode::empty())?, Path::new(""))?;
        } else {
            // `path` may end in a link; the file that it names goes under the link's name.
            let file = crate::files::open_regular(path).map_err(|e| io::Error::other(e.message))?;
            pack_file(&mut builder, file, Path::new(path.file_name().unwrap_or_default()))?;
        }
        builder.finish()
    })();
    done.and_then(|()| out.send()).map_err(|e| fail(&e))?;
    let bytes = out.bytes;
    Ok(FileReply { bytes, entry: entry(path).ok(), truncated: false })
}

/// What changes meanwhile is packed as it was or is, or left out, but nothing from elsewhere: every step goes from a directory
/// that is open to a name in it, through no link.
fn pack_directory<W: Write>(builder: &mut tar::Builder<W>, directory: &OwnedFd, name: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for item in rustix::fs::Dir::read_from(directory)? {
        let item = item?;
        if ![c".", c".."].contains(&item.file_name()) {
            found.push(item.file_name().to_owned());
        }
    }
    found.sort_unstable();
    for item in found {
        let name = name.join(OsStr::from_bytes(item.to_bytes()));
        match pack_one(builder, directory, &item, &name) {
            // Gone, or another kind of thing by now: an archive of a live directory is a moment, not a promise.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO)) => {}
            other => other?,
        }
    }
    Ok(())
}

fn pack_one<W: Write>(builder: &mut tar::Builder<W>, parent: &OwnedFd, item: &CStr, name: &Path) -> io::Result<()> {
    let open = |at: &OwnedFd, item: &CStr, flags: OFlags| {
        rustix::fs::openat(at, item, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let it = open(parent, item, OFlags::PATH)?;
    let meta = File::from(it.try_clone()?).metadata()?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&meta);
    if meta.is_dir() {
        let directory = open(&it, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        builder.append_data(&mut header, name, io::empty())?;
        pack_directory(builder, &directory, name)
    } else if meta.is_symlink() {
        let target = rustix::fs::readlinkat(&it, c"", Vec::new())?;
        builder.append_link(&mut header, name, OsStr::from_bytes(target.to_bytes()))
    } else if meta.is_file() {
        let file = File::from(open(parent, item, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        match file.metadata()?.is_file() && refuse_proc(&file).is_ok() {
            true => pack_file(builder, file, name),
            false => Ok(()),
        }
    } else {
        // FIFOs, sockets and devices have no content to carry.
        Ok(())
    }
}

fn pack_file<W: Write>(builder: &mut tar::Builder<W>, file: File, name: &Path) -> io::Result<()> {
    let meta = file.metadata()?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&meta);
    // A file that shrinks while it is read is filled up with zeros, one that grows is cut: the header went out first.
    let exact = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
    builder.append_data(&mut header, name, exact)
}

/// Unpacks the archive that the server sends below `path`.
pub(crate) fn unpack(link: &mut Link, path: &Path) -> Result<FileReply, FileError> {
    fs::create_dir_all(path).map_err(|e| error("unpack into", path, &e))?;
    let mut input = Receiver { link, chunk: Vec::new(), at: 0, ended: false, lost: None };
    let done = unpack_from(&mut input, path);
    if let Some(lost) = &input.lost {
        return Err(hung_up(lost));
    }
    // The rest, padding included, is read, so that the server sees this answer and not a broken pipe.
    let rest = io::copy(&mut input, &mut io::sink());
    let bytes = done?;
    rest.map_err(|e| hung_up(&e))?;
    Ok(FileReply { bytes, entry: entry(path).ok(), truncated: false })
}

/// Bytes of files that were written.
fn unpack_from(input: &mut Receiver<'_>, path: &Path) -> Result<u64, FileError> {
    let bad = |e: &io::Error| match e.raw_os_error() {
        Some(_) => error("unpack into", path, e),
        None => FileError { code: FileErrorCode::BadArchive, message: format!("the archive cannot be unpacked: {e}") },
    };
    let outside = |name: &Path| {
        let message = format!("the archive holds `{}`, which leads out of the directory", name.display());
        FileError { code: FileErrorCode::BadArchive, message }
    };
    let below = Beneath::new(path).map_err(|e| error("unpack into", path, &e))?;
    let mut archive = tar::Archive::new(input);
    let mut written = 0;
    for item in archive.entries().map_err(|e| bad(&e))? {
        let mut item = item.map_err(|e| bad(&e))?;
        let name = item.path().map_err(|e| bad(&e))?.into_owned();
        let plain = plain(&name).ok_or_else(|| outside(&name))?;
        if !plain.as_os_str().is_empty() {
            written += unpack_one(&mut item, &below, &plain).map_err(|e| match errno(&e) {
                Some(libc::EXDEV) => outside(&name),
                Some(errno) => error("unpack", &path.join(&plain), &io::Error::from_raw_os_error(errno)),
                None => bad(&e),
            })?;
        }
    }
    Ok(written)
}

/// Bytes of the file that was written. Ids in an archive are somebody else's: files belong to the user who unpacks.
fn unpack_one<R: Read>(item: &mut tar::Entry<'_, R>, below: &Beneath, name: &Path) -> io::Result<u64> {
    let kind = item.header().entry_type();
    // Set-user-id means nothing in a sandbox, and too much on a volume of the host.
    let mode = item.header().mode().ok().map(|mode| mode & 0o1777);
    let modified = item.header().mtime().ok();
    // Archives of before 1988 have no kind for directories.
    let directory =
        kind.is_dir() || (kind.is_file() && item.header().as_ustar().is_none() && item.path_bytes().ends_with(b"/"));
    if directory {
        below.directory(name)?;
        mode.map_or(Ok(()), |mode| below.set_mode(name, mode))?;
    } else if kind.is_symlink() || kind.is_hard_link() {
        let target = item.link_name()?.filter(|target| !target.as_os_str().is_empty());
        let target = target.ok_or_else(|| io::Error::other(format!("the link `{}` names nothing", name.display())))?;
        match kind.is_symlink() {
            true => below.symlink(name, &target, modified)?,
            false => {
                below.hard_link(name, &plain(&target).ok_or_else(|| io::Error::from_raw_os_error(libc::EXDEV))?)?
            }
        }
    } else if kind.is_file() || kind.is_gnu_sparse() {
        let mut file = below.file(name)?;
        let bytes = io::copy(item, &mut file)?;
        if let Some(modified) = modified {
            rustix::fs::futimens(&file, &times(modified))?;
        }
        mode.map_or(Ok(()), |mode| file.set_permissions(fs::Permissions::from_mode(mode)))?;
        return Ok(bytes);
    }
    Ok(0)
}

/// The kernel's answer behind an error, which `tar` wraps once for each thing it was doing.
fn errno(error: &io::Error) -> Option<i32> {
    let mut found = error.raw_os_error();
    let mut cause = std::error::Error::source(error);
    while let (None, Some(inner)) = (found, cause) {
        found = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        cause = inner.source();
    }
    found
}

struct Sender<'a> {
    link: &'a mut Link,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Sender<'_> {
    fn send(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.link.send(Tag::Data, &self.buffer)?;
            self.bytes += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Receiver<'a> {
    link: &'a mut Link,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
    lost: Option<io::Error>,
}

impl Read for Receiver<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            match self.link.data() {
                Ok(Some(chunk)) => {
                    (self.chunk, self.at) = (chunk, 0);
                }
                Ok(None) => self.ended = true,
                Err(e) => {
                    self.ended = true;
                    self.lost = Some(io::Error::new(e.kind(), e.to_string()));
                    return Err(e);
                }
            }
        }
        let n = into.len().min(self.chunk.len() - self.at);
        into[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
