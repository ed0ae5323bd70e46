//! A server ends and another begins; sandboxes and what runs in them do not notice.

use crate::support::{Host, finish, sh, trial, within};
use csb_node::{Node, NodeConfig, NodeError, PoolConfig, WardenSource};
use csb_types::{ExecSpec, KilledBy, Phase, PtySize, SandboxSpec, StartedBy};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_next_server_finds_sandboxes_and_execs_and_loses_no_byte", found_again),
        trial("many_sandboxes_are_found_by_a_warden_that_has_nothing_else_to_do", many),
        trial("results_of_execs_that_ended_meanwhile_are_known", ended_meanwhile),
        trial("a_timeout_holds_over_a_restart", timeout),
        trial("a_paused_sandbox_is_found_paused", paused),
        trial("a_terminal_and_an_open_stdin_go_on", interactive),
        trial("ready_sandboxes_return_to_the_pool_and_used_ones_never", pool),
        trial("a_second_server_on_the_same_directory_is_refused", in_use),
        trial("a_restart_in_the_middle_of_a_flood_repeats_nothing", flood),
        trial("a_warden_that_ends_while_a_server_starts_keeps_no_server_from_starting", ending_warden),
        trial("sandboxes_that_are_still_dying_keep_no_server_from_starting", dying),
    ]
}

async fn found_again(host: Host) {
    let node = host.node(0).await;
    let mut spec = SandboxSpec::default();
    spec.env.insert("KEY".into(), "value".into());
    spec.metadata.insert("label".into(), "x".into());
    let sandbox = node.create(spec.clone()).await.unwrap();
    let line = "for i in $(seq 200); do echo o$i; echo e$i >&2; sleep 0.01; done";
    let exec = sandbox.exec(ExecSpec::shell(line)).await.unwrap();
    let done = sandbox.exec(ExecSpec::shell("echo early; exit 5")).await.unwrap();
    let (early, ..) = finish(&done).await;
    let (created, micros) = (sandbox.created_ms(), sandbox.start_micros());
    // What a reader has seen of the order must not change.
    let mut reader = exec.output(0);
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let chunk = within(reader.next()).await.unwrap();
        seen.extend(chunk.bytes.iter().map(|b| (chunk.stream, *b)));
    }
    within(node.shutdown()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    let node = host.node(0).await;
    let again = node.get(sandbox.id()).expect("the sandbox is found again");
    assert_eq!((again.created_ms(), again.start_micros()), (created, micros));
    assert_eq!(again.spec().env, spec.env);
    assert_eq!(again.spec().metadata, spec.metadata);
    assert_eq!(again.started_by(), StartedBy::Cold);
    let known = again.find_exec(done.id()).unwrap();
    assert_eq!(known.result(), Some(early));
    assert_eq!(known.read_all().await.0, b"early\n");
    let exec = again.find_exec(exec.id()).unwrap();
    assert_eq!(exec.spec(), &ExecSpec::shell(line));
    let mut all = Vec::new();
    let mut reader = exec.output(0);
    while let Some(chunk) = within(reader.next()).await {
        all.extend(chunk.bytes.iter().map(|b| (chunk.stream, *b)));
    }
    assert_eq!(all[..seen.len()], seen);
    let (result, out, err) = finish(&exec).await;
    let expected = |p: &str| (1..=200).map(|i| format!("{p}{i}\n")).collect::<String>();
    assert_eq!((result.exit_code, out, err), (0, expected("o"), expected("e")));
    assert_eq!(sh(&again, "echo $KEY").await.1, "value\n");
    within(again.release()).await.unwrap();
    within(node.stop_all()).await;
}

async fn many(host: Host) {
    let node = host.node(0).await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(node.create(crate::support::small()).await.unwrap().id().clone());
    }
    within(node.shutdown()).await;
    // Whatever the warden still had to do is done.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let node = within(host.node(0)).await;
    for id in &ids {
        let sandbox = node.get(id).expect("the sandbox is found again");
        assert_eq!(sh(&sandbox, "echo here").await.1, "here\n");
    }
    within(node.stop_all()).await;
}

