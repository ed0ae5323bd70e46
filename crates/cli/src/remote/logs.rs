//! `csb logs`: the output of a command, from its start or from where the reader likes.

use super::exec::{ended, piped};
use crate::{
    connect,
    failure::{Failure, Outcome},
    options::RemoteArgs,
    print,
};
use clap::Args;
use csb_api::{ExecState, ExecView};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb logs SANDBOX             output so far of its latest command
  csb logs -f SANDBOX EXEC     and what follows, until the command ends")]
pub struct LogsArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Go on until the command ends
    #[arg(short, long)]
    follow: bool,
    /// First byte of both streams together
    #[arg(long, default_value_t = 0, value_name = "BYTE")]
    from: u64,
    /// Sandbox
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Command, by its id [default: the latest]
    #[arg(value_name = "EXEC")]
    exec: Option<String>,
}

pub async fn logs(args: LogsArgs, json: bool) -> Outcome<u8> {
    let sandbox = connect::client(&args.remote).await?.sandbox(&args.sandbox);
    let exec = match &args.exec {
        Some(id) => sandbox.exec(id),
        None => {
            let latest: Option<ExecView> = sandbox.execs().await?.into_iter().max_by_key(|e| e.started_at);
            let Some(latest) = latest else {
                return Err(Failure::new(format!("sandbox `{}` has run no command", args.sandbox)));
            };
            sandbox.exec(latest.exec_id)
        }
    };
    let running = exec.view().await?.state == ExecState::Running;
    if json {
        if running && !args.follow {
            return Err(
                Failure::new(format!("command `{}` still runs", exec.id())).hint("pass --follow to wait for its end")
            );
        }
        print::json(&exec.wait_view().await?)?;
        return Ok(0);
    }
    if running && !args.follow {
        super::exec::so_far(&exec, args.from).await?;
        return Ok(0);
    }
    ended(&piped(exec.output(args.from), false).await?);
    Ok(0)
}
