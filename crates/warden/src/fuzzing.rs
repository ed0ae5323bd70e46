//! What reads bytes of a tenant, opened to the fuzzer (feature `fuzzing`).
//! Confines nothing: the caller stands where a file helper would, as nobody, in a root directory of its own.

use crate::files::{self, Link};
use csb_wire::FileRequest;
use std::{io, os::fd::OwnedFd, path::Path};

/// One file operation, to its end; what the server sent is in the socket already, and its end is shut for writing.
pub fn file_operation(socket: &OwnedFd, request: &FileRequest) -> io::Result<()> {
    let mut link = Link::new(socket)?;
    link.answer(request)
}

/// The path, where the file helper would work with it.
pub fn clean(path: &str) -> Option<&Path> {
    files::clean(path).ok()
}
