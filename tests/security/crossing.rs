//! From one sandbox to another, or to the host, by what they share.

use csb_tests::wire::*;
use csb_types::{Limits, Volume};
use csb_wire::{ExecPlan, FileRequest};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Command,
};

fn two() -> (Warden, Sandbox, Sandbox) {
    let mut warden = Warden::start();
    let (attacker, neighbour) = (warden.create(), warden.create());
    attacker.arm();
    neighbour.arm();
    (warden, attacker, neighbour)
}

#[test]
fn a_user_id_of_minus_one_in_etc_passwd_does_not_stay_the_hosts_root() {
    let (_warden, sandbox, _) = two();
    sandbox.sh_as("root", "echo 'evil:x:4294967295:4294967295::/:/bin/sh' >> /etc/passwd");
    sandbox.sh_as("root", "echo 'owner:x:65535:65535::/:/bin/sh' >> /etc/passwd");
    for user in ["evil", "owner", "4294967295", "65535", "-1"] {
        let plan = ExecPlan { user: Some(user.into()), ..sandbox.plan(&["id"]) };
        let refused = sandbox.run(plan).unwrap_err();
        assert!(refused.starts_with("user: "), "{user}: {refused}");
    }
    sandbox.assert_works();
}

#[test]
fn one_sandbox_cannot_use_up_what_the_kernel_counts_per_user() {
    let (mut warden, attacker, neighbour) = two();
    let (mut running, stopped) = attacker.probe_and_go_on(&["watches"]);
    assert!(stopped.starts_with("stopped by"), "{stopped}");
    let most: u32 = running.line().trim_start_matches("watches: ").parse().unwrap();
    let watch = "import ctypes,os\nfd=ctypes.CDLL(None).inotify_init()\nprint('watches' if fd>=0 else 'none left')";
    assert_eq!(neighbour.run(neighbour.plan(&["python3", "-c", watch])).unwrap().out, "watches\n", "{most} were taken");
    // The host's root is not the one who pays either.
    let host = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
    assert!(host.is_ok(), "{most} inotify instances of a sandbox were counted as root's");
    let (_running, line) = attacker.probe_and_go_on(&["timers"]);
    let timers: u64 = line.trim_start_matches("timers: ").parse().unwrap();
    assert!(timers <= 16384, "{timers} pending signals are one sandbox's");
    let third = warden.create();
    third.assert_works();
    neighbour.assert_works();
}

#[test]
fn one_sandbox_cannot_take_every_terminal_of_the_host() {
    let (_warden, attacker, neighbour) = two();
    let (_running, line) = attacker.probe_and_go_on(&["terminals"]);
    assert_eq!(line, "terminals: 64");
    assert_eq!(neighbour.terminal(&["tty"]), "/dev/pts/0\n");
    neighbour.assert_works();
}

#[test]
fn no_set_id_file_is_left_on_a_volume_of_the_host() {
    let mut warden = Warden::start();
    let volume = warden.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    let mut plan = warden.plan(Limits::default());
    plan.volumes = vec![Volume { host: volume.clone(), below: None, guest: "/volume".into(), read_only: false }];
    let sandbox = warden.try_create(plan).unwrap();
    sandbox.arm();
    let output = sandbox.probe(&["set-id", "/volume"]);
    assert!(output.out.starts_with("create: ok\n"), "the volume is writable: {output:?}");
    for line in output.out.lines().skip(1) {
        assert!(line.ends_with(": EPERM") || line == "openat2: ENOSYS", "{line}");
    }
    // The file API as well, and an archive.
    let write = FileRequest::Write { path: "/volume/api".into(), mode: Some(0o6755), append: false };
    sandbox.file(write, Some(b"x")).1.unwrap();
    let found = fs::read_dir(&volume).unwrap().map(|e| e.unwrap().metadata().unwrap());
    for meta in found {
        assert_eq!(meta.mode() & 0o6000, 0, "{meta:?}");
    }
    // Ordinary programs go on: files, directories, archives, an editor's way of writing.
    let line = "cd /volume && mkdir d && echo a > d/f && chmod 640 d/f && install -m 755 d/f g && tar cf t.tar d && tar xf t.tar && \
                python3 -c \"open('p','w').write('x')\" && mv g h && stat -c %a h";
    let output = sandbox.sh(line);
    assert_eq!(output.out, "755\n", "{output:?}");
    assert_eq!(fs::metadata(volume.join("d/f")).unwrap().uid(), rustix::process::geteuid().as_raw());
    sandbox.assert_works();
}

#[test]
fn a_read_only_volume_stays_as_it_is() {
    let mut warden = Warden::start();
    let volume = warden.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "original").unwrap();
    fs::set_permissions(volume.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut plan = warden.plan(Limits::default());
    plan.volumes = vec![Volume { host: volume.clone(), below: None, guest: "/volume".into(), read_only: true }];
    let sandbox = warden.try_create(plan).unwrap();
    for user in ["user", "root"] {
        let output =
            sandbox.sh_as(user, "echo x > /volume/file; rm -f /volume/file; touch /volume/new; chmod 777 /volume");
        assert_ne!(output.code, 0);
    }
    assert_eq!(fs::read(volume.join("file")).unwrap(), b"original");
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
    sandbox.assert_works();
}

