//! Kind `microvm`: a virtual machine for each sandbox, run by QEMU or Firecracker, with a kernel of the operator's choice and our own
//! program as its first one. The template's files are images of their own (as for kind `hardened`) on virtual disks.
//!
//! Nothing but bytes passes between a machine and its host: a stream of the init's frames, lines of JSON of pid 1, and what the
//! VMM is asked (`monitor.rs`).

mod accelerator;
mod api;
mod boot;
mod control;
mod cpio;
mod elf;
mod firecracker;
mod kernel;
mod links;
mod machine;
mod monitor;
mod qemu;
mod qmp;
mod ready;
mod seat;
mod settings;
mod snapshot;
mod socket;
mod turn;
mod vmm;

pub use accelerator::Accelerator;
pub use ready::Examined;
pub use settings::{MicrovmSettings, Vmm};

use crate::{
    Backend, BackendError, Guests, Held,
    backend::Building,
    disk,
    guests::{Place, RecordV1, aside, refusal},
    undo::{self, Release},
};
use accelerator::Found;
use control::Control;
use csb_engine::{Doing, Keeper, warden::WardenError};
use csb_image::Private;
use csb_sys::{cgroup::Group, packet::Conn};
use csb_types::{Kind, Limits, SandboxId, SandboxSpec, Upper, Usage};
use csb_wire::machine::{Disk, FromMachine, MAGIC, MOST, MachinePlan, ToMachine};
use futures_util::future::join_all;
use links::{Link, Links};
use machine::{Drive, Machine};
use monitor::Monitor;
use ready::{Parts, usable};
use seat::Seat;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::OnceCell;
use vmm::{Started, failed};

/// What the guest's kernel and our program need beside the sandbox's limit.
const GUEST: u64 = 128 << 20;
/// A machine that is emulated on a busy host takes long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries to reach a guest.
const TICK: Duration = Duration::from_millis(10);
/// Names of the machine's own disks in its directory.
const PLAN: &str = "plan";
const UPPER: &str = "upper";

/// See the module.
#[derive(Debug)]
pub struct Microvm {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    guests: Arc<Guests>,
    settings: MicrovmSettings,
    accelerator: OnceCell<Found>,
    tsc_khz: OnceCell<Option<u64>>,
    links: Links,
}

/// What is kept of a machine beside its record.
#[derive(Debug, Serialize, Deserialize)]
struct MachineV1 {
    /// Bytes that its sandbox's limit can be raised to.
    most_memory: u64,
    machine: Machine,
}

impl Microvm {
    /// Nothing is looked for before a sandbox is asked for.
    pub fn new(guests: Arc<Guests>, settings: MicrovmSettings) -> Self {
        let (accelerator, tsc_khz) = (OnceCell::new(), OnceCell::new());
        let shared = Shared { guests, settings, accelerator, tsc_khz, links: Links::default() };
        Self { shared: Arc::new(shared) }
    }
}

/// Refuses what the kind does not have.
fn check(spec: &SandboxSpec) -> Result<(), BackendError> {
    let refuse = |what: &str| Err(BackendError::Unsupported(format!("{what} in sandbox kind `microvm`")));
    if !spec.limits.io.is_none() {
        return refuse("limits of disk speed");
    }
    if !spec.volumes.is_empty() {
        return refuse("volumes: a machine shares no directory with its host; they are not there");
    }
    Ok(())
}

/// Writes the disk that the machine's plan is on.
fn write_plan(path: &Path, plan: &MachinePlan) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(serde_json::to_vec(plan)?);
    bytes.push(b'\n');
    if bytes.len() > MOST {
        return Err(io::Error::other("the plan is too long"));
    }
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    fs::write(path, bytes)
}

fn now() -> (i64, i64) {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    (now.as_secs() as i64, now.subsec_nanos().into())
}

/// What a machine is told that goes on.
fn go_on(seed: Vec<u8>) -> ToMachine {
    ToMachine::GoOn { now: now(), seed }
}

/// The machine's processors: as many as it may use at once, of those that there are.
fn cpus(limits: &Limits, vmm: Vmm) -> u32 {
    let there = std::thread::available_parallelism().map_or(1, |number| number.get() as u32);
    let most = match vmm {
        Vmm::Qemu => there,
        Vmm::Firecracker => there.min(firecracker::MOST_CPUS),
    };
    limits.cpu_milli.div_ceil(1000).clamp(1, most)
}

