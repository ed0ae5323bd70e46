//! What all sandboxes of a host share, made once when the warden starts: facts about the kernel, the stage they are built on, the
//! compiled seccomp filter.

use crate::{Step, proc, stage::Stage};
use csb_sys::{mount::Tree, ns, seccomp::Filter};
use csb_wire::{Failure, Mode};
use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

/// See the module.
#[derive(Debug)]
pub struct Host {
    /// What the warden can enforce.
    pub mode: Mode,
    /// Whether layers on this host's file system can be id-mapped (not where it is itself an overlay).
    pub idmap: bool,
    /// What every sandbox is built on.
    pub(crate) stage: Stage,
    /// Paths of `/proc` to hide that exist on this kernel.
    pub(crate) hidden: proc::Hidden,
    /// The system call allowlist.
    pub(crate) filter: Filter,
    /// The shorter one of hardened sandboxes.
    pub(crate) narrow_filter: Filter,
    /// On top of either where a sandbox writes to the host's directories.
    pub(crate) no_set_id: Filter,
    /// Whether RLIMIT_NPROC has to stop a fork bomb, and can: no control group does, and the kernel counts the processes of a user
    /// namespace apart from others of the same host user (Linux 5.14). It cannot be changed later, as a group's limit can.
    pub limits_processes: bool,
    /// The warden's own uid and gid.
    pub(crate) ids: (u32, u32),
    /// The warden's network namespace.
    net: OwnedFd,
}

impl Host {
    /// Looks at the host and makes what is shared. `run_dir` is the warden's own directory; `counted` says that control groups
    /// limit processes.
    pub fn prepare(run_dir: &Path, counted: bool) -> Result<Self, Failure> {
        let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mode = if ids.0 == 0 { Mode::Root } else { Mode::Rootless };
        let directory = run_dir.join("stage");
        fs::create_dir_all(&directory).step("make the stage directory")?;
        let directory = fs::canonicalize(&directory).step("make the stage directory")?;
        let root = mode == Mode::Root;
        Ok(Self {
            mode,
            idmap: root && can_idmap(&directory),
            stage: if root { Stage::shared(&directory)? } else { Stage::Own(directory) },
            hidden: proc::Hidden::on_this_kernel(),
            filter: Filter::sandbox(),
            narrow_filter: Filter::hardened(),
            no_set_id: Filter::no_set_id(),
            limits_processes: !counted && (root || release() >= (5, 14)),
            ids,
            net: ns::net_of("self").step("open the network namespace")?,
        })
    }
}

impl Host {
    /// As a warden of root prepared it, in another process of its: with what `shared` gave there.
    pub fn inherited(stage: OwnedFd, net: OwnedFd, (idmap, limits_processes): (bool, bool)) -> Self {
        Self {
            mode: Mode::Root,
            idmap,
            stage: Stage::Shared(stage),
            hidden: proc::Hidden::on_this_kernel(),
            filter: Filter::sandbox(),
            narrow_filter: Filter::hardened(),
            no_set_id: Filter::no_set_id(),
            limits_processes,
            ids: (0, 0),
            net,
        }
    }

    /// What another process needs to build sandboxes: the stage, and the host's network namespace. None when rootless.
    pub fn shared(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        match &self.stage {
            Stage::Shared(stage) => Some((stage.as_fd(), self.net.as_fd())),
            Stage::Own(_) => None,
        }
    }

    /// Whether the network namespace is as good as new. The caller is in its own again afterwards.
    pub fn is_untouched(&self, net: &OwnedFd) -> io::Result<bool> {
        ns::enter_net(net)?;
        let untouched = ns::is_net_untouched();
        self.go_home()?;
        untouched
    }

    /// Back to the warden's own network namespace.
    pub fn go_home(&self) -> io::Result<()> {
        ns::enter_net(&self.net)
    }

    /// Fails in the warden's own network namespace: an init there would give it to a tenant.
    pub fn assert_away(&self) -> Result<(), Failure> {
        let look = || -> io::Result<()> {
            let (own, now) = (rustix::fs::fstat(&self.net)?, rustix::fs::stat("/proc/self/ns/net")?);
            if (own.st_dev, own.st_ino) == (now.st_dev, now.st_ino) {
                return Err(io::Error::other("it is the host's"));
            }
            Ok(())
        };
        look().step("check the network namespace")
    }

    /// Writes the id maps of a rootless init, which waits for them.
    pub fn map_self(&self, pid: i32) -> std::io::Result<()> {
        let one = |outside| [csb_sys::ns::IdRange { inside: 0, outside, count: 1 }];
        csb_sys::ns::write_maps(pid, &one(self.ids.0), &one(self.ids.1), true)
    }

    /// What a child needs open to build a sandbox.
    pub fn descriptors(&self) -> Vec<RawFd> {
        match &self.stage {
            Stage::Shared(namespace) => vec![namespace.as_raw_fd()],
            Stage::Own(_) => vec![],
        }
    }
}

/// Major and minor number of the running kernel; what cannot be read is old.
fn release() -> (u32, u32) {
    let name = rustix::system::uname();
    let text = name.release().to_string_lossy();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Tries it, rather than guess from the kind of file system.
fn can_idmap(directory: &Path) -> bool {
    use csb_sys::{
        mount::Attributes,
        ns::{IdRange, user_namespace},
    };
    let map = [IdRange { inside: 0, outside: crate::ids::FIRST_ID, count: crate::ids::IDS }];
    let Ok(namespace) = user_namespace(&map, &map, false, None) else { return false };
    Tree::copy(rustix::fs::CWD, directory, false)
        .and_then(|tree| tree.restrict(Attributes::READ_ONLY, Some(namespace.as_fd()), false))
        .is_ok()
}
