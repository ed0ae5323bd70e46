//! Hostile loads beside a neighbour whose files and behaviour stay as they were.

use csb_tests::wire::*;
use csb_types::Limits;
use std::io::Read;

/// A warden, a sandbox to load, and a neighbour with a file and a running program.
struct Street {
    warden: Warden,
    loaded: Sandbox,
    neighbour: Sandbox,
    shop: Running,
}

impl Street {
    fn new(limits: Limits) -> Self {
        let mut warden = Warden::start();
        let neighbour = warden.create();
        let loaded = warden.create_with(limits);
        loaded.arm();
        neighbour.write("/workspace/file", b"as it was").unwrap();
        let line = "while :; do echo open; sleep 0.05; done";
        let mut shop = neighbour.start(neighbour.plan(&["sh", "-c", line])).unwrap();
        assert_eq!(shop.line(), "open");
        Self { warden, loaded, neighbour, shop }
    }

    /// The neighbour's program goes on, its file is as it was, new commands run.
    fn assert_quiet(&mut self) {
        for _ in 0..3 {
            assert_eq!(self.shop.line(), "open");
        }
        assert_eq!(self.neighbour.read("/workspace/file").unwrap(), b"as it was");
        self.neighbour.assert_works();
    }

    /// Ends a load and leaves the loaded sandbox working.
    fn end(mut self, load: Running) {
        self.assert_quiet();
        self.loaded.signal(&load.id, 9, true);
        self.loaded.wait(&load.id);
        // The first process has ended; the others count until they have.
        eventually("the whole tree ends", || self.warden.usage(&self.loaded).pids <= 2);
        self.loaded.assert_works();
        self.assert_quiet();
        let pid = self.loaded.pid;
        self.warden.release(self.loaded);
        assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
    }
}

fn small() -> Limits {
    Limits { memory: 64 << 20, pids: 64, disk: 16 << 20, inodes: 2000, ..Limits::default() }
}

#[test]
fn a_fork_bomb_meets_its_limit_and_is_killed_whole() {
    let mut street = Street::new(small());
    let load = street.loaded.start(street.loaded.plan(&["/workspace/probe", "fork-bomb"])).unwrap();
    eventually("the bomb reaches the pids limit", || street.warden.usage(&street.loaded).pids_refused > 100);
    assert!(street.warden.usage(&street.loaded).pids <= 64);
    street.assert_quiet();
    // While it burns, a command is refused by the limit's name, and a file operation too.
    let refused = street.loaded.run(street.loaded.plan(&["true"]));
    if let Err(refused) = refused {
        assert!(refused.starts_with("limit: "), "{refused}");
    }
    street.end(load);
}

#[test]
fn a_memory_hog_is_killed_and_the_kill_is_counted() {
    let mut street = Street::new(small());
    let output = street.loaded.probe(&["hog"]);
    assert_eq!(output.code, 137);
    assert!(street.warden.usage(&street.loaded).oom_kills > 0);
    street.loaded.assert_works();
    street.assert_quiet();
}

