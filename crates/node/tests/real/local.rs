//! Sandboxes that are a directory and an entry, and have processes only while somebody uses them.

use crate::support::{Host, sh, small, trial, within};
use csb_node::{CreateError, OpError, WakeError};
use csb_types::{ExecSpec, Kind, KindOptions, Phase, SandboxId, SandboxSpec};
use libtest_mimic::Trial;
use std::{fs, time::Duration};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_local_sandbox_has_processes_while_it_is_used", used),
        trial("local_sandboxes_are_found_again_asleep_or_at_work", found_again),
        trial("a_local_sandbox_whose_processes_die_only_sleeps", dies),
        trial("a_local_sandbox_is_refused_what_is_no_place_of_its_own", refused),
    ]
}

fn spec(work_dir: Option<&str>) -> SandboxSpec {
    let options = KindOptions { work_dir: work_dir.map(Into::into), ..KindOptions::default() };
    SandboxSpec { kind: Kind::Local, options, ..small() }
}

async fn used(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.open(SandboxId::random(), spec(Some("a/b"))).await.unwrap();
    host.processes(0).await;
    assert_eq!(sandbox.phase(), Phase::Running);
    assert_eq!(node.local_counts(), (1, 1));
    let handle = sandbox.awake().await.unwrap();
    let (result, out, _) = sh(&handle, "echo made | tee f; pwd").await;
    assert_eq!((result.exit_code, out.as_str()), (0, "made\n/workspace\n"));
    assert_eq!(fs::read_to_string(host.dir.join("workspaces/a/b/f")).unwrap(), "made\n");
    // Held by somebody it stays awake, however long nothing runs.
    tokio::time::sleep(Duration::from_secs(1)).await;
    host.processes(1).await;
    drop(handle);
    host.processes(0).await;
    let again = sandbox.awake().await.unwrap();
    assert_eq!(again.find_exec(&result.id).unwrap().read_all().await.0, b"made\n/workspace\n");
    drop(again);
    within(sandbox.release()).await.unwrap();
    assert_eq!((sandbox.phase(), node.local_counts()), (Phase::Gone, (0, 0)));
    assert_eq!(sandbox.awake().await.unwrap_err(), WakeError::Op(OpError::Gone));
    within(sandbox.release()).await.unwrap();
    assert!(host.dir.join("workspaces/a/b/f").exists());
    host.processes(0).await;
    within(node.stop_all()).await;
}

async fn found_again(host: Host) {
    let node = host.node(0).await;
    let mut asleep = Vec::new();
    for i in 0..50 {
        asleep.push(node.open(SandboxId::random(), spec(Some(&format!("many/{i}")))).await.unwrap().id().clone());
    }
    let working = node.open(SandboxId::random(), spec(None)).await.unwrap();
    let exec = working.awake().await.unwrap().exec(ExecSpec::shell("sleep 2; echo done")).await.unwrap();
    node.find(&asleep[0]).unwrap().pause().await.unwrap();
    within(node.shutdown()).await;

    let node = host.node(0).await;
    host.processes(1).await;
    assert_eq!(node.local_counts(), (51, 50));
    assert!(asleep.iter().all(|id| node.find(id).is_some()));
    assert_eq!(node.find(&asleep[0]).unwrap().phase(), Phase::Paused);
    let handle = node.find(working.id()).unwrap().awake().await.unwrap();
    let (result, out, _) = crate::support::finish(&handle.find_exec(exec.id()).unwrap()).await;
    assert_eq!((result.exit_code, out.as_str()), (0, "done\n"));
    drop(handle);
    host.processes(0).await;
    let woken = node.find(&asleep[7]).unwrap().awake().await.unwrap();
    assert_eq!(sh(&woken, "echo awake").await.1, "awake\n");
    within(node.stop_all()).await;
}

async fn dies(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.open(SandboxId::random(), spec(None)).await.unwrap();
    let handle = sandbox.awake().await.unwrap();
    let exec = handle.exec(ExecSpec::shell("echo kept > f; sleep 600")).await.unwrap();
    within(async {
        while !host.dir.join("workspaces").join(sandbox.id().as_str()).join("f").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    host.kill_inits();
    assert_eq!(within(exec.wait()).await.exit_code, 137);
    assert_eq!(sandbox.phase(), Phase::Running);
    let again = within(sandbox.awake()).await.unwrap();
    assert_eq!(sh(&again, "cat f").await.1, "kept\n");
    within(node.stop_all()).await;
}

async fn refused(host: Host) {
    let node = host.node(0).await;
    let dir = host.dir.join("workspaces");
    fs::create_dir_all(dir.join("real")).unwrap();
    std::os::unix::fs::symlink("/", dir.join("link")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    for name in ["..", "/etc", "real/../..", ""] {
        let error = node.open(SandboxId::random(), spec(Some(name))).await.unwrap_err();
        assert!(matches!(error, CreateError::Spec(_)), "{name}: {error}");
    }
    let error = node.open(SandboxId::random(), spec(Some("link"))).await.unwrap_err();
    assert!(matches!(error, CreateError::NotAllowed { .. }), "{error}");
    let error = node.open(SandboxId::random(), spec(Some("file"))).await.unwrap_err();
    assert!(matches!(error, CreateError::Missing { .. }), "{error}");
    let mut shows = spec(Some("real"));
    shows.options.allow_paths = vec!["/etc".into()];
    let error = node.open(SandboxId::random(), shows).await.unwrap_err();
    assert!(matches!(error, CreateError::NotAllowed { .. }), "{error}");
    // Made a link after it was looked at, it is no place either.
    let sandbox = node.open(SandboxId::random(), spec(Some("real"))).await.unwrap();
    fs::remove_dir(dir.join("real")).unwrap();
    std::os::unix::fs::symlink("/", dir.join("real")).unwrap();
    let error = sandbox.awake().await.unwrap_err();
    assert!(matches!(error, WakeError::Create(CreateError::NotAllowed { .. })), "{error}");
    assert_eq!(node.local_counts(), (1, 1));
    within(node.stop_all()).await;
}