/// A stream to pid 1, as soon as it listens.
fn reached(seat: &Seat) -> io::Result<UnixStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match seat.control() {
            Err(error) if seat.lives() && Instant::now() < end && error.kind() != io::ErrorKind::InvalidData => {
                std::thread::sleep(TICK);
            }
            other => return other,
        }
    }
}

impl Shared {
    async fn create(self: &Arc<Self>, id: &SandboxId, spec: &SandboxSpec) -> Result<Conn, BackendError> {
        check(spec)?;
        let parts = self.ready().await?;
        let images = self.guests.images(&spec.template).await?;
        undo::whole(self, id, self.build(id, spec, parts, images)).await
    }

    async fn build(
        self: &Arc<Self>,
        id: &SandboxId,
        spec: &SandboxSpec,
        parts: Parts,
        images: Private,
    ) -> Result<Conn, BackendError> {
        let place = self.guests.place(id);
        place.begin(Kind::Microvm, parts.vmm.name())?;
        let (mut disks, mut drives) = (Vec::new(), vec![Drive { image: place.path.join(PLAN), writable: false }]);
        let mut add = |disk, image: PathBuf, writable| {
            disks.push(disk);
            drives.push(Drive { image, writable });
        };
        for image in images.layers {
            add(Disk::Layer, image, false);
        }
        for bind in images.binds {
            add(Disk::Bind(bind.guest.to_string_lossy().into_owned()), bind.host, false);
        }
        if spec.decided_upper() == Upper::Disk {
            let image = disk::make(&self.guests.data_dir().join("disks"), id, &spec.limits).await?;
            // Here it goes with the machine, whoever ends that.
            let own = place.path.join(UPPER);
            fs::rename(&image.path, &own).map_err(failed("keep the disk image"))?;
            add(Disk::Upper, own, true);
        }
        let plan = MachinePlan {
            version: csb_wire::VERSION,
            limits: spec.limits.clone(),
            hostname: spec.hostname.clone().unwrap_or_else(|| "sandbox".into()),
            once: self.guests.is_private(),
            disks,
            now: now(),
        };
        let most_memory = spec.limits.memory.max(self.settings.memory);
        let machine = Machine {
            kernel: parts.boot.kernel,
            initramfs: parts.boot.initramfs,
            cpus: cpus(&spec.limits, parts.vmm),
            memory: (most_memory + GUEST).next_multiple_of(1 << 20),
            drives,
            kvm: parts.kvm,
            tsc_khz: parts.tsc_khz,
            state: None,
        };
        let (shared, name, limits) = (self.clone(), id.clone(), spec.limits.clone());
        let seat = aside(move || {
            write_plan(&place.path.join(PLAN), &plan).map_err(failed("write the machine's plan"))?;
            let kept = MachineV1 { most_memory, machine: machine.clone() };
            let kept = serde_json::to_vec(&kept).map_err(io::Error::from);
            kept.and_then(|kept| fs::write(place.path.join("machine.json"), kept))
                .map_err(failed("write the record"))?;
            shared.boot(&name, &place, (parts.vmm, &parts.program), &machine, &limits)
        })
        .await?;
        self.relay(seat)
    }

    /// Starts a machine and waits for its sandbox; where its VMM is.
    fn boot(
        &self,
        id: &SandboxId,
        place: &Place,
        by: (Vmm, &Path),
        machine: &Machine,
        limits: &Limits,
    ) -> Result<Seat, BackendError> {
        let (group, mut started, mut monitor) = self.power(id, place, by, machine, limits)?;
        monitor.begin(machine).map_err(|error| started.why(&error)).map_err(failed("start the machine"))?;
        let control = self.wait(&mut started, &mut monitor)?;
        self.settle(&group, machine, limits)?;
        self.links.put(id, Link::new(monitor, control));
        Ok(started.seat)
    }

