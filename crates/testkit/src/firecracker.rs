//! Stands in for Firecracker where there is neither its program nor KVM.
//!
//! [`facts`] says what its API takes: written down from its published OpenAPI (`src/firecracker/swagger/firecracker.yaml`, 1.16) and
//! documentation, it refuses what the VMM would refuse. [`run`] is a program that takes Firecracker's arguments and serves that API;
//! at `InstanceStart` QEMU, under software emulation, starts the machine that it was told of, and `vhost-device-vsock` joins the
//! machine's vsock to a Unix socket as Firecracker does. So the guest and all that is said to it are real.
//!
//! What is not there: Firecracker's own devices, its filter of system calls, KVM, and a snapshot of a machine with a vsock: QEMU cannot
//! save one with a vhost-user device, so `ports.rs` offers serial ports instead. [`behaviour`] says that, or makes it one of the VMMs
//! that a host has to survive.

pub mod behaviour;
pub mod facts;
mod http;
mod machine;
mod ports;

use behaviour::Behaviour;
use facts::{Phase, refusal};
use machine::{Machine, Parts};
use serde_json::{Value, json};
use std::{
    io,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
};

/// What its program is called.
pub const PROGRAM: &str = "firecracker";

/// Serves until the machine or this process ends.
pub fn run() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let socket = match &words[..] {
        [api, socket, id, _] if api == "--api-sock" && id == "--id" => PathBuf::from(socket),
        other => return Err(io::Error::other(format!("unknown arguments {other:?}"))),
    };
    // Nothing is known of the rest of the file system, /proc is not there.
    let beside = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let beside = beside.parent().unwrap_or(Path::new("/")).to_owned();
    let behaviour = Behaviour::read(&beside)?;
    let mut vmm = Vmm { beside, phase: Phase::Before, parts: Parts::default(), machine: None, behaviour };
    let listener = UnixListener::bind(socket)?;
    for stream in listener.incoming() {
        let stream = stream?;
        // Whoever hangs up in the middle is nobody's trouble.
        if let Err(error) = vmm.serve(&stream) {
            eprintln!("firecracker: {error}");
        }
    }
    Ok(())
}

struct Vmm {
    beside: PathBuf,
    phase: Phase,
    parts: Parts,
    machine: Option<Machine>,
    behaviour: Behaviour,
}

impl Vmm {
    fn serve(&mut self, stream: &UnixStream) -> io::Result<()> {
        while let Some(request) = http::read(stream)? {
            if self.behaviour.answered(&request.path, stream)? {
                return Ok(());
            }
            let answered = match refusal(self.phase, &request.method, &request.path, request.body.as_ref()) {
                Some(fault) => Err(fault),
                None => self.obey(&request).map_err(|error| error.to_string()),
            };
            match answered {
                Ok(Value::Null) => http::answer(stream, 204, None)?,
                Ok(value) => http::answer(stream, 200, Some(&value))?,
                Err(fault) => http::answer(stream, 400, Some(&json!({ "fault_message": fault })))?,
            }
        }
        Ok(())
    }

    fn obey(&mut self, request: &http::Request) -> io::Result<Value> {
        let body = request.body.clone().unwrap_or_default();
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => {
                let state = self.phase.state();
                return Ok(json!({ "app_name": "Firecracker", "id": "csb", "state": state, "vmm_version": "1.16.0" }));
            }
            ("PUT", "/actions") => {
                let serial = self.behaviour == Behaviour::Serial;
                self.machine = Some(Machine::start(&self.parts, &self.beside, serial, None)?);
                self.phase = Phase::Running;
            }
            ("PATCH", "/vm") => {
                let paused = body["state"] == "Paused";
                if let Some(machine) = &mut self.machine {
                    machine.pause(paused)?;
                }
                self.phase = if paused { Phase::Paused } else { Phase::Running };
            }
            ("PUT", "/snapshot/create") => {
                self.machine.iter_mut().try_for_each(|machine| machine.save(&self.parts, &body))?;
            }
            ("PUT", "/snapshot/load") => {
                if !self.parts.is_empty() {
                    return Err(io::Error::other("Loading a microVM snapshot not allowed after configuring it."));
                }
                self.parts = machine::saved(&body)?;
                let memory = body["mem_backend"]["backend_path"].as_str();
                let mut machine = Machine::start(&self.parts, &self.beside, true, memory)?;
                let goes_on = body["resume_vm"] == true;
                if goes_on {
                    machine.pause(false)?;
                }
                self.machine = Some(machine);
                self.phase = if goes_on { Phase::Running } else { Phase::Paused };
            }
            _ => self.parts.take(&request.path, body)?,
        }
        Ok(Value::Null)
    }
}
