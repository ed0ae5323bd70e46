//! Sandboxes of a node in this process, without HTTP.

use super::{
    capacity::Budgets,
    compare,
    figures::{Report, Samples},
    limits,
};
use crate::{
    failure::{Failure, Outcome},
    progress, remote,
};
use csb_engine::Handle;
use csb_node::{Node, NodeConfig, PoolConfig, WardenSource, WorkspaceConfig};
use csb_types::{ExecSpec, Kind, SandboxSpec, StartedBy};
use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

/// A node of its own in a temporary directory, ended with everything in it.
async fn with_node<T>(kind: Kind, pool: u32, measure: impl AsyncFnOnce(&Arc<Node>) -> Outcome<T>) -> Outcome<T> {
    let dir = tempfile::Builder::new()
        .prefix("csb-bench-")
        .tempdir()
        .map_err(|e| Failure::because("cannot make a temporary directory", &e))?;
    let config = NodeConfig {
        data_dir: dir.path().to_owned(),
        warden: WardenSource::Daemon,
        pool: PoolConfig { min: pool, max: pool, specs: vec![spec(kind)] },
        default_template: "host".into(),
        aliases: Default::default(),
        backends: vec![],
        workspaces: Some(WorkspaceConfig::at(dir.path().join("workspaces"))),
        pressure: None,
    };
    let node = Node::start(config).await.map_err(|e| Failure::of(&e).hint("see `csb doctor`"))?;
    let all = async {
        first(&node, kind).await?;
        measure(&node).await
    };
    let result = tokio::select! {
        result = all => result,
        interrupted = interrupted() => interrupted,
    };
    node.stop_all().await;
    result
}

/// Ends when this program is told to: what it has made must not outlive it.
pub async fn interrupted<T>() -> Outcome<T> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e: std::io::Error| Failure::because("cannot wait for signals", &e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map_err(failed)?,
        _ = terminate.recv() => {}
    }
    Err(Failure::new("interrupted"))
}

/// What is made once, for the first sandbox of a kind, is no part of what another costs.
async fn first(node: &Node, kind: Kind) -> Outcome {
    match kind {
        Kind::Process => Ok(()),
        _ => end(&make(node, kind).await?).await,
    }
}

fn spec(kind: Kind) -> SandboxSpec {
    SandboxSpec { kind, ..SandboxSpec::default() }
}

