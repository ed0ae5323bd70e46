//! A sandbox without its plan: a process that has left the host's files and stands on a stage, with `/proc` and `/dev` made. What
//! takes long and is the same for all is done here, before anybody asks for the sandbox.

use crate::{Host, Step, dev, proc};
use csb_sys::process;
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
        let stage = host.stage.enter()?;
        dev::attach_terminals(&stage)?;
        let proc = proc::attach(&host.hidden, &stage)?;
        csb_sys::net::loopback_up().step("bring up the loopback device")?;
        host.stage.leave_below(&stage)?;
        process::drop_bounding_set().step("shut the door")?;
        Ok(Self { proc })
    }
}
