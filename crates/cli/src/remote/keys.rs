//! `csb key`: API keys of a server.

use super::list::show;
use crate::{connect, failure::Outcome, options::RemoteArgs, print};
use clap::{Args, Subcommand, ValueEnum};
use csb_api::{KeyRequest, KeyView, Role};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it; it is shown this once
    #[command(after_help = "Example:\n  export CSB_API_KEY=$(csb key create --user alice)")]
    Create(CreateArgs),
    /// List keys, without their secrets
    Ls(ListArgs),
    /// Make a key useless
    Revoke(RevokeArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// Own sandboxes only
    User,
    /// Everybody's, and keys
    Admin,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Whose key
    #[arg(long, value_name = "USER")]
    user: String,
    /// What it may do
    #[arg(long, value_enum, default_value = "user")]
    role: RoleName,
    /// A label for people
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Key, by its id
    #[arg(value_name = "KEY_ID")]
    key: String,
}

pub async fn key(command: KeyCommand, json: bool) -> Outcome {
    match command {
        KeyCommand::Create(args) => {
            let role = match args.role {
                RoleName::User => Role::User,
                RoleName::Admin => Role::Admin,
            };
            let request = KeyRequest { user_id: args.user, role: Some(role), name: args.name };
            let made = connect::client(&args.remote).await?.create_key(&request).await?;
            if json { print::json(&made) } else { print::line(made.api_key) }
        }
        KeyCommand::Ls(args) => {
            let keys = connect::client(&args.remote).await?.keys().await?;
            let head = ["KEY", "USER", "ROLE", "NAME", "AGE", "REVOKED"];
            show(&keys, args.quiet, json, |k| k.key_id.clone(), &head, row)
        }
        KeyCommand::Revoke(args) => {
            connect::client(&args.remote).await?.revoke_key(&args.key).await?;
            if json { print::json(&serde_json::json!({ "revoked": args.key })) } else { print::line(args.key) }
        }
    }
}

fn row(key: &KeyView) -> Vec<String> {
    vec![
        key.key_id.clone(),
        key.user_id.clone(),
        key.role.as_str().into(),
        key.name.clone().unwrap_or_else(|| "-".into()),
        print::age(key.created_at),
        key.revoked_at.map_or_else(|| "-".into(), |then| format!("{} ago", print::age(then))),
    ]
}
