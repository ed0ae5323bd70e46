//! `csb warden`: the process that holds a server's sandboxes and outlives it.

use crate::{
    failure::{Failure, Outcome, exit},
    options, print, remote,
};
use clap::{Args, Subcommand};
use csb_wire::{ToWarden, VERSION};
use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

#[derive(Debug, Subcommand)]
pub enum WardenCommand {
    /// Start the process that will hold the sandboxes of a data directory, where none runs
    #[command(after_help = "\
A server starts it by itself. Started before, in a control group of its own, it is apart from the server's: see
docs/guides/operating.md for systemd.")]
    Start(StartArgs),
    /// End all sandboxes of a data directory and the process that holds them
    #[command(after_help = "\
Stopping the server leaves sandboxes running, so that the next one finds them; this ends them. Containers, virtual machines and
pods are ended as well: with the settings that their server has, from the same environment.")]
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
        Some(connection) => Some(csb_warden::stop(&connection).map_err(fail)?),
        None => None,
    };
    csb_node::forget_memory(&data_dir).map_err(fail)?;
    let guests = end_guests(&data_dir)?;
    let sandboxes = stopped.unwrap_or(0) + guests;
    if json {
        return print::json(&serde_json::json!({ "stopped": stopped.is_some(), "sandboxes": sandboxes }));
    }
    match stopped {
        Some(_) => print::line(format!("stopped the warden and {sandboxes} sandboxes")),
        None if guests > 0 => print::line(format!("stopped {guests} sandboxes; no warden runs")),
        None => print::line(format!("no warden runs for `{}`", data_dir.display())),
    }
}

/// Ends the sandboxes that other programs hold.
fn end_guests(data_dir: &Path) -> Outcome<u32> {
    if !data_dir.is_dir() {
        return Ok(0);
    }
    let flags = vec![("data_dir".to_owned(), data_dir.display().to_string())];
    let sources = csb_server::Sources { flags, ..csb_server::Sources::from_process() };
    let config = csb_server::Config::load(&sources).map_err(|error| Failure::of(&error).exit(exit::USAGE))?;
    let (ended, refused) =
        remote::block_on(async { csb_server::end_guests(&config).await.map_err(|error| Failure::of(&error)) })?;
    if refused.is_empty() {
        return Ok(ended);
    }
    let failure = Failure::new(format!("some sandboxes go on: {}", refused.join("; ")));
    Err(failure
        .hint("they are ended by `csb rm --all` beside a server, or by this command when what holds them answers"))
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
