//! Limits of the host that many sandboxes run into.

use super::{Check, Status};
use rustix::process::{Resource, getrlimit};
use std::fs;

pub fn all() -> Vec<Check> {
    let file = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    vec![
        at_least(
            "processes",
            file("/proc/sys/kernel/pid_max"),
            100_000,
            "sandboxes at once: each takes a pid for its init and one for each process",
            "sysctl kernel.pid_max=4194304",
        ),
        at_least(
            "threads",
            file("/proc/sys/kernel/threads-max"),
            100_000,
            "processes and threads of all sandboxes together",
            "sysctl kernel.threads-max=1000000",
        ),
        at_least(
            "mounts",
            file("/proc/sys/fs/mount-max"),
            100_000,
            "mounts of one namespace",
            "sysctl fs.mount-max=100000",
        ),
        at_least(
            "user namespaces",
            file("/proc/sys/user/max_user_namespaces"),
            10_000,
            "sandboxes at once: each has one",
            "sysctl user.max_user_namespaces=100000",
        ),
        at_least(
            "inotify",
            file("/proc/sys/fs/inotify/max_user_instances"),
            128,
            "programs that watch files (bundlers, test runners)",
            "sysctl fs.inotify.max_user_instances=1024",
        ),
        at_least(
            "open files",
            getrlimit(Resource::Nofile).maximum.or(Some(u64::MAX)),
            4096,
            "commands at once: the server holds a few descriptors for each",
            "raise the hard limit of nofile (limits.conf(5), LimitNOFILE= of systemd)",
        ),
    ]
}

fn at_least(name: &'static str, value: Option<u64>, enough: u64, lost: &str, fix: &str) -> Check {
    match value {
        None => Check::ok(name, "no limit that is known"),
        Some(value) if value >= enough => {
            Check::ok(name, if value == u64::MAX { "no limit".into() } else { format!("at most {value}") })
        }
        Some(value) => Check::lacks(name, Status::Degraded, format!("at most {value}"), lost, fix),
    }
}
