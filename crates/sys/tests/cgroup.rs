//! Limits and orders of control groups, on whatever this host has, with real processes.
//! Needs root (or a delegated group); without, these tests say so and fail.

use csb_sys::cgroup::{Device, Group, Host, IoLimits, Limits, Root};
use csb_sys::loopdev::{self, LoopDevice};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Debian's own: a `python3` found in PATH may be a script that forks.
const PYTHON: &str = "/usr/bin/python3";
const ROOMY: Limits = Limits { memory: 256 << 20, cpu_milli: 2000, pids: 64, cpu_weight: None };

struct Place {
    root: Root,
}

impl Place {
    fn new(test: &str) -> Self {
        let host = Host::detect().unwrap();
        let mut losses = host.losses();
        // Disk speed is root's: the test of it says where it cannot be tried.
        losses.retain(|loss| !loss.what.starts_with("limits of disk speed"));
        assert_eq!(losses, [], "these tests need control groups they may write to");
        Self { root: host.root(&format!("csb-test-{test}-{}", std::process::id())).unwrap() }
    }

    fn group(&self, limits: &Limits) -> Group {
        self.root.create("one", limits).unwrap()
    }

    /// Ends what is in the group and removes everything.
    fn end(self, group: Group) {
        assert!(group.kill().unwrap());
        wait_until(|| group.is_empty().unwrap());
        group.remove().unwrap();
        assert_eq!(self.root.leftovers().unwrap(), Vec::<String>::new());
        self.root.clone().remove().unwrap();
    }
}

