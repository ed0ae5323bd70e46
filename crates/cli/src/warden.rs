//! `csb warden`: the process that holds a server's sandboxes and outlives it.

use crate::{
    failure::{Failure, Outcome},
    options, print,
};
use clap::{Args, Subcommand};
use csb_sys::process::PidFd;
use csb_wire::{FromWarden, ToWarden, VERSION};
use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

/// For a warden to end after it said that it does.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub enum WardenCommand {
    /// Start the process that will hold the sandboxes of a data directory, where none runs
    #[command(after_help = "\
A server starts it by itself. Started before, in a control group of its own, it is apart from the server's: see
docs/guides/operating.md for systemd.")]
    Start(StartArgs),
    /// End all sandboxes of a data directory and the process that holds them
    #[command(after_help = "\
Stopping the server leaves sandboxes running, so that the next one finds them; this ends them. Those of kinds docker, oci,
microvm and k8s are held by other programs: it names them, and does not end them.")]
    Stop(StopArgs),
}

#[derive(Debug, Args)]
pub struct StartArgs {
    /// The server's data directory
    #[arg(long, env = "CSB_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    /// The server's data directory
    #[arg(long, env = "CSB_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub fn warden(command: WardenCommand, json: bool) -> Outcome {
    let args = match command {
        WardenCommand::Start(args) => return start(&options::data_dir(args.data_dir.as_ref()), json),
        WardenCommand::Stop(args) => args,
    };
    let data_dir = options::data_dir(args.data_dir.as_ref());
    let fail =
        |error: std::io::Error| Failure::because(format!("cannot stop the warden of `{}`", data_dir.display()), &error);
    let _keep_servers_out = no_server(&data_dir)?;
    let stopped = match csb_warden::connect(&data_dir).map_err(fail)? {
        Some(connection) => Some(stop(&connection).map_err(fail)?),
        None => None,
    };
    csb_node::forget_memory(&data_dir).map_err(fail)?;
    let elsewhere = csb_node::elsewhere(&data_dir).map_err(fail)?;
    if json {
        let ids: Vec<&str> = elsewhere.iter().map(|(id, _)| id.as_str()).collect();
        let told =
            serde_json::json!({ "stopped": stopped.is_some(), "sandboxes": stopped.unwrap_or(0), "elsewhere": ids });
        return print::json(&told);
    }
    match stopped {
        Some(held) => print::line(format!("stopped the warden and {held} sandboxes"))?,
        None => print::line(format!("no warden runs for `{}`", data_dir.display()))?,
    }
    if elsewhere.is_empty() {
        return Ok(());
    }
    print::line("these are not the warden's, and may live on:")?;
    for (id, kind) in &elsewhere {
        print::line(format!("  {id} ({})", kind.name()))?;
    }
    print::line("start the server again, and end them with `csb rm --all`")
}

fn start(data_dir: &Path, json: bool) -> Outcome {
    let failed = |error: &dyn std::error::Error| {
        Failure::because(format!("cannot start the warden of `{}`", data_dir.display()), error)
    };
    let runs = csb_warden::connect(data_dir).map_err(|e| failed(&e))?.is_some();
    if !runs {
        let connection = csb_warden::start_daemon(data_dir).map_err(|e| failed(&e))?;
        // It answers once it has prepared the host, or ends and says why in its log.
        let hello = csb_wire::encode(&ToWarden::Hello { version: VERSION });
        let welcome = connection.send(&hello, &[]).and_then(|()| connection.recv());
        if !matches!(welcome, Ok(Some(_))) {
            let log = data_dir.join("run/warden.log");
            return Err(Failure::new(format!("the warden of `{}` ended at once", data_dir.display()))
                .hint(format!("`{}` says why", log.display())));
        }
    }
    match json {
        true => print::json(&serde_json::json!({ "started": !runs })),
        false if runs => print::line(format!("a warden runs for `{}` already", data_dir.display())),
        false => print::line(format!("started the warden of `{}`", data_dir.display())),
    }
}

/// A server would miss its warden and start another. The lock is the server's own; none without a data directory.
fn no_server(data_dir: &Path) -> Outcome<Option<File>> {
    let Ok(lock) = File::options().write(true).open(data_dir.join("run/server.lock")) else { return Ok(None) };
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let failure = Failure::new(format!("a server works in `{}`", data_dir.display()));
            Err(failure.hint("end it first; or leave it and release sandboxes with `csb rm --all`"))
        }
        _ => Ok(Some(lock)),
    }
}

/// Says stop and waits until it is done; how many sandboxes there were.
fn stop(connection: &csb_sys::packet::Conn) -> std::io::Result<u32> {
    const SEQ: u64 = 1;
    let other = |what: String| std::io::Error::other(what);
    connection.send(&csb_wire::encode(&ToWarden::Hello { version: VERSION }), &[])?;
    connection.send(&csb_wire::encode(&ToWarden::Stop { seq: SEQ }), &[])?;
    let mut sandboxes = 0;
    let mut done = false;
    let mut warden = None;
    while let Some((bytes, _)) = connection.recv()? {
        match csb_wire::decode(&bytes).map_err(|e| other(e.to_string()))? {
            FromWarden::Welcome { held, pid, .. } => (sandboxes, warden) = (held, PidFd::open(pid).ok()),
            FromWarden::Done { seq: SEQ } => done = true,
            FromWarden::Failed { seq: SEQ, failure } => return Err(other(failure.to_string())),
            _ => {}
        }
    }
    // It answers before it has ended. Whoever starts one next must not meet this one, and nothing of it keeps the disk busy.
    if warden.is_some_and(|warden| !warden.wait(PATIENCE).unwrap_or(true)) {
        return Err(other("it does not end".into()));
    }
    if done { Ok(sandboxes) } else { Err(other("it ended without an answer".into())) }
}
