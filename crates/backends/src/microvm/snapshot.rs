//! A machine at one moment, memory included, by the VMM's own means: saved, and gone on from, as often as wanted.
//!
//! ```text
//! DIRECTORY/snapshot.json   what the machine is made of
//! DIRECTORY/state           memory, processors and devices, as QEMU writes them; of Firecracker, all but the memory
//! DIRECTORY/memory          of Firecracker; copies share what none of them has written to
//! DIRECTORY/plan, upper     the disks that are the machine's own; those of the template are where they were
//! ```

use super::{
    MachineV1, Microvm, PLAN, Shared, UPPER, Vmm, aside, done, failed, firecracker, go_on, links::Link,
    machine::Machine, reached, seat::Seat, undo, vmm,
};
use crate::{BackendError, backend::Building};
use csb_sys::packet::Conn;
use csb_types::{Kind, Limits, SandboxId};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

const RECORD: &str = "snapshot.json";
/// As the VMM writes them.
fn states(vmm: Vmm, directory: &Path) -> Vec<PathBuf> {
    match vmm {
        Vmm::Qemu => vec![directory.join("state")],
        Vmm::Firecracker => firecracker::SAVED.map(|name| directory.join(name)).into(),
    }
}

/// What is written down of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotV1 {
    /// What its init speaks.
    protocol: u32,
    /// What runs it, and can go on with it.
    #[serde(default)]
    vmm: Vmm,
    machine: MachineV1,
    limits: Limits,
}

impl Microvm {
    /// Writes a machine down in `directory`, which is made and is the caller's. The machine stands still meanwhile. On an error nothing
    /// is left there.
    pub fn snapshot<'a>(&'a self, id: &'a SandboxId, limits: &'a Limits, directory: &'a Path) -> Building<'a, ()> {
        let (shared, id, limits, directory) = (self.shared.clone(), id.clone(), limits.clone(), directory.to_owned());
        Box::pin(aside(move || {
            let saved = DirBuilder::new().mode(0o700).create(&directory).and_then(|()| {
                shared.save(&id, &limits, &directory).inspect_err(|_| {
                    // What it failed for is told; what is left here costs only room.
                    let _ = fs::remove_dir_all(&directory);
                })
            });
            saved.map_err(failed("save the machine"))
        }))
    }

    /// Makes a machine that goes on where the one in `directory` was written down. What it was called there does not matter; its
    /// files are its own from now on, its clock is set, and its random numbers are others.
    pub fn restore<'a>(&'a self, id: &'a SandboxId, directory: &'a Path) -> Building<'a, Conn> {
        Box::pin(async move {
            let (shared, name, directory) = (self.shared.clone(), id.clone(), directory.to_owned());
            let build = async {
                let seat = aside(move || shared.load(&name, &directory)).await?;
                self.shared.relay(seat)
            };
            undo::whole(&self.shared, id, build).await
        })
    }

    /// Makes machines that go on where `id` is now, beside it.
    pub fn fork<'a>(&'a self, id: &'a SandboxId, limits: &'a Limits, into: &'a [SandboxId]) -> Building<'a, Vec<Conn>> {
        Box::pin(async move {
            let root = self.shared.guests.root().to_owned();
            let place =
                tempfile::Builder::new().prefix(".fork-").tempdir_in(root).map_err(failed("fork the machine"))?;
            let directory = place.path().join("of");
            self.snapshot(id, limits, &directory).await?;
            let mut all = Vec::new();
            for (number, new) in into.iter().enumerate() {
                match self.restore(new, &directory).await {
                    Ok(conn) => all.push(conn),
                    Err(error) => {
                        for made in &into[..number] {
                            self.shared.end(made).await?;
                        }
                        return Err(error);
                    }
                }
            }
            Ok(all)
        })
    }
}

pub(super) fn new(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Copies a disk; where the file system can, only what of it is changed later.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    drop(new(to)?);
    fs::copy(from, to).map(drop)
}

impl Shared {
    fn save(&self, id: &SandboxId, limits: &Limits, directory: &Path) -> io::Result<()> {
        let (place, seat) = self.there(id)?;
        let mut machine: MachineV1 = serde_json::from_slice(&fs::read(place.path.join("machine.json"))?)?;
        let was_frozen = self.with(id, |link| Ok(link.frozen))?;
        if !was_frozen {
            self.freeze(id, true)?;
        }
        let saved = self.with(id, |link| {
            let saved = link.vmm(&seat, |monitor| monitor.save(&place.path, &states(seat.vmm, directory)));
            if seat.vmm == Vmm::Firecracker {
                // It resets the guest's vsock.
                link.part();
            }
            saved?;
            for (number, drive) in machine.machine.drives.iter_mut().enumerate() {
                let name = match number {
                    0 => PLAN,
                    _ if drive.writable => UPPER,
                    _ => continue,
                };
                copy(&place.path.join(name), &directory.join(name))?;
                drive.image = directory.join(name);
            }
            let snapshot = SnapshotV1 { protocol: csb_wire::VERSION, vmm: seat.vmm, machine, limits: limits.clone() };
            fs::write(directory.join(RECORD), serde_json::to_vec(&snapshot)?)
        });
        if !was_frozen {
            self.freeze(id, false)?;
        }
        saved
    }

    fn load(self: &Arc<Self>, id: &SandboxId, directory: &Path) -> Result<Seat, BackendError> {
        let step = "read the snapshot";
        let text = fs::read(directory.join(RECORD)).map_err(failed(step))?;
        let snapshot: SnapshotV1 = serde_json::from_slice(&text).map_err(|error| failed(step)(error.into()))?;
        if snapshot.protocol != csb_wire::VERSION {
            return Err(failed(step)(io::Error::other("it is of another version")));
        }
        let mut kept = snapshot.machine;
        let place = self.guests.place(id);
        place.begin(Kind::Microvm, snapshot.vmm.name())?;
        for (number, drive) in kept.machine.drives.iter_mut().enumerate() {
            if number == 0 {
                drive.image = directory.join(PLAN);
            } else if drive.writable {
                let own = place.path.join(UPPER);
                copy(&directory.join(UPPER), &own).map_err(failed("copy the machine's disk"))?;
                drive.image = own;
            }
        }
        let machine = Machine { state: Some(states(snapshot.vmm, directory)), ..kept.machine.clone() };
        let text = serde_json::to_vec(&kept).map_err(io::Error::from);
        text.and_then(|text| fs::write(place.path.join("machine.json"), text)).map_err(failed("write the record"))?;
        let named = self.settings.program(snapshot.vmm);
        let program = vmm::find(named).unwrap_or_else(|| named.to_owned());
        let (group, mut started, mut monitor) =
            self.power(id, &place, (snapshot.vmm, &program), &machine, &snapshot.limits)?;
        let gone_on = || -> io::Result<()> {
            monitor.begin(&machine)?;
            let mut link = Link::new(monitor, super::Control::over(reached(&started.seat)?)?);
            let mut seed = vec![0; 64];
            rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
            done(link.ask(&started.seat, go_on(seed))?)?;
            self.links.put(id, link);
            Ok(())
        };
        gone_on().map_err(|error| started.why(&error)).map_err(failed("go on with the machine"))?;
        self.settle(&group, &machine, &snapshot.limits)?;
        Ok(started.seat)
    }
}
