//! A sandbox without its plan: a process that has left the host's files and stands in an empty root of its own, with `/proc`
//! and `/dev` made. What takes long and is the same for all is done here, before anybody asks for the sandbox.

use crate::{Host, Step, dev, proc};
use csb_sys::{
    mount::{self, Attributes, Tree},
    process,
};
use csb_wire::Failure;
use std::os::fd::OwnedFd;

/// See the module.
#[derive(Debug)]
pub struct Shell {
    /// The unmasked `/proc`, for the init's own use.
    pub(crate) proc: OwnedFd,
}

impl Shell {
    /// Leaves the host. The process is pid 1 of its PID namespace, in new namespaces, and in its cgroups already. On an error
    /// it must end.
    pub fn enter(host: &Host) -> Result<Self, Failure> {
        mount::make_all_private().step("make mounts private")?;
        let options = [("size", Some("256k")), ("nr_inodes", Some("256")), ("mode", Some("0755"))];
        // On a directory of ours that only this mount namespace sees covered.
        Tree::new("tmpfs", &options, Attributes::default())
            .and_then(|tree| tree.attach_at(&host.stage))
            .step("make the stage")?;
        let stage = mount::open_directory(&host.stage).step("enter the stage")?;
        dev::attach(host.dev.as_ref(), &stage)?;
        let proc = proc::attach(&host.hidden, host.nothing.as_ref(), &stage)?;
        csb_sys::net::loopback_up().step("bring up the loopback device")?;
        mount::pivot_to(&stage).step("leave the host's files")?;
        process::drop_bounding_set().step("shut the door")?;
        Ok(Self { proc })
    }
}
