//! How many sandboxes this host can hold at once, as far as its limits tell.

use crate::failure::{Failure, Outcome};
use rustix::process::{Resource, getrlimit};
use std::fs;

/// Processes of an idle sandbox: its init, and the one that waits for a command.
const PROCESSES: u64 = 2;
/// Cgroup namespaces of an idle sandbox: its init's, and the mark of the command that is to come and of the one before.
const MARKS: u64 = 3;
/// Host memory of an idle sandbox that has run a small command, KiB.
const MEMORY: u64 = 512;
/// Descriptors that this process keeps for each: the control socket.
const DESCRIPTORS: u64 = 1;
/// Of a server's descriptors, those that no sandbox gets.
const RESERVED: u64 = 4096;
/// Kept free for everything else.
const SPARE: u64 = 600;

struct Bound {
    name: &'static str,
    value: u64,
    each: u64,
    /// How to raise it.
    raise: &'static str,
}

/// Refuses a number that some limit of this host stands against, and says which.
pub fn check(n: u32) -> Outcome {
    let bounds = bounds();
    let room = |bound: &Bound| bound.value.saturating_sub(SPARE) / bound.each;
    match bounds.iter().min_by_key(|bound| room(bound)) {
        Some(least) if room(least) < u64::from(n) => Err(Failure::new(format!(
            "{n} sandboxes do not fit this host: {} is {}, enough for {}",
            least.name,
            least.value,
            room(least)
        ))
        .hint(least.raise)),
        _ => Ok(()),
    }
}

fn bounds() -> Vec<Bound> {
    let mut bounds = Vec::new();
    let mut add = |name, value: Option<u64>, each, raise| {
        if let Some(value) = value {
            bounds.push(Bound { name, value, each, raise });
        }
    };
    let sysctl = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok();
    // Less what is left to the host's own programs.
    let pids = csb_sys::process::pids_for_sandboxes().map(u64::from);
    add(
        "the least of kernel.pid_max and kernel.threads-max, less a sixteenth,",
        pids,
        PROCESSES,
        "sysctl -w kernel.pid_max=4194304 kernel.threads-max=1000000",
    );
    add("available memory in KiB", available(), MEMORY, "free memory, or use a larger host");
    add("fs.file-max", sysctl("fs/file-max"), 16, "raise fs.file-max");
    add("user.max_net_namespaces", sysctl("user/max_net_namespaces"), 1, "raise user.max_net_namespaces");
    add("user.max_user_namespaces", sysctl("user/max_user_namespaces"), 1, "raise user.max_user_namespaces");
    add("user.max_mnt_namespaces", sysctl("user/max_mnt_namespaces"), 1, "raise user.max_mnt_namespaces");
    add("user.max_pid_namespaces", sysctl("user/max_pid_namespaces"), 1, "raise user.max_pid_namespaces");
    add("user.max_cgroup_namespaces", sysctl("user/max_cgroup_namespaces"), MARKS, "raise user.max_cgroup_namespaces");
    // Mounts are counted for each mount namespace apart (fs.mount-max), and inotify is not used.
    let nofile = getrlimit(Resource::Nofile).maximum.map(|most| most - (most / 4).min(RESERVED));
    add("the hard limit of open descriptors", nofile, DESCRIPTORS, "raise `ulimit -Hn`");
    bounds
}

/// `MemAvailable` of proc(5), KiB.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}
