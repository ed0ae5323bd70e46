//! The machine that requests have described, run by QEMU; its vsock by `vhost-device-vsock`.

use super::ports;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Programs beside the stand-in.
const QEMU: &str = "qemu-system-x86_64";
const VSOCK: &str = "vhost-device-vsock";
const QMP: &str = "/vm/run/qmp.sock";
const DEVICE: &str = "/vm/run/vhost.sock";
const PATIENCE: Duration = Duration::from_secs(30);

/// What was told by path; drives in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Parts {
    told: Vec<(String, Value)>,
}

impl Parts {
    /// Files are opened, as Firecracker does, when they are named.
    pub(super) fn take(&mut self, path: &str, body: Value) -> io::Result<()> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| io::Error::other(format!("{what}: {error}"))
        };
        let named = |name: &str| body[name].as_str().map(PathBuf::from);
        if let Some(kernel) = named("kernel_image_path") {
            let mut start = [0; 4];
            let read = File::open(kernel).and_then(|mut file| file.read_exact(&mut start));
            read.map_err(failed("The kernel file cannot be opened"))?;
            if &start != b"\x7fELF" {
                return Err(io::Error::other("Kernel Loader: failed to load ELF kernel image"));
            }
        }
        if let Some(initrd) = named("initrd_path") {
            File::open(initrd).map_err(failed("The initrd file cannot be opened"))?;
        }
        if let Some(disk) = named("path_on_host") {
            let writable = body["is_read_only"] == false;
            File::options().read(true).write(writable).open(disk).map_err(failed("Unable to open the block device"))?;
        }
        match self.told.iter_mut().find(|(told, _)| told == path) {
            Some((_, old)) => *old = body,
            None => self.told.push((path.to_owned(), body)),
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    fn of(&self, path: &str) -> io::Result<&Value> {
        let found = self.told.iter().find(|(told, _)| told == path).map(|(_, body)| body);
        found.ok_or_else(|| io::Error::other(format!("Cannot start microvm without {path}.")))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// One that runs. With it ends this process, and with this process everything.
pub(super) struct Machine {
    qemu: Pid,
    /// Where the guest has serial ports for vsock, QEMU can be asked to save it.
    saves: Option<Qmp>,
}

impl Machine {
    /// `serial`: see `ports.rs`; `from`: memory to go on with.
    pub(super) fn start(parts: &Parts, beside: &Path, serial: bool, from: Option<&str>) -> io::Result<Self> {
        let (config, boot, vsock) = (parts.of("/machine-config")?, parts.of("/boot-source")?, parts.of("/vsock")?);
        let socket = text(&vsock["uds_path"]);
        if !serial {
            let mut device = Command::new(beside.join(VSOCK));
            device.args(["--socket", DEVICE, "--uds-path", &socket, "--guest-cid", &vsock["guest_cid"].to_string()]);
            device.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            watched(device.spawn()?)?;
            until(|| Path::new(DEVICE).exists())?;
        }
        let mib = config["mem_size_mib"].to_string();
        // A guest of ours measures the processor against a timer, which fails under emulation on a busy host; and what it does at
        // its end is QEMU's way.
        let mut line = text(&boot["boot_args"]).replace("reboot=k", "reboot=t");
        if let Some(khz) = csb_sys::clock::tsc_khz() {
            line += &format!(" tsc_early_khz={khz}");
        }
        let mut qemu = Command::new(beside.join(QEMU));
        qemu.args(["-machine", "microvm,acpi=on,pcie=off,auto-kernel-cmdline=off,memory-backend=mem"]);
        qemu.args(["-object", &format!("memory-backend-memfd,id=mem,size={mib}M,share=on"), "-m", &format!("{mib}M")]);
        qemu.args(["-accel", "tcg,tb-size=64", "-cpu", "max", "-smp", &config["vcpu_count"].to_string()]);
        qemu.args(["-kernel", &text(&boot["kernel_image_path"]), "-initrd", &text(&boot["initrd_path"])]);
        qemu.args(["-append", &line, "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]);
        qemu.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        for (at, (_, drive)) in parts.told.iter().filter(|(path, _)| path.starts_with("/drives/")).enumerate() {
            let access = if drive["is_read_only"] == true { "on" } else { "off" };
            let file = format!("file.driver=file,file.filename={}", text(&drive["path_on_host"]));
            let auto = "auto-read-only=off,file.auto-read-only=off,file.locking=off";
            qemu.args(["-blockdev", &format!("driver=raw,node-name=disk{at},read-only={access},{auto},{file}")]);
            qemu.args(["-device", &format!("virtio-blk-device,drive=disk{at}")]);
        }
        if serial {
            qemu.args(ports::arguments()).args(["-qmp", &format!("unix:{QMP},server=on,wait=off")]);
        } else {
            qemu.args(["-chardev", &format!("socket,id=vsock,path={DEVICE}")]);
            qemu.args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
        }
        if parts.of("/balloon").is_ok() {
            qemu.args(["-device", "virtio-balloon-device,free-page-reporting=on"]);
        }
        if parts.of("/entropy").is_ok() {
            qemu.args(["-device", "virtio-rng-device"]);
        }
        if let Some(memory) = from {
            qemu.args(["-S", "-incoming", &format!("file:{memory}")]);
        }
        let qemu = watched(qemu.env_clear().stdin(Stdio::null()).spawn()?)?;
        let saves = if serial {
            until(|| Path::new(QMP).exists())?;
            ports::listen(&socket)?;
            let mut qmp = Qmp::connect()?;
            if from.is_some() {
                until(|| qmp.ask("query-status", json!({})).is_ok_and(|now| now["status"] == "paused"))?;
            }
            Some(qmp)
        } else {
            None
        };
        Ok(Self { qemu, saves })
    }

    /// Its processors stand still, as Firecracker's do. By QMP, QEMU would part with a vhost-user device as well.
    pub(super) fn pause(&mut self, paused: bool) -> io::Result<()> {
        match &mut self.saves {
            Some(qmp) => qmp.ask(if paused { "stop" } else { "cont" }, json!({})).map(drop),
            None => Ok(kill_process(self.qemu, if paused { Signal::STOP } else { Signal::CONT })?),
        }
    }

    /// As Firecracker: what the machine is made of in one file, its memory in the other. Connections of its vsock end.
    pub(super) fn save(&mut self, parts: &Parts, asked: &Value) -> io::Result<()> {
        let Some(qmp) = &mut self.saves else {
            return Err(io::Error::other("this stand-in saves no machine with a vsock"));
        };
        ports::reset();
        qmp.ask("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 }))?;
        qmp.ask("migrate", json!({ "uri": format!("file:{}", text(&asked["mem_file_path"])) }))?;
        let mut failed = None;
        until(|| match qmp.ask("query-migrate", json!({})) {
            Ok(state) if state["status"] == "failed" => {
                failed = Some(state["error-desc"].to_string());
                true
            }
            state => state.is_ok_and(|state| state["status"] == "completed"),
        })?;
        if let Some(why) = failed {
            return Err(io::Error::other(why));
        }
        // What is there is opened, not made: in its root the VMM can make nothing.
        fs::write(text(&asked["snapshot_path"]), serde_json::to_vec(parts)?)
    }
}

/// What a snapshot says of its machine.
pub(super) fn saved(asked: &Value) -> io::Result<Parts> {
    Ok(serde_json::from_slice(&fs::read(text(&asked["snapshot_path"]))?)?)
}

struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn connect() -> io::Result<Self> {
        let mut qmp = Self(BufReader::new(UnixStream::connect(QMP)?));
        qmp.line()?;
        qmp.ask("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.0.get_mut().write_all(format!("{text}\n").as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}

/// A part of the machine: where it ends, all does.
fn watched(mut child: std::process::Child) -> io::Result<Pid> {
    let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::NotFound)?;
    thread::spawn(move || {
        let ended = child.wait();
        eprintln!("firecracker: the machine ended: {ended:?}");
        std::process::exit(0);
    });
    Ok(pid)
}

fn until(mut there: impl FnMut() -> bool) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !there() {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a part of the machine did not start"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
