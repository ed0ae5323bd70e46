//! Ids of one sandbox: a range of host ids of its own, and the user namespace that maps it.

use crate::{Host, Step};
use csb_sys::ns::{IdRange, user_namespace};
use csb_wire::{Failure, Mode};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Ids of one sandbox.
pub const IDS: u32 = 65536;
/// The last id inside: the sandbox's user namespace belongs to it, and nothing runs as it.
pub(crate) const LAST_ID: u32 = IDS - 1;
/// Host ids below this belong to people and services; ranges of sandboxes start here.
pub(crate) const FIRST_ID: u32 = 0x1000_0000;
/// uid of the default user inside.
pub(crate) const USER_ID: u32 = 1000;

/// See the module.
#[derive(Debug)]
pub struct Ids {
    /// First host id of the sandbox's range; rootless, the one host id there is.
    pub first_uid: u32,
    /// The namespace that commands enter; rootless, the init makes one itself.
    pub(crate) tenant: Option<OwnedFd>,
}

impl Ids {
    /// Those of place `slot` on this host. No two live sandboxes have the same. `tenant` is the user namespace of the place's
    /// last sandbox, if it was kept: nothing is in it, and nothing can have been changed in it, as no process ever had a
    /// capability there.
    pub fn take(host: &Host, slot: u32, tenant: Option<OwnedFd>) -> Result<Self, Failure> {
        if host.mode == Mode::Rootless {
            return Ok(Self { first_uid: host.ids.0, tenant: None });
        }
        let first_uid = FIRST_ID + slot * IDS;
        if tenant.is_some() {
            return Ok(Self { first_uid, tenant });
        }
        let map = [IdRange { inside: 0, outside: first_uid, count: IDS }];
        let tenant = user_namespace(&map, &map, false, Some(first_uid + LAST_ID)).step("make the user namespace")?;
        Ok(Self { first_uid, tenant: Some(tenant) })
    }

    /// Those of a place whose user namespace another process made.
    pub fn received(first_uid: u32, tenant: OwnedFd) -> Self {
        Self { first_uid, tenant: Some(tenant) }
    }

    /// The user namespace that commands enter; none where the init makes it.
    pub fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.tenant.as_ref().map(AsFd::as_fd)
    }

    /// What a child needs open to become a sandbox with these ids.
    pub fn as_raw_fd(&self) -> Option<RawFd> {
        self.tenant.as_ref().map(AsRawFd::as_raw_fd)
    }
}
