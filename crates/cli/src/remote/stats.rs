//! `csb stats`: what sandboxes use, and how the server's pool does.

use super::list::show;
use crate::{connect, failure::Outcome, options::RemoteArgs, print, terminal};
use clap::Args;
use csb_api::{PoolView, StatsView};
use csb_client::Client;
use csb_types::format_bytes;
use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb stats                the pool, and your sandboxes
  csb stats --watch ID     once a second, with the CPU used since")]
pub struct StatsArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Once a second until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Sandboxes [default: all of yours]
    #[arg(value_name = "SANDBOX")]
    sandboxes: Vec<String>,
}

pub async fn stats(args: StatsArgs, json: bool) -> Outcome {
    let client = connect::client(&args.remote).await?;
    let mut before: HashMap<String, (Instant, u64)> = HashMap::new();
    loop {
        let pool = if args.sandboxes.is_empty() { pool(&client).await? } else { None };
        let all = figures(&client, &args.sandboxes).await?;
        let screen = args.watch && !json && terminal::is_terminal(io::stdout());
        if screen {
            print::out("\x1b[H\x1b[2J")?;
        }
        if json {
            print::json(&serde_json::json!({ "server": pool, "items": all }))?;
        } else {
            if let Some(pool) = &pool {
                print::line(pool_line(pool))?;
            }
            let head = ["SANDBOX", "CPU", "MEMORY", "PEAK", "PIDS", "DISK", "OOM"];
            show(&all, false, false, |s| s.sandbox_id.clone(), &head, |s| row(s, before.get(&s.sandbox_id)))?;
        }
        if !args.watch {
            return Ok(());
        }
        before = all.into_iter().map(|s| (s.sandbox_id, (Instant::now(), s.cpu_usec))).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The server's own figures, where the caller may see them.
async fn pool(client: &Client) -> Outcome<Option<PoolView>> {
    match client.stats().await {
        Ok(view) => Ok(Some(view)),
        Err(error) if error.code() == Some("role_denied") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn figures(client: &Client, ids: &[String]) -> Outcome<Vec<StatsView>> {
    if !ids.is_empty() {
        let mut all = Vec::new();
        for id in ids {
            all.push(client.sandbox(id).stats().await?);
        }
        return Ok(all);
    }
    let mut all = Vec::new();
    for sandbox in client.all_sandboxes(None).await? {
        match client.sandbox(sandbox.sandbox_id).stats().await {
            Ok(stats) => all.push(stats),
            // It went between the two questions.
            Err(error) if matches!(error.code(), Some("sandbox_not_found" | "sandbox_releasing")) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

fn pool_line(view: &PoolView) -> String {
    let (pool, sandboxes) = (&view.pool, &view.sandboxes);
    format!(
        "running {}, paused {}; pool: {} ready of {} to {}, {} claims, {} cold starts, {} failures; warden {} ({})",
        sandboxes.running,
        sandboxes.paused,
        pool.ready,
        pool.min,
        pool.max,
        pool.claims,
        pool.colds,
        pool.failures,
        view.warden.pid,
        view.warden.mode
    )
}

fn row(stats: &StatsView, before: Option<&(Instant, u64)>) -> Vec<String> {
    let cpu = match before {
        Some((then, usec)) => {
            let wall = then.elapsed().as_micros().max(1) as f64;
            format!("{:.0} %", 100.0 * stats.cpu_usec.saturating_sub(*usec) as f64 / wall)
        }
        None => format!("{:.2} s", stats.cpu_usec as f64 / 1e6),
    };
    vec![
        stats.sandbox_id.clone(),
        cpu,
        format!("{} / {}", format_bytes(stats.memory), format_bytes(stats.memory_limit)),
        format_bytes(stats.memory_peak),
        format!("{} / {}", stats.pids, stats.pids_limit),
        format!("{} / {}", format_bytes(stats.disk), format_bytes(stats.disk_limit)),
        stats.oom_kills.to_string(),
    ]
}
