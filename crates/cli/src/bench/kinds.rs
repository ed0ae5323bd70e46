//! Every kind of sandbox that a server has here, in turn, over HTTP: what all of them can be asked for in the same way.

use super::{
    figures::{Report, Samples},
    node::{available_kib, interrupted},
    rest::Server,
};
use crate::{
    failure::{Failure, Outcome},
    progress, remote,
};
use csb_api::{KeyRequest, KindName, SandboxKindRequest, SandboxRequest};
use csb_client::{Client, Sandbox, argv};
use serde::Serialize;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// A kind is measured for so long, but at least so often: some start in milliseconds, some in seconds.
const LONG: Duration = Duration::from_secs(20);
const LEAST: u32 = 3;
/// Commands for each sandbox that is started.
const COMMANDS: u32 = 3;
/// For the host to make again what is made ahead of time: otherwise the first hundred would seem to take no memory.
const SETTLE: Duration = Duration::from_secs(3);
/// Name of the server that kind `remote` is asked of.
const FAR: &str = "far";

/// What one kind costs here.
#[derive(Debug, Serialize)]
struct Row {
    /// Kind, and the runtime where it is not the kind's first.
    kind: String,
    /// Request for a sandbox to the end of its first command.
    start: Report,
    /// Request for one more command to its end.
    exec: Report,
    /// Sandboxes that were there at once, each of which had run a command.
    live: u32,
    /// Memory of this host that each of them took, KiB; none where it is another host's, or could not be told.
    kib_each: Option<f64>,
    /// What this host makes of the kind.
    note: Option<String>,
}

/// A kind that is not here.
#[derive(Debug, Serialize)]
struct Missing {
    kind: String,
    why_not: String,
}

#[derive(Debug, Serialize)]
pub struct Table {
    bench: &'static str,
    items: Vec<Row>,
    missing: Vec<Missing>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { kind, start, exec, live, kib_each, note } in &self.items {
            write!(f, "{kind}: start p50 {:.2} ms, p99 {:.2} ms, n {}; ", start.p50, start.p99, start.n)?;
            write!(f, "command p50 {:.2} ms, p99 {:.2} ms; {live} live", exec.p50, exec.p99)?;
            if let Some(kib) = kib_each {
                write!(f, ", {kib:.0} KiB each")?;
            }
            if let Some(note) = note {
                write!(f, " ({note})")?;
            }
            writeln!(f)?;
        }
        for Missing { kind, why_not } in &self.missing {
            writeln!(f, "{kind}: not here: {why_not}")?;
        }
        Ok(())
    }
}

/// At most `n` starts of each kind, and as many that live at once.
pub fn kinds(n: u32) -> Outcome<Table> {
    let far = Server::start_as(false, Some(0), &[])?;
    remote::block_on(async {
        tokio::select! {
            result = all(n, &far) => result,
            interrupted = interrupted() => interrupted,
        }
    })
}

async fn all(n: u32, far: &Server) -> Outcome<Table> {
    let key = KeyRequest { user_id: "bench".into(), role: None, name: None };
    let key = far.client().await?.create_key(&key).await?.api_key;
    let servers = ("REMOTE_SERVERS", format!("{FAR}={}", far.url()));
    let near = Server::start_as(true, Some(0), &[servers, ("REMOTE_FAR_KEY", key)])?;
    let client = near.client().await?;
    let (mut items, mut missing) = (Vec::new(), Vec::new());
    for view in client.kinds().await? {
        let name = view.name.known().map_or("unknown", csb_types::Kind::name);
        if !view.available {
            missing.push(Missing { kind: name.into(), why_not: view.why_not.unwrap_or_default() });
            continue;
        }
        items.push(row(&client, name.into(), view.name, None, view.note, n).await?);
        if view.name == KindName::Oci {
            // A kernel of its own: another kind of sandbox in all but its name.
            match row(&client, "oci, runsc".into(), view.name, Some("runsc"), None, n).await {
                Ok(row) => items.push(row),
                Err(failure) => missing.push(Missing { kind: "oci, runsc".into(), why_not: failure.to_string() }),
            }
        }
    }
    Ok(Table { bench: "kinds", items, missing })
}

async fn row(
    client: &Client,
    name: String,
    kind: KindName,
    runtime: Option<&str>,
    note: Option<String>,
    n: u32,
) -> Outcome<Row> {
    let asked = SandboxKindRequest { kind: Some(kind), runtime: runtime.map(Into::into), ..Default::default() };
    let request = SandboxRequest { sandbox: Some(asked), ..Default::default() };
    // What is made once, for the first sandbox of a kind, is no part of what another costs.
    started(client, &request).await?.release().await?;
    let bar = progress::steps((2 * n).into(), "kinds");
    let (mut starts, mut commands) = (Samples::default(), Samples::default());
    let begun = Instant::now();
    for i in 0..n {
        if i >= LEAST && begun.elapsed() > LONG {
            break;
        }
        let start = Instant::now();
        let sandbox = started(client, &request).await?;
        starts.add(start.elapsed());
        for _ in 0..COMMANDS {
            let start = Instant::now();
            echo(&sandbox).await?;
            commands.add(start.elapsed());
        }
        sandbox.release().await?;
        bar.at(i.into());
    }
    tokio::time::sleep(SETTLE).await;
    let (before, begun) = (available_kib()?, Instant::now());
    let mut live = Vec::new();
    while (live.len() as u32) < n && ((live.len() as u32) < LEAST || begun.elapsed() < LONG) {
        live.push(started(client, &request).await?);
        bar.at(u64::from(n) + live.len() as u64);
    }
    tokio::time::sleep(SETTLE).await;
    // Others may have given back more meanwhile.
    let used = before.checked_sub(available_kib()?).filter(|used| *used > 0);
    for sandbox in &live {
        echo(sandbox).await?;
    }
    let here = !matches!(kind, KindName::K8s);
    let row = Row {
        kind: name,
        start: Report::new("start", &starts),
        exec: Report::new("exec", &commands),
        live: live.len() as u32,
        kib_each: used.filter(|_| here).map(|used| (used as f64 / live.len() as f64).round()),
        note,
    };
    for sandbox in &live {
        sandbox.release().await?;
    }
    Ok(row)
}

/// A sandbox that has run a command.
async fn started(client: &Client, request: &SandboxRequest) -> Outcome<Sandbox> {
    let sandbox = client.create_sandbox(request).await?;
    echo(&sandbox).await?;
    Ok(sandbox)
}

async fn echo(sandbox: &Sandbox) -> Outcome {
    let outcome = sandbox.run(&argv(["/bin/echo", "x"])).await?;
    if outcome.stdout == b"x\n" { Ok(()) } else { Err(Failure::new("`echo x` in a sandbox did not print `x`")) }
}
