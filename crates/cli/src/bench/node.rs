//! Sandboxes of a node in this process, without HTTP.

use super::figures::{Report, Samples};
use crate::{
    failure::{Failure, Outcome},
    progress, remote,
};
use csb_engine::Handle;
use csb_node::{Node, NodeConfig, PoolConfig, WardenSource};
use csb_types::{ExecSpec, SandboxSpec, StartedBy};
use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

/// A node of its own in a temporary directory, ended with everything in it.
async fn with_node<T>(pool: u32, measure: impl AsyncFnOnce(&Arc<Node>) -> Outcome<T>) -> Outcome<T> {
    let dir = tempfile::Builder::new()
        .prefix("csb-bench-")
        .tempdir()
        .map_err(|e| Failure::because("cannot make a temporary directory", &e))?;
    let config = NodeConfig {
        data_dir: dir.path().to_owned(),
        warden: WardenSource::Daemon,
        pool: PoolConfig { min: pool, max: pool, spec: SandboxSpec::default() },
        default_template: "host".into(),
        aliases: Default::default(),
    };
    let node = Node::start(config).await.map_err(|e| Failure::of(&e).hint("see `csb doctor`"))?;
    let result = measure(&node).await;
    node.stop_all().await;
    result
}

async fn make(node: &Node) -> Outcome<Handle> {
    node.create(SandboxSpec::default()).await.map_err(|e| Failure::because("cannot start a sandbox", &e))
}

async fn end(handle: &Handle) -> Outcome {
    handle.release().await.map_err(|e| Failure::because("cannot release a sandbox", &e))
}

/// Runs `echo x` and returns when its output is here.
async fn first_output(handle: &Handle) -> Outcome {
    let exec = handle.exec(ExecSpec::argv(["/bin/echo", "x"])).await.map_err(|e| Failure::of(&e))?;
    match exec.output(0).next().await {
        Some(chunk) if chunk.bytes.starts_with(b"x") => Ok(()),
        _ => Err(Failure::new("`echo x` in a sandbox did not print `x`")),
    }
}

async fn run(handle: &Handle) -> Outcome {
    let exec = handle.exec(ExecSpec::argv(["/bin/true"])).await.map_err(|e| Failure::of(&e))?;
    let result = exec.wait().await;
    if result.exit_code == 0 { Ok(()) } else { Err(Failure::new("`true` in a sandbox failed")) }
}

fn word(how: StartedBy) -> String {
    match how {
        StartedBy::Claim => "claim".into(),
        StartedBy::Cold => "cold".into(),
    }
}

async fn starts(node: &Arc<Node>, name: &'static str, n: u32, pool: u32) -> Outcome<Report> {
    let bar = progress::steps(n.into(), name);
    let mut samples = Samples::default();
    let mut how = None;
    for i in 0..=n {
        filled(node, pool).await?;
        let start = Instant::now();
        let handle = make(node).await?;
        first_output(&handle).await?;
        if i > 0 {
            samples.add(start.elapsed());
        }
        // One of the other kind would make the figures a mixture.
        if *how.get_or_insert(handle.started_by()) != handle.started_by() {
            return Err(Failure::new(
                "some sandboxes were claimed and some were built: the figures would mean nothing",
            ));
        }
        end(&handle).await?;
        bar.at(i.into());
    }
    Ok(Report { started_by: how.map(word), ..Report::new(name, &samples) })
}

/// Waits until the pool has at least one sandbox ready.
async fn filled(node: &Node, pool: u32) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(30);
    while pool > 0 && node.pool_stats().ready == 0 {
        if Instant::now() > deadline {
            return Err(Failure::new("the pool stays empty").hint("see `csb doctor`"));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

pub fn create(n: u32) -> Outcome<Report> {
    remote::block_on(with_node(0, async |node| starts(node, "create", n, 0).await))
}

pub fn claim(n: u32) -> Outcome<Report> {
    const POOL: u32 = 8;
    remote::block_on(with_node(POOL, async |node| starts(node, "claim", n, POOL).await))
}

pub fn exec(n: u32) -> Outcome<Report> {
    remote::block_on(with_node(0, async |node| {
        let handle = make(node).await?;
        let bar = progress::steps(n.into(), "exec");
        let mut samples = Samples::default();
        for i in 0..=n {
            let start = Instant::now();
            run(&handle).await?;
            if i > 0 {
                samples.add(start.elapsed());
            }
            bar.at(i.into());
        }
        end(&handle).await?;
        Ok(Report::new("exec", &samples))
    }))
}

pub fn release(n: u32) -> Outcome<Report> {
    remote::block_on(with_node(0, async |node| {
        let bar = progress::steps(n.into(), "release");
        let mut samples = Samples::default();
        for i in 0..=n {
            let handle = make(node).await?;
            run(&handle).await?;
            let start = Instant::now();
            end(&handle).await?;
            if i > 0 {
                samples.add(start.elapsed());
            }
            bar.at(i.into());
        }
        Ok(Report::new("release", &samples))
    }))
}

pub fn density(n: u32) -> Outcome<Report> {
    remote::block_on(with_node(0, async |node| {
        let first = make(node).await?;
        run(&first).await?;
        let bar = progress::steps(n.into(), "density");
        let before = available_kib()?;
        let mut samples = Samples::default();
        let mut handles = Vec::new();
        for i in 0..n {
            let start = Instant::now();
            let handle = make(node).await?;
            first_output(&handle).await?;
            samples.add(start.elapsed());
            // A sandbox in which nothing runs is no measure of one in use.
            handle.exec(ExecSpec::argv(["/bin/sleep", "86400"])).await.map_err(|e| Failure::of(&e))?;
            handles.push(handle);
            bar.at(i.into());
        }
        let kib = before.saturating_sub(available_kib()?) as f64 / f64::from(n);
        let live = handles.iter().filter(|h| h.execs().iter().any(|e| e.result().is_none())).count();
        for handle in handles.iter().chain([&first]) {
            end(handle).await?;
        }
        let how = first.started_by();
        Ok(Report {
            live: Some(live),
            kib_each: Some(kib.round()),
            started_by: Some(word(how)),
            ..Report::new("density", &samples)
        })
    }))
}

/// `MemAvailable` of proc(5): all memory, the kernel's own for namespaces and cgroups included.
fn available_kib() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|e| Failure::because("cannot read /proc/meminfo", &e))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Failure::new("/proc/meminfo names no available memory"))
}
