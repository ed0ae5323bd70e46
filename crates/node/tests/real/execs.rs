//! Commands: streams, ends, limits.

use crate::support::{Host, finish, run, sh, small, trial, within};
use bytes::Bytes;
use csb_node::{Exec, ExecError, OpError};
use csb_types::{ExecSpec, KilledBy, Phase, PtySize, SandboxSpec, StartedBy, Stream};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_command_runs_and_its_streams_and_exit_code_come_back", streams),
        trial("stdin_is_streamed_and_ends_when_closed", stdin),
        trial("a_terminal_echoes_resizes_and_ends", terminal),
        trial("readers_early_late_and_from_the_middle_see_the_same_bytes", readers),
        trial("what_a_background_process_writes_later_can_be_read", background),
        trial("output_past_its_limit_is_dropped_and_marked", flood),
        trial("a_timeout_kills_the_whole_tree_and_is_named", timeout),
        trial("signals_reach_the_command_and_are_named", signals),
        trial("each_limit_of_a_sandbox_is_named", limits),
        trial("a_command_that_cannot_start_is_refused_by_name", refusals),
        trial("a_paused_sandbox_stands_still_and_goes_on", pause),
        trial("limits_of_a_living_sandbox_change", set_limits),
        trial("many_commands_at_once_keep_their_output_apart", many),
        trial("a_command_ends_with_its_sandbox_and_its_output_stays_readable", release),
    ]
}

async fn streams(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    assert_eq!(sandbox.started_by(), StartedBy::Cold);
    let (result, out, err) = sh(&sandbox, "echo out; echo err >&2; exit 3").await;
    assert_eq!((result.exit_code, result.signal, out.as_str(), err.as_str()), (3, None, "out\n", "err\n"));
    assert_eq!((result.killed_by, result.truncated), (None, false));
    let exec = sandbox.exec(ExecSpec::argv(["printf", "\\377\\000x"])).await.unwrap();
    within(exec.wait()).await;
    assert_eq!(exec.read_all().await.0, b"\xff\0x");
    let mut spec = ExecSpec::shell("echo $A$B; pwd; id -u");
    spec.env.insert("B".into(), "2".into());
    spec.cwd = Some("/tmp".into());
    assert_eq!(run(&sandbox, spec).await.1, "2\n/tmp\n1000\n");
    within(node.stop_all()).await;
}

async fn stdin(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let exec = sandbox.exec(ExecSpec { stdin: true, ..ExecSpec::argv(["sh", "-c", "read a; echo $a; wc -c"]) }).await;
    let exec = exec.unwrap();
    within(exec.write_stdin(Bytes::from_static(b"first\n"))).await.unwrap();
    let mut reader = exec.output(0);
    assert_eq!(within(reader.next()).await.unwrap().bytes, "first\n");
    // More than a pipe holds.
    within(exec.write_stdin(Bytes::from(vec![b'x'; 1 << 20]))).await.unwrap();
    within(exec.close_stdin()).await.unwrap();
    assert_eq!(within(exec.close_stdin()).await, Err(OpError::StdinClosed));
    let (result, out, _) = finish(&exec).await;
    assert_eq!((result.exit_code, out.as_str()), (0, "first\n1048576\n"));
    assert_eq!(within(exec.write_stdin(Bytes::from_static(b"x"))).await, Err(OpError::ExecEnded));
    // Without stdin it is empty.
    assert_eq!(sh(&sandbox, "wc -c").await.1, "0\n");
    // A command that does not read: the writer learns of its end.
    let exec = sandbox.exec(ExecSpec { stdin: true, ..ExecSpec::shell("sleep 0.3") }).await.unwrap();
    let wrote = within(exec.write_stdin(Bytes::from(vec![0; 1 << 20]))).await;
    assert!(matches!(wrote, Err(OpError::ExecEnded | OpError::StdinClosed)), "{wrote:?}");
    within(node.stop_all()).await;
}

/// Reads until `text` was seen.
async fn until(exec: &Exec, text: &str) -> String {
    let mut reader = exec.output(0);
    let mut seen = String::new();
    while !seen.contains(text) {
        let chunk = within(reader.next()).await.unwrap_or_else(|| panic!("no `{text}` in `{seen}`"));
        seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
    }
    seen
}

