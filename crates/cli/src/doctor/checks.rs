//! Features of the kernel and programs of the host.

use super::{Check, Status};
use csb_backends::{BackendError, Examined, K8s, Microvm};
use csb_sys::{
    cgroup, landlock, loopdev,
    mount::{Attributes, Tree},
    ns, probe, process,
    process::{
        CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER,
        CLONE_NEWUTS,
    },
    seccomp::Filter,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use std::{fs, io, os::fd::AsFd, path::Path, process::Command, sync::mpsc, thread, time::Duration};

/// For a cluster to say what it lets this server do.
const CLUSTER: Duration = Duration::from_secs(20);
const NEWER: &str = "use a newer kernel";

/// All but the last, which is a whole sandbox.
pub fn all() -> Vec<Check> {
    let mut all = vec![kernel(), rights()];
    all.extend(namespaces());
    all.extend([
        overlay(),
        idmap(),
        seccomp(),
        landlock(),
        openat2(),
        pidfd(),
        limits(),
        loop_devices(),
        hardened(),
        microvm(),
        k8s(),
        lsms(),
    ]);
    all.push(rootless());
    all.extend([languages(), rivals()]);
    all
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user namespace of our own where we lack the right to make the others without one.
fn user_flag() -> i32 {
    if is_root() { 0 } else { CLONE_NEWUSER }
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // clone3 5.3, openat2 and time namespaces 5.6, mount_setattr 5.12.
    if version >= (5, 12) {
        Check::ok("kernel", release)
    } else {
        Check::lacks("kernel", Status::Missing, release, "mount_setattr, openat2 or clone3", "use Linux 5.12 or later")
    }
}

fn rights() -> Check {
    if is_root() {
        return Check::ok("rights", "root: a range of user ids for each sandbox, id-mapped layers, cgroups");
    }
    Check::lacks(
        "rights",
        Status::Degraded,
        format!("user {}: rootless", rustix::process::geteuid().as_raw()),
        "all sandboxes share your user id outside, so the kernel's per-user limits are shared; limits of memory, CPU and \
         processes only where cgroups are delegated; no `--storage disk`",
        "run as root",
    )
}

fn namespaces() -> Vec<Check> {
    let list = [
        ("user", CLONE_NEWUSER, Status::Missing, "user ids of its own", "sysctl user.max_user_namespaces=10000"),
        ("pid", CLONE_NEWPID, Status::Missing, "sandboxes could see and signal others", NEWER),
        ("mount", CLONE_NEWNS, Status::Missing, "a file tree of its own", NEWER),
        ("network", CLONE_NEWNET, Status::Missing, "sandboxes could reach the network", NEWER),
        ("ipc", CLONE_NEWIPC, Status::Missing, "sandboxes could share memory", NEWER),
        ("uts", CLONE_NEWUTS, Status::Missing, "a host name of its own", NEWER),
        ("cgroup", CLONE_NEWCGROUP, Status::Missing, "the host's cgroups would be visible", NEWER),
        ("time", CLONE_NEWTIME, Status::Degraded, "a monotonic clock of its own", "a kernel with CONFIG_TIME_NS"),
    ];
    let failed: Vec<_> = list
        .into_iter()
        .filter_map(|(name, flag, status, lost, fix)| {
            let tried = probe::in_child(user_flag() | flag, || Ok(()));
            tried.err().map(|error| Check::lacks("namespaces", status, format!("{name}: {error}"), lost, fix))
        })
        .collect();
    if failed.is_empty() {
        let names: Vec<_> = list.iter().map(|(name, ..)| *name).collect();
        return vec![Check::ok("namespaces", names.join(", "))];
    }
    failed
}

/// Ids of a rootless probe; root needs none.
fn become_root_inside() -> io::Result<()> {
    if is_root() {
        return Ok(());
    }
    let me = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    ns::unshare(CLONE_NEWUSER)?;
    let map = |outside| [ns::IdRange { inside: 0, outside, count: 1 }];
    ns::write_maps(std::process::id() as i32, &map(me), &map(group), true)
}

fn overlay() -> Check {
    let tried = scratch().and_then(|dir| {
        let path = dir.path().to_owned();
        probe::in_child(0, move || {
            become_root_inside()?;
            ns::unshare(CLONE_NEWNS)?;
            csb_sys::mount::make_all_private()?;
            Tree::new("tmpfs", &[("size", Some("1m"))], Attributes::default())?.attach_at(&path)?;
            for name in ["lower", "upper", "work"] {
                fs::create_dir(path.join(name))?;
            }
            let text = |name: &str| path.join(name).to_string_lossy().into_owned();
            let (lower, upper, work) = (text("lower"), text("upper"), text("work"));
            let mut options = vec![("lowerdir", Some(&*lower)), ("upperdir", Some(&*upper)), ("workdir", Some(&*work))];
            if user_flag() != 0 {
                options.push(("userxattr", None));
            }
            Tree::new("overlay", &options, Attributes::default()).map(drop)
        })
    });
    match tried {
        Ok(()) => Check::ok("overlay", "a writable layer in memory over a read-only one"),
        Err(error) => Check::lacks(
            "overlay",
            Status::Missing,
            error.to_string(),
            "a root that a sandbox may change and nobody else sees",
            "modprobe overlay; rootless needs Linux 5.11",
        ),
    }
}

fn scratch() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("csb-doctor-").tempdir()
}

fn idmap() -> Check {
    const LOST: &str = "files of the host and of templates belong to `nobody` inside instead of root, and a volume's files show \
                        the host's owners";
    if !is_root() {
        return Check::lacks("idmapped mounts", Status::Degraded, "needs root", LOST, "run as root");
    }
    let map = [ns::IdRange { inside: 0, outside: 1 << 20, count: 65536 }];
    let tried = ns::user_namespace(&map, &map, false, None).and_then(|namespace| {
        Tree::copy(CWD, "/usr", false)?.restrict(Attributes::READ_ONLY, Some(namespace.as_fd()), false)
    });
    match tried {
        Ok(()) => Check::ok("idmapped mounts", "of /usr"),
        Err(error) => Check::lacks(
            "idmapped mounts",
            Status::Degraded,
            error.to_string(),
            LOST,
            "keep /usr and the data directory on ext4, xfs or btrfs with Linux 5.12 or later",
        ),
    }
}

fn seccomp() -> Check {
    let filter = Filter::sandbox();
    let tried = probe::in_child(0, || {
        process::set_no_new_privs()?;
        filter.install()
    });
    match tried {
        Ok(()) => Check::ok("seccomp", format!("filter of {} instructions", filter.instructions())),
        Err(error) => Check::lacks(
            "seccomp",
            Status::Missing,
            error.to_string(),
            "every system call of the kernel would be open to the code inside",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn landlock() -> Check {
    let lost = "the second fence around files; the mount namespace still stands";
    let fix = "Linux 5.13 or later with `landlock` in the boot parameter lsm=";
    let tried = probe::in_child(0, || {
        process::set_no_new_privs()?;
        match landlock::Ruleset::sandbox()? {
            Some(rules) => rules.restrict_self(),
            None => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    });
    match (landlock::abi(), tried) {
        (0, _) => Check::lacks("landlock", Status::Degraded, "absent or off", lost, fix),
        (abi, Ok(())) if abi >= 6 => Check::ok("landlock", format!("ABI {abi}")),
        (abi, Ok(())) => Check::lacks(
            "landlock",
            Status::Degraded,
            format!("ABI {abi}"),
            "abstract sockets and signals are fenced by namespaces alone (ABI 6 fences them twice)",
            "Linux 6.12 or later",
        ),
        (abi, Err(error)) => Check::lacks("landlock", Status::Degraded, format!("ABI {abi}: {error}"), lost, fix),
    }
}

fn openat2() -> Check {
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags) {
        Ok(_) => Check::ok("openat2", "paths are resolved beneath a directory"),
        Err(error) => {
            Check::lacks("openat2", Status::Missing, error.to_string(), "safe path resolution", "Linux 5.6 or later")
        }
    }
}

fn pidfd() -> Check {
    match rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()) {
        Ok(_) => Check::ok("pidfd", "processes are held by descriptor"),
        Err(error) => {
            Check::lacks("pidfd", Status::Degraded, error.to_string(), "protection from reused pids", "Linux 5.3")
        }
    }
}

fn limits() -> Check {
    const NAME: &str = "cgroups";
    const FIX: &str =
        "boot with systemd.unified_cgroup_hierarchy=1; rootless: systemd-run --user --scope -p Delegate=yes";
    const LOST: &str = "limits of memory, CPU and processes, pausing, and figures of use";
    let host = match cgroup::Host::detect() {
        Ok(host) => host,
        Err(error) => return Check::lacks(NAME, Status::Degraded, error.to_string(), LOST, FIX),
    };
    let tried = host.root(&format!("csb-doctor-{}", std::process::id())).and_then(|root| {
        let limits = cgroup::Limits { memory: 64 << 20, cpu_milli: 1000, pids: 64, cpu_weight: None };
        let made = root.create("probe", &limits).and_then(|group| group.remove());
        let names: Vec<_> = root.controllers().iter().map(|c| c.name()).collect();
        let removed = root.remove();
        made.and(removed).map(|()| names)
    });
    match tried {
        Ok(names) => {
            let losses = host.losses();
            let names = if names.is_empty() { "none of use".into() } else { names.join(", ") };
            let found = format!("{}: {names}", host.layout());
            if losses.is_empty() {
                return Check::ok(NAME, found);
            }
            let lost: Vec<_> = losses.iter().map(|l| l.what).collect();
            Check::lacks(NAME, Status::Degraded, found, lost.join("; "), losses[0].remedy)
        }
        Err(error) => {
            Check::lacks(NAME, Status::Degraded, format!("{}: {error}: {}", host.layout(), error.source), LOST, FIX)
        }
    }
}

fn loop_devices() -> Check {
    const NAME: &str = "storage on disk";
    const LOST: &str = "`--storage disk`; sandboxes keep their files in memory";
    if !is_root() {
        return Check::lacks(NAME, Status::Degraded, "needs root", LOST, "run as root");
    }
    let tried = tempfile::tempfile().and_then(|file| {
        file.set_len(1 << 20)?;
        loopdev::LoopDevice::attach(&file).map(drop)
    });
    let mkfs = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"].iter().any(|path| Path::new(path).exists());
    match tried {
        Ok(()) if mkfs => Check::ok(NAME, "loop devices and mkfs.ext4"),
        Ok(()) => Check::lacks(NAME, Status::Degraded, "no mkfs.ext4", LOST, "apt-get install e2fsprogs"),
        Err(error) => Check::lacks(NAME, Status::Degraded, format!("loop device: {error}"), LOST, "modprobe loop"),
    }
}

/// What `--kind hardened` needs, tried on a file system of one file.
fn hardened() -> Check {
    const NAME: &str = "hardened";
    const LOST: &str = "`--kind hardened`: files that nothing else has in its page cache, fewer system calls";
    if !is_root() {
        return Check::lacks(NAME, Status::Degraded, "needs root", LOST, "run as root");
    }
    let tried = scratch().and_then(|dir| {
        fs::write(dir.path().join("file"), "x")?;
        let image = tempfile::tempfile()?;
        let caps = csb_image::Caps::default();
        csb_image::write_image(dir.path(), &image, [0; 16], caps, &mut |_| {}).map_err(io::Error::other)?;
        let map = [ns::IdRange { inside: 0, outside: 1 << 20, count: 65536 }];
        let namespace = ns::user_namespace(&map, &map, false, None)?;
        Tree::of_image(&image)?.restrict(Attributes::READ_ONLY, Some(namespace.as_fd()), false)
    });
    match tried {
        Ok(()) => Check::ok(NAME, "images with EROFS, id-mapped"),
        Err(error) => {
            let fix = "modprobe erofs; Linux 5.19 or later; before 6.12 also modprobe loop";
            Check::lacks(NAME, Status::Degraded, format!("an image: {error}"), LOST, fix)
        }
    }
}

fn microvm() -> Check {
    const NAME: &str = "microvm";
    const LOST: &str = "`--kind microvm`: virtual machines";
    if !is_root() {
        return Check::lacks(NAME, Status::Degraded, "needs root", LOST, "run as root");
    }
    let settings = csb_server::Config::load(&csb_server::Sources::from_process()).map(|config| config.microvm);
    let found = settings.map_err(|error| error.to_string()).and_then(|settings| {
        let directory = scratch().map_err(|error| error.to_string())?;
        Microvm::examine(&settings, directory.path()).map_err(|error| match error {
            BackendError::NotFound { what, hint } => format!("{what} is not there: {hint}"),
            error => error.to_string(),
        })
    });
    match found {
        Ok(Examined { kvm: true, text }) => Check::ok(NAME, text),
        Ok(Examined { text, .. }) => {
            let lost =
                "the speed of `--kind microvm`: its sandboxes start in seconds, and compute several times slower";
            Check::lacks(NAME, Status::Degraded, text, lost, "a host whose /dev/kvm runs guests")
        }
        Err(why) => Check::lacks(NAME, Status::Degraded, why, LOST, "docs/guides/microvm.md"),
    }
}

fn k8s() -> Check {
    const NAME: &str = "k8s";
    const LOST: &str = "`--kind k8s`: pods of a cluster";
    const GUIDE: &str = "docs/guides/kubernetes.md";
    let lacks = |why: String, fix: &str| Check::lacks(NAME, Status::Degraded, why, LOST, fix);
    let settings = match csb_server::Config::load(&csb_server::Sources::from_process()) {
        Ok(config) => config.k8s,
        Err(error) => return lacks(error.to_string(), "mend the settings"),
    };
    if settings.program_image.is_none() {
        return lacks("not set up (setting `k8s.program_image`)".into(), GUIDE);
    }
    // In a thread of its own: a kubeconfig may name a program that says who one is, and that may take its time.
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let _ = sender.send(runtime.map(|runtime| runtime.block_on(K8s::examine(&settings))));
    });
    match answer.recv_timeout(CLUSTER) {
        Ok(Ok(Ok(text))) => Check::ok(NAME, text),
        Ok(Ok(Err(BackendError::Unavailable { what, hint } | BackendError::NotFound { what, hint }))) => {
            lacks(what, &hint)
        }
        Ok(Ok(Err(error))) => lacks(error.to_string(), GUIDE),
        Ok(Err(error)) => lacks(error.to_string(), GUIDE),
        Err(_) => lacks(format!("no answer within {} s", CLUSTER.as_secs()), "is the cluster reached from this host?"),
    }
}

fn lsms() -> Check {
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(list) => Check::ok("security modules", list.trim()),
        Err(_) => Check::ok("security modules", "unknown: securityfs is not mounted"),
    }
}

