//! Pid 1 of a virtual machine that has one sandbox: from the kernel's first program to the sandbox's init, and then what the
//! backend asks of the machine beside it.
//!
//! ```text
//! kernel → pid 1 (this; stays outside the sandbox) → sandbox's init, pid 1 of its namespaces → commands
//! ```
//! The plan comes on the first disk, the sandbox's files on the others. Whatever fails is told on the control port and on the
//! console.

mod control;
mod disks;
mod modules;
mod ports;

use crate::{
    guest::{self, Door},
    init::{self, Way},
};
use control::Control;
use csb_jail::{Step, failure};
use csb_sys::{
    cgroup::{self, Group},
    mount::{self, Attributes, Tree},
    process::{self, CLONE_NEWNS, Fork},
};
use csb_types::Limits;
use csb_wire::{
    Failure,
    machine::{CONTROL_PORT, CONTROL_VSOCK, FromMachine, INIT_PORT, INIT_VSOCK, MachinePlan},
};
use rustix::{
    fs::{Mode, OFlags},
    system::RebootCommand,
    time::{ClockId, Timespec},
};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// A device that is not there by then will not be.
const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(2);
/// Where the sandbox's files are put together.
const LAYERS: &str = "/layers";
const FILES: &str = "/files";
const STAGE: &str = "/stage";
/// Processes of ours in the sandbox: its init and the one that waits for the next command.
const OURS: u32 = 2;
/// What the machine cannot do without is not what the OOM killer takes; commands are (`Tenant::become_user`).
const SPARED: &str = "-1000";

/// Runs until the machine ends.
pub(crate) fn run() -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::Error::other("this is pid 1 of a virtual machine, and nothing else"));
    }
    let mut control = None;
    let why = match boot(&mut control) {
        Ok((control, machine)) => control.serve(&machine),
        Err(failure) => {
            println!("csb-machine: {failure}");
            if let Some(control) = &mut control {
                control.insist(&FromMachine::Failed(failure));
            }
            String::new()
        }
    };
    if !why.is_empty() {
        println!("csb-machine: {why}");
    }
    // What is told above has to leave the machine first.
    std::thread::sleep(Duration::from_millis(100));
    rustix::system::reboot(RebootCommand::Restart)?;
    Ok(())
}

/// What pid 1 keeps of a machine that runs.
pub(crate) struct Machine {
    /// The sandbox's init.
    init: i32,
    group: Group,
    /// The file system that takes the sandbox's writes.
    files: OwnedFd,
}

fn boot(told: &mut Option<Control>) -> Result<(Control, Machine), Failure> {
    process::set_name(c"csb-machine");
    process::default_handlers();
    modules::load()?;
    ground()?;
    fs::write("/proc/self/oom_score_adj", SPARED).step("be spared by the OOM killer")?;
    let port = wait_for("find the control port", || ports::open(CONTROL_PORT, CONTROL_VSOCK))?;
    let mut control = Control::new(port);
    *told = Some(control.try_clone().step("open the control port")?);
    let plan = wait_for("find the disk with the plan", disks::plan)?;
    if plan.version != csb_wire::VERSION {
        return Err(failure("read the plan", &io::Error::other("it is another version's")));
    }
    set_clock(plan.now).step("set the clock")?;
    let devices = wait_for("find the disks", || disks::devices(plan.disks.len()))?;
    let (root, files) = disks::root(&plan, &devices)?;
    csb_sys::net::loopback_up().step("bring up the loopback device")?;
    let groups = cgroup::Host::detect().step("look at the control groups")?.root("sandbox").map_err(kernel)?;
    let group = groups.create("all", &inside(&plan.limits)).map_err(kernel)?;
    let port = wait_for("find the init's port", || ports::open(INIT_PORT, INIT_VSOCK))?;
    // Outside the sandbox, where no command and no limit of it reaches.
    let relay = guest::relay(port.into(), plan.once).step("start the relay")?;
    let init = start(&plan, &root, &group, relay)?;
    drop(root);
    control.insist(&FromMachine::Ready);
    Ok((control, Machine { init, group, files }))
}

