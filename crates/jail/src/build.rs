//! The child's side: from a fresh process in fresh namespaces to a sandbox that can run commands.

use crate::{
    Host, Prepared, Step, Tenant, dev,
    prepare::{IDS, USER_ID},
    proc,
};
use csb_sys::{
    mount::{self, Attributes, Tree, make_beneath, open_beneath},
    ns::{IdRange, user_namespace},
    process,
};
use csb_wire::{Failure, JailPlan, Mode, UpperPlan};
use rustix::fs::{AtFlags, Gid, Mode as FileMode, Uid};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// What the init keeps of a built sandbox.
#[derive(Debug)]
pub struct Built {
    /// What commands become.
    pub tenant: Tenant,
    /// The sandbox's `/proc`.
    pub proc: OwnedFd,
}

/// Directories the sandbox's user owns, wherever the layers' owners cannot be mapped.
const USERS_OWN: [&str; 2] = ["workspace", "home/user"];

/// Builds the sandbox around this process, pid 1 of its PID namespace, and shuts the door behind it. The process is in its
/// cgroups already. On an error the process must end.
pub fn build(host: &Host, plan: &JailPlan, prepared: &Prepared) -> Result<Built, Failure> {
    csb_sys::ns::unshare(process::CLONE_NEWCGROUP).step("make the cgroup namespace")?;
    mount::make_all_private().step("make mounts private")?;
    mount_upper(host, plan, prepared)?;
    let root = mount_root(host, plan, prepared)?;
    for bind in &plan.binds {
        let name = format!("bind `{}`", bind.host.display());
        let guest = bind.guest.to_string_lossy();
        let tree = copy_mapped(host, &bind.host, prepared.tenant.as_ref().map(AsFd::as_fd)).step(&name)?;
        tree.attach(open_beneath(&root, &guest).step(&name)?).step(&name)?;
    }
    dev::attach(host.dev.as_ref(), &root, plan.limits.memory)?;
    let proc = proc::attach(&host.hidden, host.nothing.as_ref(), &root)?;
    for (volume, namespace) in &prepared.volumes {
        mount_volume(&root, volume, namespace.as_ref().map(AsFd::as_fd))
            .step(&format!("mount the volume `{}`", volume.guest.display()))?;
    }
    if plan.hostname != "sandbox" {
        write_hosts(&root, &plan.hostname).step("write /etc/hosts")?;
    }
    rustix::system::sethostname(plan.hostname.as_bytes()).step("set the host name")?;
    csb_sys::net::loopback_up().step("bring up the loopback device")?;
    mount::pivot_to(&root).step("enter the root")?;

    let tenant = match prepared.tenant.as_ref() {
        Some(namespace) => namespace.try_clone().step("keep the user namespace")?,
        None => {
            let map = [IdRange { inside: USER_ID, outside: 0, count: 1 }];
            user_namespace(&map, &map, true, None).step("make the inner user namespace")?
        }
    };
    shut(host.mode)?;
    Ok(Built { tenant: Tenant::new(tenant, host, plan), proc })
}

/// Mounts what takes the sandbox's writes at the stage, which only this mount namespace sees.
fn mount_upper(host: &Host, plan: &JailPlan, prepared: &Prepared) -> Result<(), Failure> {
    match (&plan.upper, &prepared.device) {
        (UpperPlan::Disk { .. }, Some(device)) => {
            mount::mount_device(device.path(), "ext4", &host.stage, "").step("mount the disk image")?;
        }
        _ => {
            // A tmpfs as large as the memory limit would end in the OOM killer where ENOSPC is meant.
            let size = plan.limits.disk.min(plan.limits.memory / 4 * 3).to_string();
            let inodes = plan.limits.inodes.to_string();
            let options = [("size", Some(size.as_str())), ("nr_inodes", Some(inodes.as_str())), ("mode", Some("0755"))];
            Tree::new("tmpfs", &options, Attributes::default())
                .and_then(|tree| tree.attach_at(&host.stage))
                .step("mount the upper")?;
        }
    }
    rustix::process::chdir(&host.stage).step("enter the stage")
}

