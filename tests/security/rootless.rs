//! The same program as an ordinary user: fewer guarantees, and those that are left hold. Each test starts itself again as uid
//! 65534; the part that runs there is marked `ignored`, as it is of no use without.

use csb_tests::wire::*;
use csb_types::Limits;
use csb_wire::{ExecPlan, FileRequest, Mode};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    process::Command,
};

const NOBODY: u32 = 65534;

/// Runs the ignored test `inner` of this program as an ordinary user with a directory of its own.
fn as_ordinary_user(inner: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let probe = dir.path().join("probe");
    fs::copy(csb_tests::probe::path(), &probe).unwrap();
    // The build directory may be closed to others.
    let program = dir.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(&program)
        .args(["--exact", &format!("rootless::{inner}"), "--ignored", "--nocapture"])
        .env("TMPDIR", &home)
        .env("CSB_PROBE", &probe)
        .current_dir(&home)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn start() -> Warden {
    assert!(!rustix::process::geteuid().is_root());
    let warden = Warden::start();
    assert_eq!(warden.mode, Mode::Rootless);
    warden
}

#[test]
fn an_ordinary_user_runs_commands_confined() {
    as_ordinary_user("confined");
}

#[test]
#[ignore = "run by the test above as an ordinary user"]
fn confined() {
    let mut warden = start();
    let sandbox = warden.create();
    let output = sandbox.sh("id -u; pwd; hostname; cat /proc/self/status");
    assert!(output.out.starts_with("1000\n/workspace\nsandbox\n"), "{output:?}");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(output.out.contains(line), "{line}: {output:?}");
    }
    sandbox.assert_works();
    let python = "import json,threading\nt=threading.Thread(target=print,args=('thread',))\nt.start()\nt.join()";
    assert_eq!(sandbox.run(sandbox.plan(&["python3", "-c", python])).unwrap().out, "thread\n");
    assert_eq!(sandbox.terminal(&["tty"]), "/dev/pts/0\n");
    let (tar, reply) = sandbox.file(FileRequest::Pack { path: "/workspace".into() }, None);
    assert!(reply.is_ok() && !tar.is_empty());
    warden.release(sandbox);
    warden.stop();
}

#[test]
fn an_ordinary_users_sandbox_refuses_what_roots_does() {
    as_ordinary_user("refusals");
}

#[test]
#[ignore = "run by the test above as an ordinary user"]
fn refusals() {
    let mut warden = start();
    let (sandbox, neighbour) = (warden.create(), warden.create());
    sandbox.arm();
    for attack in ["namespaces", "mounts", "calls"] {
        let output = sandbox.probe(&[attack]);
        // With one host uid for all, a signal to the init is permitted; as pid 1 it does not heed it.
        let done = output.out.lines().find(|line| line.ends_with(": ok") && !line.contains(" init: "));
        assert!(!output.out.is_empty() && done.is_none(), "{done:?}");
    }
    assert_eq!(sandbox.probe(&["foreign", "i386"]).code, 128 + 31);
    assert!(sandbox.probe(&["notify"]).out.contains("supervisor: EPERM\n"));
    assert!(!sandbox.probe(&["egress", "22"]).out.contains(": ok"));
    let seen = sandbox.probe(&["descriptors"]).out;
    assert_eq!(seen.lines().count(), 3, "{seen}");
    assert_eq!(sandbox.sh("ls -d /proc/1 2>/dev/null; ls /sys; head -c1 /proc/1/environ 2>/dev/null").out, "");
    for name in ["cmdline", "kallsyms", "interrupts", "config.gz", "keys", "timer_list"] {
        assert_eq!(sandbox.sh(&format!("head -c 64 /proc/{name} 2>/dev/null")).out, "", "{name}");
    }
    assert_ne!(sandbox.sh("echo 1 > /proc/sys/kernel/hostname").code, 0);
    assert_ne!(sandbox.sh("touch /usr/x").code, 0);
    assert!(sandbox.terminal(&["/workspace/probe", "terminal"]).contains("TIOCSTI: EPERM\n"));
    let refused = sandbox.run(ExecPlan { user: Some("root".into()), ..sandbox.plan(&["id"]) }).unwrap_err();
    assert!(refused.contains("one user"), "{refused}");
    // The host uid is the same for all, yet neither init nor neighbour is reached.
    for signal in ["KILL", "STOP"] {
        sandbox.sh(&format!("kill -{signal} -1; kill -{signal} 1; kill -{signal} {}", neighbour.pid));
    }
    for file in ["/proc/self/exe", "/proc/1/exe", "/proc/self/fd/3"] {
        let append = FileRequest::Write { path: file.into(), mode: None, append: true };
        assert!(sandbox.file(append, Some(b"x")).1.is_err(), "{file}");
    }
    sandbox.write("/workspace/trap", b"#!/proc/self/exe\n").unwrap();
    sandbox.sh("chmod 755 trap");
    assert!(sandbox.run(sandbox.plan(&["/workspace/trap"])).is_err());
    sandbox.assert_works();
    neighbour.assert_works();
}

