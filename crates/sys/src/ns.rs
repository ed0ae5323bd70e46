//! Namespaces as owned descriptors (namespaces(7), user_namespaces(7)).

use crate::process::{self, CLONE_NEWUSER, Placeholder};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

/// One line of an id map: `count` ids from `inside` on are those from `outside` on in the parent namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Text of a map file.
fn map_text(ranges: &[IdRange]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
}

/// Writes the id maps of `pid`'s user namespace. Without CAP_SETGID in the parent namespace `setgroups` must be given up first.
pub fn write_maps(pid: i32, uids: &[IdRange], gids: &[IdRange], deny_setgroups: bool) -> io::Result<()> {
    if deny_setgroups {
        fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{pid}/uid_map"), map_text(uids))?;
    fs::write(format!("/proc/{pid}/gid_map"), map_text(gids))
}

/// A new user namespace below ours that no process is in. The caller has one thread.
///
/// What the kernel counts per user (inotify instances, pending signals, message queue bytes) it counts in every namespace
/// above as well, there against the owner: namespaces with one owner share its limits, and one can use them up for all, the
/// owner's own programs included. So each gets an `owner` of its own where we may choose (as root); none: it is ours.
pub fn user_namespace(
    uids: &[IdRange],
    gids: &[IdRange],
    deny_setgroups: bool,
    owner: Option<u32>,
) -> io::Result<OwnedFd> {
    let Some(owner) = owner else { return empty_namespace(uids, gids, deny_setgroups, || Ok(())) };
    process::lend_uid(owner)?;
    let made = empty_namespace(uids, gids, deny_setgroups, process::take_uid_back);
    // Already ours unless the fork failed.
    process::take_uid_back()?;
    made
}

/// A setting of this host under which no user namespace can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// The setting, as sysctl(8) spells it.
    pub setting: &'static str,
    /// What allows it again.
    pub remedy: &'static str,
}

/// Which setting keeps a process from making user namespaces: one of an `ordinary` user, or any.
pub fn denial(ordinary: bool) -> Option<Denial> {
    // setting, its file, the value that denies, whether root is denied too, remedy
    const SETTINGS: [(&str, &str, &str, bool, &str); 3] = [
        (
            "kernel.unprivileged_userns_clone",
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            false,
            "sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            false,
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "user.max_user_namespaces",
            "/proc/sys/user/max_user_namespaces",
            "0",
            true,
            "sysctl user.max_user_namespaces=10000",
        ),
    ];
    SETTINGS
        .iter()
        .filter(|(.., everybody, _)| ordinary || *everybody)
        .find(|(_, file, bad, ..)| fs::read_to_string(file).is_ok_and(|text| text.trim() == *bad))
        .map(|(setting, .., remedy)| Denial { setting, remedy })
}

/// `born` is called when the namespace exists, before anything is done with it.
fn empty_namespace(
    uids: &[IdRange],
    gids: &[IdRange],
    deny_setgroups: bool,
    born: impl FnOnce() -> io::Result<()>,
) -> io::Result<OwnedFd> {
    // Only holds the namespace open until we have a descriptor of it.
    let child = Placeholder::new(CLONE_NEWUSER)?;
    born()?;
    write_maps(child.pid(), uids, gids, deny_setgroups)?;
    fs::File::open(format!("/proc/{}/ns/user", child.pid())).map(OwnedFd::from)
}

/// Leaves the namespaces of `flags` for new ones.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: unshare takes an integer; descriptors and memory are not unshared by the namespace flags.
    crate::check::check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Enters the user namespace behind a descriptor, with all capabilities there and none elsewhere.
pub fn enter_user(namespace: impl AsFd) -> io::Result<()> {
    enter(namespace, CLONE_NEWUSER)
}

/// Inode of a process's cgroup namespace: a mark that its descendants inherit and none of them can change.
pub fn cgroup_mark(proc: impl AsFd, pid: i32) -> io::Result<u64> {
    Ok(rustix::fs::statat(proc, format!("{pid}/ns/cgroup"), rustix::fs::AtFlags::empty())?.st_ino)
}

/// The network namespace of a process (`self` for our own).
pub fn net_of(process: impl std::fmt::Display) -> io::Result<OwnedFd> {
    fs::File::open(format!("/proc/{process}/ns/net")).map(OwnedFd::from)
}

/// Moves the calling thread into a network namespace.
pub fn enter_net(namespace: impl AsFd) -> io::Result<()> {
    enter(namespace, process::CLONE_NEWNET)
}

/// The mount namespace of a process.
pub fn mounts_of(process: i32) -> io::Result<OwnedFd> {
    fs::File::open(format!("/proc/{process}/ns/mnt")).map(OwnedFd::from)
}

/// Moves the calling process, which has one thread, into a mount namespace: its root and working directory are that one's.
pub fn enter_mounts(namespace: impl AsFd) -> io::Result<()> {
    enter(namespace, process::CLONE_NEWNS)
}

fn enter(namespace: impl AsFd, kind: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: setns takes a descriptor and a flag.
    crate::check::check(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), kind) }).map(drop)
}

/// Whether the network namespace that the caller is in, which has only a loopback device, is as good as new: no counter in it
/// ever moved, and no socket and no flow label is left.
pub fn is_net_untouched() -> io::Result<bool> {
    let read = |name: &str| match fs::read_to_string(format!("/proc/self/net/{name}")) {
        // A kernel without IPv6 counts nothing of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    };
    // All fields of the one device: bytes, packets, errors, drops …, received and sent.
    let devices = read("dev")?;
    let mut lines = devices.lines().skip(2);
    let silent = match (lines.next().and_then(|line| line.trim_start().strip_prefix("lo:")), lines.next()) {
        (Some(counters), None) => counters.split_whitespace().all(|field| field == "0"),
        _ => false,
    };
    Ok(silent
        && read("sockstat")?.lines().next() == Some("sockets: used 0")
        // Labels stay for a while when the socket that made them is closed; anybody may make them.
        && read("ip6_flowlabel")?.lines().count() <= 1
        // Some count what failed before a device was reached.
        && has_not_counted(&read("snmp")?)
        && has_not_counted(&read("netstat")?)
        && has_not_counted(&read("snmp6")?))
}

/// Whether all counters in a text of proc_pid_net(5), `snmp` and its kin, are zero. A line of names comes before its line of
/// numbers, and two lines begin with settings.
fn has_not_counted(text: &str) -> bool {
    text.lines().all(|line| {
        let settings = match line.split_whitespace().next() {
            Some("Ip:") => 2,
            Some("Tcp:") => 4,
            _ => 0,
        };
        let mut fields = line.split_whitespace().skip(1 + settings);
        fields.all(|field| field == "0" || !field.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    })
}

#[cfg(test)]
mod tests {
    use super::has_not_counted;

    #[test]
    fn one_counter_that_moved_is_seen() {
        let fresh =
            "Ip: Forwarding DefaultTTL InReceives\nIp: 2 64 0\nTcp: A B C MaxConn Opens\nTcp: 1 200 120000 -1 0\n";
        assert!(has_not_counted(fresh));
        assert!(has_not_counted("Ip6InReceives  \t0\nIp6OutNoRoutes \t0\n"));
        assert!(!has_not_counted(&fresh.replace("64 0", "64 1")));
        assert!(!has_not_counted(&fresh.replace("-1 0", "-1 7")));
        assert!(!has_not_counted("Ip6InReceives  \t0\nIp6OutNoRoutes \t3\n"));
    }
}