#[test]
fn memory_that_no_process_maps_is_the_sandboxes_own_loss() {
    let mut street = Street::new(small());
    // System V segments live on when their makers are killed: the limit stays reached, for this sandbox alone.
    street.loaded.start(street.loaded.plan(&["/workspace/probe", "shared-memory"])).unwrap();
    eventually("the segments meet the limit", || street.warden.usage(&street.loaded).memory > 48 << 20);
    street.assert_quiet();
    let pid = street.loaded.pid;
    street.warden.release(street.loaded);
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn a_full_disk_is_the_sandboxes_own() {
    let mut street = Street::new(small());
    let output = street.loaded.sh("cat /dev/zero > /workspace/fill; echo $?");
    assert!(output.err.contains("No space left") && output.out == "1\n", "{output:?}");
    let refused = street.loaded.write("/workspace/more", &[0; 65536]).unwrap_err();
    assert_eq!(refused.code, csb_types::FileErrorCode::DiskFull);
    let usage = street.warden.usage(&street.loaded);
    assert!(usage.disk_limit - usage.disk < 65536, "{usage:?}");
    // Commands still run: what is full is the disk, not the sandbox.
    assert_eq!(street.loaded.sh("rm /workspace/fill; echo x > y; cat y").out, "x\n");
    // The other two places that take writes have their own end.
    let shm = street.loaded.sh("cat /dev/zero > /dev/shm/fill");
    assert!(shm.code != 0, "{shm:?}");
    street.loaded.sh("rm -f /dev/shm/fill");
    street.loaded.assert_works();
    street.assert_quiet();
}

#[test]
fn inodes_run_out_for_the_sandbox_alone() {
    let mut street = Street::new(small());
    assert_eq!(street.loaded.probe(&["inodes", "/tmp"]).out, "create: ENOSPC\n");
    assert_eq!(street.warden.usage(&street.loaded).inodes_free, 0);
    street.loaded.sh("find /tmp -type f -delete");
    street.loaded.assert_works();
    street.assert_quiet();
}

#[test]
fn a_flood_of_output_stops_nobody() {
    let street = Street::new(small());
    let mut load = street.loaded.start(street.loaded.plan(&["yes"])).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut read = 0;
    while read < 32 << 20 {
        read += load.out.read(&mut buffer).unwrap();
    }
    // Nobody reads any more: it waits in its pipe, and the sandbox goes on.
    street.loaded.assert_works();
    street.end(load);
}

#[test]
fn killing_everything_in_sight_kills_only_what_is_the_tenants() {
    let mut street = Street::new(small());
    let init = street.loaded.pid;
    for user in ["user", "root"] {
        for signal in ["KILL", "STOP", "TERM", "HUP", "SEGV"] {
            street.loaded.sh_as(user, &format!("kill -{signal} -1; kill -{signal} 1"));
            // A shell that stopped itself with all others is not waited for: the signal spares the sender.
            assert!(std::fs::exists(format!("/proc/{init}")).unwrap());
        }
    }
    street.loaded.assert_works();
    street.assert_quiet();
}

#[test]
fn ten_thousand_zombies_and_orphans_are_counted_and_reaped() {
    let mut street = Street::new(small());
    assert_eq!(street.loaded.probe(&["zombies", "10000"]).out, "refused\n");
    assert_eq!(street.loaded.probe(&["orphans", "10000"]).out, "done\n");
    eventually("the init reaps what nobody else does", || street.warden.usage(&street.loaded).pids <= 2);
    street.loaded.assert_works();
    street.assert_quiet();
}

#[test]
fn removing_everything_removes_only_what_is_the_tenants() {
    let mut street = Street::new(small());
    street.loaded.sh("rm -rf --no-preserve-root /workspace /tmp /home /dev /proc 2>/dev/null");
    street.loaded.assert_works();
    street.loaded.sh_as("root", "rm -rf --no-preserve-root / 2>/dev/null");
    // Without its loader nothing runs there any more; that is said, and the sandbox still answers and ends.
    let refused = street.loaded.run(csb_wire::ExecPlan { cwd: "/".into(), ..street.loaded.plan(&["/usr/bin/id"]) });
    assert!(refused.unwrap_err().starts_with("exec: No such file"));
    street.loaded.write("/workspace/back", b"again").unwrap();
    // The host's files, which it saw, are all there.
    assert!(std::fs::exists("/usr/bin/id").unwrap() && std::fs::exists("/etc/passwd").unwrap());
    let fresh = street.warden.create();
    fresh.assert_works();
    street.assert_quiet();
}

#[test]
fn spinning_on_every_thread_leaves_the_neighbour_its_turn() {
    let street = Street::new(Limits { cpu_milli: 200, ..small() });
    let line = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait";
    let load = street.loaded.start(street.loaded.plan(&["sh", "-c", line])).unwrap();
    street.end(load);
}

#[test]
fn a_starved_sandbox_is_paused_and_released_at_once() {
    let mut street = Street::new(Limits { pids: 200, ..small() });
    let line = "i=0; while [ $i -lt 100 ]; do (while :; do :; done) & i=$((i+1)); done; echo spinning; wait";
    let mut load = street.loaded.start(street.loaded.plan(&["sh", "-c", line])).unwrap();
    assert_eq!(load.line(), "spinning");
    // A hundredth of a CPU for a hundred programs: none of them gets to the point where it would stand still, or end, for
    // seconds; and the warden, which waits for it, serves everybody.
    street.warden.set_limits(&street.loaded, Limits { cpu_milli: 10, pids: 200, ..small() });
    for _ in 0..5 {
        street.warden.freeze(&street.loaded, true);
        street.assert_quiet();
        street.warden.freeze(&street.loaded, false);
    }
    let pid = street.loaded.pid;
    street.warden.release(street.loaded);
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn a_flood_of_orphans_keeps_no_command_waiting() {
    let street = Street::new(Limits { pids: 200, ..small() });
    let line = "for i in 1 2 3 4; do ./probe orphans 1000000 & done; echo flowing; wait";
    let mut load = street.loaded.start(street.loaded.plan(&["sh", "-c", line])).unwrap();
    assert_eq!(load.line(), "flowing");
    for _ in 0..10 {
        assert_eq!(street.loaded.sh("echo served").out, "served\n");
    }
    street.end(load);
}
