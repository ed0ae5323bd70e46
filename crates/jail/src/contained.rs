//! From a container that another program made to a sandbox that can run commands: its namespaces, its root and its limits are
//! there, what is left is to shut the door.

use crate::{Built, Marks, Step, Tenant};
use csb_sys::{landlock::Ruleset, process, process::cap, seccomp::Filter};
use csb_wire::Failure;
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;

/// Makes this process, pid 1 of the container, what starts the sandbox's commands. `nofile` is each command's limit of
/// descriptors, `env` what they find in their environment; `narrow`, they get the filter of kind `hardened`. On an error the process must end.
pub fn contained(nofile: u32, env: Vec<String>, narrow: bool) -> Result<Built, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).step("open /proc")?;
    let filter = if narrow { Filter::hardened() } else { Filter::sandbox() };
    shut(nofile, env, filter, proc, &[])
}

/// As [`contained`], with the `/proc` by which the init finds the sandbox's processes, and what it takes to see them there.
pub(crate) fn shut(
    nofile: u32,
    env: Vec<String>,
    filter: Filter,
    proc: OwnedFd,
    more: &[u32],
) -> Result<Built, Failure> {
    process::set_undumpable().step("shut the door")?;
    process::drop_bounding_set().step("shut the door")?;
    process::set_no_new_privs().step("shut the door")?;
    if let Some(rules) = Ruleset::sandbox().step("make the Landlock rules")? {
        rules.restrict_self().step("enter the Landlock domain")?;
    }
    let kept = [&[cap::KILL, cap::SETUID, cap::SETGID, cap::SETPCAP], more].concat();
    process::keep_capabilities(&kept).step("shut the door")?;
    Ok(Built { tenant: Tenant::contained(nofile, env, filter), proc, marks: Marks::groups() })
}
