//! The checklist of `docs/concepts/security.md`, point by point.

use csb_tests::wire::*;
use csb_types::{FileErrorCode, Kind, Limits};
use csb_wire::{ExecPlan, FileRequest};
use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixListener},
        },
    },
};

/// Each point holds for each kind.
pub fn on_each(point: fn(Kind)) {
    [Kind::Process, Kind::Hardened].into_iter().for_each(point);
}

/// A sandbox with the attack program in it.
pub fn armed(kind: Kind) -> (Warden, Sandbox) {
    let mut warden = Warden::start_as(kind);
    let sandbox = warden.create();
    sandbox.arm();
    (warden, sandbox)
}

/// Every attempt must have failed; the errors are the caller's to look at.
pub fn assert_all_refused(output: &Output, but: &[&str]) {
    assert_eq!((output.err.as_str(), output.code), ("", 0), "{output:?}");
    assert!(!output.out.is_empty());
    for line in output.out.lines() {
        let (name, result) = line.rsplit_once(": ").unwrap();
        assert_eq!(result == "ok", but.contains(&name), "{line}");
    }
}

#[test]
fn point_01_ids_are_the_sandboxes_own_and_user_namespaces_do_not_nest() {
    on_each(ids_are_the_sandboxes_own_and_user_namespaces_do_not_nest);
}

fn ids_are_the_sandboxes_own_and_user_namespaces_do_not_nest(kind: Kind) {
    let (mut warden, sandbox) = armed(kind);
    let other = warden.create();
    let map =
        |s: &Sandbox| s.sh("cat /proc/self/uid_map").out.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (map(&sandbox), map(&other));
    assert!(a[0] == "0" && a[2] == "65536", "{a:?}");
    assert!(a[1].parse::<u32>().unwrap() >= 0x1000_0000, "ids of people are out of reach: {a:?}");
    assert_ne!(a[1], b[1]);
    assert_all_refused(&sandbox.probe(&["namespaces"]), &[]);
    assert_eq!(sandbox.probe(&["namespaces"]).out.lines().filter(|l| *l == "clone user: EPERM").count(), 1);
    // What the tenant writes is the tenant's on the host too, never root's.
    sandbox.sh("echo x > /workspace/mine");
    let file = fs::metadata(format!("/proc/{}/root/workspace/mine", sandbox.pid)).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&file), a[1].parse::<u32>().unwrap() + 1000);
    sandbox.assert_works();
    other.assert_works();
}

#[test]
fn point_02_no_privilege_is_held_or_can_be_gained() {
    on_each(no_privilege_is_held_or_can_be_gained);
}

