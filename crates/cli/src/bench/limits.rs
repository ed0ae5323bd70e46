//! How many sandboxes this host can hold at once, as far as its limits tell.

use crate::failure::{Failure, Outcome};
use rustix::process::{Resource, getrlimit};
use std::fs;

/// Processes of an idle sandbox: its init, and the one that waits for a command.
const PROCESSES: u64 = 2;
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
    add("kernel.pid_max", sysctl("kernel/pid_max"), PROCESSES, "sysctl -w kernel.pid_max=4194304");
    add("kernel.threads-max", sysctl("kernel/threads-max"), PROCESSES, "raise kernel.threads-max");
    add("fs.file-max", sysctl("fs/file-max"), 16, "raise fs.file-max");
    add("user.max_net_namespaces", sysctl("user/max_net_namespaces"), 1, "raise user.max_net_namespaces");
    add("user.max_user_namespaces", sysctl("user/max_user_namespaces"), 1, "raise user.max_user_namespaces");
    let nofile = getrlimit(Resource::Nofile).maximum.map(|most| most - (most / 4).min(RESERVED));
    add("the hard limit of open descriptors", nofile, DESCRIPTORS, "raise `ulimit -Hn`");
    bounds
}
