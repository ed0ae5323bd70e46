//! Sandboxes of the kind `microvm`, without a node: what a machine is confined by, what is said where something is missing, and a machine
//! that is written down and gone on from.

use crate::{
    hardened::template,
    support::{Host, trial},
};
use csb_backends::{Accelerator, Backend, BackendError, Guests, Microvm, MicrovmSettings};
use csb_engine::Keeper;
use csb_sys::{packet::Conn, pipe};
use csb_types::{ExecId, Kind, Limits, SandboxId, SandboxSpec, Upper};
use csb_wire::{ExecPlan, FromInit, ToInit, decode, encode};
use libtest_mimic::Trial;
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

pub fn trials() -> Vec<Trial> {
    let possible = rustix::process::geteuid().is_root() && cfg!(target_arch = "x86_64");
    let all = vec![
        trial("what_a_machine_lacks_is_named_and_nothing_is_left", missing),
        trial("a_vmm_has_nothing_but_its_machine", confined),
        trial("a_machine_is_written_down_and_gone_on_from_as_often_as_wanted", forked),
        trial("a_vmm_that_never_says_an_answer_to_its_end_keeps_no_other_from_being_found", dripping),
    ];
    all.into_iter().map(|trial| trial.with_ignored_flag(!possible)).collect()
}

/// QEMU and a kernel of Debian's packages; none where they cannot be had.
pub fn settings() -> Option<MicrovmSettings> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| here.join("target"), PathBuf::from);
    let place = target.join("microvm");
    fs::create_dir_all(&place).unwrap();
    let got = Command::new(here.join("scripts/microvm.sh")).arg(place).output().unwrap();
    let said = String::from_utf8(got.stdout).unwrap();
    let setting = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(PathBuf::from);
    let found = setting("CSB_MICROVM_QEMU=").zip(setting("CSB_MICROVM_KERNEL="));
    let must = std::env::var("CSB_KINDS").is_ok_and(|kinds| kinds.contains("microvm"));
    assert!(found.is_some() || !must, "{}", String::from_utf8_lossy(&got.stderr));
    let (qemu, kernel) = found.or_else(|| {
        eprintln!("left out: {}", String::from_utf8_lossy(&got.stderr).trim());
        None
    })?;
    let kernel = Some(kernel);
    Some(MicrovmSettings { qemu, kernel, accelerator: Accelerator::Tcg, memory: 256 << 20, ..Default::default() })
}

pub fn spec() -> SandboxSpec {
    let limits = Limits { memory: 64 << 20, disk: 16 << 20, inodes: 2000, ..Limits::default() };
    SandboxSpec { kind: Kind::Microvm, template: "small".into(), limits, upper: Upper::Disk, ..SandboxSpec::default() }
}

/// Whatever of machines is on the host: directories, control groups, disks.
pub fn left(host: &Host) -> Vec<PathBuf> {
    let list = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let visible = |path: &PathBuf| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut found: Vec<PathBuf> = list(host.dir.join("guests")).filter(visible).collect();
    found.extend(list(host.dir.join("disks")));
    found
}

/// Host pid of a machine's VMM.
pub fn vmm_of(host: &Host, id: &SandboxId) -> i64 {
    let record = fs::read_to_string(host.dir.join(format!("guests/{id}/guest.json"))).unwrap();
    serde_json::from_str::<serde_json::Value>(&record).unwrap()["pid"].as_i64().unwrap()
}

async fn missing(host: Host) {
    let Some(settings) = settings() else { return };
    template(&host);
    let guests = Guests::lasting(&host.dir).unwrap();
    let text = host.dir.join("vmlinuz-text");
    fs::write(&text, "no kernel").unwrap();
    let tries: [(MicrovmSettings, &str); 4] = [
        (MicrovmSettings { kernel: Some("/nowhere/vmlinuz".into()), ..settings.clone() }, "/nowhere/vmlinuz"),
        (MicrovmSettings { qemu: "/nowhere/qemu".into(), ..settings.clone() }, "/nowhere/qemu"),
        (MicrovmSettings { qemu: "/bin/false".into(), ..settings.clone() }, "start the VMM"),
        (MicrovmSettings { kernel: Some(text), ..settings.clone() }, "kernel"),
    ];
    for (settings, named) in tries {
        let machines = Microvm::new(guests.clone(), settings);
        let error = machines.create(&SandboxId::random(), &spec()).await.unwrap_err();
        if let BackendError::NotFound { hint, .. } = &error {
            assert!(hint.contains("install"), "{hint}");
        }
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(left(&host), [] as [PathBuf; 0], "{error}");
    }
    let machines = Microvm::new(guests, settings);
    let volume = csb_types::Volume { host: "/tmp".into(), below: None, guest: "/v".into(), read_only: true };
    let error = machines.create(&SandboxId::random(), &SandboxSpec { volumes: vec![volume], ..spec() }).await;
    assert!(matches!(error, Err(BackendError::Unsupported(_))), "{error:?}");
    assert_eq!(left(&host), [] as [PathBuf; 0]);
}

