//! A node of a test's own, in a directory of its own.

use csb_node::{Exec, Handle, Node, NodeConfig, PoolConfig, WardenSource};
use csb_types::{ExecResult, ExecSpec, SandboxSpec};
use libtest_mimic::Trial;
use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test by its name.
pub fn trial<F: Future<Output = ()>>(name: &'static str, body: fn(Host) -> F) -> Trial
where
    F: 'static,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let host = Host::new();
        let dir = host.dir.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(body(host))));
        // Also after a failure: the next test must not find this one's warden.
        runtime.block_on(async {
            // A node that the test did not shut down still locks the directory; its runtime goes first.
        });
        runtime.shutdown_background();
        stop_warden(&dir);
        let _ = std::fs::remove_dir_all(&dir);
        match outcome {
            Ok(()) => Ok(()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                Err(text.unwrap_or_else(|| "it panicked".into()).into())
            }
        }
    })
}

fn stop_warden(dir: &Path) {
    if let Ok(Some(conn)) = csb_warden::connect(dir) {
        let stop = csb_wire::ToWarden::Stop { seq: 1 };
        let hello = csb_wire::ToWarden::Hello { version: csb_wire::VERSION };
        for frame in [hello, stop] {
            let _ = conn.send(&csb_wire::encode(&frame), &[]);
        }
        while let Ok(Some(_)) = conn.recv() {}
    }
}

/// Where a test's nodes live.
pub struct Host {
    pub dir: PathBuf,
}

impl Host {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("csb-node-{}", csb_types::SessionId::random()));
        std::fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    /// A server on this host; `pool` sandboxes are kept ready.
    pub async fn node(&self, pool: u32) -> Arc<Node> {
        let config = NodeConfig {
            data_dir: self.dir.clone(),
            warden: WardenSource::Daemon,
            pool: PoolConfig { min: pool, max: pool, spec: SandboxSpec::default() },
            default_template: "host".into(),
            aliases: [("python:3".into(), "host".into())].into(),
        };
        Node::start(config).await.unwrap()
    }
}

/// Runs a line in a shell and waits for its end.
pub async fn sh(sandbox: &Handle, line: &str) -> (ExecResult, String, String) {
    run(sandbox, ExecSpec::shell(line)).await
}

/// Runs a command and waits for its end.
pub async fn run(sandbox: &Handle, spec: ExecSpec) -> (ExecResult, String, String) {
    finish(&sandbox.exec(spec).await.unwrap()).await
}

/// Waits for an exec's end.
pub async fn finish(exec: &Exec) -> (ExecResult, String, String) {
    let result = within(exec.wait()).await;
    let (out, err) = exec.read_all().await;
    (result, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Fails rather than hangs.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}
