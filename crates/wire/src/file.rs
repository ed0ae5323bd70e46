//! Server ↔ file helper: a process inside the sandbox, with a sandboxed user's rights, that does one file operation.
//!
//! The stream socket carries frames of a header (tag, length as little-endian u32) and a payload. The server treats all it
//! receives as hostile: a frame past `MOST_FRAME` or of an unexpected tag ends the operation.
//!
//! ```text
//! Read, Pack     helper: Data* End
//! Write, Unpack  server: Data* Finish      helper: End   (a socket closed before Finish undoes the write)
//! List           helper: Entry* End
//! others         helper: End
//! ```

use csb_types::{FileEntry, FileError};
use serde::{Deserialize, Serialize};

/// Payload bytes of a data frame, as sent.
pub const CHUNK: usize = 256 * 1024;
/// Payload bytes of any frame, as accepted.
pub const MOST_FRAME: usize = 1024 * 1024;
/// Bytes of a frame's header.
pub const HEADER: usize = 5;

/// One file operation. Paths are absolute inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileRequest {
    /// Stream a regular file from `offset`, at most `length` bytes.
    Read {
        /// What.
        path: String,
        /// First byte.
        offset: u64,
        /// Most bytes; none: to the end.
        length: Option<u64>,
    },
    /// Replace a file's content at once (temporary file, then rename), or append to it. Missing parents are made.
    Write {
        /// What.
        path: String,
        /// Permission bits of a new file; none: 0644.
        mode: Option<u32>,
        /// Append in place instead of replacing.
        append: bool,
    },
    /// Entries of a directory, sorted by path.
    List {
        /// Which.
        path: String,
        /// How deep: 1 is the directory itself.
        depth: u32,
        /// Most entries; past it `FileReply::truncated` is set.
        limit: u32,
    },
    /// One entry; links are not followed.
    Stat {
        /// Which.
        path: String,
    },
    /// Make a directory and its missing parents; an existing directory is fine.
    MakeDir {
        /// Which.
        path: String,
    },
    /// Rename; replaces a file at `to`, never a directory that is not empty.
    Move {
        /// From.
        from: String,
        /// To.
        to: String,
    },
    /// Remove a file, a link or a directory.
    Remove {
        /// Which.
        path: String,
        /// With all below it.
        recursive: bool,
    },
    /// Stream a directory (or file) as a tar archive, names relative to it.
    Pack {
        /// Which.
        path: String,
    },
    /// Unpack a tar archive below a directory, which is made if absent. Links that lead out of it are refused.
    Unpack {
        /// Which.
        path: String,
    },
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// File or archive bytes.
    Data = 1,
    /// `Result<FileReply, FileError>`; the last frame.
    End = 2,
    /// All data was sent (server to helper).
    Finish = 3,
    /// One `FileEntry`.
    Entry = 4,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct FileReply {
    /// Bytes read or written.
    pub bytes: u64,
    /// The entry asked for, written, made or moved.
    pub entry: Option<FileEntry>,
    /// A listing stopped at its limit.
    pub truncated: bool,
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFrame {
    /// See `Tag::Data`.
    Data(Vec<u8>),
    /// See `Tag::End`.
    End(Result<FileReply, FileError>),
    /// See `Tag::Finish`.
    Finish,
    /// See `Tag::Entry`.
    Entry(FileEntry),
}

/// A header that no honest peer sends.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Not one of `Tag`.
    #[error("unknown frame tag {0}")]
    Tag(u8),
    /// Past `MOST_FRAME`.
    #[error("frame of {0} bytes")]
    Length(u32),
}

/// Header bytes of a frame.
pub fn encode_header(tag: Tag, length: usize) -> [u8; HEADER] {
    let l = (length as u32).to_le_bytes();
    [tag as u8, l[0], l[1], l[2], l[3]]
}

/// Tag and payload length of a header.
pub fn decode_header(header: [u8; HEADER]) -> Result<(Tag, usize), FrameError> {
    let tag = match header[0] {
        1 => Tag::Data,
        2 => Tag::End,
        3 => Tag::Finish,
        4 => Tag::Entry,
        other => return Err(FrameError::Tag(other)),
    };
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    if length as usize > MOST_FRAME {
        return Err(FrameError::Length(length));
    }
    Ok((tag, length as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_hostile_ones_are_refused() {
        assert_eq!(decode_header(encode_header(Tag::Data, CHUNK)), Ok((Tag::Data, CHUNK)));
        assert_eq!(decode_header([9, 0, 0, 0, 0]), Err(FrameError::Tag(9)));
        assert_eq!(decode_header([1, 0xff, 0xff, 0xff, 0xff]), Err(FrameError::Length(u32::MAX)));
    }

    #[test]
    fn a_cut_or_padded_frame_is_refused() {
        let bytes = crate::encode(&FileRequest::MakeDir { path: "/a".into() });
        assert!(crate::decode::<FileRequest>(&bytes).is_ok());
        assert!(crate::decode::<FileRequest>(&bytes[..bytes.len() - 1]).is_err());
        assert!(crate::decode::<FileRequest>(&[&bytes[..], &[0]].concat()).is_err());
    }
}