async fn confined(host: Host) {
    let Some(settings) = settings() else { return };
    template(&host);
    let machines = Microvm::new(Guests::lasting(&host.dir).unwrap(), settings);
    let id = SandboxId::random();
    let conn = machines.create(&id, &spec()).await.unwrap();
    let pid = vmm_of(&host, &id);
    let proc = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let uid: u32 = field("Uid:").split_whitespace().next().unwrap().parse().unwrap();
    assert!(uid > 1 << 30, "{uid}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:"), field("Groups:")), ("1".into(), "2".into(), String::new()));
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let largest = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    assert!(!largest.contains("unlimited"), "{largest}");
    for namespace in ["mnt", "pid", "net", "ipc", "uts"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(namespace)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{namespace}");
    }
    assert_eq!(fs::read_to_string(proc.join("net/dev")).unwrap().lines().count(), 3, "but the loopback device");
    assert!(fs::read_to_string(proc.join("cgroup")).unwrap().contains(id.as_str()));
    // Of the host it sees what it runs from.
    let root = proc.join("root");
    for hidden in ["etc/passwd", "root/.profile", "home", "proc/1", "sys/class", "run/csb", "var/lib", "dev/kvm"] {
        assert!(fs::symlink_metadata(root.join(hidden)).is_err(), "{hidden}");
    }
    assert!(fs::write(root.join("new"), "x").is_err() && fs::write(root.join("usr/new"), "x").is_err());
    drop(conn);
    machines.release(&id).await.unwrap();
    assert!(!proc.join("exe").exists());
    assert_eq!(left(&host), [] as [PathBuf; 0]);
}

async fn dripping(host: Host) {
    let Some(settings) = settings() else { return };
    template(&host);
    let first = Microvm::new(Guests::lasting(&host.dir).unwrap(), settings.clone());
    let (good, bad) = (SandboxId::random(), SandboxId::random());
    for id in [&good, &bad] {
        drop(first.create(id, &spec()).await.unwrap());
    }
    drop(first);
    // As if its VMM had been taken over: it listens, and talks a byte at a time.
    let socket = host.dir.join(format!("guests/{bad}/run/qmp.sock"));
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let next = Microvm::new(Guests::lasting(&host.dir).unwrap(), settings);
    let held = tokio::time::timeout(Duration::from_secs(120), next.held()).await.expect("it has an end").unwrap();
    assert_eq!(held.iter().map(|held| &held.id).collect::<Vec<_>>(), [&good]);
    assert_eq!(said(&held[0].conn, "echo here"), "here\n");
    assert!(!host.dir.join(format!("guests/{bad}")).exists());
    drop(held);
    next.release(&good).await.unwrap();
    assert_eq!(left(&host), [] as [PathBuf; 0]);
}

/// What a command says, asked for as a driver asks.
pub fn said(conn: &Conn, line: &str) -> String {
    let (out, out_w) = pipe::pipe().unwrap();
    let (err, err_w) = pipe::pipe().unwrap();
    let plan = ExecPlan {
        id: ExecId::random(),
        argv: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".into()],
        cwd: "/workspace".into(),
        user: None,
        pty: None,
        stdin: false,
    };
    let id = plan.id.clone();
    let fds = [out_w.as_fd(), err_w.as_fd(), out.as_fd(), err.as_fd()];
    conn.send(&encode(&ToInit::Exec(Box::new(plan))), &fds).unwrap();
    drop((out_w, err_w));
    loop {
        let (bytes, _) = conn.recv().unwrap().expect("the init is there");
        match decode::<FromInit>(&bytes).unwrap() {
            FromInit::Exited { exec, .. } if exec == id => break,
            FromInit::NotStarted { failure, .. } => panic!("{failure}"),
            _ => {}
        }
    }
    // All that was written before the end is there when the end is told; others may have the pipe open for longer.
    rustix::io::ioctl_fionbio(&out, true).unwrap();
    let mut text = Vec::new();
    let _ = File::from(out).read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

async fn forked(host: Host) {
    if let Some(settings) = settings() {
        gone_on(&host, settings).await;
    }
}

/// A machine, its snapshot and what goes on from there, whichever VMM runs it.
pub async fn gone_on(host: &Host, settings: MicrovmSettings) {
    template(host);
    let machines = Microvm::new(Guests::lasting(&host.dir).unwrap(), settings);
    let id = SandboxId::random();
    let first = machines.create(&id, &spec()).await.unwrap();
    let running =
        "echo in memory > /dev/shm/m; echo on disk > f; (while :; do echo x >> t; sleep 1; done) >/dev/null 2>&1 &";
    assert_eq!(said(&first, running), "");
    let snapshot = host.dir.join("snapshot");
    let limits = spec().limits;
    machines.snapshot(&id, &limits, &snapshot).await.unwrap();
    // It goes on, and what it does from now on is its own.
    assert_eq!(said(&first, "echo later > f; cat f /dev/shm/m"), "later\nin memory\n");
    let others = [SandboxId::random(), SandboxId::random()];
    let mut numbers = Vec::new();
    for other in &others {
        let conn = machines.restore(other, &snapshot).await.unwrap();
        assert_eq!(said(&conn, "cat f /dev/shm/m"), "on disk\nin memory\n");
        let grows = "a=$(wc -c < t); sleep 4; [ $(wc -c < t) -gt $a ] && echo it goes on";
        assert_eq!(said(&conn, grows), "it goes on\n");
        numbers.push(said(&conn, "head -c 16 /dev/urandom | wc -c; head -c 8 /dev/urandom | od"));
    }
    assert_ne!(numbers[0], numbers[1], "two copies share no random numbers");
    let child = [SandboxId::random()];
    let conns = machines.fork(&id, &limits, &child).await.unwrap();
    assert_eq!(said(&conns[0], "cat f /dev/shm/m"), "later\nin memory\n");
    for id in others.iter().chain(&child).chain([&id]) {
        machines.release(id).await.unwrap();
    }
    assert_eq!(left(host), [] as [PathBuf; 0]);
    let error = machines.restore(&id, Path::new("/nowhere")).await.unwrap_err();
    assert!(error.to_string().contains("snapshot"), "{error}");
    assert_eq!(left(host), [] as [PathBuf; 0]);
}
