//! From a shell to a sandbox that can run commands: its plan's mounts, its root, the door shut behind.

use crate::{
    Host, Ids, Marks, Shell, Step, Tenant, Trees, dev,
    ids::{IDS, USER_ID},
    proc,
    stage::{ROOT, WORK},
};
use csb_sys::{
    mount::{self, Attributes, Tree, make_beneath, open_beneath},
    ns::{IdRange, user_namespace},
    process,
};
use csb_types::Kind;
use csb_wire::{Failure, JailPlan, Mode};
use rustix::fs::{AtFlags, Gid, Mode as FileMode, OFlags, Uid};
use std::{fs, io, os::fd::OwnedFd};

/// What the init keeps of a built sandbox.
#[derive(Debug)]
pub struct Built {
    /// What commands become.
    pub tenant: Tenant,
    /// The sandbox's `/proc`.
    pub proc: OwnedFd,
    /// How commands are marked.
    pub marks: Marks,
}

/// Directories the sandbox's user owns, wherever the layers' owners cannot be mapped.
const USERS_OWN: [&str; 2] = ["workspace", "home/user"];

/// Makes the shell around this process the plan's sandbox. On an error the process must end.
pub fn build(host: &Host, plan: &JailPlan, ids: Ids, shell: Shell, trees: Trees) -> Result<Built, Failure> {
    mount_upper(plan, trees.upper)?;
    let root = mount_root(host, plan, &ids, &trees.layers)?;
    for (bind, tree) in plan.binds.iter().zip(&trees.binds) {
        let guest = bind.guest.to_string_lossy();
        open_beneath(&root, &guest)
            .and_then(|target| tree.attach(target))
            .step(&format!("bind `{}`", bind.host.display()))?;
    }
    if plan.kind == Kind::Hardened {
        let stage = mount::open_directory("/".as_ref()).step("open the stage")?;
        dev::attach_own(&stage)?;
        proc::narrow(&host.hidden, &stage, &shell.proc)?;
    }
    for name in ["dev", "proc"] {
        make_beneath(&root, name).and_then(|target| mount::move_to(name, target)).step(&format!("move /{name}"))?;
    }
    dev::attach_shm(&root, plan.limits.memory)?;
    // Directories on the way to a volume are for all to pass.
    let umask = rustix::process::umask(FileMode::from_raw_mode(0o022));
    for (volume, tree) in plan.volumes.iter().zip(&trees.volumes) {
        mount_volume(&root, volume, tree).step(&format!("mount the volume `{}`", volume.guest.display()))?;
    }
    rustix::process::umask(umask);
    if plan.hostname != "sandbox" {
        write_hosts(&root, &plan.hostname).step("write /etc/hosts")?;
    }
    rustix::system::sethostname(plan.hostname.as_bytes()).step("set the host name")?;
    mount::detach(WORK).and_then(|()| mount::cover_root(&root)).step("enter the root")?;

    let namespace = match ids.tenant {
        Some(namespace) => namespace,
        None => {
            let map = [IdRange { inside: USER_ID, outside: 0, count: 1 }];
            user_namespace(&map, &map, true, None).step("make the inner user namespace")?
        }
    };
    shut()?;
    Ok(Built { tenant: Tenant::new(namespace, host, plan), proc: shell.proc, marks: Marks::Namespaces })
}

/// Mounts what takes the sandbox's writes.
fn mount_upper(plan: &JailPlan, disk: Option<Tree>) -> Result<(), Failure> {
    let upper = match disk {
        Some(disk) => disk,
        None => {
            // A tmpfs as large as the memory limit would end in the OOM killer where ENOSPC is meant.
            let size = plan.limits.disk.min(plan.limits.memory / 4 * 3).to_string();
            let inodes = plan.limits.inodes.to_string();
            let options = [("size", Some(size.as_str())), ("nr_inodes", Some(inodes.as_str())), ("mode", Some("0755"))];
            Tree::new("tmpfs", &options, Attributes::default()).step("mount the upper")?
        }
    };
    upper.attach_at(WORK.as_ref()).step("mount the upper")
}

