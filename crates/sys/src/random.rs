//! The kernel's source of random numbers (random(4)).

use crate::check::check;
use std::{fs::File, io, io::Write, os::fd::AsRawFd};

const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// Mixes `seed` in and makes all numbers from now on depend on it: those of two copies of one machine differ then. Needs CAP_SYS_ADMIN.
pub fn reseed(seed: &[u8]) -> io::Result<()> {
    let mut device = File::options().write(true).open("/dev/urandom")?;
    device.write_all(seed)?;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }).map(drop)
}
