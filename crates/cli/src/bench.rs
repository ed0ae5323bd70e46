//! `csb bench`: what things cost on this host, measured on real sandboxes that ran code.

mod capacity;
mod compare;
mod figures;
mod kinds;
mod limits;
mod node;
mod program;
mod rest;
mod syscall;

use crate::{
    failure::{Failure, Outcome},
    options::Kind,
    print,
};
use clap::{Args, ValueEnum};
use figures::Report;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb bench cold --n 200
  csb bench density --n 500 --json | jq .kib_each
  csb bench capacity --kind vfs

Times are milliseconds, but for `syscall`. `cold` and `run` make everything anew; `claim` takes a sandbox that was made before.
Every sandbox that is counted has run a command.")]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
    /// How often, or how many [default: as fits]
    #[arg(long, value_name = "N")]
    n: Option<u32>,
    /// Sandboxes that live beside those that are measured (cold, claim, exec, sustained, rest)
    #[arg(long, value_name = "N", default_value_t = 0)]
    live: u32,
    /// Sandboxes that are ready before (burst) [default: as the server has them]
    #[arg(long, value_name = "N")]
    pool: Option<u32>,
    /// How the sandboxes of a node are isolated (cold, claim, exec, release, sustained, density, capacity)
    #[arg(long, value_enum, hide_possible_values = true, value_name = "KIND", default_value = "process")]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Make a sandbox in a running node, until the first output of a command in it
    Cold,
    /// Take a sandbox from the pool, until the first output of a command in it
    Claim,
    /// Run a command in a sandbox that is there, until its end
    Exec,
    /// Release a sandbox, until nothing is left of it
    Release,
    /// Make, run a command and release, several at a time without a pause
    Sustained,
    /// Ask a server for so many sandboxes at once, until each has run a command
    Burst,
    /// Keep so many sandboxes that have run a command; memory of each
    Density,
    /// Keep more and more of them, at most so many; how many fit 1, 2, 4 and 8 GiB, the server included
    Capacity,
    /// Run a command through the HTTP API, until its end; and look at a sandbox
    Rest,
    /// Each kind that a server has here, in turn over HTTP: start, one more command, memory; settings as `csb serve` reads them
    Kinds,
    /// Start `csb run -- echo`, the whole program, until its first output
    Run,
    /// `run`, in turn with bwrap, runc, crun, runsc and docker where they are
    CompareRun,
    /// One more command in a container of runc, crun, runsc and docker, to set beside `exec`
    CompareExec,
    /// Make system calls inside a sandbox and outside, in turn; nanoseconds of each
    Syscall,
    /// What `syscall` runs on each side
    #[value(hide = true)]
    SyscallLoop,
}

pub fn bench(args: BenchArgs, json: bool) -> Outcome {
    // One process holds what many would.
    csb_sys::process::raise_limit(rustix::process::Resource::Nofile)
        .map_err(|error| Failure::because("cannot raise the limit of open descriptors", &error))?;
    let n = |default: u32| args.n.unwrap_or(default).max(1);
    let kind = args.kind.into();
    let report = match args.what {
        What::Cold => node::cold(n(200), args.live, kind)?,
        What::Claim => node::claim(n(200), args.live, kind)?,
        What::Exec => node::exec(n(500), args.live, kind)?,
        What::Release => node::release(n(200), kind)?,
        What::Sustained => node::sustained(n(1000), args.live, kind)?,
        What::Capacity => node::capacity(n(5000), kind)?,
        What::Density => node::density(n(200), kind)?,
        What::Burst => rest::burst(n(100), args.pool)?,
        What::Rest => return show_all(&rest::rest(n(500), args.live)?, json),
        What::Kinds => {
            let table = kinds::kinds(n(50))?;
            return if json { print::json(&table) } else { print::line(table.to_string().trim_end()) };
        }
        What::Run => program::run(n(100))?,
        What::CompareRun => return show_all(&compare::run(n(50))?, json),
        What::CompareExec => return show_all(&compare::exec(n(50))?, json),
        What::Syscall => {
            let report = syscall::syscall(n(10))?;
            return if json { print::json(&report) } else { print::line(report.to_string()) };
        }
        What::SyscallLoop => return syscall::measure(),
    };
    show(&report, json)
}

fn show(report: &Report, json: bool) -> Outcome {
    if json { print::json(report) } else { print::line(report.to_string()) }
}

fn show_all(reports: &[Report], json: bool) -> Outcome {
    if json {
        return print::json(&serde_json::json!({ "items": reports }));
    }
    reports.iter().try_for_each(|report| print::line(report.to_string()))
}