#[test]
fn an_ordinary_users_fork_bomb_and_full_disk_have_their_limits() {
    as_ordinary_user("limits");
}

#[test]
#[ignore = "run by the test above as an ordinary user"]
fn limits() {
    let mut warden = start();
    let sandbox = warden.create_with(Limits { pids: 32, disk: 8 << 20, inodes: 500, ..Limits::default() });
    let neighbour = warden.create();
    sandbox.arm();
    let load = sandbox.start(sandbox.plan(&["/workspace/probe", "fork-bomb"])).unwrap();
    let of_sandbox = |warden_children: &str| {
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|e| fs::read_link(e.path().join("ns/pid")).is_ok_and(|ns| ns.to_str() == Some(warden_children)))
            .count()
    };
    let namespace = fs::read_link(format!("/proc/{}/ns/pid", sandbox.pid));
    std::thread::sleep(std::time::Duration::from_millis(500));
    if let Ok(namespace) = namespace {
        assert!(of_sandbox(namespace.to_str().unwrap()) <= 33);
    }
    neighbour.assert_works();
    sandbox.signal(&load.id, 9, true);
    sandbox.wait(&load.id);
    sandbox.assert_works();
    let full = sandbox.sh("cat /dev/zero > fill");
    assert!(full.err.contains("No space left"), "{full:?}");
    sandbox.sh("rm fill");
    sandbox.assert_works();
}

#[test]
fn an_ordinary_users_volume_keeps_its_owner_and_no_set_id_file() {
    as_ordinary_user("volume");
}

#[test]
#[ignore = "run by the test above as an ordinary user"]
fn volume() {
    let mut warden = start();
    let volume = warden.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    let mut plan = warden.plan(Limits::default());
    plan.volumes =
        vec![csb_types::Volume { host: volume.clone(), below: None, guest: "/volume".into(), read_only: false }];
    let sandbox = warden.try_create(plan).unwrap();
    sandbox.arm();
    let output = sandbox.probe(&["set-id", "/volume"]);
    assert!(output.out.starts_with("create: ok\n") && !output.out.contains("set-id file"), "{output:?}");
    assert_eq!(fs::metadata(volume.join("plain")).unwrap().uid(), NOBODY);
    sandbox.assert_works();
}

#[test]
fn what_an_ordinary_user_cannot_have_is_said() {
    as_ordinary_user("disk");
}

#[test]
#[ignore = "run by the test above as an ordinary user"]
fn disk() {
    let mut warden = start();
    let mut plan = warden.plan(Limits::default());
    let image = warden.dir().join("image");
    fs::write(&image, [0; 4096]).unwrap();
    plan.upper = csb_wire::UpperPlan::Disk { image };
    let refused = warden.try_create(plan).err().unwrap();
    assert!(refused.contains("disk image"), "{refused}");
    // Nor files of its own, whoever asks for them: no weaker sandbox takes the place of a hardened one.
    let mut plan = warden.plan(Limits::default());
    plan.kind = csb_types::Kind::Hardened;
    let image = warden.dir().join("layer.image");
    csb_tests::image::of_directory(&warden.dir().join("layer"), &image);
    (plan.layers, plan.binds) = (vec![image], vec![]);
    let refused = warden.try_create(plan).err().unwrap();
    assert!(refused.contains("mount the image"), "{refused}");
    warden.create().assert_works();
}
