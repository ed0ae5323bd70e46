//! Owns Landlock rule sets: made, filled, and put on the calling thread.
//! Knows nothing of sandboxes but the one rule set in [`Ruleset::sandbox`].
//!
//! Through raw system calls: a rule costs about 9 µs, and a rule set is built on the way to every sandbox.

use crate::check::check_long;
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Rights on files and directories, as in `linux/landlock.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u64);

impl Access {
    /// Run a file.
    pub const EXECUTE: Self = Self(1);
    /// Open a file for writing.
    pub const WRITE_FILE: Self = Self(1 << 1);
    /// Open a file for reading.
    pub const READ_FILE: Self = Self(1 << 2);
    /// List a directory.
    pub const READ_DIR: Self = Self(1 << 3);
    /// Make a character device.
    pub const MAKE_CHAR: Self = Self(1 << 6);
    /// Make a block device.
    pub const MAKE_BLOCK: Self = Self(1 << 11);
    /// Control a device opened from here on (ABI 5).
    pub const IOCTL_DEV: Self = Self(1 << 15);
    /// Every right that ABI 7 has.
    pub const ALL: Self = Self((1 << 16) - 1);

    /// Rights of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Rights of this without those of the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Rights that a kernel of this ABI knows; asking for others is `EINVAL`.
    const fn known_to(abi: u32) -> Self {
        Self(match abi {
            0 => 0,
            1 => (1 << 13) - 1,     // up to MAKE_SYM
            2 => (1 << 14) - 1,     // REFER
            3 | 4 => (1 << 15) - 1, // TRUNCATE
            _ => (1 << 16) - 1,     // IOCTL_DEV
        })
    }
}

// linux/landlock.h
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;
const CREATE_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const RESTRICT_LOG_SAME_EXEC_OFF: u32 = 1;
const RESTRICT_LOG_SUBDOMAINS_OFF: u32 = 1 << 2;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// The running kernel's Landlock ABI; 0 where Landlock is absent or switched off.
pub fn abi() -> u32 {
    // SAFETY: with CREATE_VERSION the kernel wants a null pointer and size 0, and touches no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<RulesetAttr>(), 0usize, CREATE_VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

/// What a rule set keeps inside besides files (ABI 6; below that, nothing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Files only.
    Files,
    /// Also no signal to, and no abstract Unix socket of, a process outside.
    Processes,
}

/// A rule set that is not yet in force. Everything it handles is denied except where a rule allows it.
#[derive(Debug)]
pub struct Ruleset {
    fd: OwnedFd,
    abi: u32,
    handled: Access,
}

impl Ruleset {
    /// A rule set that handles what of `handled` this kernel knows; `None` where that protects nothing usable.
    ///
    /// ABI 1 (Linux 5.13 to 5.18) is not used: it cannot allow renames across directories, which ordinary programs need.
    pub fn new(handled: Access, scope: Scope) -> io::Result<Option<Self>> {
        let abi = abi();
        if abi < 2 {
            return Ok(None);
        }
        let handled = Access(handled.0 & Access::known_to(abi).0);
        let scoped = match scope {
            Scope::Processes if abi >= 6 => SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
            _ => 0,
        };
        let attr = RulesetAttr { handled_access_fs: handled.0, handled_access_net: 0, scoped };
        // Older kernels know a shorter structure; one that is longer is accepted while the rest is zero.
        // SAFETY: `attr` lives through the call and its size is given.
        let fd = check_long(unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0u32)
        })?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Some(Self { fd, abi, handled }))
    }

    /// Allows `access` on everything below an open directory (`O_PATH` is enough).
    pub fn allow(&mut self, directory: BorrowedFd<'_>, access: Access) -> io::Result<()> {
        let attr = PathBeneathAttr { allowed_access: access.0 & self.handled.0, parent_fd: directory.as_raw_fd() };
        // SAFETY: `attr` has the layout of struct landlock_path_beneath_attr (packed) and lives through the call.
        check_long(unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, self.fd.as_raw_fd(), RULE_PATH_BENEATH, &raw const attr, 0u32)
        })?;
        Ok(())
    }

    /// The rule set of a sandbox, built on its own mounts: call it when `/` and `/dev` are its own.
    /// `None` where the kernel has no usable Landlock.
    ///
    /// Everything below `/` is allowed but making device files; controlling devices is allowed below `/dev` alone.
    /// Mounting and tracing out of it are refused by any rule set. Signals and abstract sockets end at the rule set's
    /// edge: put on a sandbox's init, and inherited from it, it has the whole sandbox on the inside.
    pub fn sandbox() -> io::Result<Option<Self>> {
        let Some(mut ruleset) = Self::new(Access::ALL, Scope::Processes)? else { return Ok(None) };
        let devices = Access::MAKE_CHAR.and(Access::MAKE_BLOCK);
        let open = |path: &str| {
            rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        };
        ruleset.allow(open("/")?.as_fd(), Access::ALL.without(devices).without(Access::IOCTL_DEV))?;
        if ruleset.abi >= 5 {
            ruleset.allow(open("/dev")?.as_fd(), Access::IOCTL_DEV)?;
        }
        Ok(Some(ruleset))
    }

    /// Puts the calling thread, and all it will ever fork or exec, under the rule set. `no_new_privs` must be set.
    /// Allocates nothing.
    pub fn restrict_self(&self) -> io::Result<()> {
        // Denials are the sandbox's own doing: they must not fill the host's audit log (ABI 7 logs them by default).
        let flags = if self.abi >= 7 { RESTRICT_LOG_SAME_EXEC_OFF | RESTRICT_LOG_SUBDOMAINS_OFF } else { 0 };
        // SAFETY: takes a descriptor and flags, no memory.
        check_long(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), flags) })?;
        Ok(())
    }
}