async fn ended_meanwhile(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let exec = sandbox.exec(ExecSpec::shell("sleep 0.3; echo bye; exit 7")).await.unwrap();
    within(node.shutdown()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let node = host.node(0).await;
    let exec = node.get(sandbox.id()).unwrap().find_exec(exec.id()).unwrap();
    let (result, out, _) = finish(&exec).await;
    assert_eq!((result.exit_code, out.as_str(), result.killed_by), (7, "bye\n", None));
    assert!((300.0..700.0).contains(&result.duration_ms), "{result:?}");
    within(node.stop_all()).await;
}

async fn timeout(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let spec = ExecSpec { timeout: Some(Duration::from_millis(1500)), ..ExecSpec::argv(["sleep", "60"]) };
    let exec = sandbox.exec(spec).await.unwrap();
    within(node.shutdown()).await;
    let node = host.node(0).await;
    let exec = node.get(sandbox.id()).unwrap().find_exec(exec.id()).unwrap();
    let (result, ..) = finish(&exec).await;
    assert_eq!(result.killed_by, Some(KilledBy::Timeout));
    assert!((1500.0..15_000.0).contains(&result.duration_ms), "{result:?}");
    within(node.stop_all()).await;
}

async fn paused(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let exec = sandbox.exec(ExecSpec::shell("sleep 0.2; echo woken")).await.unwrap();
    within(sandbox.pause()).await.unwrap();
    within(node.shutdown()).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let node = within(host.node(0)).await;
    let sandbox = node.get(sandbox.id()).unwrap();
    assert_eq!(sandbox.phase(), Phase::Paused);
    let exec = sandbox.find_exec(exec.id()).unwrap();
    assert!(exec.result().is_none());
    within(sandbox.resume()).await.unwrap();
    assert_eq!(finish(&exec).await.1, "woken\n");
    within(sandbox.pause()).await.unwrap();
    within(node.shutdown()).await;
    // Released before it ever reported.
    let node = within(host.node(0)).await;
    within(node.get(sandbox.id()).unwrap().release()).await.unwrap();
    within(node.stop_all()).await;
}

async fn interactive(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let cat = sandbox.exec(ExecSpec { stdin: true, ..ExecSpec::argv(["cat"]) }).await.unwrap();
    within(cat.write_stdin("before\n".into())).await.unwrap();
    let shell = sandbox.exec(ExecSpec { pty: Some(PtySize::default()), ..ExecSpec::argv(["sh"]) }).await.unwrap();
    within(node.shutdown()).await;
    // The old server's ends are gone for good.
    drop((cat.clone(), shell.clone()));
    let node = host.node(0).await;
    let sandbox = node.get(sandbox.id()).unwrap();
    let cat = sandbox.find_exec(cat.id()).unwrap();
    within(cat.write_stdin("after\n".into())).await.unwrap();
    let shell = sandbox.find_exec(shell.id()).unwrap();
    shell.resize(PtySize { cols: 33, rows: 11 }).await.unwrap();
    within(shell.write_stdin("stty size\nexit 3\n".into())).await.unwrap();
    let (result, out, _) = finish(&shell).await;
    assert_eq!(result.exit_code, 3);
    assert!(out.contains("11 33"), "{out}");
    within(cat.close_stdin()).await.unwrap();
    let (result, out, _) = finish(&cat).await;
    assert_eq!((result.exit_code, out.as_str()), (0, "before\nafter\n"));
    within(node.stop_all()).await;
}

async fn pool(host: Host) {
    let node = host.node(2).await;
    host.filled(&node, 2).await;
    let used = node.create(SandboxSpec::default()).await.unwrap();
    assert_eq!(used.started_by(), StartedBy::Claim);
    sh(&used, "echo mine > /workspace/mine").await;
    host.filled(&node, 2).await;
    within(node.shutdown()).await;
    let node = host.node(2).await;
    host.filled(&node, 2).await;
    assert_eq!(node.pool_stats().in_use, 1);
    assert_eq!(node.list().len(), 1);
    assert_eq!(sh(&node.get(used.id()).unwrap(), "cat mine").await.1, "mine\n");
    for _ in 0..2 {
        let sandbox = node.create(SandboxSpec::default()).await.unwrap();
        assert_eq!(sandbox.started_by(), StartedBy::Claim);
        assert_ne!(sandbox.id(), used.id());
        assert_eq!(sh(&sandbox, "ls -A /workspace /tmp").await.1, "/tmp:\n\n/workspace:\n");
    }
    within(node.shutdown()).await;
    // Without a pool the ready ones go.
    let node = host.node(0).await;
    host.processes(3).await;
    assert_eq!(node.list().len(), 3);
    within(node.stop_all()).await;
}

async fn in_use(host: Host) {
    let node = host.node(0).await;
    let config = NodeConfig {
        data_dir: host.dir.clone(),
        warden: WardenSource::Daemon,
        pool: PoolConfig::default(),
        default_template: "host".into(),
        aliases: Default::default(),
        backends: vec![],
        workspaces: None,
        pressure: None,
    };
    assert!(matches!(Node::start(config).await, Err(NodeError::InUse { path }) if path == host.dir));
    within(node.stop_all()).await;
}

async fn flood(host: Host) {
    let mut node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let id = sandbox.id().clone();
    let spec = ExecSpec { max_output: 64 << 20, ..ExecSpec::shell("seq 1 2000000; echo end >&2") };
    let exec = sandbox.exec(spec).await.unwrap().id().clone();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(120)).await;
        within(node.shutdown()).await;
        node = host.node(0).await;
    }
    let exec = node.get(&id).unwrap().find_exec(&exec).unwrap();
    let (result, out, err) = finish(&exec).await;
    assert_eq!((result.exit_code, err.as_str()), (0, "end\n"));
    let mut lines = out.lines();
    for i in 1..=2_000_000 {
        assert_eq!(lines.next().and_then(|l| l.parse().ok()), Some(i));
    }
    assert_eq!(lines.next(), None);
    within(node.stop_all()).await;
}

/// One that was killed takes connections until the kernel has closed its socket, and says nothing in them.
async fn ending_warden(host: Host) {
    let run = host.dir.join("run");
    std::fs::create_dir(&run).unwrap();
    let dying = csb_sys::packet::Listener::bind(&run.join("warden.sock")).unwrap();
    let ended = std::thread::spawn(move || {
        drop(dying.accept().unwrap());
        drop(dying.accept().unwrap());
    });
    let node = host.node(0).await;
    ended.join().unwrap();
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    assert_eq!(sh(&sandbox, "echo on").await.1, "on\n");
    within(node.stop_all()).await;
}

/// Server and warden are killed together, and what ran takes a while to die: the kernel frees its memory page by page.
async fn dying(host: Host) {
    let node = host.node(0).await;
    let line = "import time; held = b'x' * (400 << 20); print('held', flush=True); time.sleep(600)";
    for _ in 0..3 {
        let sandbox = node.create(SandboxSpec::default()).await.unwrap();
        let exec = sandbox.exec(ExecSpec::argv(["python3", "-c", line])).await.unwrap();
        within(exec.output(0).next()).await.unwrap();
    }
    let warden = node.warden().pid;
    within(node.shutdown()).await;
    drop(node);
    rustix::process::kill_process(rustix::process::Pid::from_raw(warden).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    assert_eq!(sh(&sandbox, "echo on").await.1, "on\n");
    within(node.stop_all()).await;
}
