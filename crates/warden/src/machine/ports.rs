//! Ports towards the host: of virtio-serial, by name (`/sys/class/virtio-ports`), or of vsock, by number. Which ones there are
//! depends on the VMM.

use csb_relay::Channel;
use csb_sys::vsock::{self, Listener};
use rustix::fs::{Mode, OFlags};
use std::{fs, io, os::fd::OwnedFd};

/// One that was found.
pub(super) enum Port {
    Serial(OwnedFd),
    Vsock(Listener),
}

impl From<Port> for Channel {
    fn from(port: Port) -> Self {
        match port {
            Port::Serial(fd) => Self::Port(fd),
            Port::Vsock(listener) => Self::Vsock(listener),
        }
    }
}

/// Opens a port for reading and writing; none while there is no such port. A host that reads nothing keeps nobody waiting.
pub(super) fn open(name: &str, number: u32) -> io::Result<Option<Port>> {
    if let Some(port) = serial(name)? {
        return Ok(Some(Port::Serial(port)));
    }
    match vsock::local_cid()? {
        Some(_) => Listener::bind(number).map(|listener| Some(Port::Vsock(listener))),
        None => Ok(None),
    }
}

fn serial(wanted: &str) -> io::Result<Option<OwnedFd>> {
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
