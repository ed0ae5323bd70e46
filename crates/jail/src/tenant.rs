//! How a forked child of the init becomes a command of the tenant: identity, no capability, no way back.

use crate::{
    Host, Mark, Step,
    ids::{LAST_ID, USER_ID},
};
use csb_sys::{ns, process, seccomp::Filter};
use csb_types::Kind;
use csb_wire::{Failure, JailPlan, Mode};
use rustix::{
    fs::{FileType, Mode as FileMode, OFlags},
    process::Resource,
};
use std::{
    fs::File,
    io,
    io::Read,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

/// The user a command runs as unless told otherwise.
pub const DEFAULT_USER: &str = "user";
const MOST_PASSWD: u64 = 1 << 20;
/// What a command would otherwise take over from whoever started the warden. Core: see `csb_sys::seccomp`, where 1 is kept.
const LIMITS: [(Resource, u64); 6] = [
    (Resource::Core, 1),
    (Resource::Memlock, 8 << 20),
    (Resource::Sigpending, 16384),
    (Resource::Msgqueue, 819_200),
    (Resource::Nice, 0),
    (Resource::Rtprio, 0),
];

/// Whose ids commands have.
#[derive(Debug)]
enum Realm {
    /// Those of a user namespace that each command enters.
    Namespace { namespace: OwnedFd, mode: Mode },
    /// Those of the container that another program made. Nothing of a command's rights but its uid is left.
    Container {
        /// `NAME=value` each, of the container's image.
        env: Vec<String>,
    },
}

/// What commands of one sandbox become.
#[derive(Debug)]
pub struct Tenant {
    realm: Realm,
    filters: Vec<Filter>,
    nofile: u32,
    /// Most processes of one user; none where a control group limits all together, or the kernel would count those of other
    /// sandboxes with them.
    nproc: Option<u32>,
}

/// A user inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name; the number where it has none.
    pub name: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

impl Tenant {
    pub(crate) fn new(namespace: OwnedFd, host: &Host, plan: &JailPlan) -> Self {
        let mut filters = vec![match plan.kind {
            Kind::Hardened => host.narrow_filter.clone(),
            _ => host.filter.clone(),
        }];
        if plan.volumes.iter().any(|volume| !volume.read_only) {
            filters.push(host.no_set_id.clone());
        }
        let nproc = host.limits_processes.then_some(plan.limits.pids.saturating_add(2));
        Self { realm: Realm::Namespace { namespace, mode: host.mode }, filters, nofile: plan.limits.nofile, nproc }
    }

    /// Of a container. The kernel counts a uid's processes there together with those of every other container.
    pub(crate) fn contained(nofile: u32, env: Vec<String>, filter: Filter) -> Self {
        Self { realm: Realm::Container { env }, filters: vec![filter], nofile, nproc: None }
    }

    /// The user namespace commands enter, if they do.
    pub fn as_raw_fd(&self) -> Option<RawFd> {
        match &self.realm {
            Realm::Namespace { namespace, .. } => Some(namespace.as_raw_fd()),
            Realm::Container { .. } => None,
        }
    }

    /// What commands find in their environment unless they are told otherwise, `NAME=value` each.
    pub fn env(&self) -> &[String] {
        match &self.realm {
            Realm::Namespace { .. } => &[],
            Realm::Container { env } => env,
        }
    }

    /// In a process of ours that belongs to no command: it shall not have the mark of one.
    pub fn stand_apart(&self) -> Result<(), Failure> {
        match self.realm {
            Realm::Namespace { .. } => ns::unshare(process::CLONE_NEWCGROUP).step("confine"),
            // Its mark is a group, and it is given none.
            Realm::Container { .. } => Ok(()),
        }
    }

    fn is_contained(&self) -> bool {
        matches!(self.realm, Realm::Container { .. })
    }

    fn is_rootless(&self) -> bool {
        matches!(self.realm, Realm::Namespace { mode: Mode::Rootless, .. })
    }

    /// Gives up everything. `user` is looked up only when the host's rights are gone: `/etc/passwd` is the tenant's to write.
    /// The error's `step` is `user` or `confine`.
    pub fn become_user(&self, user: Option<&str>, mark: Option<Mark>) -> Result<Account, Failure> {
        // The OOM killer takes commands before the init.
        self.expendable().step("confine")?;
        process::limit(Resource::Nofile, self.nofile.into()).step("confine")?;
        if let Some(nproc) = self.nproc {
            // Without cgroups this is what stops a fork bomb.
            process::limit(Resource::Nproc, nproc.into()).step("confine")?;
        }
        for (resource, most) in LIMITS {
            match process::limit(resource, most) {
                // gVisor has most of them in name only, and refuses to change those.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.is_contained() => {}
                done => done.step("confine")?,
            }
        }
        if let Realm::Namespace { namespace, .. } = &self.realm {
            ns::enter_user(namespace).step("confine")?;
        }
        let account = account(user.unwrap_or(DEFAULT_USER), read_passwd).step("user")?;
        if self.is_rootless() && account.uid != USER_ID {
            let error = io::Error::new(io::ErrorKind::Unsupported, "a rootless sandbox has one user, `user`");
            return Err(crate::failure("user", &error));
        }
        process::lock_securebits().step("confine")?;
        // Before the uid is changed, with which a kernel without securebits takes the right to it.
        process::drop_bounding_set().step("confine")?;
        let groups = mark.and_then(Mark::group);
        process::become_user(account.uid, account.gid, (!self.is_rootless()).then_some(groups.as_slice()))
            .step("user")?;
        process::keep_capabilities(&[]).step("confine")?;
        process::set_no_new_privs().step("confine")?;
        Ok(account)
    }

    fn expendable(&self) -> io::Result<()> {
        // Of a process that is not dumpable even its own `/proc` files belong to the host's root.
        if self.is_rootless() {
            process::set_dumpable()?;
        }
        std::fs::write("/proc/self/oom_score_adj", "500")?;
        process::set_undumpable()
    }

    /// Loads the system call allowlist: the last step before the tenant's own code.
    pub fn filter(&self) -> Result<(), Failure> {
        self.filters.iter().try_for_each(Filter::install).step("confine")
    }

    /// The same for our own code on the tenant's behalf, which makes no set-user-id file and needs openat2(2).
    pub fn filter_helper(&self) -> Result<(), Failure> {
        self.filters.iter().take(1).try_for_each(Filter::install).step("confine")
    }
}

/// `/etc/passwd` of the sandbox, if it is a regular file of sane size; never waits (it could be a FIFO).
fn read_passwd() -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open("/etc/passwd", flags, FileMode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/etc/passwd is not a regular file"));
    }
    let mut text = Vec::new();
    File::from(fd).take(MOST_PASSWD).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Finds a user by name or number. `root` and `user` need no look-up: every template has them.
pub fn account(user: &str, passwd: impl FnOnce() -> io::Result<String>) -> io::Result<Account> {
    let known = |name: &str, id: u32, home: &str| Account { name: name.into(), uid: id, gid: id, home: home.into() };
    match user {
        "root" | "0" => return Ok(known("root", 0, "/root")),
        DEFAULT_USER | "1000" => return Ok(known(DEFAULT_USER, USER_ID, "/home/user")),
        _ => {}
    }
    let number: Option<u32> = user.parse().ok();
    for line in passwd().unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, uid, gid, _, home, ..] = fields[..]
            && let (Ok(uid), Ok(gid)) = (uid.parse::<u32>(), gid.parse::<u32>())
            && (name == user || number == Some(uid))
        {
            // The tenant writes this file. -1 means "leave as it is" to setresuid(2), which would leave the host's root; the
            // last id of the range belongs to the namespace itself.
            if uid >= LAST_ID || gid >= LAST_ID {
                let error = format!("user `{user}` of /etc/passwd has ids outside the sandbox's range");
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            return Ok(Account { name: name.into(), uid, gid, home: home.into() });
        }
    }
    match number {
        Some(id) if id < LAST_ID => Ok(known(user, id, "/")),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("no user `{user}` in this sandbox"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nbroken\nana:x:1001:1002:Ana:/home/ana:/bin/bash\n\
                          evil:x:4294967295:4294967295::/:/bin/sh\nowner:x:65535:0::/:/bin/sh\n";

    fn check(user: &str, expected: Option<(u32, u32, &str)>) {
        let found = account(user, || Ok(PASSWD.into())).ok();
        assert_eq!(found.as_ref().map(|a| (a.uid, a.gid, a.home.as_str())), expected, "{user}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("user", Some((1000, 1000, "/home/user")));
        check("root", Some((0, 0, "/root")));
        check("ana", Some((1001, 1002, "/home/ana")));
        check("1001", Some((1001, 1002, "/home/ana")));
        check("4242", Some((4242, 4242, "/")));
        check("nobody-here", None);
        check("65535", None);
        check("evil", None);
        check("owner", None);
        check("4294967295", None);
    }

    #[test]
    fn a_sandbox_without_passwd_still_has_its_two_users() {
        let missing = || Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(account("user", missing).is_ok());
        assert!(account("ana", missing).is_err());
    }
}
