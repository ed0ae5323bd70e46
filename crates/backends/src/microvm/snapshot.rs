//! A machine at one moment, memory included, by the VMM's own means: saved, and gone on from, as often as wanted.
//!
//! ```text
//! DIRECTORY/snapshot.json   what the machine is made of
//! DIRECTORY/state           memory, processors and devices, as QEMU writes them
//! DIRECTORY/plan, upper     the disks that are the machine's own; those of the template are where they were
//! ```

use super::{
    MachineV1, Microvm, PLAN, Shared, UPPER, aside, done, failed, go_on, links::Link, machine::Machine, undo, vmm,
};
use crate::{BackendError, backend::Building};
use csb_sys::packet::Conn;
use csb_types::{Kind, Limits, SandboxId};
use csb_wire::machine::FIRST_DESCRIPTOR;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
    sync::Arc,
};

/// As fast as the disk takes it, bytes a second; QEMU's own default is a network's.
const FAST: u64 = 1 << 40;
const RECORD: &str = "snapshot.json";
const STATE: &str = "state";

/// What is written down of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotV1 {
    /// What its init speaks.
    protocol: u32,
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
                let pid = aside(move || shared.load(&name, &directory)).await?;
                self.shared.relay(&self.shared.guests.place(id), pid)
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

/// Descriptor of a drive in its VMM.
fn descriptor(drive: usize) -> i32 {
    FIRST_DESCRIPTOR + (super::qemu::SOCKETS.len() + drive) as i32
}

fn new(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Copies a disk; where the file system can, only what of it is changed later.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    drop(new(to)?);
    fs::copy(from, to).map(drop)
}

impl Shared {
    fn save(&self, id: &SandboxId, limits: &Limits, directory: &Path) -> io::Result<()> {
        let place = self.there(id)?;
        let mut machine: MachineV1 = serde_json::from_slice(&fs::read(place.path.join("machine.json"))?)?;
        let was_frozen = self.with(id, |link| Ok(link.frozen))?;
        if !was_frozen {
            self.freeze(id, true)?;
        }
        let saved = self.with(id, |link| {
            let state = new(&directory.join(STATE))?;
            link.qmp(&place.run(), |qmp| {
                qmp.ask("migrate-set-parameters", json!({ "max-bandwidth": FAST }))?;
                qmp.give(STATE, state.as_fd())?;
                qmp.ask("migrate", json!({ "uri": format!("fd:{STATE}") }))?;
                qmp.migrated()
            })?;
            state.sync_all()?;
            for (number, drive) in machine.machine.drives.iter_mut().enumerate() {
                let name = match number {
                    0 => PLAN,
                    _ if drive.writable => UPPER,
                    _ => continue,
                };
                copy(&place.path.join(name), &directory.join(name))?;
                drive.image = directory.join(name);
            }
            let snapshot = SnapshotV1 { protocol: csb_wire::VERSION, machine, limits: limits.clone() };
            fs::write(directory.join(RECORD), serde_json::to_vec(&snapshot)?)
        });
        if !was_frozen {
            self.freeze(id, false)?;
        }
        saved
    }

    fn load(self: &Arc<Self>, id: &SandboxId, directory: &Path) -> Result<i32, BackendError> {
        let step = "read the snapshot";
        let text = fs::read(directory.join(RECORD)).map_err(failed(step))?;
        let snapshot: SnapshotV1 = serde_json::from_slice(&text).map_err(|error| failed(step)(error.into()))?;
        if snapshot.protocol != csb_wire::VERSION {
            return Err(failed(step)(io::Error::other("it is of another version")));
        }
        let mut kept = snapshot.machine;
        let place = self.guests.place(id);
        place.begin(Kind::Microvm, "qemu")?;
        for (number, drive) in kept.machine.drives.iter_mut().enumerate() {
            if number == 0 {
                drive.image = directory.join(PLAN);
            } else if drive.writable {
                let own = place.path.join(UPPER);
                copy(&directory.join(UPPER), &own).map_err(failed("copy the machine's disk"))?;
                drive.image = own;
            }
        }
        let machine = Machine { state: Some(directory.join(STATE)), ..kept.machine.clone() };
        let text = serde_json::to_vec(&kept).map_err(io::Error::from);
        text.and_then(|text| fs::write(place.path.join("machine.json"), text)).map_err(failed("write the record"))?;
        let qemu = vmm::find(&self.settings.qemu).unwrap_or_else(|| self.settings.qemu.clone());
        let (group, mut started, mut qmp) = self.power(id, &place, &qemu, &machine, &snapshot.limits)?;
        let gone_on = || -> io::Result<()> {
            qmp.ask("migrate-incoming", json!({ "uri": format!("fd:{}", descriptor(machine.drives.len())) }))?;
            qmp.migrated()?;
            qmp.ask("cont", json!({}))?;
            let control = super::Control::connect(&place.run().join("control.sock"))?;
            let mut link = Link::new(qmp, control);
            let mut seed = vec![0; 64];
            rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
            done(link.ask(&place.run(), go_on(seed))?)?;
            self.links.put(id, link);
            Ok(())
        };
        gone_on().map_err(|error| started.why(&error)).map_err(failed("go on with the machine"))?;
        self.settle(&group, &machine, &snapshot.limits)?;
        Ok(started.pid)
    }
}