    /// Starts the VMM of a machine, in a control group of its own.
    fn power(
        &self,
        id: &SandboxId,
        place: &Place,
        (kind, program): (Vmm, &Path),
        machine: &Machine,
        limits: &Limits,
    ) -> Result<(Group, Started, Monitor), BackendError> {
        let node = self.guests.node();
        let name = id.as_str();
        // What a sandbox may compute is counted from where it begins.
        let most = limits.cpu_milli.max(machine.cpus * 1000);
        let group = vmm::make_group(&node, name, &vmm::limits(machine.memory, most, limits))
            .map_err(failed("make the machine's control group"))?;
        let record = |pid| place.write(Kind::Microvm, kind.name(), name, pid).map_err(failed("write the record"));
        record(0)?;
        let (run, root) = (place.run(), place.files());
        let vmm = vmm::Place { own: &place.path, run: &run, root: &root, node: &node, name };
        let mut started = vmm::start(kind, program, machine, &vmm).map_err(failed("start the VMM"))?;
        record(started.seat.pid)?;
        let monitor = started.answers().map_err(failed("start the VMM"))?;
        Ok((group, started, monitor))
    }

    /// From where it has begun, a machine has no more than its sandbox.
    fn settle(&self, group: &Group, machine: &Machine, limits: &Limits) -> Result<(), BackendError> {
        let limited = group.set_limits(&vmm::limits(machine.memory, limits.cpu_milli, limits));
        limited.map_err(vmm::kernel).map_err(failed("limit the machine"))
    }

    /// Waits for the sandbox's init, or for the reason why there is none.
    fn wait(&self, started: &mut Started, monitor: &mut Monitor) -> Result<Control, BackendError> {
        let heard = reached(&started.seat).and_then(Control::over).and_then(|mut control| {
            let frame = control.hear(PATIENCE)?.frame;
            Ok((control, frame))
        });
        match heard {
            Ok((control, FromMachine::Ready)) => Ok(control),
            Ok((_, FromMachine::Failed(failure))) => Err(BackendError::Failed {
                step: format!("in the machine: {}", failure.step),
                message: failure.message,
            }),
            other => {
                let said = started.console(monitor).map(|text| last_lines(&text)).unwrap_or_default();
                let why = match other {
                    Err(error) => started.why(&error),
                    Ok(_) => io::ErrorKind::InvalidData.into(),
                };
                let step = "wait for the machine's sandbox".into();
                Err(BackendError::Failed { step, message: format!("{why}{said}") })
            }
        }
    }

    /// The init's frames, out of the stream that they come in.
    fn relay(&self, seat: Seat) -> Result<Conn, BackendError> {
        let mut first = true;
        let dial = move || {
            // A machine that was made to stand still, or one whose vsock was reset, may take its time.
            loop {
                match seat.init() {
                    Ok(stream) => return Ok(stream.into()),
                    Err(error) if !seat.lives() => return Err(error),
                    // Its sockets are ours: they are there, or it is gone.
                    Err(error) if seat.vmm == Vmm::Qemu && error.kind() != io::ErrorKind::WouldBlock => {
                        return Err(error);
                    }
                    Err(error) if first => tracing::debug!(%error, "a machine's init is not reached yet"),
                    Err(_) => {}
                }
                first = false;
                std::thread::sleep(TICK * 5);
            }
        };
        csb_relay::host(Box::new(dial)).map_err(failed("connect with the sandbox's init"))
    }

    async fn end(self: &Arc<Self>, id: &SandboxId) -> Result<(), BackendError> {
        self.links.forget(id);
        let (shared, id) = (self.clone(), id.clone());
        aside(move || {
            let place = shared.guests.place(&id);
            let node = shared.guests.node();
            let pid = place.record().map_or(0, |record| record.pid);
            vmm::end(&node, id.as_str(), pid).map_err(failed("end the machine"))?;
            let removed = place.remove().map_err(failed("remove the machine's directory"));
            if shared.guests.is_private() {
                shared.guests.tidy();
            }
            removed
        })
        .await
    }

    async fn held(self: &Arc<Self>) -> Result<Vec<Held>, BackendError> {
        let records = self.guests.records(Kind::Microvm).map_err(failed("read the records"))?;
        // Beside each other: a VMM that was taken over answers as late as it may, and keeps nobody else from being found.
        let found = join_all(records.iter().map(|(id, record)| self.find_or_end(id, record))).await;
        self.guests.tidy();
        Ok(found.into_iter().flatten().collect())
    }

