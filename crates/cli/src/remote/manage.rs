//! `csb rm`, `csb pause`, `csb resume`: what is done to sandboxes by name.

use crate::{
    connect,
    failure::{Failure, Outcome},
    options::RemoteArgs,
    print,
};
use clap::Args;
use csb_client::{Client, Error};
use std::future::Future;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb rm SANDBOX
  csb rm --all")]
pub struct RmArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// All of yours
    #[arg(short, long, conflicts_with = "sandboxes")]
    all: bool,
    /// Sandboxes
    #[arg(value_name = "SANDBOX", required_unless_present = "all")]
    sandboxes: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Sandboxes
    #[arg(value_name = "SANDBOX", required = true)]
    sandboxes: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Sandboxes
    #[arg(value_name = "SANDBOX", required = true)]
    sandboxes: Vec<String>,
}

pub async fn rm(args: RmArgs, json: bool) -> Outcome {
    let client = connect::client(&args.remote).await?;
    let ids = if args.all {
        client.all_sandboxes(None).await?.into_iter().map(|s| s.sandbox_id).collect()
    } else {
        args.sandboxes
    };
    // A mistyped id must not look like success: releasing what is gone is one only for retries.
    each(&client, &ids, json, "released", |client, id| async move {
        let sandbox = client.sandbox(id);
        sandbox.view().await?;
        sandbox.release().await
    })
    .await
}

pub async fn pause(args: PauseArgs, json: bool) -> Outcome {
    let client = connect::client(&args.remote).await?;
    each(
        &client,
        &args.sandboxes,
        json,
        "paused",
        |client, id| async move { client.sandbox(id).pause().await.map(drop) },
    )
    .await
}

pub async fn resume(args: ResumeArgs, json: bool) -> Outcome {
    let client = connect::client(&args.remote).await?;
    each(
        &client,
        &args.sandboxes,
        json,
        "resumed",
        |client, id| async move { client.sandbox(id).resume().await.map(drop) },
    )
    .await
}

/// Goes on after a failure, prints what was done, and fails in the end if anything did.
async fn each<F: Future<Output = Result<(), Error>>>(
    client: &Client,
    ids: &[String],
    json: bool,
    word: &str,
    act: impl Fn(Client, String) -> F,
) -> Outcome {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for id in ids {
        match act(client.clone(), id.clone()).await {
            Ok(()) if json => done.push(id.clone()),
            Ok(()) => print::line(id)?,
            Err(error) => failed.push(Failure::from(error)),
        }
    }
    if json {
        print::json(&serde_json::json!({ word: done }))?;
    }
    let Some(last) = failed.pop() else { return Ok(()) };
    for failure in failed {
        failure.report(json);
    }
    Err(last)
}
