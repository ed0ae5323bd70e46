//! Loop devices: a file as a block device that frees itself when nothing uses it any more (loop(4)).

use crate::check::check;
use rustix::fs::{Mode, OFlags};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Major number of loop devices.
pub const MAJOR: u32 = 7;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// A configured device; it lives while this descriptor or a mount of it does.
#[derive(Debug)]
pub struct LoopDevice {
    open: OwnedFd,
    path: String,
    minor: u32,
    below: u64,
}

impl LoopDevice {
    /// Attaches `file`.
    pub fn attach(file: impl AsFd) -> io::Result<Self> {
        let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let below = rustix::fs::fstat(&file)?.st_dev;
        // Another process may take the number between the two calls: try a few times.
        for _ in 0..16 {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument.
            let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
            let path = format!("/dev/loop{number}");
            let open = match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
                Ok(open) => open,
                // No udev to make the node (in a container): make it ourselves.
                Err(rustix::io::Errno::NOENT) => {
                    let device = rustix::fs::makedev(MAJOR, number as u32);
                    rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &path,
                        rustix::fs::FileType::BlockDevice,
                        Mode::from_raw_mode(0o600),
                        device,
                    )?;
                    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?
                }
                Err(e) => return Err(e.into()),
            };
            // SAFETY: all-zero bytes are a valid loop_config, and the ioctl reads exactly that struct.
            let done = unsafe {
                let mut config: LoopConfig = mem::zeroed();
                config.fd = file.as_fd().as_raw_fd() as u32;
                config.info.flags = LO_FLAGS_AUTOCLEAR;
                check(libc::ioctl(open.as_raw_fd(), LOOP_CONFIGURE, &config))
            };
            match done {
                Ok(_) => return Ok(Self { open, path, minor: number as u32, below }),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "no free loop device"))
    }

    /// The descriptor that keeps the device until it is mounted.
    pub fn as_raw_fd(&self) -> RawFd {
        self.open.as_raw_fd()
    }

    /// Its minor number; the major one of all loop devices is [`MAJOR`].
    pub fn minor(&self) -> u32 {
        self.minor
    }

    /// Device number of the file system that the file is on.
    pub fn below(&self) -> u64 {
        self.below
    }

    /// Path of the block device, `/dev/loopN`.
    pub fn path(&self) -> &str {
        &self.path
    }
}
