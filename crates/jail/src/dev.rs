//! The minimal `/dev`: made by us before any byte of an image is trusted (CVE-2025-31133, CVE-2025-52565).

use crate::Step;
use csb_sys::mount::{Attributes, Tree, open_beneath};
use csb_wire::Failure;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::os::fd::OwnedFd;

/// Name, major, minor: mem(4), tty(4).
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

fn tmpfs() -> Result<(Tree, OwnedFd), Failure> {
    let options = [("size", Some("64k")), ("nr_inodes", Some("32")), ("mode", Some("0755"))];
    let tree = Tree::new("tmpfs", &options, Attributes { devices: true, ..Attributes::NO_EXEC }).step("make /dev")?;
    let root = open_beneath(&tree, ".").step("make /dev")?;
    for name in ["pts", "shm"] {
        rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755)).step("make /dev")?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &root, name).step("make /dev")?;
    }
    Ok((tree, root))
}

/// Puts `/dev` on `target`: with `nodes` of our own making and read-only, so that sandboxes can share it and it carries nothing
/// from one to another; or, where an ordinary user makes it, with the host's nodes.
pub(crate) fn attach(nodes: bool, target: &OwnedFd) -> Result<(), Failure> {
    let (tree, root) = tmpfs()?;
    if !nodes {
        tree.attach(target).step("attach /dev")?;
        return bind_nodes(&root);
    }
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&root, name, FileType::CharacterDevice, mode, rustix::fs::makedev(major, minor))
            .step("make the device nodes")?;
        // mknod(2) applied our umask.
        rustix::fs::chmodat(&root, name, mode, rustix::fs::AtFlags::empty()).step("make the device nodes")?;
    }
    let attributes = Attributes { devices: true, ..Attributes::READ_ONLY_NO_EXEC };
    tree.restrict(attributes, None, false).step("make /dev")?;
    tree.attach(target).step("attach /dev")
}

/// Binds the host's own nodes, one by one, into an attached `/dev`: an ordinary user may not make any.
fn bind_nodes(dev: &OwnedFd) -> Result<(), Failure> {
    for (name, major, minor) in NODES {
        rustix::fs::openat(dev, name, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666))
            .step("make /dev")?;
        let node = Tree::copy(CWD, format!("/dev/{name}"), false).step("bind a device node")?;
        let stat = rustix::fs::fstat(&node).step("bind a device node")?;
        if stat.st_rdev != rustix::fs::makedev(major, minor) {
            let error = std::io::Error::from_raw_os_error(libc::ENODEV);
            return Err(crate::failure(&format!("bind a device node: /dev/{name} is another device"), &error));
        }
        node.attach(open_beneath(dev, name).step("bind a device node")?).step("bind a device node")?;
    }
    Ok(())
}

/// Puts a `/dev` that no other sandbox has on top of the one below `root`: whoever else has one of its files sees when that is
/// opened or locked.
pub(crate) fn attach_own(root: &OwnedFd) -> Result<(), Failure> {
    attach(true, &open_beneath(root, "dev").step("make /dev")?)?;
    attach_terminals(root)
}

/// Puts `/dev/pts` below `root`, which has `/dev`.
pub(crate) fn attach_terminals(root: &OwnedFd) -> Result<(), Failure> {
    // The kernel has one pool of terminals for all (`kernel.pty.max`): without a limit one sandbox could take every one.
    // A terminal is its maker's, also among the users of one sandbox.
    let pts = [("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0600")), ("max", Some("64"))];
    let target = open_beneath(root, "dev/pts").step("mount /dev/pts")?;
    Tree::new("devpts", &pts, Attributes { devices: true, ..Attributes::NO_EXEC })
        .and_then(|tree| tree.attach(target))
        .step("mount /dev/pts")
}

/// Puts `/dev/shm` below `root`, for a sandbox that may use so much memory.
pub(crate) fn attach_shm(root: &OwnedFd, memory: u64) -> Result<(), Failure> {
    let size = (memory / 2).to_string();
    let shm = [("size", Some(size.as_str())), ("mode", Some("1777")), ("nr_inodes", Some("16384"))];
    let target = open_beneath(root, "dev/shm").step("mount /dev/shm")?;
    Tree::new("tmpfs", &shm, Attributes::default()).and_then(|tree| tree.attach(target)).step("mount /dev/shm")
}
