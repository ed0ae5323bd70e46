//! Turns the kernel's -1 into an error.

use std::io;

/// `Err(errno)` for -1, the value otherwise.
pub(crate) fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// As `check`, for system calls made by number.
pub(crate) fn check_long(value: libc::c_long) -> io::Result<libc::c_long> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