    async fn find_or_end(self: &Arc<Self>, id: &SandboxId, record: &RecordV1) -> Option<Held> {
        match self.find(id, record).await {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!(sandbox = %id, %error, "removing a machine that does not answer");
                if let Err(error) = self.end(id).await {
                    tracing::error!(sandbox = %id, %error, "cannot remove a machine");
                }
                None
            }
        }
    }

    async fn find(self: &Arc<Self>, id: &SandboxId, record: &RecordV1) -> Result<Held, BackendError> {
        let place = self.guests.place(id);
        // After its end the pid may be another's; the group says that it is not.
        record.check_protocol().and_then(|()| place.group(record).map(drop)).map_err(failed("find the VMM"))?;
        let seat = self.seat(id, record).map_err(failed("find the VMM"))?;
        let (shared, name, asked) = (self.clone(), id.clone(), seat.clone());
        let frozen = aside(move || {
            shared
                .with(&name, |link| {
                    link.frozen = link.vmm(&asked, Monitor::is_paused)?;
                    Ok(link.frozen)
                })
                .map_err(failed("ask the VMM"))
        })
        .await?;
        let conn = self.relay(seat)?;
        Ok(Held { id: id.clone(), conn, frozen })
    }

    /// Does something with a machine's connections, alone.
    fn with<T>(&self, id: &SandboxId, work: impl FnOnce(&mut Link) -> io::Result<T>) -> io::Result<T> {
        let link = self.links.of(id);
        let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut link)
    }

    /// Does something with a machine, and keeps nothing of one that is gone.
    fn and_forget<T>(&self, id: &SandboxId, work: impl FnOnce(&Self, &SandboxId) -> io::Result<T>) -> io::Result<T> {
        let done = work(self, id);
        if done.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT)) {
            self.links.forget(id);
        }
        done
    }

    fn freeze(&self, id: &SandboxId, frozen: bool) -> io::Result<()> {
        let (_, seat) = self.there(id)?;
        self.with(id, |link| {
            if frozen {
                // While it stands nobody can ask it.
                link.last = self.usage_of(id, &seat, link)?;
            }
            link.vmm(&seat, |monitor| monitor.pause(frozen))?;
            link.frozen = frozen;
            if !frozen {
                done(link.ask(&seat, go_on(vec![]))?)?;
            }
            Ok(())
        })
    }

    /// Its directory and VMM, if there is a machine.
    fn there(&self, id: &SandboxId) -> io::Result<(Place, Seat)> {
        let place = self.guests.place(id);
        let seat = self.seat(id, &place.record()?)?;
        if !seat.lives() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok((place, seat))
    }

    /// Where the VMM of a record is.
    fn seat(&self, id: &SandboxId, record: &RecordV1) -> io::Result<Seat> {
        let unknown =
            || io::Error::other(format!("it is run by `{}`, which this server does not know", record.runtime));
        Ok(Seat {
            vmm: Vmm::of(&record.runtime).ok_or_else(unknown)?,
            pid: record.pid,
            name: id.to_string(),
            run: self.guests.place(id).run(),
        })
    }

    fn set_limits(&self, id: &SandboxId, limits: &Limits) -> io::Result<()> {
        let (place, seat) = self.there(id)?;
        let kept: MachineV1 = serde_json::from_slice(&fs::read(place.path.join("machine.json"))?)?;
        if !limits.io.is_none() || limits.memory > kept.most_memory {
            return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
        }
        self.with(id, |link| {
            if link.frozen {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
            done(link.ask(&seat, ToMachine::SetLimits(limits.clone()))?)
        })?;
        let memory = (kept.most_memory + GUEST).next_multiple_of(1 << 20);
        let group = vmm::group(&self.guests.node(), id.as_str())?;
        group.set_limits(&vmm::limits(memory, limits.cpu_milli, limits)).map_err(vmm::kernel)
    }

    fn usage(&self, id: &SandboxId) -> io::Result<Usage> {
        let (_, seat) = self.there(id)?;
        self.with(id, |link| self.usage_of(id, &seat, link))
    }

    /// The guest counts memory, processes and files; what its processors cost is counted outside.
    fn usage_of(&self, id: &SandboxId, seat: &Seat, link: &mut Link) -> io::Result<Usage> {
        let inside = if link.frozen {
            link.last
        } else {
            match link.ask(seat, ToMachine::Usage)? {
                FromMachine::Usage(usage) => usage,
                FromMachine::Done(Err(failure)) => return Err(io::Error::other(failure.to_string())),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let outside = vmm::group(&self.guests.node(), id.as_str())?.usage().map_err(vmm::kernel)?;
        Ok(Usage { cpu_usec: outside.cpu_usec, ..inside })
    }
}

/// What pid 1 said of an order.
fn done(answer: FromMachine) -> io::Result<()> {
    match answer {
        FromMachine::Done(Ok(())) => Ok(()),
        FromMachine::Done(Err(failure)) if failure.errno != 0 => Err(io::Error::from_raw_os_error(failure.errno)),
        FromMachine::Done(Err(failure)) => Err(io::Error::other(failure.to_string())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The end of what a console said, behind an error.
fn last_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| api::plain(line.trim())).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    if last.is_empty() { String::new() } else { format!("; its console: {}", last.join(" | ")) }
}

/// Does what waits for a machine where it keeps nobody else waiting.
fn asked<'a, T: Send + 'static>(
    shared: &Arc<Shared>,
    id: &SandboxId,
    step: &'static str,
    work: impl FnOnce(&Shared, &SandboxId) -> io::Result<T> + Send + 'static,
) -> Doing<'a, T> {
    let (shared, id) = (shared.clone(), id.clone());
    let turn = shared.links.turn(&id);
    Box::pin(async move { Ok(turn.take(step, move || shared.and_forget(&id, work)).await?) })
}

impl Release for Arc<Shared> {
    async fn release(&self, id: &SandboxId) -> Result<(), BackendError> {
        self.end(id).await
    }
}

impl Keeper for Microvm {
    fn release<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, ()> {
        Box::pin(async move {
            let released = self.shared.end(id).await;
            released.map_err(|error| {
                WardenError::from(refusal("release the machine", &io::Error::other(error.to_string())))
            })
        })
    }

    fn freeze<'a>(&'a self, id: &'a SandboxId, frozen: bool) -> Doing<'a, ()> {
        let step = if frozen { "pause the machine" } else { "resume the machine" };
        asked(&self.shared, id, step, move |shared, id| shared.freeze(id, frozen))
    }

    fn set_limits<'a>(&'a self, id: &'a SandboxId, limits: Limits) -> Doing<'a, ()> {
        asked(&self.shared, id, "change the machine's limits", move |shared, id| shared.set_limits(id, &limits))
    }

    fn usage<'a>(&'a self, id: &'a SandboxId) -> Doing<'a, Usage> {
        let (shared, id) = (self.shared.clone(), id.clone());
        let turn = shared.links.turn(&id);
        let ask = move || shared.and_forget(&id, Shared::usage);
        Box::pin(async move { Ok(turn.share("read the machine's counters", ask).await?) })
    }
}

impl Backend for Microvm {
    fn kind(&self) -> Kind {
        Kind::Microvm
    }

    fn ready(&self) -> Building<'_, ()> {
        Box::pin(async { self.shared.ready().await.map(drop) })
    }

    fn note(&self) -> Option<String> {
        let found = self.shared.accelerator.get()?;
        // Where there are no machines at all, the reason is told instead.
        usable(&self.shared.settings, found).ok().map(|_| found.to_string())
    }

    fn create<'a>(&'a self, id: &'a SandboxId, spec: &'a SandboxSpec) -> Building<'a, Conn> {
        Box::pin(self.shared.create(id, spec))
    }

    fn held(&self) -> Building<'_, Vec<Held>> {
        Box::pin(async {
            for guests in self.shared.guests.orphaned() {
                let other = Microvm::new(guests, self.shared.settings.clone()).shared;
                for (id, _) in other.guests.records(Kind::Microvm).unwrap_or_default() {
                    if let Err(error) = other.end(&id).await {
                        tracing::warn!(sandbox = %id, %error, "cannot remove a machine that `csb run` left");
                    }
                }
                other.guests.tidy();
            }
            self.shared.held().await
        })
    }
}
