//! Owns reading tar archives, plain or compressed, into a layer.
//! Knows nothing of templates.
//!
//! The `tar` crate is asked for raw entries only: it would otherwise read a long name of any length into memory. Long
//! names and pax records are read here, with a limit.

use crate::error::ImportError;
use crate::layer::{Layer, Meta};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tar::{Archive, Entry, EntryType, Header, PaxExtensions};

/// `PATH_MAX` twice over (a path and its link's target in one pax header), with room for times and owners.
const LONGEST_EXTENSION: u64 = 16 * 1024;

/// What an archive held that a layer does not take.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// Device files and sockets.
    pub specials: u64,
}

/// Reads the whole archive into the layer.
pub fn import(layer: &mut Layer, reader: impl Read) -> Result<Skipped, ImportError> {
    let failed = |source| ImportError::Archive { source };
    let mut archive = Archive::new(decompressed(reader)?);
    let mut skipped = Skipped::default();
    let mut next = Extensions::default();
    let mut any = false;
    for entry in archive.entries().map_err(failed)?.raw(true) {
        let mut entry = entry.map_err(failed)?;
        any = true;
        match entry.header().entry_type() {
            EntryType::GNULongName => next.path = Some(bytes_to_path(long_name(&mut entry)?)),
            EntryType::GNULongLink => next.link = Some(bytes_to_path(long_name(&mut entry)?)),
            EntryType::XHeader => next.read_pax(&mut entry)?,
            // Defaults for all that follows (git's commit id): nothing that a layer needs.
            EntryType::XGlobalHeader => {}
            _ => one(layer, &mut entry, std::mem::take(&mut next), &mut skipped)?,
        }
    }
    if !any {
        // An empty file is what an interrupted download leaves; an empty archive is two blocks of zeros, and no template.
        return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "there is nothing in it")));
    }
    Ok(skipped)
}

fn one<R: Read>(
    layer: &mut Layer,
    entry: &mut Entry<'_, R>,
    extensions: Extensions,
    skipped: &mut Skipped,
) -> Result<(), ImportError> {
    let header = entry.header().clone();
    let path = extensions.path.unwrap_or_else(|| bytes_to_path(header.path_bytes().into_owned()));
    let link = extensions.link.or_else(|| header.link_name_bytes().map(|link| bytes_to_path(link.into_owned())));
    let refuse = |problem| Err(ImportError::Entry { path: path.clone(), problem });
    if extensions.sparse || header.entry_type() == EntryType::GNUSparse {
        return refuse("it is stored as a sparse file; make the archive without --sparse");
    }
    let size = entry.size();
    if extensions.size.is_some_and(|pax| pax != size) {
        // Readers differ in which of the two they believe, and so in where the next entry starts.
        return refuse("its two sizes differ; make the archive with --format=gnu");
    }
    let meta = meta(&header, extensions.modified, extensions.uid, extensions.gid)
        .map_err(|source| ImportError::Archive { source })?;
    let target = || {
        let refused = ImportError::Entry { path: path.clone(), problem: "the link leads nowhere" };
        link.as_deref().filter(|link| !link.as_os_str().is_empty()).ok_or(refused)
    };
    match header.entry_type() {
        // Before POSIX a directory was a file with a slash at the end of its name.
        EntryType::Regular if header.path_bytes().ends_with(b"/") => layer.directory(&path, meta),
        EntryType::Regular | EntryType::Continuous => layer.file(&path, meta, size, entry),
        EntryType::Directory => layer.directory(&path, meta),
        EntryType::Symlink => layer.symlink(&path, target()?, meta),
        EntryType::Link => layer.hard_link(&path, target()?),
        EntryType::Fifo => layer.fifo(&path, meta),
        EntryType::Char | EntryType::Block => {
            skipped.specials += 1;
            Ok(())
        }
        // A volume's label names no file.
        other if other.as_byte() == b'V' => Ok(()),
        _ => refuse("it is of a kind that only the tar that made it knows"),
    }
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    path: Option<PathBuf>,
    link: Option<PathBuf>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, u32)>,
    sparse: bool,
}

impl Extensions {
    fn read_pax<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), ImportError> {
        let bytes = extension(entry)?;
        for record in PaxExtensions::new(&bytes) {
            let record = record.map_err(|source| ImportError::Archive { source })?;
            let value = record.value_bytes();
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match record.key_bytes() {
                b"path" => self.path = Some(bytes_to_path(value.to_vec())),
                b"linkpath" => self.link = Some(bytes_to_path(value.to_vec())),
                b"size" => self.size = number(),
                b"uid" => self.uid = number(),
                b"gid" => self.gid = number(),
                b"mtime" => self.modified = std::str::from_utf8(value).ok().and_then(pax_time),
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// `1700000000.123456789`; before 1970 with a minus.
fn pax_time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let whole: i64 = seconds.parse().ok()?;
    match (seconds.starts_with('-'), nanos) {
        (true, 1..) => Some((whole.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((whole, nanos)),
    }
}

fn meta(header: &Header, modified: Option<(i64, u32)>, uid: Option<u64>, gid: Option<u64>) -> io::Result<Meta> {
    // Larger than 32 bits is larger than any sandbox's range: it ends as nobody's in the layer.
    let id = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let modified = match modified {
        Some(exact) => exact,
        None => (i64::try_from(header.mtime()?).unwrap_or(0), 0),
    };
    Ok(Meta {
        mode: header.mode()?,
        uid: id(uid.map_or_else(|| header.uid(), Ok)?),
        gid: id(gid.map_or_else(|| header.gid(), Ok)?),
        modified: Some(modified),
    })
}

fn extension<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, ImportError> {
    let size = entry.size();
    if size > LONGEST_EXTENSION {
        let path = bytes_to_path(entry.header().path_bytes().into_owned());
        return Err(ImportError::Entry { path, problem: "its name or its description is longer than any path can be" });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    entry.take(size).read_to_end(&mut bytes).map_err(|source| ImportError::Archive { source })?;
    Ok(bytes)
}

/// GNU long names end in a NUL.
fn long_name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, ImportError> {
    let mut bytes = extension(entry)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn bytes_to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Finds out the compression by its first bytes; a name says little about a stream.
fn decompressed<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImportError> {
    let failed = |source| ImportError::Archive { source };
    let mut reader = BufReader::with_capacity(128 * 1024, reader);
    let start = reader.fill_buf().map_err(failed)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(reader).map_err(failed)?;
            // 128 MiB of memory at most, whatever window the archive asks for.
            decoder.window_log_max(27).map_err(failed)?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(ImportError::Compression { found: "xz" }),
        [b'B', b'Z', b'h', ..] => return Err(ImportError::Compression { found: "bzip2" }),
        [b'P', b'K', 3, 4, ..] => return Err(ImportError::Compression { found: "zip" }),
        _ => Box::new(reader),
    })
}

#[cfg(test)]
mod tests {
    use super::pax_time;

    #[test]
    fn pax_times_have_fractions_and_may_lie_before_1970() {
        assert_eq!(pax_time("1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(pax_time("12"), Some((12, 0)));
        assert_eq!(pax_time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(pax_time("1.123456789999"), Some((1, 123_456_789)));
        assert_eq!((pax_time("x"), pax_time("1.x"), pax_time("")), (None, None, None));
    }
}