/// Mounts what every machine has, on a root that can be left: the first one cannot (pivot_root(2)).
fn ground() -> Result<(), Failure> {
    let step = "mount the machine's own files";
    let base = Tree::new("tmpfs", &[("mode", Some("0755"))], Attributes { devices: true, ..Attributes::default() });
    let base = base.step(step)?;
    for name in ["proc", "sys", "dev", "layers", "files", "stage"] {
        rustix::fs::mkdirat(&base, name, Mode::from_raw_mode(0o755)).step(step)?;
    }
    let own = Path::new("/own");
    fs::create_dir(own).step(step)?;
    base.attach_at(own).step(step)?;
    mount::cover_root(mount::open_directory(own).step(step)?).step(step)?;
    let devices = Attributes { devices: true, ..Attributes::NO_EXEC };
    for (kind, place, attributes) in
        [("proc", "/proc", Attributes::NO_EXEC), ("sysfs", "/sys", Attributes::NO_EXEC), ("devtmpfs", "/dev", devices)]
    {
        Tree::new(kind, &[], attributes)
            .and_then(|tree| tree.attach_at(place.as_ref()))
            .step(&format!("mount {place}"))?;
    }
    Tree::new("cgroup2", &[], Attributes::NO_EXEC)
        .and_then(|tree| tree.attach_at("/sys/fs/cgroup".as_ref()))
        .step("mount the control groups")
}

/// Devices come when their driver has met them.
fn wait_for<T>(step: &str, mut look: impl FnMut() -> io::Result<Option<T>>) -> Result<T, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().step(step)? {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(failure(step, &io::Error::new(io::ErrorKind::TimedOut, "it is not there")));
        }
        std::thread::sleep(TICK);
    }
}

fn set_clock((tv_sec, tv_nsec): (i64, i64)) -> io::Result<()> {
    rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec }).map_err(Into::into)
}

fn kernel(error: cgroup::CgroupError) -> Failure {
    failure(&error.to_string(), &error.source)
}

/// Limits of the sandbox's control group in the machine. How much CPU there is, the machine's own group outside says.
fn inside(limits: &Limits) -> cgroup::Limits {
    cgroup::Limits {
        memory: limits.memory,
        cpu_milli: 1_024_000,
        pids: limits.pids.saturating_add(OURS),
        cpu_weight: None,
    }
}

/// Forks the sandbox's init into its control group and namespaces; says it when it stands.
fn start(plan: &MachinePlan, root: &Tree, group: &Group, relay: Door) -> Result<i32, Failure> {
    use libc::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS};
    let (heard, said) = csb_sys::pipe::pipe().step("start the init")?;
    let directory = group.dir_fd().map_err(kernel)?;
    let flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;
    match process::fork(flags, directory.as_ref().map(AsFd::as_fd)).step("start the init")? {
        Fork::Child => {
            drop(heard);
            let done = become_init(plan, root, relay, said);
            process::exit_now(i32::from(done.is_err()))
        }
        Fork::Parent(pid) => {
            drop((said, relay));
            let mut text = Vec::new();
            io::Read::read_to_end(&mut fs::File::from(heard), &mut text).step("start the init")?;
            if text.is_empty() {
                Ok(pid)
            } else {
                Err(serde_json::from_slice(&text).unwrap_or_else(|error| failure("start the init", &error.into())))
            }
        }
    }
}

/// Returns when there is nobody left to serve.
fn become_init(plan: &MachinePlan, root: &Tree, relay: Door, said: OwnedFd) -> io::Result<()> {
    let built = prepare(plan, root);
    if let Err(failure) = &built {
        rustix::io::write(&said, &serde_json::to_vec(failure)?)?;
    }
    drop(said);
    let built = built.map_err(|failure| io::Error::other(failure.to_string()))?;
    match relay {
        Door::Relay(conn, life) => init::run(Way::Kept { conn, life: &life }, built),
        Door::Packets(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn prepare(plan: &MachinePlan, root: &Tree) -> Result<csb_jail::Built, Failure> {
    process::set_name(c"csb-init");
    csb_sys::net::loopback_up().step("bring up the loopback device")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open /dev/null")?;
    for number in 0..3 {
        process::set_stdio(null.as_fd(), number).step("close descriptors")?;
    }
    process::raise_limit(rustix::process::Resource::Nofile).step("raise the limit of descriptors")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    csb_jail::machine(root, STAGE.as_ref(), &plan.hostname, &plan.limits)
}
