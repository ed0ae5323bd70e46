//! Sandboxes of the kind `microvm` with Firecracker as their VMM, for which `csb-testkit` stands in: its API is what Firecracker's is,
//! the machine behind it is QEMU's.

use crate::{
    hardened::template,
    machine::{gone_on, left, said, settings, spec, vmm_of},
    roles,
    support::{Host, trial},
};
use csb_backends::{Accelerator, Backend, BackendError, Guests, Microvm, MicrovmSettings, Vmm};
use csb_engine::Keeper;
use csb_testkit::firecracker::{PROGRAM, behaviour};
use csb_types::{Limits, SandboxId};
use libtest_mimic::Trial;
use std::{
    fs,
    io::BufRead,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

pub fn trials() -> Vec<Trial> {
    let possible = rustix::process::geteuid().is_root() && cfg!(target_arch = "x86_64");
    let all = vec![
        trial("a_machine_of_firecracker_does_what_others_do", whole),
        trial("a_machine_of_firecracker_is_written_down_and_gone_on_from", forked),
        trial("a_machine_that_a_killed_server_had_not_told_all_of_is_removed", half_told),
        trial("a_machine_that_is_given_up_leaves_nothing", given_up),
        trial("what_firecracker_lacks_is_named_and_nothing_is_left", missing),
        trial("a_firecracker_that_misbehaves_leaves_nothing", hostile),
    ];
    all.into_iter().map(|trial| trial.with_ignored_flag(!possible)).collect()
}

/// A directory with the stand-in in `bin`, and settings that name it. Here nothing has KVM: the setting `tcg` says so, with which a
/// server would not start.
fn stand_in(host: &Host) -> Option<(PathBuf, MicrovmSettings)> {
    let found = settings()?;
    let tree = host.dir.join("vmm");
    fs::create_dir_all(tree.join("bin")).unwrap();
    let program = tree.join("bin").join(PROGRAM);
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let settings =
        MicrovmSettings { vmm: Vmm::Firecracker, firecracker: program, accelerator: Accelerator::Tcg, ..found };
    Some((tree, settings))
}

/// Adds what runs a machine: QEMU with its firmware.
fn with_qemu(tree: &Path, settings: &MicrovmSettings) {
    fs::copy(&settings.qemu, tree.join("bin/qemu-system-x86_64")).unwrap();
    fs::create_dir_all(tree.join("share/qemu")).unwrap();
    let firmware = settings.qemu.parent().unwrap().join("../share/qemu");
    for entry in fs::read_dir(firmware).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), tree.join("share/qemu").join(entry.file_name())).unwrap();
    }
}

/// Adds what joins a machine's vsock to a socket, where that is to be had.
fn with_vsock(tree: &Path) -> bool {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| here.join("target"), PathBuf::from);
    let got = Command::new(here.join("scripts/vsock.sh")).arg(target.join("vsock")).output().unwrap();
    if !got.status.success() {
        eprintln!("left out: {}", String::from_utf8_lossy(&got.stderr).trim());
        assert!(std::env::var_os("CSB_FULL").is_none(), "it is not left out of a full run");
        return false;
    }
    fs::copy(String::from_utf8_lossy(&got.stdout).trim(), tree.join("bin/vhost-device-vsock")).unwrap();
    true
}

