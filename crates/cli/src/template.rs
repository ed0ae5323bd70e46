//! `csb template`: what sandboxes start from.

use crate::{connect, failure::Outcome, options::RemoteArgs, remote};
use clap::{Args, Subcommand};
use csb_api::TemplateView;
use csb_types::format_bytes;

#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List the templates of a server
    Ls(ListArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Print names alone
    #[arg(short, long)]
    quiet: bool,
}

pub fn template(command: TemplateCommand, json: bool) -> Outcome {
    match command {
        TemplateCommand::Ls(args) => remote::block_on(async {
            let list = connect::client(&args.remote).await?.templates().await?;
            let head = ["TEMPLATE", "FROM", "SIZE", "LANGUAGES", "ALIASES"];
            remote::show(&list, args.quiet, json, |t| t.name.clone(), &head, row)
        }),
    }
}

fn row(template: &TemplateView) -> Vec<String> {
    vec![
        template.name.clone(),
        template.source.clone(),
        format_bytes(template.bytes),
        template.languages.join(", "),
        template.aliases.join(", "),
    ]
}