/// Whether an ordinary user of this host could run sandboxes; tried as `nobody` when we are root.
fn rootless() -> Check {
    const NOBODY: u32 = 65534;
    let tried = probe::in_child(0, || {
        if is_root() {
            process::become_user(NOBODY, NOBODY, Some(&[]))?;
        }
        ns::unshare(CLONE_NEWUSER | CLONE_NEWNS)
    });
    match tried {
        Ok(()) => Check::ok("rootless", "ordinary users can make user namespaces"),
        Err(error) => {
            let fix = ns::denial(true).map_or("ask whoever confines this machine", |denial| denial.remedy);
            let status = if is_root() { Status::Degraded } else { Status::Missing };
            Check::lacks("rootless", status, error.to_string(), "sandboxes without root", fix)
        }
    }
}

fn programs(
    list: &[(&'static str, &[&str], &'static str)],
) -> (Vec<&'static str>, Vec<&'static str>, Vec<&'static str>) {
    let (mut found, mut absent, mut packages) = (Vec::new(), Vec::new(), Vec::new());
    for (name, paths, package) in list {
        if paths.iter().any(|path| Path::new(path).exists()) {
            found.push(*name);
        } else {
            absent.push(*name);
            packages.push(*package);
        }
    }
    (found, absent, packages)
}