fn no_privilege_is_held_or_can_be_gained(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    for user in ["user", "root"] {
        let status = sandbox.sh_as(user, "cat /proc/self/status").out;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{user}: {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
    let output = sandbox.probe(&["privileges"]);
    for line in [
        "setuid 0: EPERM",
        "setgid 0: EPERM",
        "setgroups: EPERM",
        "capset: EPERM",
        "ambient: EPERM",
        "securebits: EINVAL",
        "securebits now: ef",
        "no_new_privs: 1",
        "no_new_privs off: EINVAL",
        "chown to root: EPERM",
    ] {
        assert!(output.out.lines().any(|l| l == line), "{line}: {output:?}");
    }
    // A set-user-id copy of `id` that belongs to the sandbox's root runs as whoever starts it.
    sandbox.sh_as("root", "cp /usr/bin/id /usr/bin/env /root/; chmod 4755 /root/id");
    assert_eq!(sandbox.sh("/root/id -u").out, "1000\n");
    sandbox.assert_works();
}

#[test]
fn point_03_no_link_leads_a_file_operation_out_of_the_sandbox() {
    on_each(no_link_leads_a_file_operation_out_of_the_sandbox);
}

fn no_link_leads_a_file_operation_out_of_the_sandbox(kind: Kind) {
    let (warden, sandbox) = armed(kind);
    let outside = warden.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "the host's").unwrap();
    let path = outside.join("canary");
    let path = path.to_str().unwrap();
    sandbox.sh(&format!(
        "ln -s {path} abs; ln -s ../../../../../../../..{path} rel; ln -s /proc/self/root{path} via; ln -s /proc/1/root{path} \
         init; ln -s / top; mkdir d; ln -s {dir} d/dir",
        dir = outside.display()
    ));
    for link in ["abs", "rel", "via", "init", "d/dir/canary"] {
        let read = sandbox.read(&format!("/workspace/{link}"));
        assert!(read.is_err(), "{link} was followed out of the sandbox");
        // A write through it makes a file inside, or none.
        let _ = sandbox.write(&format!("/workspace/{link}"), b"overwritten");
        let remove = FileRequest::Remove { path: format!("/workspace/{link}"), recursive: true };
        let _ = sandbox.file(remove, None);
    }
    for bad in ["../../etc/shadow", "/workspace/../../etc/shadow", "/a\0b", ""] {
        assert_eq!(sandbox.read(bad).unwrap_err().code, FileErrorCode::BadPath, "{bad:?}");
    }
    // An archive whose entries climb, or that plants a link and writes through it.
    for (name, link) in [("../up", None), ("/abs", None), ("l/x", Some(outside.to_str().unwrap()))] {
        let archive = archive(name, link);
        let unpack = FileRequest::Unpack { path: "/workspace/unpacked".into() };
        let _ = sandbox.file(unpack, Some(&archive));
    }
    // And while a program swaps a directory for a link as fast as it can.
    sandbox.sh(&format!("mkdir -p swap/real; echo in > swap/real/canary; ln -s {} swap/link", outside.display()));
    let (running, _) = sandbox.probe_and_go_on(&["swapper", "/workspace/swap/real", "/workspace/swap/link"]);
    for i in 0..100 {
        let path = format!("/workspace/swap/{}/canary", if i % 2 == 0 { "real" } else { "link" });
        if let Ok(found) = sandbox.read(&path) {
            assert_ne!(found, b"the host's");
        }
        let _ = sandbox.write(&path, b"overwritten");
        let _ = sandbox.file(FileRequest::Remove { path, recursive: false }, None);
    }
    sandbox.signal(&running.id, 9, true);
    sandbox.wait(&running.id);
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"the host's");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    sandbox.assert_works();
}

