//! What is asked of a VMM, in the words of each: the one place where the rest of the kind need not know which it is.

use super::{api, firecracker, machine::Machine, qemu, qmp::Qmp, seat::Seat, settings::Vmm};
use serde_json::json;
use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// As fast as the disk takes it, bytes a second; QEMU's own default is a network's.
const FAST: u64 = 1 << 40;

/// A connection with a VMM.
pub(super) enum Monitor {
    Qemu(Qmp),
    /// Each request is a connection.
    Firecracker(Seat),
}

impl Monitor {
    /// Connects with one that answers.
    pub(super) fn connect(seat: &Seat) -> io::Result<Self> {
        match seat.vmm {
            Vmm::Qemu => Qmp::connect(&seat.run.join(qemu::SOCKETS[0])).map(Self::Qemu),
            Vmm::Firecracker => {
                api::ask(seat, &firecracker::describe())?;
                Ok(Self::Firecracker(seat.clone()))
            }
        }
    }

    /// Lets the machine that the VMM was started for run, or go on.
    pub(super) fn begin(&mut self, machine: &Machine) -> io::Result<()> {
        match self {
            // Its arguments say all.
            Self::Qemu(_) if machine.state.is_none() => Ok(()),
            Self::Qemu(qmp) => {
                qmp.ask(
                    "migrate-incoming",
                    json!({ "uri": format!("fd:{}", qemu::descriptor(machine.drives.len())) }),
                )?;
                qmp.migrated()?;
                qmp.ask("cont", json!({})).map(drop)
            }
            Self::Firecracker(seat) => {
                firecracker::begin(machine).iter().try_for_each(|request| api::ask(seat, request).map(drop))
            }
        }
    }

    pub(super) fn is_paused(&mut self) -> io::Result<bool> {
        match self {
            Self::Qemu(qmp) => Ok(qmp.status()? == "paused"),
            Self::Firecracker(seat) => match api::ask(seat, &firecracker::describe())?["state"].as_str() {
                Some("Paused") => Ok(true),
                Some("Running") => Ok(false),
                // A server that died before it had told all.
                _ => Err(io::Error::other("its machine was never started")),
            },
        }
    }

    pub(super) fn pause(&mut self, paused: bool) -> io::Result<()> {
        match self {
            Self::Qemu(qmp) => qmp.ask(if paused { "stop" } else { "cont" }, json!({})).map(drop),
            Self::Firecracker(seat) => api::ask(seat, &firecracker::pause(paused)).map(drop),
        }
    }

    /// What the guest's console said since it was asked last; `kept`: where a VMM keeps it that cannot be asked.
    pub(super) fn console(&mut self, kept: Option<&mut File>) -> io::Result<String> {
        match (self, kept) {
            (Self::Qemu(qmp), _) => {
                let said = qmp.ask("ringbuf-read", json!({ "device": qemu::CONSOLE, "size": 65536 }))?;
                Ok(said.as_str().unwrap_or_default().to_owned())
            }
            (Self::Firecracker(_), Some(file)) => {
                let mut said = Vec::new();
                io::Read::read_to_end(&mut io::Read::take(file, 1 << 20), &mut said)?;
                Ok(String::from_utf8_lossy(&said).into_owned())
            }
            (Self::Firecracker(_), None) => Ok(String::new()),
        }
    }

    /// Writes down what a machine that stands still is at: into `files`, new ones.
    pub(super) fn save(&mut self, own: &Path, files: &[PathBuf]) -> io::Result<()> {
        match self {
            Self::Qemu(qmp) => {
                let state = super::snapshot::new(&files[0])?;
                qmp.ask("migrate-set-parameters", json!({ "max-bandwidth": FAST }))?;
                qmp.give("state", state.as_fd())?;
                qmp.ask("migrate", json!({ "uri": "fd:state" }))?;
                qmp.migrated()?;
                state.sync_all()
            }
            Self::Firecracker(seat) => {
                let saved = api::ask(seat, &firecracker::save()).and_then(|_| {
                    firecracker::SAVED.iter().zip(files).try_for_each(|(name, to)| {
                        // The VMM can write to its own for as long as it lives.
                        super::snapshot::copy(&own.join(name), to)?;
                        File::open(to)?.sync_all()
                    })
                });
                for name in firecracker::SAVED {
                    let emptied = File::options().write(true).open(own.join(name)).and_then(|file| file.set_len(0));
                    if let Err(error) = emptied {
                        tracing::warn!(%error, "a copy of a machine's state takes room on the disk until the machine ends");
                    }
                }
                saved
            }
        }
    }
}