async fn terminal(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let size = PtySize { cols: 91, rows: 17 };
    let exec = sandbox.exec(ExecSpec { pty: Some(size), ..ExecSpec::argv(["sh"]) }).await.unwrap();
    within(exec.write_stdin("stty size; tty\n".into())).await.unwrap();
    let seen = until(&exec, "17 91").await;
    assert!(seen.contains("stty size"), "no echo in {seen}");
    exec.resize(PtySize { cols: 40, rows: 10 }).await.unwrap();
    within(exec.write_stdin("stty size; echo $TERM\n".into())).await.unwrap();
    until(&exec, "10 40").await;
    let mut reader = exec.output(0);
    assert_eq!(within(reader.next()).await.unwrap().stream, Stream::Pty);
    within(exec.close_stdin()).await.unwrap();
    let (result, out, err) = finish(&exec).await;
    assert_eq!((result.exit_code, err.as_str()), (0, ""));
    assert!(out.contains("/dev/pts/") && out.contains("xterm"), "{out}");
    assert_eq!(exec.resize(size).await, Err(OpError::ExecEnded));
    let plain = sandbox.exec(ExecSpec::argv(["sleep", "9"])).await.unwrap();
    assert_eq!(plain.resize(size).await, Err(OpError::NoPty));
    within(node.stop_all()).await;
}

/// All output in order, with its streams.
async fn read_from(exec: &Exec, from: u64) -> Vec<(Stream, u8)> {
    let mut reader = exec.output(from);
    let mut seen = Vec::new();
    let mut at = from;
    while let Some(chunk) = within(reader.next()).await {
        at += chunk.bytes.len() as u64;
        assert_eq!(chunk.seq, at);
        seen.extend(chunk.bytes.iter().map(|b| (chunk.stream, *b)));
    }
    seen
}

async fn readers(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let line = "for i in $(seq 300); do echo o$i; echo e$i >&2; [ $((i % 60)) = 0 ] && sleep 0.05; done; echo end";
    let exec = sandbox.exec(ExecSpec::shell(line)).await.unwrap();
    let early = {
        let exec = exec.clone();
        tokio::spawn(async move { read_from(&exec, 0).await })
    };
    within(exec.wait()).await;
    let late = read_from(&exec, 0).await;
    assert_eq!(within(early).await.unwrap(), late);
    assert_eq!(read_from(&exec, 1000).await, late[1000..]);
    assert_eq!(read_from(&exec, late.len() as u64 + 5).await, []);
    let of = |stream| late.iter().filter(|(s, _)| *s == stream).map(|(_, b)| *b).collect::<Vec<u8>>();
    assert_eq!((of(Stream::Stdout), of(Stream::Stderr)), exec.read_all().await);
    let expected: String = (1..=300).map(|i| format!("o{i}\n")).collect::<String>() + "end\n";
    assert_eq!(of(Stream::Stdout), expected.as_bytes());
    within(node.stop_all()).await;
}

async fn background(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let exec = sandbox.exec(ExecSpec::shell("(sleep 0.4; echo later) & echo now")).await.unwrap();
    let (result, out, _) = finish(&exec).await;
    assert_eq!((result.exit_code, out.as_str()), (0, "now\n"));
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(exec.read_all().await.0, b"now\nlater\n");
    within(node.stop_all()).await;
}

async fn flood(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let spec = ExecSpec { max_output: 100_000, ..ExecSpec::shell("head -c 5000000 /dev/zero; echo done >&2") };
    let exec = sandbox.exec(spec).await.unwrap();
    let (result, out, err) = finish(&exec).await;
    assert_eq!((result.exit_code, result.truncated, out.len(), err.as_str()), (0, true, 100_000, ""));
    // Exactly the limit is not past it.
    let spec = ExecSpec { max_output: 5, ..ExecSpec::argv(["printf", "12345"]) };
    assert!(!run(&sandbox, spec).await.0.truncated);
    // A flood without end does not keep others from running, and ends at its timeout.
    let spec = ExecSpec { timeout: Some(Duration::from_secs(2)), max_output: 1 << 20, ..ExecSpec::argv(["yes"]) };
    let yes = sandbox.exec(spec).await.unwrap();
    assert_eq!(sh(&sandbox, "echo hi").await.1, "hi\n");
    let (result, out, _) = finish(&yes).await;
    assert_eq!((result.killed_by, result.truncated, out.len()), (Some(KilledBy::Timeout), true, 1 << 20));
    within(node.stop_all()).await;
}

