//! Limits of the host that many sandboxes run into.

use super::{Check, Status};
use rustix::process::{Resource, getrlimit};
use std::fs;

pub fn all() -> Vec<Check> {
    let file = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    vec![
        processes(),
        core_dumps(),
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

/// Whether all of the default limit can be used by a few sandboxes at once.
fn processes() -> Check {
    const NAME: &str = "pids together";
    let each = u64::from(csb_types::Limits::default().pids);
    let Some(most) = csb_sys::process::pids_for_sandboxes().map(u64::from) else {
        return Check::ok(NAME, "no limit that is known");
    };
    let found = format!("{most} for all sandboxes: {} of them can use the default of {each} at once", most / each);
    if most / each >= 100 {
        return Check::ok(NAME, found);
    }
    Check::lacks(
        NAME,
        Status::Degraded,
        found,
        "more sandboxes can be made than could all use their limit; where too many do, commands of others fail to start",
        "sysctl kernel.pid_max=4194304 kernel.threads-max=4194304, or ask for fewer with --pids",
    )
}

/// The soft value that keeps a piped handler from starting cannot be set above a hard one of 0.
fn core_dumps() -> Check {
    const NAME: &str = "core dumps";
    let handler = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let piped = handler.trim_start().starts_with('|');
    match (getrlimit(Resource::Core).maximum, piped) {
        (Some(0), true) => Check::lacks(
            NAME,
            Status::Degraded,
            format!("the hard limit is 0, and core_pattern is `{}`", handler.trim()),
            "a crash inside starts that program, as root, on what a stranger wrote",
            "leave the hard limit of core dumps above 0 (`ulimit -Hc`, LimitCORE= of systemd), or sysctl kernel.core_pattern=core",
        ),
        (Some(0), false) => Check::ok(NAME, "the hard limit is 0; core_pattern starts no program"),
        (_, true) => Check::ok(NAME, "a crash inside starts no program of the host"),
        (_, false) => Check::ok(NAME, "core_pattern starts no program"),
    }
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