#[test]
fn a_program_that_stops_everything_stops_no_command_that_starts() {
    let (mut warden, attacker, neighbour) = two();
    let (running, _) = attacker.probe_and_go_on(&["stopper"]);
    // What starts under it may be stopped at any point: started, refused, but never a hang of the init.
    for _ in 0..20 {
        let plan = attacker.plan(&["true"]);
        let id = plan.id.clone();
        if attacker.start(plan).is_ok() {
            attacker.signal(&id, 9, true);
            attacker.wait(&id);
        }
    }
    neighbour.assert_works();
    attacker.signal(&running.id, 9, true);
    attacker.wait(&running.id);
    attacker.assert_works();
    warden.release(attacker);
}

#[test]
fn a_crash_reaches_no_core_dump_handler_of_the_host() {
    let (_warden, sandbox, _) = two();
    // Only the value 1 keeps the kernel from starting the host's handler; a program that turns dumps off is told that it did.
    let code = "import resource as r\nprint(r.getrlimit(r.RLIMIT_CORE))\nr.setrlimit(r.RLIMIT_CORE,(0,0))\nprint(r.getrlimit(r.RLIMIT_CORE))";
    let output = sandbox.run(sandbox.plan(&["python3", "-c", code])).unwrap();
    assert_eq!(output.out, "(1, 1)\n(1, 1)\n", "{output:?}");
    assert_eq!(sandbox.sh("kill -SEGV $$").code, 128 + 11);
    assert_eq!(sandbox.sh("ls -A /workspace").out, "probe\n");
    sandbox.assert_works();
}

#[test]
fn neither_files_nor_processes_of_a_neighbour_are_seen() {
    let (_warden, attacker, neighbour) = two();
    neighbour.sh("echo secret > /workspace/secret; echo secret > /tmp/secret; echo secret > /dev/shm/secret");
    neighbour.sh("ipcmk -M 4096 -p 0666 >/dev/null; ipcmk -Q -p 0666 >/dev/null");
    let (_running, _) = neighbour.probe_and_go_on(&["terminals"]);
    let seen = attacker.sh("find / -name secret -not -path '/usr/*' -not -path '/proc/*' 2>/dev/null; ps ax -o args=; ipcs -m -q | grep -c 0x");
    assert!(!seen.out.contains("secret\n") && !seen.out.contains("terminals"), "{seen:?}");
    assert!(seen.out.ends_with("0\n"), "{seen:?}");
    for pid in [neighbour.pid, std::process::id() as i32, 1, 2] {
        let output = attacker.sh(&format!("cat /proc/{pid}/cmdline /proc/{pid}/environ; kill -0 {pid}"));
        assert_eq!((output.out.as_str(), output.code != 0), ("", true), "{pid}: {output:?}");
    }
    neighbour.assert_works();
}

#[test]
fn the_hosts_private_places_are_not_there() {
    let (_warden, sandbox, _) = two();
    for user in ["user", "root"] {
        let line = "cat /etc/shadow /root/.bashrc; ls -A /var/lib /run/docker.sock /boot /mnt /srv /work /opt /media 2>/dev/null; ls /home";
        assert_eq!(sandbox.sh_as(user, line).out, "user\n", "{user}");
    }
    assert_ne!(sandbox.sh_as("root", "echo x > /usr/bin/x").code, 0);
    assert_ne!(sandbox.sh_as("root", "chmod 777 /usr/bin/env").code, 0);
    sandbox.assert_works();
}

/// Takes the root of a sandbox's mounts away, which only the host's root can, in a copy of its mount namespace, and lists what
/// comes to light: directories, and what is in them.
const UNCOVER: &str = r#"
import ctypes, os, sys
NEWNS, DETACH = 0x20000, 2
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")
own = os.open("/proc/self/ns", os.O_RDONLY | os.O_DIRECTORY)
call("setns", os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY), NEWNS)
call("unshare", NEWNS)
print("covered by", len(os.listdir("/usr")) > 0)
call("umount2", b"/", DETACH)
call("setns", os.open("mnt", os.O_RDONLY, dir_fd=own), NEWNS)
for name in sorted(os.listdir("/")):
    print(name, sum(len(files) + len(directories) for _, directories, files in os.walk("/" + name)))
try:
    os.mkdir("/new")
except OSError as error:
    print(os.strerror(error.errno))
"#;

#[test]
fn what_a_sandboxs_root_covers_is_empty_and_the_hosts_files_are_not_below() {
    let mut warden = Warden::start();
    let sandbox = warden.create();
    let seen = Command::new("python3").args(["-c", UNCOVER, &sandbox.pid.to_string()]).output().unwrap();
    let text = String::from_utf8_lossy(&seen.stdout);
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let empty = "dev 0\nnothing 0\nproc 0\nroot 0\nwork 0\nRead-only file system\n";
    assert_eq!(text, format!("covered by True\n{empty}"));
    sandbox.assert_works();
}
