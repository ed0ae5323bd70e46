//! Owns writing a directory as one file: a read-only file system image in the format EROFS, uncompressed.
//! Knows nothing of templates, and of who mounts it.
//!
//! Written here rather than by a `mkfs` program: no program in C reads a tree that a stranger made, nothing needs to be
//! installed, and progress, a full disk and a tree that changes meanwhile are told apart. Format:
//! <https://erofs.docs.kernel.org/en/latest/core_ondisk.html> and `fs/erofs/erofs_fs.h` of Linux.
//!
//! ```text
//! block 0                 superblock, at byte 1024
//! blocks 1 … m            contents of files and directories, each starting in a block of its own
//! blocks m+1 … end        inodes of 64 bytes, the root's first; short links right behind theirs
//! ```

use crate::directory::{Choice, Seen, walk};
use crate::error::ImportError;
use crate::layer::{Caps, owner};
use rustix::fs::{FileType, Stat};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Raised when this file writes the same tree differently, so that images made before are made again.
pub const VERSION: u32 = 1;

const BLOCK: usize = 4096;
const SUPERBLOCK: u64 = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
/// Inodes are addressed in units of this.
const SLOT: usize = 32;
const INODE: usize = 64;
/// A name's number, where it is in the block, its kind.
const DIRENT: usize = 12;
/// Contents in blocks of their own, or right behind the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Size of the image.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

/// Writes all below `from` into `image`, an empty file. Owners, modes without set-user-id, times, links and hard links are kept;
/// extended attributes, devices and sockets are not, and other file systems mounted below are not entered. `progress` hears the
/// bytes written so far.
pub fn write(
    from: &Path,
    image: &File,
    uuid: [u8; 16],
    caps: Caps,
    progress: &mut dyn FnMut(u64),
) -> Result<Written, ImportError> {
    let top =
        rustix::fs::stat(from).map_err(|error| ImportError::Open { path: from.to_path_buf(), source: error.into() })?;
    let mut out = BufWriter::with_capacity(1 << 20, image);
    out.seek(SeekFrom::Start(BLOCK as u64)).map_err(|source| failed(from, source))?;
    let mut writer = Writer {
        out,
        block: 1,
        // Slot 0 stays free: to many a program an inode with number 0 is none.
        meta: vec![0; INODE],
        files: HashMap::new(),
        open: Vec::new(),
        entries: 1,
        caps,
        progress,
    };
    let slot = writer.slot(INODE);
    writer.open.push(Directory::new(PathBuf::new(), slot, top));
    walk(from, &mut |seen| writer.entry(seen))?;
    writer.close_down_to(Path::new("\0"))?;
    writer.finish(from, uuid)
}

fn failed(path: &Path, source: io::Error) -> ImportError {
    ImportError::Write { path: path.to_path_buf(), source }
}

/// A directory whose entries are being collected.
struct Directory {
    path: PathBuf,
    slot: usize,
    stat: Stat,
    /// Name, inode number, kind.
    names: Vec<(Vec<u8>, u64, u8)>,
    directories: u32,
}

impl Directory {
    fn new(path: PathBuf, slot: usize, stat: Stat) -> Self {
        Self { path, slot, stat, names: Vec::new(), directories: 0 }
    }
}

/// Where contents are.
struct Place {
    layout: u16,
    block: u32,
    size: u64,
}

struct Writer<'a> {
    out: BufWriter<&'a File>,
    /// The next free block.
    block: u64,
    meta: Vec<u8>,
    /// Slot of each file with several names, and how many were seen.
    files: HashMap<(u64, u64), (usize, u32)>,
    /// From the root to where the walk is.
    open: Vec<Directory>,
    entries: u64,
    caps: Caps,
    progress: &'a mut dyn FnMut(u64),
}