fn languages() -> Check {
    let (found, absent, packages) = programs(&[
        ("python", &["/usr/bin/python3"], "python3"),
        ("javascript", &["/usr/bin/node"], "nodejs"),
        ("bash", &["/usr/bin/bash", "/bin/bash"], "bash"),
        ("go", &["/usr/bin/go"], "golang-go"),
    ]);
    let text = format!("{} in the template `host`", if found.is_empty() { "none".into() } else { found.join(", ") });
    if absent.is_empty() {
        return Check::ok("languages", text);
    }
    Check::lacks(
        "languages",
        Status::Degraded,
        text,
        format!("{} unless another template has it", absent.join(", ")),
        format!("apt-get install {}", packages.join(" ")),
    )
}

fn rivals() -> Check {
    let (found, absent, packages) = programs(&[
        ("bwrap", &["/usr/bin/bwrap"], "bubblewrap"),
        ("runc", &["/usr/sbin/runc", "/usr/bin/runc"], "runc"),
        ("crun", &["/usr/bin/crun"], "crun"),
    ]);
    if absent.is_empty() {
        return Check::ok("comparisons", found.join(", "));
    }
    Check::lacks(
        "comparisons",
        Status::Degraded,
        format!("without {}", absent.join(", ")),
        "`make bench` compares with what is there",
        format!("apt-get install {}", packages.join(" ")),
    )
}

/// The whole of it: a sandbox that runs a program.
pub fn sandbox() -> Check {
    const NAME: &str = "a sandbox";
    let run = std::env::current_exe().and_then(|program| {
        Command::new(program).args(["run", "--no-stdin", "--", "sh", "-c", "echo it runs"]).output()
    });
    let lacks = |found: String| {
        Check::lacks(NAME, Status::Missing, found, "everything", "see the lines above; `csb run -- true` says more")
    };
    match run {
        Ok(output) if output.status.success() && output.stdout == b"it runs\n" => Check::ok(NAME, "started and ended"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            lacks(text.lines().take(4).map(str::trim).collect::<Vec<_>>().join("; "))
        }
        Err(error) => lacks(error.to_string()),
    }
}
