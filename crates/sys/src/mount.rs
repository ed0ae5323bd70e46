//! Mounts as owned descriptors: built detached, attached where a descriptor points (mount(2), fsopen(2), open_tree(2)).

use crate::{check::check_long, loopdev::LoopDevice};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    },
};
use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// How a mount may be used (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Writes are refused.
    pub read_only: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Device nodes work. Off everywhere but on our own `/dev`.
    pub devices: bool,
}

impl Attributes {
    /// Read-only, the rest at its default.
    pub const READ_ONLY: Self = Self { read_only: true, no_exec: false, devices: false };
    /// Writable, nothing executable.
    pub const NO_EXEC: Self = Self { read_only: false, no_exec: true, devices: false };
    /// Read-only, nothing executable.
    pub const READ_ONLY_NO_EXEC: Self = Self { read_only: true, no_exec: true, devices: false };

    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID;
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, !self.devices);
        flags
    }
}

/// A mount that is in no one's tree yet; gone when dropped before it is attached.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Tree {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Tree {
    /// The file system of a block device, without device nodes and set-user-id files. Each option is a flag.
    pub fn of_device(device: &str, kind: &str, options: &[&str]) -> io::Result<Self> {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", device)?;
        for option in options {
            rustix::mount::fsconfig_set_flag(context.as_fd(), *option)?;
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        let flags = Attributes::default().flags() | MountAttrFlags::MOUNT_ATTR_NOATIME;
        Ok(Self(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?))
    }

    /// The read-only file system (EROFS) that a file holds, as an instance of its own: neither its inodes nor what is cached of
    /// its files are shared with another mount of the same file.
    pub fn of_image(image: impl AsFd) -> io::Result<Self> {
        // Over a stack of file systems, an overlay of ours would be one too many.
        if rustix::fs::fstatfs(&image)?.f_type != libc::OVERLAYFS_SUPER_MAGIC {
            // Mount tables show this name, and not where the file is.
            match Self::of_erofs(&format!("/proc/self/fd/{}", image.as_fd().as_raw_fd())) {
                // This kernel wants a device (Linux before 6.12, or without CONFIG_EROFS_FS_BACKED_BY_FILE).
                Err(error) if error.raw_os_error() == Some(libc::ENOTBLK) => {}
                other => return other,
            }
        }
        let device = LoopDevice::attach(image)?;
        // From here on the mount keeps the device.
        Self::of_erofs(device.path())
    }

    fn of_erofs(source: &str) -> io::Result<Self> {
        let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_flag(context.as_fd(), "ro")?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
        rustix::mount::fsconfig_create(context.as_fd())?;
        let flags = Attributes::READ_ONLY.flags() | MountAttrFlags::MOUNT_ATTR_NOATIME;
        Ok(Self(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?))
    }

    /// A new file system instance. An option without value is a flag.
    pub fn new(kind: &str, options: &[(&str, Option<&str>)], attributes: Attributes) -> io::Result<Self> {
        use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string};
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            match value {
                Some(value) => fsconfig_set_string(context.as_fd(), *key, *value)?,
                None => fsconfig_set_flag(context.as_fd(), *key)?,
            }
        }
        fsconfig_create(context.as_fd())?;
        Ok(Self(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes.flags())?))
    }

    /// A copy of the mount at `path` below `dir`, with the mounts below it if `recursive`. A final link is not followed.
    pub fn copy(dir: impl AsFd, path: impl AsRef<Path>, recursive: bool) -> io::Result<Self> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let path = path.as_ref();
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
        Ok(Self(rustix::mount::open_tree(dir, path, flags)?))
    }

    /// Adds restrictions, and maps owners as `namespace` does: an owner `inside` on disk is seen as `outside` (Linux 5.12).
    pub fn restrict(
        &self,
        attributes: Attributes,
        namespace: Option<BorrowedFd<'_>>,
        recursive: bool,
    ) -> io::Result<()> {
        const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
        #[repr(C)]
        struct MountAttr {
            set: u64,
            clear: u64,
            propagation: u64,
            userns: u64,
        }
        let mut attr =
            MountAttr { set: u64::from(attributes.flags().bits()), clear: 0, propagation: libc::MS_PRIVATE, userns: 0 };
        if let Some(namespace) = namespace {
            attr.set |= MOUNT_ATTR_IDMAP;
            attr.userns = namespace.as_raw_fd() as u64;
        }
        let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
        // SAFETY: the kernel reads one mount_attr of the stated size and an empty path.
        check_long(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &attr,
                mem::size_of_val(&attr),
            )
        })
        .map(drop)
    }

    /// Puts the mount on top of what `target` is open on.
    pub fn attach(&self, target: impl AsFd) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&self.0, "", target, "", flags).map_err(Into::into)
    }

    /// Puts the mount at a path of ours (never one that a sandbox could have made).
    pub fn attach_at(&self, path: &Path) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&self.0, "", rustix::fs::CWD, path, flags).map_err(Into::into)
    }
}

/// Whether this kernel knows a kind of file system, or finds the module that does.
pub fn knows(kind: &str) -> io::Result<()> {
    rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map(drop).map_err(Into::into)
}

/// Moves the mount at `path`, a name of ours, on top of what `target` is open on, with all that is mounted below it.
pub fn move_to(path: &str, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(rustix::fs::CWD, path, target, "", flags).map_err(Into::into)
}

/// Opens a directory of ours as a place to mount on.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Into::into)
}

/// Opens `path` below `root`, through no link and never above it (openat2(2)): the one way a name from a template or a
/// user becomes a place to mount on (CVE-2024-45310 and its kin).
pub fn open_beneath(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    rustix::fs::openat2(
        root,
        relative,
        OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(Into::into)
}

/// Opens the directory `path` below `root`, making what is missing of it, through no link and never above `root`.
pub fn make_beneath(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let mut at = open_beneath(&root, ".")?;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        if let Err(e) = rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))
            && e != rustix::io::Errno::EXIST
        {
            return Err(e.into());
        }
        at = open_beneath(&at, part)?;
    }
    Ok(at)
}

/// Nothing that is mounted or unmounted here shows elsewhere, or comes in from there.
pub fn make_all_private() -> io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).map_err(Into::into)
}

/// Makes `root` the root and working directory of this mount namespace and takes the old root out of it (pivot_root(2)).
pub fn pivot_to(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies on top of the new one now.
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/").map_err(Into::into)
}

/// Takes the mount at `path`, a name of ours, and all below it out of this mount namespace.
pub fn detach(path: &str) -> io::Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH).map_err(Into::into)
}

/// Puts the mount that `root` is open on, which is attached below, over the root of this mount namespace, and makes it the
/// process's root and working directory. No path leads to what is covered; only CAP_SYS_ADMIN in the namespace's owner uncovers
/// it, so cover nothing but what may be seen. pivot_root(2) leaves nothing below, but looks at every process of the host.
pub fn cover_root(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(&root)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", rustix::fs::CWD, "/", flags)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/").map_err(Into::into)
}