/// Mounts the overlay of layers and upper; a descriptor of its root.
fn mount_root(host: &Host, plan: &JailPlan, ids: &Ids, layers: &[Tree]) -> Result<OwnedFd, Failure> {
    let mut lower = Vec::new();
    for (i, (tree, path)) in layers.iter().zip(&plan.layers).enumerate() {
        let name = format!("{WORK}/{i}");
        fs::create_dir(&name).step("make a layer's mount point")?;
        tree.attach_at(name.as_ref()).step(&format!("mount the layer `{}`", path.display()))?;
        lower.push(name);
    }
    let (upper, scratch) = (format!("{WORK}/up"), format!("{WORK}/work"));
    for name in [&upper, &scratch] {
        fs::create_dir(name).step("make the upper's directories")?;
    }
    rustix::fs::chmodat(rustix::fs::CWD, &upper, FileMode::from_raw_mode(0o755), AtFlags::empty())
        .step("make the upper's directories")?;
    if host.mode == Mode::Root {
        let (uid, gid) = (Uid::from_raw(ids.first_uid), Gid::from_raw(ids.first_uid));
        rustix::fs::chown(&upper, Some(uid), Some(gid)).step("make the upper's directories")?;
    }
    let lower = lower.join(":");
    let mut options = vec![
        ("lowerdir", Some(lower.as_str())),
        ("upperdir", Some(upper.as_str())),
        ("workdir", Some(scratch.as_str())),
    ];
    match host.mode {
        // Renames of directories from a layer, and inode numbers that `readdir` and `stat` agree on.
        Mode::Root => options.extend([("redirect_dir", Some("on")), ("xino", Some("on"))]),
        Mode::Rootless => options.push(("userxattr", None)),
    }
    Tree::new("overlay", &options, Attributes::default())
        .and_then(|tree| tree.attach_at(ROOT.as_ref()))
        .step("mount the root")?;
    let root = open_beneath(rustix::fs::CWD, ROOT).step("mount the root")?;
    if host.mode == Mode::Root && !host.idmap {
        give_to_user(&root, ids.first_uid).step("give the user its directories")?;
    }
    Ok(root)
}

fn give_to_user(root: &OwnedFd, first_uid: u32) -> io::Result<()> {
    let chown = |path: &str, id: u32| {
        let owner = first_uid + id % IDS;
        let done = rustix::fs::chownat(
            root,
            path,
            Some(Uid::from_raw(owner)),
            Some(Gid::from_raw(owner)),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        match done {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => other,
        }
    };
    for path in USERS_OWN {
        chown(path, USER_ID)?;
    }
    chown("root", 0)?;
    chown("tmp", 0)?;
    Ok(())
}

fn mount_volume(root: &OwnedFd, volume: &csb_types::Volume, tree: &Tree) -> io::Result<()> {
    let guest = volume.guest.to_string_lossy();
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode);
    let target = if kind == rustix::fs::FileType::Directory {
        make_beneath(root, &guest)?
    } else {
        let (parent, name) = guest.rsplit_once('/').unwrap_or(("", &guest));
        let parent = make_beneath(root, parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, FileMode::from_raw_mode(0o644)) {
            Ok(_) | Err(rustix::io::Errno::EXIST) => open_beneath(&parent, name)?,
            Err(e) => return Err(e.into()),
        }
    };
    tree.attach(target)
}

pub(crate) fn write_hosts(root: &OwnedFd, hostname: &str) -> io::Result<()> {
    let etc = open_beneath(root, "etc")?;
    // A new file of ours, whatever the image has under that name.
    match rustix::fs::unlinkat(&etc, "hosts", AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&etc, "hosts", flags, FileMode::from_raw_mode(0o644))?;
    let text = format!("127.0.0.1 localhost {hostname}\n::1 localhost ip6-localhost ip6-loopback\n");
    io::Write::write_all(&mut fs::File::from(file), text.as_bytes())
}

/// What the init itself may still do: find, signal and start the sandbox's processes, nothing else.
fn shut() -> Result<(), Failure> {
    process::set_undumpable().step("shut the door")?;
    if let Some(rules) = csb_sys::landlock::Ruleset::sandbox().step("make the Landlock rules")? {
        process::set_no_new_privs().step("shut the door")?;
        rules.restrict_self().step("enter the Landlock domain")?;
    }
    use process::cap;
    process::keep_capabilities(&[cap::KILL, cap::SETUID, cap::SETGID, cap::SETPCAP, cap::SYS_PTRACE, cap::SYS_ADMIN])
        .step("shut the door")
}
