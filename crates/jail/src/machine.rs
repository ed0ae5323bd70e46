//! From the root of a machine that has one sandbox only to a sandbox that can run commands: a stage, the sandbox's `/proc` and
//! `/dev`, and what a container that another program made does with the rest.

use crate::{
    Built, Step,
    build::write_hosts,
    contained, dev, proc,
    proc::Hidden,
    stage::{self, ROOT},
};
use csb_sys::{
    mount::{self, Tree, make_beneath, open_beneath},
    process::cap,
    seccomp::Filter,
};
use csb_types::Limits;
use csb_wire::Failure;
use std::path::Path;

/// Makes this process, pid 1 of its PID namespace and in new mount, IPC and UTS namespaces, what starts the sandbox's commands.
/// `root` is all of its files, `directory` an empty one to build the stage over. On an error the process must end.
pub fn machine(root: &Tree, directory: &Path, hostname: &str, limits: &Limits) -> Result<Built, Failure> {
    let stage = stage::make(directory, true)?;
    dev::attach_terminals(&stage)?;
    let all = proc::attach(&Hidden::on_this_kernel(), &stage)?;
    mount::pivot_to(&stage).step("leave the machine's files")?;
    root.attach_at(ROOT.as_ref()).step("attach the root")?;
    let root = open_beneath(rustix::fs::CWD, ROOT).step("enter the root")?;
    for name in ["dev", "proc"] {
        make_beneath(&root, name).and_then(|target| mount::move_to(name, target)).step(&format!("move /{name}"))?;
    }
    dev::attach_shm(&root, limits.memory)?;
    if hostname != "sandbox" {
        write_hosts(&root, hostname).step("write /etc/hosts")?;
    }
    rustix::system::sethostname(hostname.as_bytes()).step("set the host name")?;
    mount::cover_root(&root).step("enter the root")?;
    // Its `/proc` shows nobody the processes of others, but to who may trace them.
    contained::shut(limits.nofile, vec![], Filter::sandbox(), all, &[cap::SYS_PTRACE])
}
