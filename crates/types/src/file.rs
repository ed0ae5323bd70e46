//! Files of a sandbox as the API shows them.

use serde::{Deserialize, Serialize};

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device.
    Other,
}

/// One file or directory. Names that are not UTF-8 are shown with U+FFFD in place of the bad bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Last component of `path`.
    pub name: String,
    /// Absolute path in the sandbox.
    pub path: String,
    /// What it is; a link is not followed.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner inside the sandbox.
    pub uid: u32,
    /// Group inside the sandbox.
    pub gid: u32,
    /// Last modification, ms since 1970.
    pub modified_ms: i64,
    /// Where a link points.
    pub target: Option<String>,
}

/// Why a file operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileErrorCode {
    /// No such path.
    NotFound,
    /// The sandbox's user may not do that.
    Denied,
    /// It exists already.
    Exists,
    /// A directory where a file was expected.
    IsDirectory,
    /// A file where a directory was expected.
    NotDirectory,
    /// Not empty, and removal was not recursive.
    NotEmpty,
    /// Disk, inode or memory limit of the sandbox.
    DiskFull,
    /// The path is malformed: relative, too long, holds a NUL or `..`.
    BadPath,
    /// A read-only part of the file system.
    ReadOnly,
    /// Neither a regular file nor a directory (FIFO, socket, device, `/proc` file).
    NotRegular,
    /// Too many links on the way (a loop).
    LinkLoop,
    /// The archive is malformed or holds what may not be unpacked.
    BadArchive,
    /// The helper process was killed or stopped answering.
    Interrupted,
    /// Anything else; `message` has the kernel's words.
    Io,
    /// The sandbox is paused: no process of it can do the work.
    Paused,
    /// The sandbox ended before the operation did.
    Gone,
    /// A workspace that outlives its sandbox would hold more than it may.
    QuotaExceeded,
    /// There is no such user in the sandbox.
    BadUser,
    /// A directory was to be moved to a place inside it.
    Inside,
}

/// A failed file operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct FileError {
    /// Stable code.
    pub code: FileErrorCode,
    /// What failed, with the path.
    pub message: String,
}
