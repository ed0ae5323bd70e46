//! Confines a VMM before it begins: its own user, control group and namespaces (no network among them), a root with nothing of the
//! host but what it runs from, no capability, no new privileges. Its own filter of system calls it loads itself.
//!
//! The VMM is what a guest that broke out of its machine would be. Knows nothing of machines, and of what VMMs understand.

use csb_jail::{Step, failure};
use csb_sys::{
    cgroup::{self, Group},
    mount::{self, Attributes, Tree, make_beneath, open_beneath},
    process::{self, CLONE_NEWNS, Fork},
};
use csb_wire::{
    Failure, VERSION,
    machine::{FIRST_DESCRIPTOR, VMM_CONSOLE, VMM_FILES, VMM_RUN, VmmPlan},
};
use rustix::fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Uid};
use std::{
    ffi::CString,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
};

/// Name, major, minor: mem(4).
const NODES: [(&str, u32, u32); 4] = [("null", 1, 3), ("zero", 1, 5), ("random", 1, 8), ("urandom", 1, 9)];
const KVM: &str = "/dev/kvm";
/// What it is linked with, where the host has it.
const LIBRARIES: [&str; 7] = ["usr", "lib", "lib32", "lib64", "libx32", "bin", "sbin"];
const MOST_DESCRIPTORS: u64 = 4096;
/// Bytes of what a VMM may write beside its disks.
const RUN: u64 = 256 << 10;

/// Starts the VMM; it is nobody's child then.
pub(crate) fn run() -> io::Result<()> {
    process::set_name(c"csb-vmm");
    process::default_handlers();
    let started = start();
    started.map_err(|failure| io::Error::other(failure.to_string()))
}

fn start() -> Result<(), Failure> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).step("read the plan")?;
    let plan: VmmPlan = serde_json::from_str(&text).map_err(|error| failure("read the plan", &error.into()))?;
    if plan.version != VERSION {
        return Err(failure("read the plan", &io::Error::other("it is another version's")));
    }
    let kernel = |error: cgroup::CgroupError| failure(&error.to_string(), &error.source);
    let groups = cgroup::Host::detect().step("look at the control groups")?.at_top().root(&plan.group.0);
    let group = groups.and_then(|root| root.open(&plan.group.1)).map_err(kernel)?;
    let (directory, joins) = (group.dir_fd().map_err(kernel)?, group.join_fds().map_err(kernel)?);
    let descriptors = open(&plan)?;
    use libc::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS};
    let flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    match process::fork(flags, directory.as_ref().map(AsFd::as_fd)).step("start the VMM")? {
        Fork::Parent(pid) => writeln!(io::stdout(), "{pid}").step("say the VMM's pid"),
        Fork::Child => {
            let failure = become_vmm(&plan, &joins, descriptors);
            eprintln!("csb-vmm: {failure}");
            process::exit_now(1)
        }
    }
}

/// Makes the sockets and opens the disks, in the order of their numbers.
fn open(plan: &VmmPlan) -> Result<Vec<OwnedFd>, Failure> {
    let mut all = Vec::new();
    for path in &plan.sockets {
        // Socket addresses hold 107 bytes; a longer path is reached through its directory's descriptor.
        let step = format!("listen at `{}`", path.display());
        let directory = std::fs::File::open(path.parent().unwrap_or(Path::new("/"))).step(&step)?;
        let short =
            format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), path.file_name().unwrap_or_default().display());
        let socket = UnixListener::bind(&short).step(&step)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).step(&step)?;
        all.push(socket.into());
    }
    for (path, writable) in &plan.disks {
        let step = format!("open the disk `{}`", path.display());
        let access = if *writable { OFlags::RDWR } else { OFlags::RDONLY };
        let disk = rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).step(&step)?;
        // By which whoever removes images that are not in use knows that this one is.
        rustix::fs::flock(&disk, FlockOperation::NonBlockingLockShared).step(&step)?;
        all.push(disk);
    }
    Ok(all)
}

/// Only returns with what failed.
fn become_vmm(plan: &VmmPlan, joins: &[OwnedFd], descriptors: Vec<OwnedFd>) -> Failure {
    match confined(plan, joins, descriptors) {
        Err(failure) => failure,
        Ok((program, argv)) => {
            let error = process::exec(&program, &argv, &[]);
            failure(&format!("run `{}`", plan.program.display()), &error)
        }
    }
}

fn confined(plan: &VmmPlan, joins: &[OwnedFd], descriptors: Vec<OwnedFd>) -> Result<(CString, Vec<CString>), Failure> {
    Group::join(joins).step("enter the control group")?;
    let root = root(plan)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|error| failure("read the plan", &error.into()));
    let program = text(plan.program.as_os_str().as_bytes())?;
    let mut argv = vec![program.clone()];
    for argument in &plan.arguments {
        argv.push(text(argument.as_bytes())?);
    }
    mount::pivot_to(&root).step("leave the host's files")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open /dev/null")?;
    process::set_stdio(null.as_fd(), 0).step("close descriptors")?;
    if plan.run {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        let console = rustix::fs::open(format!("{VMM_RUN}/{VMM_CONSOLE}"), flags, Mode::from_raw_mode(0o600));
        process::set_stdio(console.step("make the VMM's console")?.as_fd(), 1).step("close descriptors")?;
    } else {
        process::set_stdio(null.as_fd(), 1).step("close descriptors")?;
    }
    // Closed by their owners before their numbers are given to others.
    drop((null, root));
    number(descriptors)?;
    process::limit(rustix::process::Resource::Core, 0).step("set limits")?;
    process::limit(rustix::process::Resource::Nofile, MOST_DESCRIPTORS).step("set limits")?;
    if let Some(most) = plan.file_size {
        process::limit(rustix::process::Resource::Fsize, most).step("set limits")?;
    }
    rustix::process::setsid().step("leave the session")?;
    process::drop_bounding_set().step("give up all rights")?;
    process::become_user(plan.uid, plan.uid, Some(&[])).step("become the VMM's user")?;
    process::keep_capabilities(&[]).step("give up all rights")?;
    process::set_no_new_privs().step("give up all rights")?;
    Ok((program, argv))
}

