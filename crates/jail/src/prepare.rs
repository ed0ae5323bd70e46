//! The warden's side: host resources of one sandbox, held by one value, given back by dropping it.

use crate::{Host, Step};
use csb_sys::{
    cgroup::Device,
    loopdev::{self, LoopDevice},
    ns::{IdRange, user_namespace},
};
use csb_types::Volume;
use csb_wire::{Failure, JailPlan, Mode, UpperPlan};
use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
};

/// Ids of one sandbox.
pub const IDS: u32 = 65536;
/// The last id inside: the sandbox's user namespace belongs to it, and nothing runs as it.
pub(crate) const LAST_ID: u32 = IDS - 1;
/// Host ids below this belong to people and services; ranges of sandboxes start here.
pub(crate) const FIRST_ID: u32 = 0x1000_0000;
/// uid of the default user inside.
pub(crate) const USER_ID: u32 = 1000;

/// See the module. The child inherits the descriptors through its own copy.
#[derive(Debug)]
pub struct Prepared {
    /// First host id of the sandbox's range.
    pub first_uid: u32,
    /// The namespace its commands enter; the init makes one itself when rootless.
    pub(crate) tenant: Option<OwnedFd>,
    /// The block device of a disk upper.
    pub(crate) device: Option<LoopDevice>,
    /// For each volume, the namespace that maps its owner to the sandbox's user.
    pub(crate) volumes: Vec<(Volume, Option<OwnedFd>)>,
}

/// Takes what sandbox number `slot` of this host needs. No two live sandboxes have the same slot.
pub fn prepare(host: &Host, plan: &JailPlan, slot: u32) -> Result<Prepared, Failure> {
    let first_uid = match host.mode {
        Mode::Root => FIRST_ID + slot * IDS,
        Mode::Rootless => host.ids.0,
    };
    let tenant = match host.mode {
        Mode::Root => {
            let map = [IdRange { inside: 0, outside: first_uid, count: IDS }];
            let owner = Some(first_uid + LAST_ID);
            Some(user_namespace(&map, &map, false, owner).step("make the user namespace")?)
        }
        Mode::Rootless => None,
    };
    let device = match &plan.upper {
        UpperPlan::Memory => None,
        UpperPlan::Disk { image } => {
            let open = fs::File::options().read(true).write(true).open(image).step("open the disk image")?;
            Some(LoopDevice::attach(&open).step("attach the disk image")?)
        }
    };
    let mut volumes = Vec::new();
    for volume in &plan.volumes {
        let meta = fs::metadata(&volume.host).step(&format!("open the volume `{}`", volume.host.display()))?;
        let namespace =
            if host.idmap { Some(owner_map(&meta, first_uid).step("map the volume's owner")?) } else { None };
        volumes.push((volume.clone(), namespace));
    }
    Ok(Prepared { first_uid, tenant, device, volumes })
}

impl Prepared {
    /// The disk that takes the sandbox's writes, and the one below it; none where they go to memory.
    pub fn disks(&self) -> Option<(Device, Option<Device>)> {
        let device = self.device.as_ref()?;
        let own = Device { major: loopdev::MAJOR, minor: device.minor(), exclusive: true };
        Some((own, Device::under(device.below())))
    }

    /// What a child needs open to build the sandbox.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let namespaces = self.volumes.iter().filter_map(|(_, namespace)| namespace.as_ref());
        let mut all: Vec<RawFd> = self.tenant.iter().chain(namespaces).map(AsRawFd::as_raw_fd).collect();
        all.extend(self.device.iter().map(LoopDevice::as_raw_fd));
        all
    }
}

/// Files of the volume's owner are the sandbox user's; all others look like nobody's.
fn owner_map(meta: &fs::Metadata, first_uid: u32) -> std::io::Result<OwnedFd> {
    let one = |inside| [IdRange { inside, outside: first_uid + USER_ID, count: 1 }];
    user_namespace(&one(meta.uid()), &one(meta.gid()), false, None)
}
