//! The stage: the root of the mount namespace that every sandbox is built in. A file system of ours with `/dev` and places to
//! mount on, read-only, and nothing of the host. It stays below the sandbox's own root, where no path leads.
//!
//! It is made once and shared by all: a process that is to become a sandbox enters a copy. Left to itself each would copy the
//! host's mounts to throw them away, and pivot_root(2), which throws them away, looks at every process of the host.

use crate::{Step, dev, failure, proc};
use csb_sys::{
    mount::{self, Attributes, Tree, open_beneath},
    ns,
    packet::Conn,
    process::{self, CLONE_NEWNS, Fork},
};
use csb_wire::{Failure, decode, encode};
use rustix::fs::Mode;
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Where the file system that takes a sandbox's writes is mounted while its root is made.
pub(crate) const WORK: &str = "work";
/// Where the sandbox's root is put together.
pub(crate) const ROOT: &str = "root";
/// An empty directory that hides others.
pub(crate) const NOTHING: &str = "nothing";

/// See the module.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its mount namespace.
    Shared(OwnedFd),
    /// Rootless: made by each init in its own namespace, over this directory.
    Own(PathBuf),
}

impl Stage {
    /// Makes a shared one, over `directory` in a namespace that nobody else sees. The caller has one thread.
    pub(crate) fn shared(directory: &Path) -> Result<Self, Failure> {
        let (ours, theirs) = Conn::pair().step("make the stage")?;
        match process::fork(CLONE_NEWNS, None).step("make the stage")? {
            Fork::Child => {
                drop(ours);
                let made = make(directory, true)
                    .and_then(|stage| mount::pivot_to(&stage).step("leave the host's files"))
                    .err();
                // The namespace lives as long as this process, or a descriptor. If nobody hears of it, nobody wants it.
                let _ = theirs.send(&encode(&made), &[]);
                let _ = theirs.recv();
                process::exit_now(0)
            }
            Fork::Parent(pid) => {
                drop(theirs);
                let said = ours.recv();
                let namespace = ns::mounts_of(pid);
                drop(ours);
                process::wait(pid).step("make the stage")?;
                let (said, _) = said.step("make the stage")?.unwrap_or_default();
                match decode::<Option<Failure>>(&said) {
                    Ok(None) => namespace.step("make the stage").map(Self::Shared),
                    Ok(Some(failure)) => Err(failure),
                    Err(error) => Err(failure("make the stage", &io::Error::other(error))),
                }
            }
        }
    }

    /// Puts the calling process, whose mount namespace is its own afterwards, on a stage of its own; the root of it.
    pub(crate) fn enter(&self) -> Result<OwnedFd, Failure> {
        match self {
            Self::Shared(namespace) => {
                ns::enter_mounts(namespace).and_then(|()| ns::unshare(CLONE_NEWNS)).step("leave the host's files")?;
                mount::open_directory("/".as_ref()).step("enter the stage")
            }
            Self::Own(directory) => make(directory, false),
        }
    }

    /// Leaves what the stage was made over, if that is still there.
    pub(crate) fn leave_below(&self, root: &OwnedFd) -> Result<(), Failure> {
        match self {
            Self::Shared(_) => Ok(()),
            Self::Own(_) => mount::pivot_to(root).step("leave the host's files"),
        }
    }
}

/// Makes the file system and mounts it over `directory`; its root. The calling process has a mount namespace of its own.
pub(crate) fn make(directory: &Path, shared: bool) -> Result<OwnedFd, Failure> {
    mount::make_all_private().step("make mounts private")?;
    let options = [("size", Some("64k")), ("nr_inodes", Some("16")), ("mode", Some("0755"))];
    let tree = Tree::new("tmpfs", &options, Attributes::NO_EXEC).step("make the stage")?;
    for name in ["dev", "proc", NOTHING, WORK, ROOT] {
        rustix::fs::mkdirat(&tree, name, Mode::from_raw_mode(0o755)).step("make the stage")?;
    }
    tree.restrict(Attributes::READ_ONLY_NO_EXEC, None, false).step("make the stage")?;
    tree.attach_at(directory).step("make the stage")?;
    let stage = mount::open_directory(directory).step("enter the stage")?;
    let place = |name| open_beneath(&stage, name).step("make the stage");
    dev::attach(shared, &place("dev")?)?;
    proc::nothing()?.attach(place(NOTHING)?).step("make the mask")?;
    Ok(stage)
}