/// A tar archive of one file, behind a link where one is given.
pub fn archive(name: &str, link: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut entry = |name: &str, kind: u8, link: &str, content: &[u8]| {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    };
    if let Some(target) = link {
        entry("l", b'2', target, b"");
    }
    entry(name, b'0', "", b"overwritten");
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn point_04_dev_is_of_our_making_whatever_the_image_holds() {
    on_each(dev_is_of_our_making_whatever_the_image_holds);
}

fn dev_is_of_our_making_whatever_the_image_holds(kind: Kind) {
    let (mut warden, sandbox) = armed(kind);
    let names = sandbox.sh("ls /dev").out;
    let expected = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(names.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    let nodes = sandbox.sh("stat -c '%n %F %t,%T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty").out;
    let expected = "/dev/null 1,3 /dev/zero 1,5 /dev/full 1,7 /dev/random 1,8 /dev/urandom 1,9 /dev/tty 5,0";
    assert_eq!(nodes.replace("character special file ", "").split_whitespace().collect::<Vec<_>>().join(" "), expected);
    for user in ["user", "root"] {
        let output = sandbox.sh_as(user, "touch /dev/x; rm /dev/null; ln -sf /etc/passwd /dev/null; chmod 0 /dev/null");
        assert_ne!(output.code, 0, "{output:?}");
    }
    assert_eq!(sandbox.sh("echo gone > /dev/null; cat /dev/null").out, "");
    // An image whose /dev is a link to somewhere else, or holds links under our names.
    let evil = warden.dir().join("evil");
    skeleton(&evil);
    fs::remove_dir(evil.join("dev")).unwrap();
    symlink("/etc", evil.join("dev")).unwrap();
    let mut plan = warden.plan(Limits::default());
    plan.layers = vec![warden.source(evil.clone())];
    let refused = warden.try_create(plan).err().expect("a /dev that is a link is refused");
    assert!(refused.contains("/dev"), "{refused}");
    fs::remove_file(evil.join("dev")).unwrap();
    fs::create_dir(evil.join("dev")).unwrap();
    symlink("/workspace/trap", evil.join("dev/null")).unwrap();
    let mut plan = warden.plan(Limits::default());
    plan.layers = vec![warden.source(evil)];
    let covered = warden.try_create(plan).unwrap();
    assert_eq!(covered.sh("echo x > /dev/null; test -c /dev/null && ls /workspace").out, "");
    covered.assert_works();
    sandbox.assert_works();
}

#[test]
fn point_05_nothing_is_written_to_proc_through_a_tenants_tree() {
    on_each(nothing_is_written_to_proc_through_a_tenants_tree);
}

fn nothing_is_written_to_proc_through_a_tenants_tree(kind: Kind) {
    let (mut warden, sandbox) = armed(kind);
    for file in
        ["sys/kernel/core_pattern", "sys/kernel/hostname", "sys/vm/overcommit_memory", "sys/net/ipv4/ip_forward"]
    {
        for user in ["user", "root"] {
            let output = sandbox.sh_as(user, &format!("echo 1 > /proc/{file}"));
            assert_ne!(output.code, 0, "{file}: {output:?}");
        }
    }
    assert_ne!(sandbox.sh_as("root", "echo b > /proc/sysrq-trigger").code, 0);
    // An image whose /proc is a link is refused before anything is mounted or written there.
    let evil = warden.dir().join("evil");
    skeleton(&evil);
    fs::remove_dir(evil.join("proc")).unwrap();
    symlink("/workspace", evil.join("proc")).unwrap();
    let mut plan = warden.plan(Limits::default());
    plan.layers = vec![warden.source(evil)];
    let refused = warden.try_create(plan).err().expect("a /proc that is a link is refused");
    assert!(refused.contains("/proc"), "{refused}");
    sandbox.assert_works();
}

#[test]
fn point_06_proc_hides_the_host() {
    on_each(proc_hides_the_host);
}

fn proc_hides_the_host(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    for user in ["user", "root"] {
        for name in [
            "acpi/*",
            "asound/*",
            "driver/*",
            "interrupts",
            "kallsyms",
            "kcore",
            "keys",
            "key-users",
            "latency_stats",
            "sched_debug",
            "scsi/*",
            "timer_list",
            "timer_stats",
            "cmdline",
            "config.gz",
            "kmsg",
            "slabinfo",
            "vmallocinfo",
            "pagetypeinfo",
            "kpagecount",
            "1/environ",
            "1/maps",
            "1/cmdline",
        ] {
            let output = sandbox.sh_as(user, &format!("head -c 64 /proc/{name} 2>/dev/null"));
            assert_eq!(output.out, "", "{user} reads /proc/{name}");
        }
        for name in ["bus", "fs", "irq", "sys"] {
            let output = sandbox.sh_as(user, &format!("find /proc/{name} -type f -writable 2>/dev/null | head -1"));
            assert_eq!(output.out, "", "{user} may write to a file of /proc/{name}");
        }
    }
    // Neither the host's processes, nor the init, nor /sys.
    assert_eq!(sandbox.sh("ls -d /proc/1 2>/dev/null; ls /sys").out, "");
    let pids = sandbox.sh("ls /proc | grep -c '^[0-9]'").out;
    assert!(pids.trim().parse::<u32>().unwrap() <= 5, "{pids}");
    sandbox.assert_works();
}

#[test]
fn point_07_no_descriptor_and_no_directory_is_inherited() {
    on_each(no_descriptor_and_no_directory_is_inherited);
}

fn no_descriptor_and_no_directory_is_inherited(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    let seen = sandbox.probe(&["descriptors"]).out;
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines.len(), 3, "{seen}");
    assert!(lines[0] == "0 /dev/null" && lines[1].starts_with("1 pipe:") && lines[2].starts_with("2 pipe:"), "{seen}");
    let seen = sandbox.terminal(&["/workspace/probe", "descriptors"]);
    assert_eq!(seen, "0 /dev/pts/0\n1 /dev/pts/0\n2 /dev/pts/0\n");
    // CVE-2024-21626: a working directory behind a descriptor that somebody left open.
    for n in 0..64 {
        let plan = ExecPlan { cwd: format!("/proc/self/fd/{n}"), ..sandbox.plan(&["pwd"]) };
        let refused = sandbox.run(plan).unwrap_err();
        assert!(refused.starts_with("cwd: "), "{refused}");
    }
    let plan = ExecPlan { cwd: "/proc/self/cwd/../../..".into(), ..sandbox.plan(&["ls"]) };
    assert!(sandbox.run(plan).unwrap().out.contains("workspace"));
    sandbox.sh("mkdir gone && cd gone && rmdir ../gone && sleep 0");
    sandbox.assert_works();
}

#[test]
fn point_08_our_own_program_cannot_be_reached() {
    on_each(our_own_program_cannot_be_reached);
}

fn our_own_program_cannot_be_reached(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    for file in ["/proc/self/exe", "/proc/self/fd/3", "/proc/thread-self/exe", "/proc/1/exe"] {
        assert!(sandbox.read(file).is_err(), "{file} of the file helper was read");
        let append = FileRequest::Write { path: file.into(), mode: None, append: true };
        assert!(sandbox.file(append, Some(b"x")).1.is_err(), "{file} of the file helper was written");
    }
    // CVE-2019-5736: a script that asks for whoever starts it as its interpreter.
    sandbox.write("/workspace/trap", b"#!/proc/self/exe\n").unwrap();
    sandbox.sh("chmod 755 trap");
    let refused = sandbox.run(sandbox.plan(&["/workspace/trap"])).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");
    for user in ["user", "root"] {
        let output = sandbox.sh_as(user, "cat /proc/1/exe > /dev/null; echo x >> /proc/1/exe");
        assert_ne!(output.code, 0, "{output:?}");
    }
    sandbox.assert_works();
}

#[test]
fn point_09_only_calls_of_the_machines_own_kind_and_on_the_list_are_made() {
    on_each(only_calls_of_the_machines_own_kind_and_on_the_list_are_made);
}

fn only_calls_of_the_machines_own_kind_and_on_the_list_are_made(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    assert_all_refused(&sandbox.probe(&["foreign", "x32"]), &[]);
    let killed = sandbox.probe(&["foreign", "i386"]);
    assert_eq!((killed.out.as_str(), killed.code), ("", 128 + 31), "32-bit code ends in SIGSYS");
    let status = sandbox.sh("cat /proc/self/status").out;
    assert!(status.contains("Seccomp:\t2\n"), "{status}");
    sandbox.assert_works();
}

#[test]
fn point_10_no_namespace_and_no_mount_is_made() {
    on_each(no_namespace_and_no_mount_is_made);
}

fn no_namespace_and_no_mount_is_made(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    let output = sandbox.probe(&["namespaces"]);
    assert!(output.out.contains("clone3: ENOSYS\n"), "{output:?}");
    assert_all_refused(&output, &[]);
    let before = sandbox.sh("cat /proc/self/mountinfo").out;
    assert_all_refused(&sandbox.probe(&["mounts"]), &[]);
    assert_eq!(sandbox.sh("cat /proc/self/mountinfo").out, before);
    sandbox.assert_works();
}

#[test]
fn point_11_the_kernels_dangerous_calls_are_refused() {
    on_each(the_kernels_dangerous_calls_are_refused);
}

fn the_kernels_dangerous_calls_are_refused(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    assert_all_refused(&sandbox.probe(&["calls"]), &[]);
    assert_eq!(sandbox.sh("cat /proc/sys/kernel/hostname").out, "sandbox\n");
    sandbox.assert_works();
}

#[test]
fn point_12_only_ordinary_sockets_are_made() {
    on_each(only_ordinary_sockets_are_made);
}

fn only_ordinary_sockets_are_made(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    let output = sandbox.probe(&["sockets"]);
    let netlink = if kind == Kind::Process { "netlink route" } else { "none" };
    assert_all_refused(&output, &["unix", "tcp", "udp6", netlink]);
    for line in
        ["alg: EAFNOSUPPORT", "vsock: EAFNOSUPPORT", "packet: EAFNOSUPPORT", "raw: EPERM", "kernel TLS: ENOPROTOOPT"]
    {
        assert!(output.out.lines().any(|l| l == line), "{line}: {output:?}");
    }
    let python = "import socket\na,b=socket.socketpair()\na.send(b'x')\ns=socket.create_server(('127.0.0.1',0))\n\
                  c=socket.create_connection(s.getsockname())\nprint('talks')";
    assert_eq!(sandbox.run(sandbox.plan(&["python3", "-c", python])).unwrap().out, "talks\n");
    sandbox.assert_works();
}

#[test]
fn point_13_a_terminal_cannot_be_typed_into() {
    on_each(a_terminal_cannot_be_typed_into);
}

fn a_terminal_cannot_be_typed_into(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    let seen = sandbox.terminal(&["/workspace/probe", "terminal"]);
    for line in [
        "TIOCSTI: EPERM",
        "TIOCSTI with upper bits: EPERM",
        "TIOCSTI with bit 32: EPERM",
        "TIOCLINUX: EPERM",
        "TIOCLINUX with upper bits: EPERM",
        "TIOCSETD: EPERM",
        "TIOCCONS: EPERM",
        "session leader: yes",
        "controlling terminal: ok",
    ] {
        assert!(seen.lines().any(|l| l == line), "{line}: {seen}");
    }
    // Without a terminal of its own a command has none, whatever terminal the server was started from.
    assert!(sandbox.probe(&["terminal"]).out.contains("controlling terminal: ENXIO\n"));
    sandbox.assert_works();
}

#[test]
fn point_14_control_groups_are_out_of_sight() {
    on_each(control_groups_are_out_of_sight);
}

fn control_groups_are_out_of_sight(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    let groups = sandbox.sh("cat /proc/self/cgroup").out;
    assert!(!groups.is_empty() && groups.lines().all(|line| line.ends_with(":/")), "{groups}");
    assert_eq!(sandbox.sh("grep -c ' - cgroup' /proc/self/mountinfo").out, "0\n");
    assert_eq!(sandbox.sh("find / -xdev -name 'release_agent' -o -name 'cgroup.procs' 2>/dev/null").out, "");
    assert!(sandbox.probe(&["mounts"]).out.contains("mount: EPERM\n"));
    sandbox.assert_works();
}

#[test]
fn point_15_abstract_sockets_end_at_the_sandbox() {
    on_each(abstract_sockets_end_at_the_sandbox);
}

fn abstract_sockets_end_at_the_sandbox(kind: Kind) {
    let (mut warden, sandbox) = armed(kind);
    let other = warden.create();
    other.arm();
    let name = format!("csb-test-{}", std::process::id());
    let (_listening, _) = sandbox.probe_and_go_on(&["abstract", "listen", &name]);
    assert_eq!(other.probe(&["abstract", "connect", &name]).out, "connect: ECONNREFUSED\n");
    assert_eq!(sandbox.probe(&["abstract", "connect", &name]).out, "connect: ok\n");
    // One that the host itself listens on.
    let address = <SocketAddr as SocketAddrExt>::from_abstract_name(format!("{name}-host")).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    assert_eq!(sandbox.probe(&["abstract", "connect", &format!("{name}-host")]).out, "connect: ECONNREFUSED\n");
    other.assert_works();
    sandbox.assert_works();
}

#[test]
fn point_16_no_address_is_reached_without_network() {
    on_each(no_address_is_reached_without_network);
}

fn no_address_is_reached_without_network(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    // The host listens on its loopback: the attempt must not arrive.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    assert_all_refused(&sandbox.probe(&["egress", &port]), &[]);
    assert!(listener.accept().is_err(), "a sandbox reached the host's loopback");
    assert_eq!(sandbox.sh("cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '").out, "lo\n");
    sandbox.assert_works();
}

#[test]
fn point_17_a_supervisor_inside_cannot_loosen_the_filter() {
    on_each(a_supervisor_inside_cannot_loosen_the_filter);
}

fn a_supervisor_inside_cannot_loosen_the_filter(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    let output = sandbox.probe(&["notify"]);
    assert!(output.out.contains("chroot under a continuing supervisor: EPERM\n"), "{output:?}");
    assert!(!output.out.contains("asked"), "the stricter verdict wins before anybody is asked: {output:?}");
    sandbox.assert_works();
}

#[test]
fn point_18_every_resource_has_an_end() {
    on_each(every_resource_has_an_end);
}

fn every_resource_has_an_end(kind: Kind) {
    let mut warden = Warden::start_as(kind);
    let limits = Limits { memory: 64 << 20, pids: 16, disk: 8 << 20, inodes: 500, nofile: 32, ..Limits::default() };
    let sandbox = warden.create_with(limits);
    sandbox.arm();
    let python = |code: &str| sandbox.run(sandbox.plan(&["python3", "-c", code])).unwrap();
    assert_ne!(python("x = bytearray(200 << 20)").code, 0);
    let threads = "import threading,time\ntry:\n  for i in range(100): threading.Thread(target=time.sleep,args=(1,),daemon=True).start()\n\
                   except RuntimeError: print('refused', i)";
    let output = python(threads);
    assert!(output.out.starts_with("refused"), "{output:?}");
    let files = "n=[]\ntry:\n  while True: n.append(open('/dev/null'))\nexcept OSError as e: print(e.errno)";
    assert_eq!(python(files).out, "24\n");
    let disk = sandbox.sh("head -c 20000000 /dev/zero > /workspace/big");
    assert!(disk.err.contains("No space left"), "{disk:?}");
    sandbox.sh("rm /workspace/big");
    let inodes = sandbox.probe(&["inodes", "/tmp"]);
    assert_eq!(inodes.out, "create: ENOSPC\n");
    sandbox.sh("rm -f /tmp/[0-9]*");
    let usage = warden.usage(&sandbox);
    assert!(usage.pids_refused > 0 && usage.oom_kills > 0, "{usage:?}");
    assert!(usage.disk_limit <= 8 << 20, "{usage:?}");
    sandbox.assert_works();
    // The end takes the whole group: what is still busy is killed with it.
    for _ in 0..3 {
        sandbox.start(sandbox.plan(&["sh", "-c", "trap '' TERM INT HUP; while :; do :; done"])).unwrap();
    }
    let pid = sandbox.pid;
    warden.release(sandbox);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn point_20_what_was_asked_for_is_what_is_there() {
    on_each(what_was_asked_for_is_what_is_there);
}

fn what_was_asked_for_is_what_is_there(kind: Kind) {
    let (_warden, sandbox) = armed(kind);
    let status = sandbox.sh("cat /proc/self/status").out;
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1000\t1000\t1000\t1000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "TracerPid:\t0",
    ] {
        assert!(status.lines().any(|l| l == line), "{line}: {status}");
    }
    let mounts = sandbox.sh("cat /proc/self/mountinfo").out;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (at, options) = (fields[4], fields[5]);
        assert!(options.contains("nosuid"), "{line}");
        assert!(options.contains("nodev") || at.starts_with("/dev") || fields[3] == "/null", "{line}");
        let writable = options.starts_with("rw");
        assert_eq!(writable, ["/", "/dev/pts", "/dev/shm", "/proc"].contains(&at), "{line}");
    }
    let host = std::env::temp_dir();
    assert!(!mounts.contains(host.to_str().unwrap()), "the mount table tells of the host's directories: {mounts}");
    let mine = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        let theirs = sandbox.sh(&format!("readlink /proc/self/ns/{kind}")).out;
        assert!(theirs.starts_with(kind) && theirs.trim() != mine(kind), "{kind}: {theirs}");
    }
    let environment = sandbox.sh("env").out;
    let names: Vec<&str> = environment.lines().filter_map(|l| l.split_once('=')).map(|(name, _)| name).collect();
    for name in names {
        assert!(["PATH", "LANG", "HOME", "USER", "LOGNAME", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name), "{name}");
    }
    let limits = sandbox.sh("ulimit -c; ulimit -n; ulimit -r").out;
    assert_eq!(limits.split_whitespace().next(), Some("0"), "{limits}");
    sandbox.assert_works();
}
