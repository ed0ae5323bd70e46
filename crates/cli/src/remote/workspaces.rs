//! `csb workspaces`: directories of `local` sandboxes.

use crate::{
    connect,
    failure::{Failure, Outcome},
    options::{RemoteArgs, duration},
    print,
};
use clap::{Args, Subcommand};
use csb_api::{CleanRequest, CleanView};
use csb_types::format_bytes;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum WorkspacesCommand {
    /// Remove those that nobody has used for long
    #[command(after_help = "\
Examples:
  csb workspaces clean --older-than 30d --dry-run
  csb workspaces clean --older-than 30d --json

A directory of a sandbox that exists is never touched. With CLEANUP_SCHEDULE and
CLEANUP_IDLE_DAYS the server does this by itself: docs/guides/workspaces.md.")]
    Clean(CleanArgs),
}

#[derive(Debug, Args)]
pub struct CleanArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Those in which nothing was changed, and which no sandbox used, for this time: 30d, 12h
    #[arg(long, value_parser = duration, value_name = "TIME")]
    older_than: Duration,
    /// Say which, and leave them
    #[arg(long)]
    dry_run: bool,
}

pub async fn workspaces(command: WorkspacesCommand, json: bool) -> Outcome {
    let WorkspacesCommand::Clean(args) = command;
    let request = CleanRequest { older_than: args.older_than.into(), dry_run: Some(args.dry_run) };
    let done = connect::client(&args.remote).await?.clean_workspaces(&request).await?;
    if json {
        print::json(&done)?;
    } else {
        print::out(&report(&done))?;
    }
    match done.failed.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(format!("cannot remove `{}`: {}", first.path, first.message))
            .hint("the server's log has more")),
    }
}

fn report(done: &CleanView) -> String {
    let rows: Vec<Vec<String>> = done
        .removed
        .iter()
        .map(|one| {
            vec![
                one.path.clone(),
                format_bytes(one.bytes),
                one.files.to_string(),
                format!("{} ago", print::age(one.used_at)),
            ]
        })
        .collect();
    let table =
        if rows.is_empty() { String::new() } else { print::table(&["WORKSPACE", "SIZE", "FILES", "USED"], &rows) };
    format!(
        "{table}{} {} of {}; kept {} used more recently and {} of sandboxes that exist\n",
        if done.dry_run { "would remove" } else { "removed" },
        rows.len(),
        format_bytes(done.bytes),
        done.recent,
        done.in_use
    )
}
