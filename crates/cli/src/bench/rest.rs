//! Sandboxes of a server, over HTTP on a loopback port.

use super::{
    figures::{Report, Samples},
    limits,
    node::interrupted,
};
use crate::{
    failure::{Failure, Outcome},
    progress, remote,
};
use csb_client::{Client, argv};
use futures_util::{StreamExt, future::try_join_all};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// This program as a server with a temporary data directory.
pub struct Server {
    child: Child,
    dir: tempfile::TempDir,
    url: String,
    /// Of a server that gives nobody a token.
    admin_key: Option<String>,
}

impl Server {
    /// With `pool` sandboxes kept ready; none: as it is by itself.
    fn start(pool: Option<u32>) -> Outcome<Self> {
        Self::start_as(true, pool, &[])
    }

    /// `dev`: every program of this host gets a token. `env` besides this program's own environment.
    pub fn start_as(dev: bool, pool: Option<u32>, env: &[(&str, String)]) -> Outcome<Self> {
        let fail = |error: &std::io::Error| Failure::because("cannot start a server", error);
        let dir = tempfile::Builder::new().prefix("csb-bench-").tempdir().map_err(|e| fail(&e))?;
        let program = std::env::current_exe().map_err(|e| fail(&e))?;
        let mut child = Command::new(program)
            .args(["--json", "serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path())
            .args(["--set", "rate.per_second=100000", "--set", "rate.burst=100000"])
            .args(["--set", "http.user_requests=10000", "--set", "http.connections=10000"])
            .args(["--set", "log.filter=error", "--set", "quota.sandboxes_per_user=100000"])
            .args(dev.then_some("--dev"))
            .args(pool.iter().flat_map(|n| ["pool.min", "pool.max"].map(|key| format!("--set={key}={n}"))))
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| fail(&e))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line).map_err(|e| fail(&e))?;
        }
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let admin_key = ready["admin_key"].as_str().map(std::fs::read_to_string).transpose().map_err(|e| fail(&e))?;
        let admin_key = admin_key.map(|key| key.trim().to_owned());
        let server = Self { child, dir, url: ready["url"].as_str().unwrap_or_default().to_owned(), admin_key };
        if server.url.is_empty() {
            return Err(Failure::new("the server did not start"));
        }
        Ok(server)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn client(&self) -> Outcome<Client> {
        if let Some(key) = &self.admin_key {
            return Ok(Client::builder(&self.url).api_key(key.clone()).build()?);
        }
        let anonymous = Client::builder(&self.url).build()?;
        let token = anonymous.token(&Default::default()).await?;
        Ok(Client::builder(&self.url).token(token.access_token).build()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(program) = std::env::current_exe() {
            let stop = Command::new(program)
                .args(["warden", "stop", "--data-dir"])
                .arg(self.dir.path())
                .stdout(Stdio::null())
                .status();
            if !stop.is_ok_and(|status| status.success()) {
                eprintln!("csb: sandboxes of `{}` may be left", self.dir.path().display());
            }
        }
    }
}

/// Sandboxes made at a time while neighbours are made.
const MAKERS: usize = 4;

/// Sandboxes that have run a command and stay.
async fn neighbours(client: &Client, live: u32) -> Outcome {
    limits::check(live)?;
    let bar = progress::steps(live.into(), "live");
    let mut made = futures_util::stream::iter(0..live)
        .map(|_| async {
            let sandbox = client.create_sandbox(&Default::default()).await?;
            let outcome = sandbox.run(&argv(["/bin/echo", "x"])).await?;
            if outcome.stdout == b"x\n" { Ok(()) } else { Err(Failure::new("`echo x` in a sandbox did not print `x`")) }
        })
        .buffer_unordered(MAKERS);
    let mut done = 0;
    while let Some(one) = made.next().await {
        one?;
        done += 1;
        bar.at(done);
    }
    Ok(())
}

/// A command, and a look at a sandbox: what a user waits for beside so many that live.
pub fn rest(n: u32, live: u32) -> Outcome<Vec<Report>> {
    let server = Server::start(None)?;
    remote::block_on(async {
        tokio::select! {
            result = answers(&server, n, live) => result,
            interrupted = interrupted() => interrupted,
        }
    })
}

async fn answers(server: &Server, n: u32, live: u32) -> Outcome<Vec<Report>> {
    let client = server.client().await?;
    neighbours(&client, live).await?;
    let sandbox = client.create_sandbox(&Default::default()).await?;
    let (mut commands, mut looks) = (Samples::default(), Samples::default());
    for i in 0..=n {
        let start = Instant::now();
        let outcome = sandbox.run(&argv(["/bin/true"])).await?;
        let took = start.elapsed();
        if outcome.exit_code != 0 {
            return Err(Failure::new("`true` in a sandbox failed"));
        }
        let start = Instant::now();
        sandbox.view().await?;
        if i > 0 {
            commands.add(took);
            looks.add(start.elapsed());
        }
    }
    let live = (live > 0).then_some(live as usize);
    Ok(vec![Report { live, ..Report::new("rest", &commands) }, Report { live, ..Report::new("look", &looks) }])
}

pub fn burst(n: u32, pool: Option<u32>) -> Outcome<Report> {
    let server = Server::start(pool)?;
    remote::block_on(async {
        let client = server.client().await?;
        // The first sandbox of a data directory also makes the template.
        let first = client.create_sandbox(&Default::default()).await?;
        first.run(&argv(["/bin/true"])).await?;
        first.release().await?;
        while pool.is_some_and(|pool| pool > 0) && client.stats().await?.pool.ready < u64::from(pool.unwrap_or(0)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let start = Instant::now();
        let all = (0..n).map(|_| async {
            let sandbox = client.create_sandbox(&Default::default()).await?;
            let outcome = sandbox.run(&argv(["/bin/echo", "x"])).await?;
            if outcome.stdout != b"x\n" {
                return Err(Failure::new("`echo x` in a sandbox did not print `x`"));
            }
            Ok::<(Duration, String), Failure>((start.elapsed(), sandbox.id().to_owned()))
        });
        let done = try_join_all(all).await?;
        let total = start.elapsed();
        let live = client.all_sandboxes(Some("running")).await?.len();
        let mut samples = Samples::default();
        for (took, id) in &done {
            samples.add(*took);
            client.sandbox(id).release().await?;
        }
        Ok(Report {
            live: Some(live),
            total: Some((total.as_secs_f64() * 1e3).round()),
            ..Report::new("burst", &samples)
        })
    })
}
