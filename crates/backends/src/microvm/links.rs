//! Connections with the VMMs and first programs of machines: one of each, as QEMU talks with one at a time.

use super::{control::Control, monitor::Monitor, seat::Seat, turn::Turn};
use csb_types::{SandboxId, Usage};
use csb_wire::machine::{FromMachine, ToMachine};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// For an answer of pid 1.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those of one machine. Empty until they are used, and after a loss.
#[derive(Default)]
pub(super) struct Link {
    monitor: Option<Monitor>,
    control: Option<Control>,
    /// Whether it stands still, and what it used when it was asked last.
    pub(super) frozen: bool,
    pub(super) last: Usage,
}

impl Link {
    /// Starts with connections that are there.
    pub(super) fn new(monitor: Monitor, control: Control) -> Self {
        Self { monitor: Some(monitor), control: Some(control), ..Self::default() }
    }

    /// Asks the VMM.
    pub(super) fn vmm<T>(&mut self, seat: &Seat, ask: impl FnOnce(&mut Monitor) -> io::Result<T>) -> io::Result<T> {
        let monitor = match &mut self.monitor {
            Some(monitor) => monitor,
            none => none.insert(Monitor::connect(seat)?),
        };
        let answer = ask(monitor);
        if answer.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Other) {
            self.monitor = None;
        }
        answer
    }

    /// Asks pid 1.
    pub(super) fn ask(&mut self, seat: &Seat, frame: ToMachine) -> io::Result<FromMachine> {
        let control = match &mut self.control {
            Some(control) => control,
            none => none.insert(Control::over(seat.control()?)?),
        };
        let answer = control.ask(frame, PATIENCE);
        if answer.is_err() {
            self.control = None;
        }
        answer
    }
}

impl Link {
    /// Pid 1 has lost its connection, and has to be asked over another.
    pub(super) fn part(&mut self) {
        self.control = None;
    }
}

/// What there is of one machine.
#[derive(Default)]
struct Of {
    link: Arc<Mutex<Link>>,
    turn: Turn,
}

/// Those of all machines.
#[derive(Default)]
pub(super) struct Links(Mutex<HashMap<SandboxId, Of>>);

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Links")
    }
}

impl Links {
    fn all(&self) -> MutexGuard<'_, HashMap<SandboxId, Of>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of(&self, id: &SandboxId) -> Arc<Mutex<Link>> {
        self.all().entry(id.clone()).or_default().link.clone()
    }

    /// By which one at a time asks it.
    pub(super) fn turn(&self, id: &SandboxId) -> Turn {
        self.all().entry(id.clone()).or_default().turn.clone()
    }

    pub(super) fn put(&self, id: &SandboxId, link: Link) {
        self.all().entry(id.clone()).or_default().link = Arc::new(Mutex::new(link));
    }

    pub(super) fn forget(&self, id: &SandboxId) {
        self.all().remove(id);
    }
}