async fn make(node: &Node, kind: Kind) -> Outcome<Handle> {
    node.create(spec(kind)).await.map_err(|e| Failure::because("cannot start a sandbox", &e))
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

/// Sandboxes that have run a command and stay, with the time each took. `after` each, it says whether to go on.
async fn fill(
    node: &Arc<Node>,
    kind: Kind,
    n: u32,
    name: &'static str,
    mut after: impl FnMut(u32) -> Outcome<bool>,
) -> Outcome<(Vec<Handle>, Samples)> {
    limits::check(n)?;
    let bar = progress::steps(n.into(), name);
    let mut samples = Samples::default();
    let mut handles = Vec::with_capacity(n as usize);
    for i in 0..n {
        let start = Instant::now();
        let handle = make(node, kind).await?;
        first_output(&handle).await?;
        samples.add(start.elapsed());
        handles.push(handle);
        bar.at(i.into());
        if !after(i + 1)? {
            break;
        }
    }
    Ok((handles, samples))
}

/// Sandboxes that have run a command and stay.
async fn neighbours(node: &Arc<Node>, kind: Kind, live: u32) -> Outcome<Vec<Handle>> {
    Ok(fill(node, kind, live, "live", |_| Ok(true)).await?.0)
}

/// How many of them run a command: all, or some failed, which is an error.
async fn all_work(handles: &[Handle]) -> Outcome<usize> {
    for handle in handles {
        run(handle).await?;
    }
    Ok(handles.len())
}

async fn starts(node: &Arc<Node>, name: &'static str, n: u32, pool: u32, live: u32, kind: Kind) -> Outcome<Report> {
    let neighbours = neighbours(node, kind, live).await?;
    let mut samples = Samples::default();
    let mut how = None;
    let mut outside = Samples::default();
    // With a pool, every other time begins with the same program without a sandbox: that finds processors as cold as a claim does.
    let rounds = if pool > 0 { 2 * n } else { n };
    let bar = progress::steps(rounds.into(), name);
    for i in 0..=rounds {
        filled(node, pool).await?;
        let is_beside = pool > 0 && i % 2 == 1;
        if is_beside {
            let mut echo = std::process::Command::new("/bin/echo");
            echo.arg("x");
            outside.add(compare::first_output(echo)?);
        }
        let start = Instant::now();
        let handle = make(node, kind).await?;
        first_output(&handle).await?;
        if i > 0 && !is_beside {
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
    let live = (live > 0).then_some(neighbours.len());
    let outside = (pool > 0).then(|| Report::new(name, &outside)).map(|outside| (outside.p50, outside.p99));
    Ok(Report { live, started_by: how.map(word), outside, ..Report::new(name, &samples) })
}

/// Waits until the pool is full: filling it is not part of a claim.
async fn filled(node: &Node, pool: u32) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(30);
    while node.pool_stats().ready < pool {
        if Instant::now() > deadline {
            return Err(Failure::new("the pool does not fill").hint("see `csb doctor`"));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

pub fn cold(n: u32, live: u32, kind: Kind) -> Outcome<Report> {
    remote::block_on(with_node(kind, 0, async |node| starts(node, "cold", n, 0, live, kind).await))
}

pub fn claim(n: u32, live: u32, kind: Kind) -> Outcome<Report> {
    const POOL: u32 = 8;
    remote::block_on(with_node(kind, POOL, async |node| starts(node, "claim", n, POOL, live, kind).await))
}

/// As many makers as keep every core busy, each making, running `echo` and releasing without a pause.
pub fn sustained(n: u32, live: u32, kind: Kind) -> Outcome<Report> {
    let makers = 2 * std::thread::available_parallelism().map_or(2, usize::from) as u32;
    remote::block_on(with_node(kind, 0, async |node| {
        let neighbours = neighbours(node, kind, live).await?;
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for maker in 0..makers {
            let node = node.clone();
            tasks.spawn(async move {
                let mut took = Vec::new();
                for _ in (maker..n).step_by(makers as usize) {
                    let start = Instant::now();
                    let handle = make(&node, kind).await?;
                    first_output(&handle).await?;
                    took.push(start.elapsed());
                    end(&handle).await?;
                }
                Ok::<_, Failure>(took)
            });
        }
        let mut samples = Samples::default();
        while let Some(done) = tasks.join_next().await {
            let took = done.map_err(|error| Failure::because("a maker failed", &error))??;
            took.into_iter().for_each(|took| samples.add(took));
        }
        let total = started.elapsed().as_secs_f64();
        Ok(Report {
            live: Some(neighbours.len()),
            total: Some((total * 1e3).round()),
            per_second: Some((f64::from(n) / total * 10.0).round() / 10.0),
            started_by: Some(word(StartedBy::Cold)),
            ..Report::new("sustained", &samples)
        })
    }))
}

pub fn exec(n: u32, live: u32, kind: Kind) -> Outcome<Report> {
    remote::block_on(with_node(kind, 0, async |node| {
        let neighbours = neighbours(node, kind, live).await?;
        let handle = make(node, kind).await?;
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
        Ok(Report { live: (live > 0).then_some(neighbours.len()), ..Report::new("exec", &samples) })
    }))
}

pub fn release(n: u32, kind: Kind) -> Outcome<Report> {
    remote::block_on(with_node(kind, 0, async |node| {
        let bar = progress::steps(n.into(), "release");
        let mut samples = Samples::default();
        for i in 0..=n {
            let handle = make(node, kind).await?;
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

pub fn density(n: u32, kind: Kind) -> Outcome<Report> {
    remote::block_on(with_node(kind, 0, async |node| {
        let first = make(node, kind).await?;
        run(&first).await?;
        let before = available_kib()?;
        let (handles, samples) = fill(node, kind, n, "density", |_| Ok(true)).await?;
        let kib = before.saturating_sub(available_kib()?) as f64 / f64::from(n);
        Ok(Report {
            // The first as well as the last.
            live: Some(all_work(&handles).await?),
            kib_each: Some(kib.round()),
            tenths: samples.tenths(),
            started_by: Some(word(first.started_by())),
            ..Report::new("density", &samples)
        })
    }))
}

/// Fills the host with at most `n` and says how many fitted each budget, what the node itself takes included.
pub fn capacity(n: u32, kind: Kind) -> Outcome<Report> {
    // Before the node: the server and the warden are a part of the budget.
    let before = available_kib()?;
    remote::block_on(with_node(kind, 0, async |node| {
        let mut budgets = Budgets::default();
        let (handles, samples) =
            fill(node, kind, n, "capacity", |count| Ok(budgets.see(count, before.saturating_sub(available_kib()?))))
                .await?;
        let used = before.saturating_sub(available_kib()?) as f64;
        Ok(Report {
            live: Some(all_work(&handles).await?),
            kib_each: Some((used / handles.len() as f64).round()),
            tenths: samples.tenths(),
            started_by: handles.first().map(|first| word(first.started_by())),
            budgets: Some(budgets.all()),
            ..Report::new("capacity", &samples)
        })
    }))
}

/// `MemAvailable` of proc(5): all memory, the kernel's own for namespaces and cgroups included.
pub fn available_kib() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|e| Failure::because("cannot read /proc/meminfo", &e))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Failure::new("/proc/meminfo names no available memory"))
}
