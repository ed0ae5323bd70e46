//! `csb create`.

use crate::{
    connect,
    failure::{Failure, Outcome},
    options::{self, RemoteArgs, SandboxArgs},
    print,
};
use clap::Args;
use csb_api::SandboxRequest;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  id=$(csb create --memory 1g --lifetime 1h)
  csb exec $id -- python3 -V
  csb rm $id")]
pub struct CreateArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// Variable of every command in it; without a value, taken from here
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]", help_heading = "Sandbox")]
    env: Vec<String>,
    /// A label of yours
    #[arg(short = 'l', long = "label", value_name = "NAME=VALUE", help_heading = "Sandbox")]
    labels: Vec<String>,
    /// Release it after this time: 10m, 2h
    #[arg(long, value_parser = options::duration, value_name = "TIME", help_heading = "Sandbox")]
    lifetime: Option<Duration>,
}

pub async fn create(args: CreateArgs, json: bool) -> Outcome {
    let env = options::env(&args.env)?;
    let labels = args.labels.iter().map(|text| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failure::usage(format!("`-l {text}` is not NAME=VALUE"))),
    });
    let labels = labels.collect::<Outcome<std::collections::BTreeMap<_, _>>>()?;
    let request = SandboxRequest {
        env: (!env.is_empty()).then_some(env),
        metadata: (!labels.is_empty()).then_some(labels),
        timeout: args.lifetime.map(Into::into),
        ..args.sandbox.request()?
    };
    let client = connect::client(&args.remote).await?;
    let view = client.create_sandbox_view(&request).await?;
    if json { print::json(&view) } else { print::line(view.sandbox_id) }
}
