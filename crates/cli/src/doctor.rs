//! `csb doctor`: what this host can do for sandboxes, tried rather than guessed, and what is lost without it.

mod checks;
mod limits;

use crate::{
    failure::{Failure, Outcome},
    print,
};
use clap::Args;
use serde::Serialize;

#[derive(Debug, Args)]
#[command(after_help = "\
Each line is something that was tried on this host. `!!` stops sandboxes from running, `--` costs something that
the line names. The exit code is 0 when sandboxes can run.")]
pub struct DoctorArgs {
    /// Show only what is missing
    #[arg(short, long)]
    quiet: bool,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Sandboxes run, with less.
    Degraded,
    /// No sandbox runs without it.
    Missing,
}

/// One thing that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What is lost without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// How to get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), lost: None, fix: None }
    }

    pub fn lacks(
        name: &'static str,
        status: Status,
        found: impl Into<String>,
        lost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { name, status, found: found.into(), lost: Some(lost.into()), fix: Some(fix.into()) }
    }
}

/// Runs all checks; this process has one thread.
pub fn doctor(args: DoctorArgs, json: bool) -> Outcome {
    let mut all = checks::all();
    all.extend(limits::all());
    all.push(checks::sandbox());
    let works = all.iter().all(|c| c.status != Status::Missing);
    if json {
        print::json(&serde_json::json!({ "works": works, "checks": all }))?;
    } else {
        let shown = all.iter().filter(|c| !args.quiet || c.status != Status::Ok);
        print::out(&shown.map(text).collect::<String>())?;
    }
    if works { Ok(()) } else { Err(Failure::new("sandboxes cannot run on this host").hint("see the lines with `!!`")) }
}

fn text(check: &Check) -> String {
    let mark = match check.status {
        Status::Ok => "ok",
        Status::Degraded => "--",
        Status::Missing => "!!",
    };
    let mut text = format!("{mark}  {:<18}{}\n", check.name, check.found);
    for (word, value) in [("lost", &check.lost), ("fix", &check.fix)] {
        if let Some(value) = value {
            text.push_str(&format!("    {word}: {value}\n"));
        }
    }
    text
}
