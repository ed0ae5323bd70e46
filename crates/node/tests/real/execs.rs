//! Commands: streams, ends, limits.

use crate::support::{Host, run, sh, trial, within};
use csb_types::{ExecSpec, KilledBy, SandboxSpec, StartedBy};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    vec![trial("a_command_runs_and_its_streams_and_exit_code_come_back", streams)]
}

async fn streams(host: Host) {
    let node = host.node(0).await;
    let sandbox = node.create(SandboxSpec::default()).await.unwrap();
    assert_eq!(sandbox.started_by(), StartedBy::Cold);
    let (result, out, err) = sh(&sandbox, "echo out; echo err >&2; exit 3").await;
    assert_eq!((result.exit_code, result.signal, out.as_str(), err.as_str()), (3, None, "out\n", "err\n"));
    assert_eq!((result.killed_by, result.truncated), (None, false));
    within(sandbox.release()).await.unwrap();
    assert!(node.list().is_empty());
    within(node.stop_all()).await;
    let _ = (Duration::ZERO, KilledBy::Oom, ExecSpec::argv(["a"]));
    let _ = run;
}
