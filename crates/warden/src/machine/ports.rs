//! Ports of virtio-serial, by name (`/sys/class/virtio-ports`).

use rustix::fs::{Mode, OFlags};
use std::{fs, io, os::fd::OwnedFd};

/// Opens a port for reading and writing; none while there is no such port. A host that reads nothing keeps nobody waiting.
pub(super) fn open(wanted: &str) -> io::Result<Option<OwnedFd>> {
    let entries = match fs::read_dir("/sys/class/virtio-ports") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == wanted) {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            return match rustix::fs::open(std::path::Path::new("/dev").join(entry.file_name()), flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => Ok(None),
                opened => Ok(Some(opened?)),
            };
        }
    }
    Ok(None)
}
