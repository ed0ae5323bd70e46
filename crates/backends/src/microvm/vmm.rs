//! Starting a VMM in its confinement, and ending it.

use super::{
    api::plain,
    firecracker,
    machine::{INITRAMFS, KERNEL, Machine},
    monitor::Monitor,
    qemu,
    seat::Seat,
    settings::Vmm,
    socket,
};
use crate::BackendError;
use csb_sys::{
    cgroup::{self, Group},
    process::PidFd,
};
use csb_types::Limits;
use csb_wire::{
    VERSION,
    machine::{CONFINER, VMM_CONSOLE, VMM_RUN, VmmPlan},
};
use std::{
    collections::hash_map::DefaultHasher,
    ffi::OsStr,
    fs::File,
    hash::{Hash, Hasher},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// First of the users that VMMs are: above those of sandboxes, and below what means "nobody" to old programs.
const FIRST_USER: u32 = 0x7100_0000;
/// QEMU itself, what it translates, and what it keeps of disks that is not given back under pressure.
const OVERHEAD: u64 = 224 << 20;
/// Threads of a VMM: its processors, and those that wait for disks.
const THREADS: u32 = 160;
/// Names of the control groups' parents start so.
const GROUPS: &str = "csb-vm";
/// For a VMM to say that it is there, on a host under load.
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(5);
/// Between the end of its connections and its own.
const GONE: Duration = Duration::from_millis(500);
/// Of a machine's devices and processors, written down.
const STATE: u64 = 64 << 20;
/// Between its death and the end of all that the kernel held for it.
const END: Duration = Duration::from_secs(10);

/// Held while a group is made, so that nobody removes the parent that it is made in, or makes another without its controllers.
static PARENT: Mutex<()> = Mutex::new(());

/// Of one node: the parent of its machines' control groups.
pub(super) fn groups(node: &str) -> String {
    format!("{GROUPS}-{node}")
}

/// Limits of the whole machine, with its VMM. `cpu_milli`: of the sandbox, or more while it boots.
pub(super) fn limits(memory: u64, cpu_milli: u32, limits: &Limits) -> cgroup::Limits {
    cgroup::Limits { memory: memory + OVERHEAD, cpu_milli, pids: THREADS, cpu_weight: limits.cpu_weight }
}

/// The group of a machine, whether it is there or not.
pub(super) fn group(node: &str, name: &str) -> io::Result<Group> {
    cgroup::Host::detect()?.at_top().root(&groups(node)).and_then(|root| root.open(name)).map_err(kernel)
}

pub(super) fn make_group(node: &str, name: &str, limits: &cgroup::Limits) -> io::Result<Group> {
    let _alone = PARENT.lock().unwrap_or_else(PoisonError::into_inner);
    cgroup::Host::detect()?.at_top().root(&groups(node)).and_then(|root| root.create(name, limits)).map_err(kernel)
}

/// Removes the parent, if it has no group any more.
pub(super) fn remove_groups(node: &str) {
    let _alone = PARENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(root) =
        cgroup::Host::detect().map(cgroup::Host::at_top).and_then(|host| host.root(&groups(node)).map_err(kernel))
    {
        // Refused while there is one.
        let _ = root.remove();
    }
}

pub(super) fn kernel(error: cgroup::CgroupError) -> io::Error {
    if matches!(error.source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) {
        return io::Error::from_raw_os_error(libc::ENOENT);
    }
    io::Error::new(error.source.kind(), format!("{error}: {}", error.source))
}

/// A VMM that was started.
pub(super) struct Started {
    pub(super) seat: Seat,
    /// What its guest's console said is in a file, as the VMM itself keeps nothing of it; opened once it answers, and readable after
    /// its end.
    files: bool,
    console: Option<File>,
    /// What it has to say, until nobody asks any more.
    words: ChildStderr,
}

/// What a VMM is started with beside its machine.
pub(super) struct Place<'a> {
    /// The machine's own directory.
    pub(super) own: &'a Path,
    /// Where its sockets are, and where its root is built.
    pub(super) run: &'a Path,
    pub(super) root: &'a Path,
    pub(super) node: &'a str,
    pub(super) name: &'a str,
}

/// Where a program is that is not found by its bare name: as given, or in `PATH`.
pub(super) fn find(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/usr/libexec", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .filter(|place| place.is_absolute())
        .chain(usual)
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}

