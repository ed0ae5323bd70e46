//! A node of a test's own, in a directory of its own.

use csb_node::{Exec, Handle, Node, NodeConfig, PoolConfig, WardenSource, WorkspaceConfig};
use csb_types::{ExecResult, ExecSpec, Limits, SandboxSpec};
use libtest_mimic::Trial;
use rustix::process::Pid;
use std::{
    collections::HashSet,
    ffi::OsString,
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
        let _ = csb_warden::stop(&conn);
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
            pool: PoolConfig { min: pool, max: pool, specs: vec![SandboxSpec::default()] },
            default_template: "host".into(),
            aliases: [("python:3".into(), "host".into())].into(),
            backends: vec![],
            workspaces: Some(WorkspaceConfig {
                idle: Duration::from_millis(200),
                ..WorkspaceConfig::at(self.dir.join("workspaces"))
            }),
            pressure: None,
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

    /// Kills the processes that wait to become sandboxes, and those that fork them, and waits for their ends.
    pub async fn kill_waiting(&self) {
        let inits = inits(&self.dir);
        let all = children(&self.dir).into_iter().chain(forkers(&self.dir));
        let waiting: Vec<Pid> = all.filter_map(Pid::from_raw).filter(|pid| !inits.contains(pid)).collect();
        assert!(!waiting.is_empty());
        for pid in &waiting {
            // Some live only for a moment.
            let _ = rustix::process::kill_process(*pid, rustix::process::Signal::KILL);
        }
        within(async {
            while children(&self.dir).into_iter().filter_map(Pid::from_raw).any(|pid| waiting.contains(&pid)) {
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

fn is_named(pid: i32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|text| text.trim_end() == name)
}

fn all_children(dir: &Path) -> Vec<i32> {
    let warden = warden(dir).unwrap_or(0);
    let text = std::fs::read_to_string(format!("/proc/{warden}/task/{warden}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Those of the warden's children that fork the others.
fn forkers(dir: &Path) -> Vec<i32> {
    all_children(dir).into_iter().filter(|pid| is_named(*pid, "csb-forker")).collect()
}

/// The warden's children that are, or wait to become, sandboxes.
fn children(dir: &Path) -> Vec<i32> {
    all_children(dir).into_iter().filter(|pid| !is_named(*pid, "csb-forker")).collect()
}

/// The inits of the warden of `dir`; its other children wait to become one.
fn inits(dir: &Path) -> Vec<Pid> {
    children(dir).into_iter().filter(|pid| is_named(*pid, "csb-init")).filter_map(Pid::from_raw).collect()
}

fn warden(dir: &Path) -> Option<i32> {
    let wanted = format!("CSB_WARDEN_DIR={}", dir.display());
    let mut pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        // Its children have its environment, and names of their own.
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "csb-warden\n") && {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|v| v == wanted.as_bytes())
        }
    })
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
    /// What is there now.
    pub fn now(dir: &Path) -> Self {
        let count = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
        // Others on this host mount as they like.
        let mine = dir.to_string_lossy().into_owned();
        let mounts = |path: &str| {
            std::fs::read_to_string(path).unwrap_or_default().lines().filter(|line| line.contains(&mine)).count()
        };
        // Emptied, they wait for another sandbox, and go when none comes.
        let is_kept = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("free-");
        let inside = |name: &str| {
            std::fs::read_dir(dir.join(name)).map_or(0, |all| all.flatten().filter(|entry| !is_kept(entry)).count())
        };
        let warden = warden(dir).unwrap_or(0);
        Self {
            inits: inits(dir).len(),
            cgroups: cgroups(dir),
            entries: inside("spool") + inside("sandboxes") + inside("disks"),
            descriptors: count("/proc/self/fd"),
            mounts: mounts("/proc/self/mountinfo"),
            // One for each process that forks, whose number changes.
            warden_descriptors: count(&format!("/proc/{warden}/fd")).saturating_sub(forkers(dir).len()),
            warden_mounts: mounts(&format!("/proc/{warden}/mountinfo")),
        }
    }

    /// Waits until no more is left than there was `before`.
    pub async fn settles(dir: &Path, before: &Left) {
        let mut now = Left::now(dir);
        for _ in 0..200 {
            if now == *before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
            now = Left::now(dir);
        }
        assert_eq!(now, *before);
    }
}

/// Groups of sandboxes of the warden of `dir`, in all hierarchies, beyond those of the processes that wait.
fn cgroups(dir: &Path) -> usize {
    use std::hash::{DefaultHasher, Hash, Hasher};
    // As the warden names its own: whoever looks after its end cannot ask it.
    let mut hasher = DefaultHasher::new();
    std::fs::canonicalize(dir).unwrap().as_path().hash(&mut hasher);
    let mut names = HashSet::new();
    below(Path::new("/sys/fs/cgroup"), &format!("csb-{:016x}", hasher.finish()), 0, &mut names);
    assert!(!names.is_empty() || children(dir).is_empty(), "a warden with children has groups");
    names.len().saturating_sub(children(dir).len() - inits(dir).len())
}

fn below(dir: &Path, name: &str, depth: u32, found: &mut HashSet<OsString>) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if dir.ends_with(name) {
            found.insert(entry.file_name());
        } else if depth < 6 {
            below(&entry.path(), name, depth + 1, found);
        }
    }
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