/// A test that failed leaves nothing on the host either.
impl Drop for Place {
    fn drop(&mut self) {
        for group in self.root.leftovers().unwrap_or_default().iter().filter_map(|id| self.root.open(id).ok()) {
            if std::thread::panicking() && group.kill().is_ok() {
                std::thread::sleep(Duration::from_millis(100));
                let _ = group.remove();
            }
        }
        if std::thread::panicking() {
            let _ = self.root.clone().remove();
        }
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a program inside the group.
fn start(group: &Group, program: &str, arguments: &[&str]) -> Child {
    let fds = group.join_fds().unwrap();
    // What CLONE_INTO_CGROUP does for real sandboxes.
    let unified: Option<OwnedFd> = group.dir_fd().unwrap().map(|dir| {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(dir, "cgroup.procs", flags, rustix::fs::Mode::empty()).unwrap()
    });
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: only writes to open descriptors happen between fork and exec.
    #[expect(unsafe_code, reason = "pre_exec is the only way into a group before the program runs")]
    unsafe {
        command.pre_exec(move || {
            if let Some(procs) = &unified {
                rustix::io::write(procs, b"0")?;
            }
            Group::join(&fds)
        });
    }
    command.spawn().unwrap()
}

#[test]
fn a_memory_hog_is_killed_and_counted() {
    let place = Place::new("memory");
    let group = place.group(&Limits { memory: 24 << 20, ..ROOMY });
    let hog = start(&group, PYTHON, &["-c", "x = b'x' * (200 << 20); print(len(x))"]);
    let output = hog.wait_with_output().unwrap();
    assert_eq!((output.status.signal(), output.stdout.as_slice()), (Some(libc::SIGKILL), &b""[..]));
    let usage = group.usage().unwrap();
    assert_eq!(usage.oom_kills, 1);
    assert!(usage.memory_peak > 8 << 20 && usage.memory_peak <= 24 << 20, "{usage:?}");
    assert!(usage.cpu_usec > 0);
    place.end(group);
}

#[test]
fn exactly_as_many_processes_as_allowed_can_live() {
    let place = Place::new("pids");
    let group = place.group(&Limits { pids: 7, ..ROOMY });
    let code = "import os, time, sys
made = 0
try:
    while made < 100:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
time.sleep(600)";
    let mut bomb = start(&group, PYTHON, &["-c", code]);
    let mut line = String::new();
    BufReader::new(bomb.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // The first process and six children.
    assert_eq!(line, format!("6 {}\n", libc::EAGAIN));
    let usage = group.usage().unwrap();
    assert_eq!((usage.pids, usage.pids_refused), (7, 1));
    place.end(group);
    assert_eq!(bomb.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_busy_loop_gets_no_more_cpu_than_its_quota() {
    let place = Place::new("cpu");
    let group = place.group(&Limits { cpu_milli: 200, ..ROOMY });
    let started = Instant::now();
    let mut busy = start(&group, "sh", &["-c", "while :; do :; done"]);
    std::thread::sleep(Duration::from_millis(1500));
    let used = group.usage().unwrap().cpu_usec as f64;
    let wall = started.elapsed().as_micros() as f64;
    // A fifth, and one period's worth more at the edges. Unlimited it would be all of it, on a busy host half.
    assert!(used > 0.0 && used < wall * 0.2 + 25_000.0, "{used} of {wall} µs");
    place.end(group);
    busy.wait().unwrap();
}

#[test]
fn a_frozen_group_stands_still_and_goes_on_afterwards() {
    let place = Place::new("freeze");
    let group = place.group(&ROOMY);
    // Two processes, one a child of the other.
    let code = "import os, sys\nos.fork()\nwhile True:\n    os.write(1, b'.')";
    let mut ticking = start(&group, PYTHON, &["-c", code]);
    let mut ticks = ticking.stdout.take().unwrap();
    let mut one = [0];
    ticks.read_exact(&mut one).unwrap();

    group.freeze(true).unwrap();
    let waiting = |pipe: &std::process::ChildStdout| rustix::io::ioctl_fionread(pipe).unwrap();
    // They may have filled the pipe before: make room, so that only freezing can hold them.
    while let left @ 1.. = waiting(&ticks) {
        ticks.read_exact(&mut vec![0; left as usize]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(waiting(&ticks), 0, "a frozen process wrote");

    group.freeze(false).unwrap();
    ticks.read_exact(&mut one).unwrap();

    group.freeze(true).unwrap();
    place.end(group);
    assert_eq!(ticking.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn limits_move_both_ways_while_a_process_runs() {
    let place = Place::new("limits");
    let group = place.group(&Limits { memory: 64 << 20, ..ROOMY });
    let mut sleeper = start(&group, "sleep", &["600"]);
    for memory in [512 << 20, 32 << 20, 128 << 20] {
        group.set_limits(&Limits { memory, cpu_milli: 500, pids: 4, cpu_weight: None }).unwrap();
    }
    let hog = start(&group, PYTHON, &["-c", "x = b'x' * (100 << 20); print(len(x))"]);
    assert_eq!(hog.wait_with_output().unwrap().stdout, b"104857600\n");
    place.end(group);
    sleeper.wait().unwrap();
}

#[test]
fn less_memory_than_is_in_use_is_refused_or_costs_the_process_and_the_group_goes_on() {
    let place = Place::new("lower");
    let group = place.group(&Limits { memory: 128 << 20, ..ROOMY });
    let code = "import time\nx = bytearray(b'x') * (64 << 20)\nprint(len(x), flush=True)\ntime.sleep(600)";
    let mut holder = start(&group, PYTHON, &["-c", code]);
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    match group.set_limits(&Limits { memory: 32 << 20, ..ROOMY }) {
        // Version 1 leaves all as it was.
        Err(error) => assert_eq!(error.source.raw_os_error(), Some(libc::EBUSY)),
        // Version 2 takes the new limit, and kills.
        Ok(()) => assert_eq!(holder.wait().unwrap().signal(), Some(libc::SIGKILL)),
    }
    group.set_limits(&ROOMY).unwrap();
    let next = start(&group, "echo", &["goes on"]);
    assert_eq!(next.wait_with_output().unwrap().stdout, b"goes on\n");
    place.end(group);
    holder.wait().unwrap();
}

#[test]
fn what_a_dead_warden_left_is_found_ended_and_removed() {
    let place = Place::new("leftovers");
    let group = place.group(&ROOMY);
    let mut sleeper = start(&group, "sleep", &["600"]);
    drop(group);

    let again = Place::new("leftovers");
    assert_eq!(again.root.leftovers().unwrap(), ["one"]);
    let error = again.root.create("one", &ROOMY).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::AlreadyExists);
    let left = again.root.open("one").unwrap();
    assert!(!left.is_empty().unwrap());
    again.end(left);
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_group_with_a_living_process_is_not_removed_and_nothing_is_lost() {
    let place = Place::new("busy");
    let group = place.group(&ROOMY);
    let mut sleeper = start(&group, "sleep", &["600"]);
    let error = group.clone().remove().unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::EBUSY));
    assert!(!group.is_empty().unwrap());
    place.end(group);
    sleeper.wait().unwrap();
}

#[test]
fn names_that_are_paths_are_refused() {
    let place = Place::new("names");
    for name in ["", ".", "..", "a/b", "../x", "a\0b"] {
        assert!(place.root.create(name, &ROOMY).is_err(), "{name:?}");
        assert!(place.root.open(name).is_err(), "{name:?}");
    }
    place.root.clone().remove().unwrap();
}

#[test]
fn without_control_groups_everything_is_accepted_but_freezing() {
    let group = Root::none().create("one", &ROOMY).unwrap();
    group.set_limits(&ROOMY).unwrap();
    assert!(!group.kill().unwrap() && group.is_empty().unwrap());
    assert_eq!(group.usage().unwrap(), Default::default());
    assert_eq!(group.freeze(true).unwrap_err().source.kind(), std::io::ErrorKind::Unsupported);
    group.remove().unwrap();
}

#[test]
fn a_parent_limits_the_processes_of_all_its_groups_together() {
    let place = Place::new("together");
    place.root.limit_pids(9).unwrap();
    let group = place.group(&ROOMY);
    let code = "import os, time
made = 0
try:
    while made < 40:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
except OSError:
    print(made, flush=True)
time.sleep(600)";
    let mut bomb = start(&group, PYTHON, &["-c", code]);
    let mut line = String::new();
    BufReader::new(bomb.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "8\n");
    place.end(group);
    assert_eq!(bomb.wait().unwrap().signal(), Some(libc::SIGKILL));
}

/// Spins on the first CPU, so that all who do so share it.
const SPIN: &str = "import os\nos.sched_setaffinity(0, {0})\nprint(flush=True)\nwhile True: pass";

fn spins(group: &Group) -> Child {
    let mut child = start(group, PYTHON, &["-c", SPIN]);
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

#[test]
fn a_busy_cpu_is_shared_by_weight() {
    let place = Place::new("weight");
    let light = place.group(&ROOMY);
    let heavy = place.root.create("two", &Limits { cpu_weight: Some(300), ..ROOMY }).unwrap();
    let mut children = [spins(&light), spins(&heavy)];
    let used = || [&light, &heavy].map(|group| group.usage().unwrap().cpu_usec);
    let share = || {
        let before = used();
        std::thread::sleep(Duration::from_secs(3));
        let after = used();
        (after[1] - before[1]) as f64 / (after[0] - before[0]).max(1) as f64
    };
    let ratio = share();
    assert!((2.2..4.0).contains(&ratio), "{ratio} for 300 to 100");
    heavy.set_limits(&Limits { cpu_weight: Some(100), ..ROOMY }).unwrap();
    let ratio = share();
    assert!((0.7..1.4).contains(&ratio), "{ratio} for 100 to 100");
    assert!(heavy.kill().unwrap());
    wait_until(|| heavy.is_empty().unwrap());
    heavy.remove().unwrap();
    place.end(light);
    for child in &mut children {
        child.wait().unwrap();
    }
}

#[test]
fn the_speed_of_a_disk_is_limited_for_what_is_in_a_group() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: an ordinary user has no loop device");
        return;
    }
    let place = Place::new("io");
    let group = place.group(&ROOMY);
    let file = tempfile::tempfile().unwrap();
    file.set_len(16 << 20).unwrap();
    let disk = LoopDevice::attach(&file).unwrap();
    let device = Device { major: loopdev::MAJOR, minor: disk.minor(), exclusive: true };
    place.root.forget_io(device).unwrap();
    let limits = IoLimits { write_bps: Some(1 << 20), read_iops: Some(10), ..IoLimits::default() };
    group.set_io(device, &limits).unwrap();
    let place_of_mark = tempfile::tempdir().unwrap();
    let mark = place_of_mark.path().join("go");
    let wait = format!("until [ -e {} ]; do sleep 0.01; done; exec dd \"$@\"", mark.display());
    let took = |arguments: &[&str]| {
        let mut child = start(&group, "sh", &[&["-c", &wait, "sh"], arguments].concat());
        if let Some(fd) = group.io_fd().unwrap() {
            // `start` knows nothing of disks.
            rustix::io::write(&fd, child.id().to_string().as_bytes()).unwrap();
        }
        let began = Instant::now();
        std::fs::write(&mark, "").unwrap();
        assert!(child.wait().unwrap().success());
        let took = began.elapsed();
        std::fs::remove_file(&mark).unwrap();
        took
    };
    let to = format!("of={}", disk.path());
    let from = format!("if={}", disk.path());
    let write = ["if=/dev/zero", &*to, "bs=64k", "count=48", "oflag=direct", "status=none"];
    assert!(took(&write) > Duration::from_secs(2));
    assert!(
        took(&[&*from, "of=/dev/null", "bs=4k", "count=30", "iflag=direct", "status=none"]) > Duration::from_secs(2)
    );
    // Lifted, it is faster, unless the machine is busy with something else.
    group.set_io(device, &IoLimits::default()).unwrap();
    assert!((0..5).any(|_| took(&write) < Duration::from_secs(2)));
    drop(disk);
    place.end(group);
}