impl Writer<'_> {
    /// Room for an inode and what lies behind it, none of it across the end of a block.
    fn slot(&mut self, length: usize) -> usize {
        let used = self.meta.len() % BLOCK;
        if used + length > BLOCK {
            self.meta.resize(self.meta.len() + BLOCK - used, 0);
        }
        let slot = self.meta.len();
        self.meta.resize((slot + length).next_multiple_of(SLOT), 0);
        slot
    }

    fn entry(&mut self, seen: &Seen<'_>) -> Result<Choice, ImportError> {
        self.close_down_to(seen.path.parent().unwrap_or(Path::new("")))?;
        self.entries += 1;
        if self.entries > self.caps.entries {
            return Err(ImportError::TooMany { limit: self.caps.entries });
        }
        let (slot, kind) = match seen.kind() {
            FileType::Directory => {
                let slot = self.slot(INODE);
                self.open.push(Directory::new(seen.path.to_path_buf(), slot, *seen.stat));
                (slot, 2)
            }
            FileType::RegularFile => (self.file(seen)?, 1),
            FileType::Symlink => (self.symlink(seen)?, 7),
            FileType::Fifo => {
                let slot = self.slot(INODE);
                self.inode(slot, seen.stat, 1, &Place { layout: PLAIN, block: 0, size: 0 });
                (slot, 5)
            }
            _ => {
                self.entries -= 1;
                return Ok(Choice::Leave);
            }
        };
        let depth = self.open.len() - 1 - usize::from(kind == 2);
        let parent = &mut self.open[depth];
        parent.names.push((seen.name.as_bytes().to_vec(), number(slot), kind));
        parent.directories += u32::from(kind == 2);
        Ok(Choice::Take)
    }

    fn file(&mut self, seen: &Seen<'_>) -> Result<usize, ImportError> {
        let key = (seen.stat.st_dev, seen.stat.st_ino);
        if seen.stat.st_nlink > 1
            && let Some((slot, names)) = self.files.get_mut(&key)
        {
            *names += 1;
            let (slot, names) = (*slot, *names);
            self.meta[slot + 44..slot + 48].copy_from_slice(&names.to_le_bytes());
            return Ok(slot);
        }
        let (mut file, now) = seen.open_regular()?;
        let size = now.st_size as u64;
        let block = self.address(seen.path)?;
        let mut left = size;
        let mut buffer = vec![0; left.clamp(1, 256 << 10) as usize];
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            let read_failed = |source| ImportError::Read { path: seen.path.to_path_buf(), source };
            match file.read(&mut buffer[..most]) {
                Ok(0) => {
                    let path = seen.path.to_path_buf();
                    return Err(ImportError::Entry { path, problem: "it changed while it was read" });
                }
                Ok(length) => {
                    self.out.write_all(&buffer[..length]).map_err(|source| failed(seen.path, source))?;
                    left -= length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_failed(error)),
            }
        }
        self.pad(seen.path, size)?;
        let slot = self.slot(INODE);
        self.inode(slot, &now, 1, &Place { layout: PLAIN, block: if size == 0 { 0 } else { block }, size });
        if now.st_nlink > 1 {
            self.files.insert(key, (slot, 1));
        }
        Ok(slot)
    }

    fn symlink(&mut self, seen: &Seen<'_>) -> Result<usize, ImportError> {
        let target = seen.target()?.into_os_string().into_vec();
        let size = target.len() as u64;
        if INODE + target.len() <= BLOCK {
            let slot = self.slot(INODE + target.len());
            self.inode(slot, seen.stat, 1, &Place { layout: INLINE, block: 0, size });
            self.meta[slot + INODE..slot + INODE + target.len()].copy_from_slice(&target);
            return Ok(slot);
        }
        let block = self.contents(seen.path, &target)?;
        let slot = self.slot(INODE);
        self.inode(slot, seen.stat, 1, &Place { layout: PLAIN, block, size });
        Ok(slot)
    }

    /// Writes out every directory that the walk has left for `path`.
    fn close_down_to(&mut self, path: &Path) -> Result<(), ImportError> {
        while self.open.last().is_some_and(|last| last.path != path) {
            let Some(mut done) = self.open.pop() else { break };
            let above = self.open.last().map_or(done.slot, |above| above.slot);
            done.names.push((b".".to_vec(), number(done.slot), 2));
            done.names.push((b"..".to_vec(), number(above), 2));
            done.names.sort();
            let contents = directory(&done.names);
            let size = contents.len() as u64;
            let block = self.contents(&done.path, &contents)?;
            self.inode(done.slot, &done.stat, 2 + done.directories, &Place { layout: PLAIN, block, size });
        }
        Ok(())
    }

    /// The next free block, as inodes name it.
    fn address(&self, path: &Path) -> Result<u32, ImportError> {
        u32::try_from(self.block).map_err(|_| failed(path, io::ErrorKind::FileTooLarge.into()))
    }

    fn contents(&mut self, path: &Path, bytes: &[u8]) -> Result<u32, ImportError> {
        let block = self.address(path)?;
        self.out.write_all(bytes).map_err(|source| failed(path, source))?;
        self.pad(path, bytes.len() as u64)?;
        Ok(block)
    }

    /// Fills the last block of what was written.
    fn pad(&mut self, path: &Path, size: u64) -> Result<(), ImportError> {
        let rest = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        self.out.write_all(&[0; BLOCK][..rest]).map_err(|source| failed(path, source))?;
        self.block += size.div_ceil(BLOCK as u64);
        let bytes = self.block * BLOCK as u64;
        if bytes > self.caps.bytes {
            return Err(ImportError::TooLarge { limit: self.caps.bytes });
        }
        (self.progress)(bytes);
        Ok(())
    }

    /// `struct erofs_inode_extended`.
    fn inode(&mut self, slot: usize, stat: &Stat, links: u32, place: &Place) {
        let (uid, gid) = owner(stat.st_uid, stat.st_gid);
        // No program of an image gives anyone more than they have.
        let mode = (stat.st_mode & 0o170_000) | (stat.st_mode & 0o1777);
        let mut field = |at: usize, bytes: &[u8]| self.meta[slot + at..slot + at + bytes.len()].copy_from_slice(bytes);
        field(0, &(1 | place.layout << 1).to_le_bytes());
        field(4, &(mode as u16).to_le_bytes());
        field(8, &place.size.to_le_bytes());
        field(16, &place.block.to_le_bytes());
        field(20, &(number(slot) as u32).to_le_bytes());
        field(24, &uid.as_raw().to_le_bytes());
        field(28, &gid.as_raw().to_le_bytes());
        field(32, &stat.st_mtime.to_le_bytes());
        field(40, &(stat.st_mtime_nsec as u32).to_le_bytes());
        field(44, &links.to_le_bytes());
    }

    /// Writes the inodes and, last, what makes it an image.
    fn finish(mut self, from: &Path, uuid: [u8; 16]) -> Result<Written, ImportError> {
        let first = self.address(from)?;
        let inodes = std::mem::take(&mut self.meta);
        self.contents(from, &inodes)?;
        let blocks = self.address(from)?;
        let mut superblock = [0; 128];
        let mut field = |at: usize, bytes: &[u8]| superblock[at..at + bytes.len()].copy_from_slice(bytes);
        field(0, &MAGIC.to_le_bytes());
        field(12, &[BLOCK.trailing_zeros() as u8]);
        field(14, &(number(INODE) as u16).to_le_bytes());
        field(16, &self.entries.to_le_bytes());
        field(36, &blocks.to_le_bytes());
        field(40, &first.to_le_bytes());
        field(48, &uuid);
        let file = self.out.into_inner().map_err(|error| failed(from, error.into_error()))?;
        file.write_all_at(&superblock, SUPERBLOCK).map_err(|source| failed(from, source))?;
        Ok(Written { bytes: u64::from(blocks) * BLOCK as u64, entries: self.entries })
    }
}

fn number(slot: usize) -> u64 {
    (slot / SLOT) as u64
}

/// Blocks of entries, sorted by name over all of them: the kernel searches them.
fn directory(names: &[(Vec<u8>, u64, u8)]) -> Vec<u8> {
    let mut contents = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = rest.iter().take_while(|(name, ..)| {
            used += DIRENT + name.len();
            used <= BLOCK
        });
        let (these, others) = rest.split_at(fits.count());
        // Only the last block ends where its last name does.
        contents.resize(contents.len().next_multiple_of(BLOCK), 0);
        let mut at = these.len() * DIRENT;
        for (name, number, kind) in these {
            contents.extend_from_slice(&number.to_le_bytes());
            contents.extend_from_slice(&(at as u16).to_le_bytes());
            contents.extend_from_slice(&[*kind, 0]);
            at += name.len();
        }
        these.iter().for_each(|(name, ..)| contents.extend_from_slice(name));
        rest = others;
    }
    contents
}

#[cfg(test)]
mod tests;