/// Whether a process is in the group of a machine of this name: after its end the pid may be another's.
pub(super) fn is_of(pid: i32, name: &str) -> bool {
    Group::of_process(pid).is_ok_and(|group| group.id().contains(name))
}

/// Starts a VMM for a machine.
pub(super) fn start(vmm: Vmm, program: &Path, machine: &Machine, place: &Place<'_>) -> io::Result<Started> {
    let program = std::fs::canonicalize(program)?;
    // With its firmware, which lies beside it.
    let tree = program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned();
    let mut hasher = DefaultHasher::new();
    (place.node, place.name).hash(&mut hasher);
    let plan = VmmPlan {
        version: VERSION,
        group: (groups(place.node), place.name.to_owned()),
        uid: FIRST_USER + (hasher.finish() & 0xff_ffff) as u32,
        directory: place.root.to_owned(),
        shown: vec![tree],
        files: vec![],
        run: false,
        file_size: Some(largest(machine)?),
        kvm: machine.kvm,
        sockets: vec![],
        disks: machine.drives.iter().map(|drive| (drive.image.clone(), drive.writable)).collect(),
        program,
        arguments: vec![],
    };
    let plan = match vmm {
        Vmm::Qemu => for_qemu(plan, machine, place),
        Vmm::Firecracker => for_firecracker(plan, machine, place)?,
    };
    let (pid, words) = spawn(&plan)?;
    let seat = Seat { vmm, pid, name: place.name.to_owned(), run: place.run.to_owned() };
    Ok(Started { seat, files: plan.run, console: None, words })
}

/// Bytes of the largest file that a VMM writes: a disk that is there, or its memory with what is said of each page and of the rest.
fn largest(machine: &Machine) -> io::Result<u64> {
    let mut most = machine.memory + machine.memory / 64;
    for drive in machine.drives.iter().filter(|drive| drive.writable) {
        most = most.max(std::fs::metadata(&drive.image)?.len());
    }
    Ok(most + STATE)
}

fn for_qemu(mut plan: VmmPlan, machine: &Machine, place: &Place<'_>) -> VmmPlan {
    plan.files =
        vec![(machine.kernel.clone(), KERNEL.into(), false), (machine.initramfs.clone(), INITRAMFS.into(), false)];
    plan.sockets = qemu::SOCKETS.iter().map(|name| place.run.join(name)).collect();
    plan.disks.extend(machine.state.iter().flatten().map(|state| (state.clone(), false)));
    plan.arguments = qemu::arguments(machine);
    plan
}

/// It opens everything by name. The descriptors of its disks tell whoever removes images that these are in use.
fn for_firecracker(mut plan: VmmPlan, machine: &Machine, place: &Place<'_>) -> io::Result<VmmPlan> {
    let disks = machine.drives.iter().enumerate();
    plan.files = disks.map(|(at, drive)| (drive.image.clone(), firecracker::disk(at), drive.writable)).collect();
    plan.files.extend([
        (machine.kernel.clone(), firecracker::KERNEL.into(), false),
        (machine.initramfs.clone(), INITRAMFS.into(), false),
    ]);
    let loaded = machine.state.iter().flatten().zip(firecracker::LOADED);
    plan.files.extend(loaded.map(|(path, name)| (path.clone(), name.to_owned(), false)));
    for name in firecracker::SAVED {
        let path = place.own.join(name);
        drop(super::snapshot::new(&path)?);
        plan.files.push((path, name.into(), true));
    }
    plan.run = true;
    plan.arguments = firecracker::arguments();
    Ok(plan)
}

fn spawn(plan: &VmmPlan) -> io::Result<(i32, ChildStderr)> {
    use std::os::unix::process::CommandExt;
    let mut child = Command::new("/proc/self/exe")
        .arg0(OsStr::new(CONFINER))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(mut words)) = pipes else {
        return Err(io::Error::other("the confiner has no pipes"));
    };
    stdin.write_all(&serde_json::to_vec(plan)?)?;
    drop(stdin);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if !child.wait()?.success() {
        let mut said = String::new();
        words.read_to_string(&mut said)?;
        return Err(io::Error::other(said.trim().to_owned()));
    }
    let pid = line.trim().parse().map_err(io::Error::other)?;
    Ok((pid, words))
}

