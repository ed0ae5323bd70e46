//! Sandboxes come from the pool or are built, go, and leave nothing.

use crate::{
    hardened::{hardened, template},
    support::{Host, Left, finish, sh, small, trial, within},
};
use csb_node::CreateError;
use csb_types::{ExecSpec, KilledBy, Phase, SandboxSpec, StartedBy, Upper};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("hundreds_of_sandboxes_come_and_go_and_leave_nothing", cycles),
        trial("a_ready_sandbox_is_claimed_when_it_fits_and_replaced", claims),
        trial("a_ready_sandbox_that_died_is_not_handed_out", dead_ready),
        trial("a_killed_init_ends_its_sandbox_only", killed_init),
        trial("a_killed_warden_takes_its_sandboxes_and_a_new_one_takes_over", killed_warden),
        trial("a_sandbox_nobody_waits_for_is_released", abandoned),
        trial("what_cannot_be_built_is_refused_by_name", refusals),
        trial("writes_to_disk_are_limited_and_leave_no_image", disk),
    ]
}

async fn cycles(host: Host) {
    template(&host);
    let node = host.node(0).await;
    // The first of each kind make what stays for good.
    for spec in [small(), hardened()] {
        within(node.create(spec).await.unwrap().release()).await.unwrap();
    }
    let before = Left::now(&host.dir);
    for i in 0..125 {
        let (a, b, c, d) =
            tokio::join!(node.create(small()), node.create(hardened()), node.create(small()), node.create(small()));
        for sandbox in [a, b, c, d].map(Result::unwrap) {
            if i % 5 == 0 {
                assert_eq!(sh(&sandbox, "echo hi").await.1, "hi\n");
                drop(sandbox.exec(ExecSpec::shell("echo x; sleep 60")).await.unwrap());
            }
            within(sandbox.release()).await.unwrap();
        }
    }
    assert_eq!(node.pool_stats().colds, 502);
    Left::settles(&host.dir, &before).await;
    within(node.stop_all()).await;
    let after = Left::now(&host.dir);
    assert_eq!((after.inits, after.cgroups, after.entries), (0, 0, 0));
}

async fn claims(host: Host) {
    let node = host.node(2).await;
    host.filled(&node, 2).await;
    let mut wanted = SandboxSpec { template: "python:3".into(), ..Default::default() };
    wanted.env.insert("A".into(), "b".into());
    wanted.limits.memory = 768 << 20;
    let sandbox = node.create(wanted.clone()).await.unwrap();
    assert_eq!(sandbox.started_by(), StartedBy::Claim);
    assert_eq!(sandbox.spec().limits, wanted.limits);
    assert_eq!(sh(&sandbox, "echo $A").await.1, "b\n");
    host.filled(&node, 2).await;
    let named = SandboxSpec { hostname: Some("box".into()), ..Default::default() };
    let cold = node.create(named).await.unwrap();
    assert_eq!(cold.started_by(), StartedBy::Cold);
    assert_eq!(sh(&cold, "hostname").await.1, "box\n");
    let stats = node.pool_stats();
    assert_eq!((stats.ready, stats.in_use, stats.claims, stats.colds), (2, 2, 1, 1));
    // A ready one is nobody's to look up.
    assert_eq!(node.list().len(), 2);
    within(node.stop_all()).await;
}