/// Puts descriptors at their numbers, to be inherited, and closes all others.
fn number(descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
    let step = "number the descriptors";
    // First above all targets, so that none is overwritten that is still needed.
    let first = FIRST_DESCRIPTOR + descriptors.len() as i32;
    let high: Vec<OwnedFd> =
        descriptors.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, first)).collect::<Result<_, _>>().step(step)?;
    drop(descriptors);
    process::close_all_but(&[0, 1, 2].into_iter().chain(high.iter().map(AsRawFd::as_raw_fd)).collect::<Vec<_>>())
        .step(step)?;
    for fd in high {
        // The lowest free number each time, and without close-on-exec.
        let numbered = rustix::io::dup(&fd).step(step)?;
        let _ = numbered.into_raw_fd();
    }
    Ok(())
}

/// A root of the VMM's own.
fn root(plan: &VmmPlan) -> Result<OwnedFd, Failure> {
    let step = "make the VMM's root";
    mount::make_all_private().step(step)?;
    let options = [("size", Some("1m")), ("nr_inodes", Some("256")), ("mode", Some("0755"))];
    let tree = Tree::new("tmpfs", &options, Attributes { devices: true, ..Attributes::default() }).step(step)?;
    tree.attach_at(&plan.directory).step(step)?;
    let root = mount::open_directory(&plan.directory).step(step)?;
    let dev = make_beneath(&root, "dev").step(step)?;
    let mut nodes: Vec<(&str, u32, u32)> = NODES.to_vec();
    if plan.kvm {
        let stat = rustix::fs::stat(KVM).step("look at /dev/kvm")?;
        nodes.push(("kvm", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
    }
    for (name, major, minor) in nodes {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, mode, rustix::fs::makedev(major, minor))
            .step(step)?;
        rustix::fs::chmodat(&dev, name, mode, AtFlags::empty()).step(step)?;
    }
    for name in LIBRARIES {
        let host = Path::new("/").join(name);
        match std::fs::read_link(&host) {
            Ok(target) => rustix::fs::symlinkat(target, &root, name).step(step)?,
            Err(_) if host.is_dir() => show(&root, &host, name, false)?,
            Err(_) => {}
        }
    }
    let cache = Path::new("/etc/ld.so.cache");
    if cache.is_file() {
        show(&root, cache, "etc/ld.so.cache", false)?;
    }
    for path in plan.shown.iter().filter(|path| !path.starts_with("/usr")) {
        show(&root, path, &path.to_string_lossy(), false)?;
    }
    for (path, name, writable) in &plan.files {
        open_to(path, *writable, plan.uid).step(&format!("let the VMM open `{}`", path.display()))?;
        show(&root, path, &format!("{VMM_FILES}/{name}"), *writable)?;
    }
    if plan.run {
        let (size, owner) = (RUN.to_string(), plan.uid.to_string());
        let options = [
            ("size", Some(size.as_str())),
            ("nr_inodes", Some("16")),
            ("mode", Some("0700")),
            ("uid", Some(owner.as_str())),
            ("gid", Some(owner.as_str())),
        ];
        let own = Tree::new("tmpfs", &options, Attributes::NO_EXEC).step(step)?;
        make_beneath(&root, VMM_RUN).and_then(|target| own.attach(target)).step(step)?;
    }
    tree.restrict(Attributes { devices: true, ..Attributes::READ_ONLY }, None, false).step(step)?;
    // The root itself: what lies on it is attached by now.
    mount::open_directory(&plan.directory).step(step)
}

/// A file that the VMM opens by its name, as its own user.
fn open_to(path: &Path, writable: bool, uid: u32) -> io::Result<()> {
    if writable {
        rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
    } else {
        let mode = std::fs::metadata(path)?.permissions().mode();
        if mode & 0o004 == 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o444))?;
        }
    }
    Ok(())
}

/// Shows something of the host.
fn show(root: &OwnedFd, host: &Path, name: &str, writable: bool) -> Result<(), Failure> {
    let step = format!("show the VMM `{}`", host.display());
    let shown = || -> io::Result<()> {
        let tree = Tree::copy(rustix::fs::CWD, std::fs::canonicalize(host)?, false)?;
        tree.restrict(if writable { Attributes::default() } else { Attributes::READ_ONLY }, None, false)?;
        let target = if host.is_dir() {
            make_beneath(root, name)?
        } else {
            let (parent, name) = name.rsplit_once('/').unwrap_or(("", name));
            let parent = make_beneath(root, parent)?;
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o444))?;
            open_beneath(&parent, name)?
        };
        tree.attach(target)
    };
    shown().step(&step)
}
