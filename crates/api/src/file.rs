//! Files of a sandbox.

use crate::{Invalid, time_from_ms};
use csb_types::{FileEntry, FileKind};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEntryView {
    /// Last component of `path`.
    pub name: String,
    /// Absolute path in the sandbox.
    pub path: String,
    /// `file`, `directory`, `symlink` or `other`; a link is not followed.
    #[schema(value_type = String, example = "file")]
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits in octal.
    #[schema(example = "0644")]
    pub mode: String,
    /// Owner inside the sandbox.
    pub uid: u32,
    /// Group inside the sandbox.
    pub gid: u32,
    /// Last modification.
    #[serde(with = "crate::rfc3339")]
    pub modified_at: OffsetDateTime,
    /// Where a link points.
    pub target: Option<String>,
}

impl From<FileEntry> for FileEntryView {
    fn from(e: FileEntry) -> Self {
        Self {
            mode: format!("{:04o}", e.mode & 0o7777),
            modified_at: time_from_ms(e.modified_ms),
            name: e.name,
            path: e.path,
            kind: e.kind,
            size: e.size,
            uid: e.uid,
            gid: e.gid,
            target: e.target,
        }
    }
}

/// A directory's entries, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileListView {
    /// The entries.
    pub items: Vec<FileEntryView>,
    /// Whether there are more than `limit`.
    pub truncated: bool,
}

/// Makes a directory and its missing parents.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MkdirRequest {
    /// Absolute path.
    #[schema(example = "/workspace/data")]
    pub path: String,
    /// User inside the sandbox; default `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Renames a file or directory.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Absolute path now.
    pub from: String,
    /// Absolute path then; a file there is replaced.
    pub to: String,
    /// User inside the sandbox; default `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// An unpacked archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnpackView {
    /// Bytes of files that were written.
    pub bytes: u64,
}

/// Permission bits as `chmod` writes them: `644`, `0755`.
pub fn parse_mode(text: &str) -> Result<u32, Invalid> {
    let octal = (1..=5).contains(&text.len()) && text.bytes().all(|c| (b'0'..=b'7').contains(&c));
    octal
        .then(|| u32::from_str_radix(text, 8).ok())
        .flatten()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Invalid::new("mode is not valid: it is octal permission bits such as 644 or 0755"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("644"), Ok(0o644));
        assert_eq!(parse_mode("0755"), Ok(0o755));
        for bad in ["", "8", "rwx", "-1", "99999", "0o644", "100644"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }
}