async fn dead_ready(host: Host) {
    let node = host.node(1).await;
    host.filled(&node, 1).await;
    host.kill_inits();
    // Whether the news came first or the claim: what comes lives.
    let sandbox = loop {
        let sandbox = node.create(SandboxSpec::default()).await.unwrap();
        match sandbox.exec(ExecSpec::argv(["true"])).await {
            Ok(_) => break sandbox,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(sh(&sandbox, "echo alive").await.1, "alive\n");
    within(node.stop_all()).await;
}

async fn killed_init(host: Host) {
    let node = host.node(0).await;
    let victim = node.create(SandboxSpec::default()).await.unwrap();
    let exec = victim.exec(ExecSpec::shell("echo x; sleep 60")).await.unwrap();
    within(exec.output(0).next()).await.unwrap();
    host.kill_inits();
    within(victim.gone()).await;
    let (result, out, _) = finish(&exec).await;
    assert_eq!((result.killed_by, out.as_str()), (Some(KilledBy::Released), "x\n"));
    assert!(node.list().is_empty());
    let next = node.create(SandboxSpec::default()).await.unwrap();
    assert_eq!(sh(&next, "echo on").await.1, "on\n");
    within(node.stop_all()).await;
}

async fn killed_warden(host: Host) {
    let node = host.node(1).await;
    let sandbox = node.create(SandboxSpec { hostname: Some("a".into()), ..Default::default() }).await.unwrap();
    let exec = sandbox.exec(ExecSpec::argv(["sleep", "60"])).await.unwrap();
    let pid = node.warden().pid;
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    within(sandbox.gone()).await;
    assert_eq!(within(exec.wait()).await.killed_by, Some(KilledBy::Released));
    assert_eq!(sandbox.phase(), Phase::Gone);
    let next = within(async {
        loop {
            match node.create(SandboxSpec::default()).await {
                Ok(sandbox) => break sandbox,
                Err(CreateError::Warden(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    assert_eq!(sh(&next, "echo on").await.1, "on\n");
    assert_ne!(node.warden().pid, pid);
    host.filled(&node, 1).await;
    within(node.stop_all()).await;
    let after = Left::now(&host.dir);
    assert_eq!((after.inits, after.cgroups, after.entries), (0, 0, 0));
}

async fn abandoned(host: Host) {
    let node = host.node(0).await;
    within(node.create(small()).await.unwrap().release()).await.unwrap();
    let before = Left::now(&host.dir);
    for wait in 0..30 {
        let create = node.create(small());
        let _ = tokio::time::timeout(Duration::from_micros(wait * 200), create).await.map(|made| {
            let made = made.unwrap();
            tokio::spawn(async move { made.release().await })
        });
    }
    Left::settles(&host.dir, &before).await;
    assert!(node.list().is_empty());
    within(node.stop_all()).await;
}

async fn refusals(host: Host) {
    let node = host.node(0).await;
    let absent = SandboxSpec { template: "absent".into(), ..Default::default() };
    assert_eq!(node.create(absent).await.unwrap_err(), CreateError::NoTemplate { name: "absent".into() });
    let mut none = SandboxSpec::default();
    none.limits.pids = 0;
    assert!(matches!(node.create(none).await, Err(CreateError::Spec(_))));
    let mut nowhere = SandboxSpec::default();
    nowhere.volumes.push(csb_types::Volume {
        host: "/nowhere".into(),
        below: None,
        guest: "/x".into(),
        read_only: true,
    });
    assert!(matches!(node.create(nowhere).await, Err(CreateError::Jail { .. })));
    assert_eq!(node.pool_stats().failures, 2);
    let names: Vec<String> = node.templates().into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["host"]);
    assert_eq!(node.templates()[0].aliases, ["python:3"]);
    assert!(node.template_has("", "/usr/bin/env") && !node.template_has("host", "/usr/bin/absent"));
    within(node.stop_all()).await;
}

async fn disk(host: Host) {
    let node = host.node(0).await;
    let mut spec = SandboxSpec { upper: Upper::Disk, ..Default::default() };
    spec.limits.disk = 32 << 20;
    let sandbox = node.create(spec).await.unwrap();
    let (result, _, err) = sh(&sandbox, "head -c 30000000 /dev/zero > /workspace/a && wc -c < /workspace/a").await;
    assert_eq!((result.exit_code, err.as_str()), (0, ""));
    let (result, _, err) = sh(&sandbox, "head -c 30000000 /dev/zero > /workspace/b").await;
    let usage = sandbox.usage().await.unwrap();
    assert_eq!(result.killed_by, Some(KilledBy::Disk), "{result:?} {err} {usage:?}");
    assert_eq!(std::fs::read_dir(host.dir.join("disks")).unwrap().count(), 0);
    within(sandbox.release()).await.unwrap();
    within(node.stop_all()).await;
}