impl Started {
    /// Waits until it answers.
    pub(super) fn answers(&mut self) -> io::Result<Monitor> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Monitor::connect(&self.seat) {
                Ok(monitor) => {
                    if self.files {
                        // Not before: until it is confined its root is the host's.
                        self.console = Some(socket::file_of(&self.seat, &format!("{VMM_RUN}/{VMM_CONSOLE}"))?);
                    }
                    return Ok(monitor);
                }
                Err(error) if !lives(self.seat.pid) => return Err(self.why(&error)),
                // It is there, and not what it should be.
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other) => {
                    return Err(error);
                }
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(TICK),
            }
        }
    }

    /// What the guest's console said since it was asked last.
    pub(super) fn console(&mut self, monitor: &mut Monitor) -> io::Result<String> {
        monitor.console(self.console.as_mut())
    }

    /// What a VMM that has ended said.
    pub(super) fn why(&mut self, error: &io::Error) -> io::Error {
        // A connection is lost a moment before its process is.
        let end = Instant::now() + GONE;
        while lives(self.seat.pid) && error.kind() != io::ErrorKind::Other && Instant::now() < end {
            std::thread::sleep(TICK);
        }
        if lives(self.seat.pid) {
            // It has not said its last word, which would be waited for.
            return io::Error::new(error.kind(), error.to_string());
        }
        let mut said = Vec::new();
        let _ = (&mut self.words).take(4096).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let said: Vec<String> = said.lines().map(plain).collect();
        let said: Vec<&str> = said.iter().map(String::as_str).map(str::trim).filter(|line| !line.is_empty()).collect();
        if said.is_empty() {
            io::Error::new(error.kind(), format!("the VMM ended ({error})"))
        } else {
            io::Error::other(said.join("; "))
        }
    }
}

/// Whether a process is there and has not ended.
pub(super) fn lives(pid: i32) -> bool {
    // Behind the name, which may hold anything but this.
    let state = |text: &str| text.rsplit_once(')').map(|(_, rest)| rest.trim_start().chars().next());
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|text| !matches!(state(&text), Some(Some('Z' | 'X'))))
}

/// Ends all that is in a machine's group, and removes it, with the parent if it was the last. Done twice, it is done.
pub(super) fn end(node: &str, name: &str, pid: i32) -> io::Result<()> {
    let ended = end_group(node, name, pid);
    remove_groups(node);
    ended
}

fn end_group(node: &str, name: &str, pid: i32) -> io::Result<()> {
    let group = group(node, name)?;
    let process = PidFd::open(pid).ok();
    match group.kill() {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return group.remove().map_err(kernel),
        killed => drop(killed.map_err(kernel)?),
    }
    if let Some(process) = process.filter(|_| pid > 0) {
        process.wait(END)?;
    }
    let end = Instant::now() + END;
    while !group.is_empty().unwrap_or(true) && Instant::now() < end {
        std::thread::sleep(TICK);
    }
    group.remove().map_err(kernel)
}

/// An error of a step.
pub(super) fn failed(step: &str) -> impl Fn(io::Error) -> BackendError + '_ {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackendError::NoRoom {
            limit: format!("{step}: {error}"),
            hint: "free some of the data directory's disk, or move it".into(),
        },
        _ => BackendError::Failed { step: step.into(), message: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_made_while_the_last_of_the_others_goes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let node = format!("test-{}", std::process::id());
        let most = limits(64 << 20, 1000, &Limits::default());
        std::thread::scope(|scope| {
            for maker in 0..4 {
                let (node, most) = (&node, &most);
                scope.spawn(move || {
                    for round in 0..50 {
                        let name = format!("{maker}-{round}");
                        let group = make_group(node, &name, most).unwrap_or_else(|error| panic!("{name}: {error}"));
                        // Which it refuses where its parent was made by half.
                        group.set_limits(most).unwrap_or_else(|error| panic!("{name}: {error}: {}", error.source));
                        end(node, &name, 0).unwrap();
                    }
                });
            }
        });
        let top = Path::new("/sys/fs/cgroup");
        let below = std::fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
        for place in below.chain([top.to_owned()]) {
            assert!(!place.join(groups(&node)).exists(), "{}", place.display());
        }
    }
}
