//! `csb ps`: sandboxes, or the execs of one.

use crate::{connect, failure::Outcome, options::RemoteArgs, print};
use clap::Args;
use csb_api::{CommandRequest, ExecState, ExecView, SandboxView, StartedByName};
use csb_types::format_bytes;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb ps                 your sandboxes
  csb ps SANDBOX         its commands
  csb rm $(csb ps -q)    release them all")]
pub struct PsArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
    /// List the commands of this sandbox instead
    #[arg(value_name = "SANDBOX")]
    sandbox: Option<String>,
}

pub async fn ps(args: PsArgs, json: bool) -> Outcome {
    let client = connect::client(&args.remote).await?;
    match &args.sandbox {
        Some(id) => {
            let execs = client.sandbox(id).execs().await?;
            let id = |e: &ExecView| e.exec_id.clone();
            show(&execs, args.quiet, json, id, &["EXEC", "STATE", "EXIT", "AGE", "COMMAND"], exec_row)
        }
        None => {
            let all = client.all_sandboxes(None).await?;
            let id = |s: &SandboxView| s.sandbox_id.clone();
            let head = ["SANDBOX", "STATE", "TEMPLATE", "CPU", "MEMORY", "START", "AGE", "EXPIRES"];
            show(&all, args.quiet, json, id, &head, sandbox_row)
        }
    }
}

pub fn show<T: serde::Serialize>(
    items: &[T],
    quiet: bool,
    json: bool,
    id: impl Fn(&T) -> String,
    head: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Outcome {
    if json {
        return print::json(&serde_json::json!({ "items": items }));
    }
    if quiet {
        return print::out(&items.iter().map(|item| id(item) + "\n").collect::<String>());
    }
    print::out(&print::table(head, &items.iter().map(row).collect::<Vec<_>>()))
}

fn sandbox_row(sandbox: &SandboxView) -> Vec<String> {
    let how = match sandbox.started_by {
        StartedByName::Claim => "claim",
        StartedByName::Cold => "cold",
    };
    vec![
        sandbox.sandbox_id.clone(),
        sandbox.state.as_str().into(),
        sandbox.template.clone(),
        format!("{}", sandbox.resources.cpu),
        format_bytes(sandbox.resources.memory),
        format!("{how} {:.2} ms", sandbox.start_ms),
        print::age(sandbox.created_at),
        sandbox.expires_at.map_or_else(|| "-".into(), print::until),
    ]
}

fn exec_row(exec: &ExecView) -> Vec<String> {
    let state = match exec.state {
        ExecState::Running => "running",
        ExecState::Ended => "ended",
    };
    let command = match &exec.command {
        CommandRequest::Shell(line) => line.clone(),
        CommandRequest::Argv(argv) => argv.join(" "),
    };
    vec![
        exec.exec_id.clone(),
        state.into(),
        exec.exit_code.map_or_else(|| "-".into(), |code| code.to_string()),
        print::age(exec.started_at),
        command.chars().take(60).collect(),
    ]
}