/// Mounts the overlay of layers and upper; a descriptor of its root.
fn mount_root(host: &Host, plan: &JailPlan, prepared: &Prepared) -> Result<OwnedFd, Failure> {
    let tenant = prepared.tenant.as_ref().map(AsFd::as_fd);
    let mut lower = Vec::new();
    for (i, layer) in plan.layers.iter().enumerate() {
        let name = format!("l{i}");
        fs::create_dir(&name).step("make a layer's mount point")?;
        copy_mapped(host, layer, tenant)
            .and_then(|tree| tree.attach_at(name.as_ref()))
            .step(&format!("mount the layer `{}`", layer.display()))?;
        lower.push(name);
    }
    for name in ["up", "work", "root"] {
        fs::create_dir(name).step("make the upper's directories")?;
    }
    rustix::fs::chmodat(rustix::fs::CWD, "up", FileMode::from_raw_mode(0o755), AtFlags::empty())
        .step("make the upper's directories")?;
    if host.mode == Mode::Root {
        let (uid, gid) = (Uid::from_raw(prepared.first_uid), Gid::from_raw(prepared.first_uid));
        rustix::fs::chown("up", Some(uid), Some(gid)).step("make the upper's directories")?;
    }
    // Paths relative to the stage: the mount table inside shows them, and the host's paths are nobody's business there.
    let lower = lower.join(":");
    let mut options = vec![("lowerdir", Some(lower.as_str())), ("upperdir", Some("up")), ("workdir", Some("work"))];
    match host.mode {
        // Renames of directories from a layer, and inode numbers that `readdir` and `stat` agree on.
        Mode::Root => options.extend([("redirect_dir", Some("on")), ("xino", Some("on"))]),
        Mode::Rootless => options.push(("userxattr", None)),
    }
    Tree::new("overlay", &options, Attributes::default())
        .and_then(|tree| tree.attach_at("root".as_ref()))
        .step("mount the root")?;
    let root = open_beneath(rustix::fs::CWD, "root").step("mount the root")?;
    if host.mode == Mode::Root && !host.idmap {
        give_to_user(&root, prepared.first_uid).step("give the user its directories")?;
    }
    Ok(root)
}

/// A read-only view of a host directory, its owners mapped where that can be done.
fn copy_mapped(host: &Host, path: &std::path::Path, tenant: Option<BorrowedFd<'_>>) -> io::Result<Tree> {
    // Without the right to look below locked mounts, a rootless warden must take all of them along.
    let recursive = host.mode == Mode::Rootless;
    let tree = Tree::copy(rustix::fs::CWD, path, recursive)?;
    tree.restrict(Attributes::READ_ONLY, tenant.filter(|_| host.idmap), recursive)?;
    Ok(tree)
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

fn mount_volume(root: &OwnedFd, volume: &csb_types::Volume, owner: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let attributes = Attributes { read_only: volume.read_only, ..Attributes::default() };
    let host = fs::canonicalize(&volume.host)?;
    let guest = volume.guest.to_string_lossy();
    let tree = Tree::copy(rustix::fs::CWD, &host, false)?;
    tree.restrict(attributes, owner, false)?;
    let target = if fs::metadata(&host)?.is_dir() {
        make_beneath(root, &guest)?
    } else {
        let (parent, name) = guest.rsplit_once('/').unwrap_or(("", &guest));
        let parent = make_beneath(root, parent)?;
        use rustix::fs::OFlags;
        match rustix::fs::openat(
            &parent,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
            FileMode::from_raw_mode(0o644),
        ) {
            Ok(_) | Err(rustix::io::Errno::EXIST) => open_beneath(&parent, name)?,
            Err(e) => return Err(e.into()),
        }
    };
    tree.attach(target)
}

fn write_hosts(root: &OwnedFd, hostname: &str) -> io::Result<()> {
    use rustix::fs::OFlags;
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
fn shut(mode: Mode) -> Result<(), Failure> {
    process::set_undumpable().step("shut the door")?;
    if let Some(rules) = csb_sys::landlock::Ruleset::sandbox().step("make the Landlock rules")? {
        process::set_no_new_privs().step("shut the door")?;
        rules.restrict_self().step("enter the Landlock domain")?;
    }
    let _ = mode;
    use process::cap;
    process::keep_capabilities(&[cap::KILL, cap::SETUID, cap::SETGID, cap::SETPCAP, cap::SYS_PTRACE, cap::SYS_ADMIN])
        .step("shut the door")
}
