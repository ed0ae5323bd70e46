//! Directories as tar streams, packed and unpacked inside the sandbox by the file helper, with the sandbox user's rights.

use crate::files::{Link, entry, error, hung_up};
use csb_types::{FileError, FileErrorCode};
use csb_wire::{CHUNK, FileReply, Tag};
use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

/// Sends `path` as an archive: a directory's content with names relative to it, or one file under its own name.
pub(crate) fn pack(link: &mut Link, path: &Path) -> Result<FileReply, FileError> {
    let fail = |e: &io::Error| error("pack", path, e);
    let meta = fs::metadata(path).map_err(|e| fail(&e))?;
    let mut out = Sender { link, buffer: Vec::with_capacity(CHUNK), bytes: 0 };
    let done = (|| {
        let mut builder = tar::Builder::new(&mut out);
        builder.follow_symlinks(false);
        builder.sparse(false);
        if meta.is_dir() {
            pack_directory(&mut builder, path, Path::new(""))?;
        } else {
            let name = path.file_name().unwrap_or_default().to_owned();
            pack_one(&mut builder, path, Path::new(&name))?;
        }
        builder.finish()
    })();
    done.and_then(|()| out.send()).map_err(|e| fail(&e))?;
    let bytes = out.bytes;
    Ok(FileReply { bytes, entry: entry(path).ok(), truncated: false })
}

fn pack_directory<W: Write>(builder: &mut tar::Builder<W>, path: &Path, name: &Path) -> io::Result<()> {
    let mut found: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
    found.sort_unstable_by_key(fs::DirEntry::file_name);
    for item in found {
        pack_one(builder, &item.path(), &name.join(item.file_name()))?;
    }
    Ok(())
}

fn pack_one<W: Write>(builder: &mut tar::Builder<W>, path: &Path, name: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        // Gone in between: an archive of a live directory is a moment, not a promise.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if meta.is_dir() {
        builder.append_dir(name, path)?;
        return pack_directory(builder, path, name);
    }
    if meta.is_symlink() {
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        return builder.append_link(&mut header, name, fs::read_link(path)?);
    }
    if !meta.is_file() {
        // FIFOs, sockets and devices have no content to carry.
        return Ok(());
    }
    let file = match crate::files::open_regular(path) {
        Ok(file) => file,
        Err(e) if matches!(e.code, FileErrorCode::NotFound | FileErrorCode::NotRegular) => return Ok(()),
        Err(e) => return Err(io::Error::other(e.message)),
    };
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
    let mut archive = tar::Archive::new(input);
    archive.set_preserve_permissions(true);
    // Set-user-id means nothing in a sandbox, and too much on a volume of the host.
    archive.set_mask(0o6000);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    // Ids in an archive are somebody else's; files belong to the user who unpacks.
    archive.set_preserve_ownerships(false);
    let mut written = 0;
    for item in archive.entries().map_err(|e| bad(&e))? {
        let mut item = item.map_err(|e| bad(&e))?;
        let name = item.path().map_err(|e| bad(&e))?.into_owned();
        let kind = item.header().entry_type();
        let carried =
            kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link() || kind.is_gnu_sparse();
        if !carried {
            continue;
        }
        let size = if kind.is_file() || kind.is_gnu_sparse() { item.size() } else { 0 };
        // `unpack_in` keeps names below `path` and tells when it skipped one that would leave it.
        let inside = item.unpack_in(path).map_err(|e| match errno(&e) {
            Some(errno) => error("unpack", &path.join(&name), &io::Error::from_raw_os_error(errno)),
            None => bad(&e),
        })?;
        if !inside {
            let message = format!("the archive holds `{}`, which leads out of the directory", name.display());
            return Err(FileError { code: FileErrorCode::BadArchive, message });
        }
        written += size;
    }
    Ok(written)
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