async fn timeout(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let line = "setsid sh -c 'sleep 77 & sleep 77' & (sleep 77 &) ; echo started; sleep 77";
    let spec = ExecSpec { timeout: Some(Duration::from_millis(400)), ..ExecSpec::shell(line) };
    let (result, out, _) = run(&sandbox, spec).await;
    assert_eq!((result.exit_code, result.signal, out.as_str()), (137, Some(9), "started\n"));
    assert_eq!(result.killed_by, Some(KilledBy::Timeout));
    assert!(result.duration_ms >= 400.0);
    let left = sh(&sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await.1;
    assert!(!left.contains("sleep 77"), "{left}");
    // One that ends in time is not touched.
    let spec = ExecSpec { timeout: Some(Duration::from_secs(30)), ..ExecSpec::shell("exit 4") };
    let (result, ..) = run(&sandbox, spec).await;
    assert_eq!((result.exit_code, result.killed_by), (4, None));
    within(node.stop_all()).await;
}

async fn signals(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let exec = sandbox.exec(ExecSpec::argv(["sleep", "50"])).await.unwrap();
    within(exec.signal(15, false)).await.unwrap();
    let (result, ..) = finish(&exec).await;
    assert_eq!((result.exit_code, result.signal, result.killed_by), (143, Some(15), Some(KilledBy::Signal)));
    assert_eq!(within(exec.signal(15, false)).await, Err(OpError::ExecEnded));
    let trapping = ExecSpec::shell("trap 'echo caught; exit 6' USR1; echo ready; while :; do sleep 0.05; done");
    let exec = sandbox.exec(trapping).await.unwrap();
    until(&exec, "ready").await;
    within(exec.signal(10, false)).await.unwrap();
    let (result, out, _) = finish(&exec).await;
    assert_eq!((result.exit_code, result.killed_by, out.as_str()), (6, None, "ready\ncaught\n"));
    for bad in [0, -1, 65] {
        assert!(matches!(within(exec.signal(bad, false)).await, Err(OpError::Spec(_))));
    }
    // One that kills itself was not killed by us.
    let (result, ..) = sh(&sandbox, "kill -9 $$").await;
    assert_eq!((result.signal, result.killed_by), (Some(9), None));
    within(node.stop_all()).await;
}

async fn limits(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(small()).await.unwrap();
    let hog = "a = bytearray(200 << 20); print(len(a))";
    let (result, out, _) = run(&sandbox, ExecSpec::argv(["python3", "-c", hog])).await;
    assert_eq!((out.as_str(), result.killed_by), ("", Some(KilledBy::Oom)), "{result:?}");
    // The next failure is nobody's but its own.
    let (result, ..) = sh(&sandbox, "exit 9").await;
    assert_eq!((result.exit_code, result.killed_by), (9, None));
    let forks = "import os, time\nfor _ in range(100):\n    if os.fork() == 0:\n        time.sleep(0.2); os._exit(0)\n";
    let (result, _, err) = run(&sandbox, ExecSpec::argv(["python3", "-c", forks])).await;
    assert_eq!(result.killed_by, Some(KilledBy::Pids), "{result:?} {err}");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let (result, _, err) = sh(&sandbox, "head -c 100000000 /dev/zero > /workspace/big").await;
    assert_eq!(result.killed_by, Some(KilledBy::Disk), "{result:?} {err}");
    let (result, ..) = sh(&sandbox, "rm /workspace/big").await;
    assert_eq!((result.exit_code, result.killed_by), (0, None));
    let many = "mkdir /workspace/d && cd /workspace/d && i=0; while : > f$i; do i=$((i+1)); done";
    let (result, ..) = sh(&sandbox, many).await;
    assert_eq!(result.killed_by, Some(KilledBy::Disk), "{result:?}");
    within(node.stop_all()).await;
}

async fn refusals(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let refused = async |spec: ExecSpec| sandbox.exec(spec).await.unwrap_err();
    let program = || "nope".to_owned();
    assert_eq!(refused(ExecSpec::argv(["nope"])).await, ExecError::NotFound { program: program() });
    assert_eq!(refused(ExecSpec::argv(["/tmp"])).await, ExecError::NotExecutable { program: "/tmp".into() });
    let nowhere = ExecSpec { cwd: Some("/nowhere".into()), ..ExecSpec::argv(["true"]) };
    assert!(matches!(refused(nowhere).await, ExecError::BadCwd { cwd, .. } if cwd == "/nowhere"));
    let nobody = ExecSpec { user: Some("eve".into()), ..ExecSpec::argv(["true"]) };
    assert_eq!(refused(nobody).await, ExecError::BadUser { user: "eve".into() });
    assert!(matches!(refused(ExecSpec::argv([""])).await, ExecError::Spec(_)));
    // What was refused is not in the list.
    assert!(sandbox.execs().is_empty());
    assert_eq!(sh(&sandbox, "nope").await.0.exit_code, 127);
    assert_eq!(sandbox.execs().len(), 1);
    within(node.stop_all()).await;
}

async fn pause(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let exec = sandbox.exec(ExecSpec::shell("while :; do echo x; sleep 0.02; done")).await.unwrap();
    until(&exec, "x\nx\n").await;
    within(sandbox.pause()).await.unwrap();
    within(sandbox.pause()).await.unwrap();
    assert_eq!(sandbox.phase(), Phase::Paused);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = exec.output_len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(exec.output_len(), before);
    assert_eq!(sandbox.exec(ExecSpec::argv(["true"])).await.unwrap_err(), ExecError::Paused);
    assert_eq!(within(exec.signal(15, false)).await, Err(OpError::WrongPhase(Phase::Paused)));
    assert!(within(sandbox.stat_file(None, "/")).await.unwrap_err().message.contains("paused"));
    assert!(within(sandbox.usage()).await.unwrap().pids > 0);
    within(sandbox.resume()).await.unwrap();
    assert!(within(exec.output(before).next()).await.is_some());
    within(exec.signal(15, true)).await.unwrap();
    within(exec.wait()).await;
    // Paused sandboxes can be released.
    within(sandbox.pause()).await.unwrap();
    within(sandbox.release()).await.unwrap();
    assert_eq!(sandbox.phase(), Phase::Gone);
    within(node.stop_all()).await;
}

async fn set_limits(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(small()).await.unwrap();
    let hog = ExecSpec::argv(["python3", "-c", "a = bytearray(100 << 20); print(len(a))"]);
    assert_eq!(run(&sandbox, hog.clone()).await.0.killed_by, Some(KilledBy::Oom));
    let mut limits = sandbox.spec().limits.clone();
    limits.memory = 256 << 20;
    within(sandbox.set_limits(limits.clone())).await.unwrap();
    assert_eq!(sandbox.spec().limits, limits);
    assert_eq!(run(&sandbox, hog).await.0.exit_code, 0);
    limits.disk *= 2;
    assert!(matches!(within(sandbox.set_limits(limits.clone())).await, Err(OpError::Unsupported { .. })));
    limits.memory = 0;
    assert!(matches!(within(sandbox.set_limits(limits)).await, Err(OpError::Spec(_))));
    within(node.stop_all()).await;
}

async fn many(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..60 {
        let sandbox = sandbox.clone();
        tasks.spawn(async move {
            let (result, out, err) = sh(&sandbox, &format!("echo {i}; seq {i} >&2; exit {i}")).await;
            let expected: String = (1..=i).map(|n| format!("{n}\n")).collect();
            assert_eq!((result.exit_code, out, err), (i, format!("{i}\n"), expected));
        });
    }
    while let Some(done) = within(tasks.join_next()).await {
        done.unwrap();
    }
    // Only so many ended ones are kept.
    for _ in 0..300 {
        sandbox.exec(ExecSpec::argv(["true"])).await.unwrap().wait().await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sandbox.execs().len(), 256);
    within(node.stop_all()).await;
}

async fn release(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    let exec = sandbox.exec(ExecSpec::shell("echo so far; sleep 60")).await.unwrap();
    let done = sandbox.exec(ExecSpec::shell("echo done")).await.unwrap();
    within(done.wait()).await;
    until(&exec, "so far").await;
    let both = tokio::join!(within(sandbox.release()), within(sandbox.release()));
    assert_eq!(both, (Ok(()), Ok(())));
    let (result, out, _) = finish(&exec).await;
    assert_eq!((result.killed_by, out.as_str()), (Some(KilledBy::Released), "so far\n"));
    assert_eq!(finish(&done).await.1, "done\n");
    assert_eq!(sandbox.phase(), Phase::Gone);
    within(sandbox.release()).await.unwrap();
    within(sandbox.gone()).await;
    assert!(node.get(sandbox.id()).is_none());
    assert_eq!(sandbox.exec(ExecSpec::argv(["true"])).await.unwrap_err(), ExecError::Gone);
    assert_eq!(within(sandbox.usage()).await, Err(OpError::Gone));
    within(node.stop_all()).await;
}
