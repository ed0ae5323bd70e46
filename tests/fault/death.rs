//! Inits and wardens that are killed, and many cycles.

use csb_sys::packet::Conn;
use csb_tests::{
    census::{Census, groups_of},
    wire::*,
};
use csb_types::Limits;
use csb_wire::{FileRequest, FromWarden, ToWarden};
use std::{fs, time::Duration};

fn kill(pid: i32) {
    csb_sys::process::kill(pid, 9).unwrap();
}

fn gone(pid: i32) -> bool {
    // A zombie that nobody reaps has ended as well.
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn many_cycles_leave_nothing_behind() {
    let cycles = if std::env::var_os("CSB_FULL").is_some() { 5000 } else { 500 };
    let mut warden = Warden::start();
    let pid = warden.pid();
    let mut before = None;
    for cycle in 0..cycles + 5 {
        let sandbox = warden.create();
        if cycle % 10 == 0 {
            assert_eq!(sandbox.sh("echo x > f; (sleep 100 >/dev/null 2>&1 &) ; cat f").out.lines().next(), Some("x"));
        }
        warden.release(sandbox);
        if cycle == 4 {
            before = Some(Census::of(pid, warden.dir()));
        }
    }
    let before = before.unwrap();
    assert!(before.processes.is_empty() && before.namespaces.is_empty());
    eventually("the host is as before", || Census::of(pid, warden.dir()) == before);
    let stopped = pid;
    warden.stop();
    eventually("the warden's own groups are gone", || groups_of(stopped).is_empty());
}

#[test]
fn an_init_killed_at_any_moment_of_its_making_is_reported_and_leaves_nothing() {
    let mut warden = Warden::start();
    let pid = warden.pid();
    let sandbox = warden.create();
    warden.release(sandbox);
    let before = Census::of(pid, warden.dir());
    for step in 0..60u64 {
        let plan = warden.plan(Limits::default());
        let id = plan.id.clone();
        warden.send(&ToWarden::Create { seq: 1_000_000 + step, plan: Box::new(plan) });
        let (FromWarden::Created { jail, .. }, fds) = warden.recv() else { panic!("not created") };
        std::thread::sleep(Duration::from_micros(step * 150));
        kill(jail.pid);
        warden.wait_gone(&id);
        drop(fds);
        let dir = warden.dir().to_owned();
        eventually("nothing is left", || Census::of(pid, &dir) == before);
    }
    warden.create().assert_works();
}

#[test]
fn an_init_killed_while_it_works_takes_its_sandbox_along_and_no_other() {
    let mut warden = Warden::start();
    let neighbour = warden.create();
    for work in 0..4 {
        let sandbox = warden.create();
        let running = sandbox.start(sandbox.plan(&["sh", "-c", "echo up; sleep 1000 & wait"])).unwrap();
        match work {
            1 => warden.freeze(&sandbox, true),
            2 => drop(sandbox.file(FileRequest::List { path: "/".into(), depth: 9, limit: 10_000 }, None)),
            3 => sandbox.signal(&running.id, 19, true),
            _ => {}
        }
        let pids: Vec<i32> = children(sandbox.pid);
        assert!(!pids.is_empty());
        kill(sandbox.pid);
        if work == 1 {
            // Frozen, even SIGKILL waits for the thaw that comes with the release.
            warden.release(sandbox);
        } else {
            warden.wait_gone(&sandbox.id);
        }
        eventually("its commands end with it", || pids.iter().all(|pid| gone(*pid)));
    }
    neighbour.assert_works();
}

fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

#[test]
fn a_killed_wardens_sandboxes_die_with_it_and_the_next_one_cleans_up() {
    let mut warden = Warden::start();
    let pid = warden.pid();
    let mut all = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        let sandbox = warden.create();
        sandbox.start(sandbox.plan(&["sleep", "1000"])).unwrap();
        all.push(sandbox.pid);
        all.extend(children(sandbox.pid));
        held.push(sandbox);
    }
    assert!(all.len() >= 6);
    kill(pid);
    warden.wait_end();
    // The server's copies of the control sockets are still open: it is the warden's death that ends them.
    eventually("inits and commands are gone", || all.iter().all(|pid| gone(*pid)));
    drop(held);
    csb_sys::process::wait(pid).unwrap();
    let mut next = Warden::start();
    next.create().assert_works();
    assert_eq!(groups_of(pid), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_warden_killed_while_it_builds_leaves_no_process() {
    for step in 0..20u64 {
        let mut warden = Warden::start();
        let pid = warden.pid();
        let plan = warden.plan(Limits::default());
        warden.send(&ToWarden::Create { seq: 1, plan: Box::new(plan) });
        let (FromWarden::Created { jail, .. }, fds) = warden.recv() else { panic!("not created") };
        let control = Conn::from(fds.into_iter().next().unwrap());
        std::thread::sleep(Duration::from_micros(step * 300));
        kill(pid);
        // The control socket is kept open, as a server would.
        eventually("the init dies with its warden", || gone(jail.pid));
        drop(control);
        csb_sys::process::wait(pid).unwrap();
    }
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn hundreds_of_commands_leave_an_init_as_it_was() {
    let mut warden = Warden::start();
    let sandbox = warden.create();
    sandbox.assert_works();
    let count = || fs::read_dir(format!("/proc/{}/fd", sandbox.pid)).unwrap().count();
    let before = count();
    for i in 0..300 {
        assert_eq!(sandbox.sh("exit 3").code, 3);
        if i % 10 == 0 {
            assert!(sandbox.run(sandbox.plan(&["/no/such/program"])).is_err());
            sandbox.write("/tmp/f", b"x").unwrap();
        }
    }
    // Two belong to the process that waits for the next command, which may not have been there `before`.
    eventually("descriptors are given back", || count() <= before + 2);
    // One process waits for the next command.
    eventually("no zombie is left", || {
        let left = children(sandbox.pid);
        left.len() <= 1 && left.iter().all(|pid| !is_zombie(*pid))
    });
    warden.release(sandbox);
}
