//! `/proc`: a fresh one for the sandbox's PID namespace, hiding what is not the sandbox's business.
//!
//! Mounted and masked before anything of a tenant runs, by descriptors, so that no link can lead a mask or a write elsewhere
//! (CVE-2019-19921, CVE-2025-52881).

use crate::{Step, stage::NOTHING};
use csb_sys::mount::{Attributes, Tree, open_beneath};
use csb_wire::Failure;
use std::{fs, io, os::fd::OwnedFd, os::unix::fs::MetadataExt};

/// Hidden whole: they tell of other processes and of the hardware, or have been ways out.
const HIDE: [&str; 15] = [
    "acpi",
    "asound",
    "driver",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "key-users",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "cmdline",
    "config.gz",
];
/// All that a hardened sandbox sees besides processes and `sys`: what C libraries, languages and `ps` read. An allowlist, as new
/// kernels have new files.
const SEEN: [&str; 13] = [
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "mounts",
    "net",
    "self",
    "stat",
    "sys",
    "thread-self",
    "uptime",
    "version",
    // Locks of its own PID namespace alone.
    "locks",
];
/// Shown but not writable.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Which of them exist here and can be read by a stranger.
#[derive(Debug)]
pub(crate) struct Hidden {
    directories: Vec<&'static str>,
    files: Vec<&'static str>,
    read_only: Vec<&'static str>,
    /// Of a hardened sandbox, beside those.
    more_directories: Vec<String>,
    more_files: Vec<String>,
}

impl Hidden {
    pub(crate) fn on_this_kernel() -> Self {
        let (mut directories, mut files) = (Vec::new(), Vec::new());
        for name in HIDE {
            match fs::metadata(format!("/proc/{name}")) {
                Ok(meta) if meta.is_dir() => directories.push(name),
                // What only the host's root can read, no sandbox can: its ids are others.
                Ok(meta) if meta.mode() & 0o004 != 0 => files.push(name),
                _ => {}
            }
        }
        let read_only = READ_ONLY.into_iter().filter(|n| fs::metadata(format!("/proc/{n}")).is_ok()).collect();
        let (mut more_directories, mut more_files) = (Vec::new(), Vec::new());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let known = SEEN.contains(&&*name) || HIDE.contains(&&*name) || name.bytes().all(|c| c.is_ascii_digit());
            match entry.metadata() {
                Ok(meta) if !known && meta.is_dir() => more_directories.push(name),
                Ok(meta) if !known && meta.is_file() && meta.mode() & 0o004 != 0 => more_files.push(name),
                _ => {}
            }
        }
        Self { directories, files, read_only, more_directories, more_files }
    }
}

/// An empty read-only directory, to hide others.
pub(crate) fn nothing() -> Result<Tree, Failure> {
    let options = [("size", Some("4k")), ("nr_inodes", Some("1")), ("mode", Some("0555"))];
    Tree::new("tmpfs", &options, Attributes::READ_ONLY_NO_EXEC).step("make the mask")
}

/// Mounts `/proc` below the stage `root` and masks it. Returns the unmasked directory, for the init's own use.
pub(crate) fn attach(hidden: &Hidden, root: &OwnedFd) -> Result<OwnedFd, Failure> {
    let target = open_beneath(root, "proc").step("mount /proc")?;
    // A user sees only own processes: the init, and other users' commands, are invisible (proc(5), `hidepid`).
    let options = [("hidepid", Some("invisible"))];
    let tree = Tree::new("proc", &options, Attributes::NO_EXEC).step("mount /proc")?;
    tree.attach(target).step("mount /proc")?;
    let proc = open_beneath(root, "proc").step("mount /proc")?;

    for name in &hidden.directories {
        let mask = Tree::copy(root, NOTHING, false);
        mask.and_then(|mask| mask.attach(open_beneath(&proc, name)?)).step("mask /proc")?;
    }
    for name in &hidden.files {
        let mask = Tree::copy(root, "dev/null", false);
        mask.and_then(|mask| mask.attach(open_beneath(&proc, name)?)).step("mask /proc")?;
    }
    for name in &hidden.read_only {
        let again = || -> io::Result<()> {
            let view = Tree::copy(&proc, name, false)?;
            view.restrict(Attributes::READ_ONLY_NO_EXEC, None, false)?;
            view.attach(open_beneath(&proc, name)?)
        };
        again().step("make parts of /proc read-only")?;
    }
    Ok(proc)
}

/// Hides more of the `/proc` below `root`: all but processes and what is listed. The caller stands on its stage.
pub(crate) fn narrow(hidden: &Hidden, root: &OwnedFd, proc: &OwnedFd) -> Result<(), Failure> {
    // Not the one that all stages share.
    nothing()?.attach_at(NOTHING.as_ref()).step("make the mask")?;
    for name in &hidden.more_directories {
        let mask = Tree::copy(rustix::fs::CWD, NOTHING, false);
        mask.and_then(|mask| mask.attach(open_beneath(proc, name)?)).step("mask /proc")?;
    }
    for name in &hidden.more_files {
        let mask = Tree::copy(root, "dev/null", false);
        mask.and_then(|mask| mask.attach(open_beneath(proc, name)?)).step("mask /proc")?;
    }
    Ok(())
}
