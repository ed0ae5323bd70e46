//! What a plan takes from the host: mounts of host directories and disks, made where the host's paths mean what the plan's
//! author saw, and held as descriptors until the sandbox attaches them.

use crate::{Host, Ids, Step, failure, ids::USER_ID};
use csb_sys::{
    cgroup::Device,
    loopdev::{self, LoopDevice},
    mount::{Attributes, Tree, open_beneath, open_directory},
    ns::{IdRange, user_namespace},
};
use csb_types::{Kind, Volume};
use csb_wire::{Failure, JailPlan, Mode, UpperPlan};
use rustix::fs::FileType;
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Detached mounts, in the order of the plan. Dropped, they are gone.
#[derive(Debug)]
pub struct Trees {
    /// The disk that takes the sandbox's writes; none where memory does.
    pub(crate) upper: Option<Tree>,
    disks: Option<(Device, Option<Device>)>,
    pub(crate) layers: Vec<Tree>,
    pub(crate) binds: Vec<Tree>,
    pub(crate) volumes: Vec<Tree>,
}

impl Trees {
    /// Makes them. Called where the host's root is in sight.
    pub fn open(host: &Host, plan: &JailPlan, ids: &Ids) -> Result<Self, Failure> {
        let tenant = ids.tenant.as_ref().map(AsFd::as_fd);
        let (upper, disks) = match &plan.upper {
            UpperPlan::Memory => (None, None),
            UpperPlan::Disk { image } => {
                let (tree, disks) = disk(image)?;
                (Some(tree), Some(disks))
            }
        };
        let lower = |what: &str, path: &Path| match plan.kind {
            Kind::Hardened => copied(path, tenant).step(&format!("mount the image `{}`", path.display())),
            _ => mapped(host, path, tenant).step(&format!("{what} `{}`", path.display())),
        };
        let mut layers = Vec::with_capacity(plan.layers.len());
        for layer in &plan.layers {
            layers.push(lower("mount the layer", layer)?);
        }
        let mut binds = Vec::with_capacity(plan.binds.len());
        for bind in &plan.binds {
            binds.push(lower("bind", &bind.host)?);
        }
        let mut volumes = Vec::with_capacity(plan.volumes.len());
        for volume in &plan.volumes {
            let name = || format!("open the volume `{}`", volume.host.display());
            volumes.push(shared(host, volume, ids).step(&name())?);
        }
        Ok(Self { upper, disks, layers, binds, volumes })
    }

    /// The disk that takes the sandbox's writes, and the one below it; none where they go to memory.
    pub fn disks(&self) -> Option<(Device, Option<Device>)> {
        self.disks
    }

    /// The descriptors, for `collect` on the other side.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let all = self.upper.iter().chain(&self.layers).chain(&self.binds).chain(&self.volumes);
        all.map(AsFd::as_fd).collect()
    }

    /// What `descriptors` gave, received by another process.
    pub fn collect(plan: &JailPlan, descriptors: Vec<OwnedFd>) -> Result<Self, Failure> {
        let disk = usize::from(matches!(plan.upper, UpperPlan::Disk { .. }));
        if descriptors.len() != disk + plan.layers.len() + plan.binds.len() + plan.volumes.len() {
            // The kernel leaves out what does not fit our table.
            return Err(failure("receive the mounts", &io::Error::from_raw_os_error(libc::EMFILE)));
        }
        let mut all = descriptors.into_iter().map(Tree::from);
        let mut next = |count: usize| all.by_ref().take(count).collect::<Vec<Tree>>();
        Ok(Self {
            upper: next(disk).pop(),
            disks: None,
            layers: next(plan.layers.len()),
            binds: next(plan.binds.len()),
            volumes: next(plan.volumes.len()),
        })
    }
}

fn disk(image: &Path) -> Result<(Tree, (Device, Option<Device>)), Failure> {
    let file = fs::File::options().read(true).write(true).open(image).step("open the disk image")?;
    let device = LoopDevice::attach(&file).step("attach the disk image")?;
    let own = Device { major: loopdev::MAJOR, minor: device.minor(), exclusive: true };
    // From here on the mount keeps the device. A new image is zero already; a thread that zeroed its tables of inodes would
    // only give back what is reserved for them.
    let tree = Tree::of_device(device.path(), "ext4", &["noinit_itable", "nodiscard"]).step("mount the disk image")?;
    Ok((tree, (own, Device::under(device.below()))))
}

/// A read-only view of a host directory, its owners mapped where that can be done.
fn mapped(host: &Host, path: &Path, tenant: Option<BorrowedFd<'_>>) -> io::Result<Tree> {
    // Without the right to look below locked mounts, a rootless init must take all of them along.
    let recursive = host.mode == Mode::Rootless;
    let tree = Tree::copy(rustix::fs::CWD, path, recursive)?;
    tree.restrict(Attributes::READ_ONLY, tenant.filter(|_| host.idmap), recursive)?;
    Ok(tree)
}

/// A file system of the sandbox's own from an image, its owners mapped: that can always be done.
fn copied(image: &Path, tenant: Option<BorrowedFd<'_>>) -> io::Result<Tree> {
    let tree = Tree::of_image(fs::File::open(image)?)?;
    tree.restrict(Attributes::READ_ONLY, tenant, false)?;
    Ok(tree)
}

/// A volume. Files of its owner are the sandbox user's; all others look like nobody's. What a client asked to see of the host and
/// does not own has no owner inside: it can be read where everybody may read it.
fn shared(host: &Host, volume: &Volume, ids: &Ids) -> io::Result<Tree> {
    let tree = match &volume.below {
        None => Tree::copy(rustix::fs::CWD, fs::canonicalize(&volume.host)?, false)?,
        Some(top) => {
            let place = open_beneath(open_directory(top)?, &volume.host.to_string_lossy())?;
            if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) != FileType::Directory {
                return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
            }
            if host.mode == Mode::Root && !host.idmap {
                // Each sandbox's user is another one: what one writes the next could not read.
                return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
            }
            Tree::copy(place, "", false)?
        }
    };
    let found = rustix::fs::fstat(&tree)?;
    let owner = if host.idmap && !(volume.below.is_some() && volume.read_only) {
        let one = |inside| [IdRange { inside, outside: ids.first_uid + USER_ID, count: 1 }];
        Some(user_namespace(&one(found.st_uid), &one(found.st_gid), false, None)?)
    } else {
        None
    };
    let attributes = Attributes { read_only: volume.read_only, ..Attributes::default() };
    tree.restrict(attributes, owner.as_ref().map(AsFd::as_fd), false)?;
    Ok(tree)
}