async fn whole(host: Host) {
    let Some((tree, settings)) = stand_in(&host) else { return };
    if !with_vsock(&tree) {
        return;
    }
    with_qemu(&tree, &settings);
    template(&host);
    let id = SandboxId::random();
    let machines = Microvm::new(Guests::lasting(&host.dir).unwrap(), settings.clone());
    let conn = machines.create(&id, &spec()).await.unwrap();
    let running =
        "echo in memory > /dev/shm/m; echo on disk > f; (while :; do echo x >> t; sleep 1; done) >/dev/null 2>&1 &";
    assert_eq!(said(&conn, running), "");
    assert_eq!(said(&conn, "cat /dev/shm/m f; head -c 100000 /dev/zero | wc -c"), "in memory\non disk\n100000\n");

    // Of the host the VMM sees what it runs from, and it can write to nothing but its own.
    let pid = vmm_of(&host, &id);
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    for hidden in ["etc/passwd", "home", "proc/1", "sys/class", "run/csb", "dev/kvm"] {
        assert!(fs::symlink_metadata(root.join(hidden)).is_err(), "{hidden}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"), "{status}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let largest = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    assert!(!largest.contains("unlimited"), "{largest}");

    // Counters, limits, and standing still.
    let used = machines.usage(&id).await.unwrap();
    assert!(used.memory > 0 && used.cpu_usec > 0, "{used:?}");
    machines.set_limits(&id, Limits { memory: 96 << 20, ..spec().limits }).await.unwrap();
    machines.freeze(&id, true).await.unwrap();
    machines.freeze(&id, false).await.unwrap();
    assert_eq!(said(&conn, "cat /dev/shm/m"), "in memory\n");
    machines.freeze(&id, true).await.unwrap();
    // Another server finds it as it is, whatever runs new ones there.
    drop(conn);
    drop(machines);
    let machines = Microvm::new(Guests::lasting(&host.dir).unwrap(), MicrovmSettings { vmm: Vmm::Qemu, ..settings });
    let mut held = machines.held().await.unwrap();
    assert_eq!(held.len(), 1);
    assert!(held[0].frozen);
    machines.freeze(&id, false).await.unwrap();
    let conn = held.remove(0).conn;
    assert_eq!(said(&conn, "cat /dev/shm/m"), "in memory\n");
    let grows = "a=$(wc -c < t); sleep 4; [ $(wc -c < t) -gt $a ] && echo it goes on";
    assert_eq!(said(&conn, grows), "it goes on\n");

    // What the VMM refuses is told, and the machine goes on.
    let snapshot = host.dir.join("snapshot");
    let error = machines.snapshot(&id, &spec().limits, &snapshot).await.unwrap_err();
    assert!(error.to_string().contains("this stand-in saves no machine"), "{error}");
    assert!(!snapshot.exists());
    assert_eq!(said(&conn, "cat f"), "on disk\n");

    // A VMM that dies takes its sandbox along.
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while let Ok(Some(_)) = conn.recv() {}
    assert!(machines.usage(&id).await.is_err());
    machines.release(&id).await.unwrap();
    assert!(!root.exists());
    assert_eq!(left(&host), [] as [PathBuf; 0]);
}

/// While its VMM does not answer.
async fn given_up(host: Host) {
    let Some((tree, settings)) = stand_in(&host) else { return };
    template(&host);
    fs::write(tree.join("bin").join(behaviour::FILE), "waits /vsock").unwrap();
    let id = SandboxId::random();
    let machines = Microvm::new(Guests::lasting(&host.dir).unwrap(), settings);
    let asked = spec();
    tokio::select! {
        made = machines.create(&id, &asked) => panic!("{made:?}"),
        () = begun(&host, &id) => {}
    }
    let root = PathBuf::from(format!("/proc/{}/root", vmm_of(&host, &id)));
    let end = Instant::now() + Duration::from_secs(15);
    while !left(&host).is_empty() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(left(&host), [] as [PathBuf; 0]);
    assert!(!root.exists());
}

/// By the next server, where the one that began to make it was killed meanwhile.
async fn half_told(host: Host) {
    let Some((tree, _)) = stand_in(&host) else { return };
    template(&host);
    fs::write(tree.join("bin").join(behaviour::FILE), "waits /vsock").unwrap();
    let mut server = roles::spawn("half-a-machine", &host.dir);
    let mut line = String::new();
    std::io::BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let id: SandboxId = line.trim().parse().unwrap();
    begun(&host, &id).await;
    server.kill().unwrap();
    server.wait().unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", vmm_of(&host, &id)));
    assert!(root.exists(), "the VMM outlives the server");
    let machines = Microvm::new(Guests::lasting(&host.dir).unwrap(), MicrovmSettings::default());
    assert_eq!(machines.held().await.unwrap().len(), 0);
    assert!(!root.exists());
    assert_eq!(left(&host), [] as [PathBuf; 0]);
}

/// The server that is killed: it says what it makes, and makes it.
pub async fn begin(dir: &Path) {
    let host = Host { dir: dir.to_owned() };
    let Some((_, settings)) = stand_in(&host) else { return };
    let machines = Microvm::new(Guests::lasting(dir).unwrap(), settings);
    let id = SandboxId::random();
    println!("{id}");
    drop(machines.create(&id, &spec()).await);
}

/// Until there is a VMM.
async fn begun(host: &Host, id: &SandboxId) {
    let record = host.dir.join(format!("guests/{id}/guest.json"));
    while !fs::read_to_string(&record).is_ok_and(|text| !text.contains("\"pid\":0")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn forked(host: Host) {
    let Some((tree, settings)) = stand_in(&host) else { return };
    with_qemu(&tree, &settings);
    // QEMU saves no machine with the vsock that it has here.
    fs::write(tree.join("bin").join(behaviour::FILE), behaviour::SERIAL).unwrap();
    gone_on(&host, settings).await;
}

async fn missing(host: Host) {
    let Some((_, settings)) = stand_in(&host) else { return };
    template(&host);
    let text = host.dir.join("vmlinuz-text");
    fs::write(&text, "no kernel").unwrap();
    let guests = Guests::lasting(&host.dir).unwrap();
    let kvm = MicrovmSettings { accelerator: Accelerator::Auto, ..settings.clone() };
    let tries = [
        (MicrovmSettings { firecracker: "/nowhere/firecracker".into(), ..settings.clone() }, "/nowhere/firecracker"),
        (MicrovmSettings { firecracker: "/bin/false".into(), ..settings.clone() }, "start the VMM"),
        (MicrovmSettings { kernel: Some(text), ..settings.clone() }, "neither an ELF file nor a bzImage"),
        // Never QEMU in its place.
        (kvm, "needs KVM"),
    ];
    for (settings, named) in tries {
        let error = Microvm::new(guests.clone(), settings).create(&SandboxId::random(), &spec()).await.unwrap_err();
        if let BackendError::NotFound { hint, .. } = &error {
            assert!(hint.contains("microvm."), "{hint}");
        }
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(left(&host), [] as [PathBuf; 0], "{error}");
    }
}

async fn hostile(host: Host) {
    let Some((tree, settings)) = stand_in(&host) else { return };
    template(&host);
    let guests = Guests::lasting(&host.dir).unwrap();
    for (does, named) in [
        // A part of it that cannot be had ends the whole.
        ("refuses /nothing", "PUT /actions"),
        ("refuses /boot-source", "Firecracker refuses PUT /boot-source: it is\\n\\u{1b}[31mred!"),
        ("dies /drives/csb1", "out of luck"),
        ("dies /", "out of luck"),
        ("endless /", "no end"),
        ("endless /vsock", "PUT /vsock: its answer has no end"),
    ] {
        fs::write(tree.join("bin").join(behaviour::FILE), does).unwrap();
        let begun = Instant::now();
        let machines = Microvm::new(guests.clone(), settings.clone());
        let error = machines.create(&SandboxId::random(), &spec()).await.unwrap_err().to_string();
        assert!(error.contains(named) && error.len() < 1000 && !error.contains('\x1b'), "{does}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{does}");
        assert_eq!(left(&host), [] as [PathBuf; 0], "{does}: {error}");
    }
}
