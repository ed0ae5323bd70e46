//! A node of a test's own, in a directory of its own.

use csb_node::{Exec, Handle, Node, NodeConfig, PoolConfig, WardenSource};
use csb_types::{ExecResult, ExecSpec, Limits, SandboxId, SandboxSpec};
use libtest_mimic::Trial;
use rustix::process::Pid;
use std::{
    collections::HashSet,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test by its name.
pub fn trial<F: Future<Output = ()> + 'static>(name: &'static str, body: fn(Host) -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let host = Host::new();
        let dir = host.dir.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(body(host))));
        runtime.shutdown_background();
        // Also after a failure.
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

impl Host {
    /// Waits until so many sandboxes are ready.
    pub async fn filled(&self, node: &Node, ready: u32) {
        within(async {
            while node.pool_stats().ready != ready {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until the warden has so many sandboxes.
    pub async fn processes(&self, count: usize) {
        within(async {
            while inits(&self.dir).len() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Kills the init of every sandbox of this host.
    pub fn kill_inits(&self) {
        for pid in inits(&self.dir) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

/// The children of the warden of `dir`.
fn inits(dir: &Path) -> Vec<Pid> {
    let Some(warden) = warden(dir) else { return Vec::new() };
    let children = std::fs::read_to_string(format!("/proc/{warden}/task/{warden}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn warden(dir: &Path) -> Option<i32> {
    let wanted = format!("CSB_WARDEN_DIR={}", dir.display());
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|b| *b == 0).any(|v| v == wanted.as_bytes())
    })
    .min()
}

/// What sandboxes could leave on a host.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    pub inits: usize,
    pub cgroups: usize,
    /// Files and directories of sandboxes in the data directory.
    pub entries: usize,
    descriptors: usize,
    mounts: usize,
    warden_descriptors: usize,
    warden_mounts: usize,
}

impl Left {
    /// What is there now; of cgroups only those that belong to `of`, as other tests run beside this one.
    pub fn now(dir: &Path, of: &HashSet<SandboxId>) -> Self {
        let count = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
        let lines = |path: &str| std::fs::read_to_string(path).unwrap_or_default().lines().count();
        let inside = |name: &str| count(dir.join(name).to_str().unwrap());
        let warden = warden(dir).unwrap_or(0);
        Self {
            inits: inits(dir).len(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), 0, of),
            entries: inside("spool") + inside("sandboxes") + inside("disks"),
            descriptors: count("/proc/self/fd"),
            mounts: lines("/proc/self/mounts"),
            warden_descriptors: count(&format!("/proc/{warden}/fd")),
            warden_mounts: lines(&format!("/proc/{warden}/mounts")),
        }
    }

    /// Waits until no more is left than there was `before`.
    pub async fn settles(dir: &Path, of: &HashSet<SandboxId>, before: &Left) {
        let mut now = Left::now(dir, of);
        for _ in 0..200 {
            if now == *before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
            now = Left::now(dir, of);
        }
        assert_eq!(now, *before);
    }
}

/// Directories named after these sandboxes.
fn cgroups(dir: &Path, depth: u32, of: &HashSet<SandboxId>) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    directories
        .map(|e| {
            let id = e.file_name().to_str().and_then(|n| n.parse().ok());
            let is_one = id.is_some_and(|id: SandboxId| of.contains(&id));
            usize::from(is_one) + if depth < 4 { cgroups(&e.path(), depth + 1, of) } else { 0 }
        })
        .sum()
}

/// A spec with little of everything.
pub fn small() -> SandboxSpec {
    let limits = Limits { memory: 64 << 20, pids: 32, disk: 16 << 20, inodes: 2000, ..Limits::default() };
    SandboxSpec { limits, ..SandboxSpec::default() }
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
