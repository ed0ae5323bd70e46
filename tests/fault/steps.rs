//! Creation that fails, at each of its steps.

use csb_tests::{census::Census, wire::*};
use csb_types::{Limits, Volume};
use csb_wire::{Bind, JailPlan, UpperPlan};
use std::{fs, os::unix::fs::symlink, path::Path};

/// A warden that has made and released one sandbox, and what exists then.
fn settled() -> (Warden, i32, Census) {
    let mut warden = Warden::start();
    let sandbox = warden.create();
    sandbox.assert_works();
    warden.release(sandbox);
    let pid = warden.pid();
    let census = Census::of(pid, warden.dir());
    assert!(census.processes.is_empty(), "{census:?}");
    (warden, pid, census)
}

fn assert_nothing_left(warden: &Warden, pid: i32, before: &Census) {
    let dir = warden.dir().to_owned();
    let mut last = None;
    let start = std::time::Instant::now();
    while last.as_ref() != Some(before) {
        assert!(start.elapsed() < HUNG, "left behind: {last:#?}\nbefore: {before:#?}");
        last = Some(Census::of(pid, &dir));
    }
}

/// One plan that cannot be carried out: a word of what is said, and how the plan is spoiled.
type Spoiled = (&'static str, fn(&Path, &mut JailPlan));

const SPOILED: &[Spoiled] = &[
    ("layer", |_, plan| plan.layers = vec!["/nowhere/at/all".into()]),
    ("layer", |_, plan| plan.layers.push("/nowhere/at/all".into())),
    ("bind", |_, plan| plan.binds.push(Bind { host: "/nowhere".into(), guest: "/usr".into() })),
    ("bind", |_, plan| plan.binds.push(Bind { host: "/usr".into(), guest: "/not/in/the/layer".into() })),
    ("volume", |_, plan| {
        plan.volumes = vec![Volume { host: "/nowhere".into(), below: None, guest: "/v".into(), read_only: true }];
    }),
    ("volume", |dir, plan| {
        // A file where the image has a directory.
        plan.volumes =
            vec![Volume { host: dir.join("layer/etc/passwd"), below: None, guest: "/etc".into(), read_only: true }];
    }),
    ("volume", |dir, plan| {
        // Below a link of the image.
        plan.volumes = vec![Volume { host: dir.join("layer"), below: None, guest: "/lib/x".into(), read_only: true }];
    }),
    ("disk image", |_, plan| plan.upper = UpperPlan::Disk { image: "/nowhere/image".into() }),
    ("mount the disk image", |dir, plan| plan.upper = UpperPlan::Disk { image: dir.join("corrupt") }),
    ("cpu", |_, plan| plan.limits.cpu_milli = 0),
    ("host name", |_, plan| plan.hostname = "x".repeat(100)),
    ("/dev", |dir, plan| plan.layers = vec![dir.join("evil-dev")]),
    ("/proc", |dir, plan| plan.layers = vec![dir.join("evil-proc")]),
    ("/dev", |dir, plan| plan.layers = vec![dir.join("no-dev")]),
];

#[test]
fn creation_that_fails_says_where_and_leaves_nothing() {
    let mut warden = Warden::start();
    let dir = warden.dir().to_owned();
    fs::write(dir.join("corrupt"), vec![0x55; 1 << 20]).unwrap();
    for (name, link) in [("evil-dev", "dev"), ("evil-proc", "proc")] {
        skeleton(&dir.join(name));
        fs::remove_dir(dir.join(name).join(link)).unwrap();
        symlink("/etc", dir.join(name).join(link)).unwrap();
    }
    skeleton(&dir.join("no-dev"));
    fs::remove_dir(dir.join("no-dev/dev")).unwrap();
    fs::write(dir.join("no-dev/dev"), "a file").unwrap();
    let sandbox = warden.create();
    warden.release(sandbox);
    let pid = warden.pid();
    let before = Census::of(pid, &dir);
    for (expected, spoil) in SPOILED {
        let mut plan = warden.plan(Limits::default());
        spoil(&dir, &mut plan);
        let text = format!("{plan:?}");
        let said = match warden.try_create(plan) {
            Err(said) => said,
            Ok(_) => panic!("made: {text}"),
        };
        assert!(said.contains(expected), "`{said}` does not name `{expected}`");
        assert_nothing_left(&warden, pid, &before);
    }
    let sandbox = warden.create();
    sandbox.assert_works();
    let twin = JailPlan { id: sandbox.id.clone(), ..warden.plan(Limits::default()) };
    assert!(warden.try_create(twin).is_err(), "an id is taken once");
    sandbox.assert_works();
    warden.release(sandbox);
    assert_nothing_left(&warden, pid, &before);
}

#[test]
fn running_out_of_descriptors_at_any_step_leaves_nothing() {
    let (mut warden, pid, before) = settled();
    let limit = |soft: u64| {
        let pid = rustix::process::Pid::from_raw(pid);
        let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let new = rustix::process::Rlimit { current: Some(soft), maximum: now.maximum };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, new).unwrap();
    };
    let (mut failed, mut made) = (0, 0);
    // From none to spare to enough: each of these limits is reached at another step.
    for spare in 0..24 {
        limit(before.descriptors as u64 + spare);
        let plan = warden.plan(Limits::default());
        match warden.try_create(plan) {
            Ok(sandbox) => {
                made += 1;
                limit(1024);
                sandbox.assert_works();
                warden.release(sandbox);
            }
            Err(_) => failed += 1,
        }
        limit(1024);
        assert_nothing_left(&warden, pid, &before);
    }
    assert!(failed > 3 && made > 0, "{failed} failed, {made} made");
    warden.create().assert_works();
}
