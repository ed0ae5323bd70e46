//! The `csb` program: reads arguments, runs one command, reports its failure.

mod bench;
mod cli;
mod connect;
mod doctor;
mod failure;
mod options;
mod print;
mod progress;
mod remote;
mod run;
mod serve;
mod signals;
mod stdio;
mod template;
mod terminal;
mod warden;

use clap::{CommandFactory, FromArgMatches, Parser};
use cli::{Cli, Command, RunCli};
use failure::Outcome;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A warden is this program under another name; it must do nothing else first.
    if let Some(code) = csb_warden::entry() {
        return code;
    }
    let (json, outcome) = if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
        // Describing all other commands to the parser would cost more than starting a sandbox's process.
        let args = std::env::args_os().skip(1);
        let matches = RunCli::command().bin_name("csb run").get_matches_from(args);
        let run = RunCli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        (run.json, run::main(run.run, run.json))
    } else {
        let cli = Cli::parse();
        (cli.json, dispatch(cli.command, cli.json))
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(failure.report(json)),
    }
}

fn dispatch(command: Command, json: bool) -> Outcome<u8> {
    let done = |outcome: Outcome| outcome.map(|()| 0);
    match command {
        Command::Run(args) => run::main(*args, json),
        Command::Serve(args) => done(serve::serve(args, json)),
        Command::Ps(args) => done(remote::block_on(remote::ps(args, json))),
        Command::Create(args) => done(remote::block_on(remote::create(*args, json))),
        Command::Exec(args) => remote::block_on(remote::exec(*args, json)).map_err(remote::apart),
        Command::RunCode(args) => remote::block_on(remote::run_code(*args, json)).map_err(remote::apart),
        Command::Cp(args) => done(remote::block_on(remote::cp(args, json))),
        Command::Logs(args) => remote::block_on(remote::logs(args, json)),
        Command::Rm(args) => done(remote::block_on(remote::rm(args, json))),
        Command::Stats(args) => done(remote::block_on(remote::stats(args, json))),
        Command::Pause(args) => done(remote::block_on(remote::pause(args, json))),
        Command::Resume(args) => done(remote::block_on(remote::resume(args, json))),
        Command::Template(command) => done(template::template(command, json)),
        Command::Workspaces(command) => done(remote::block_on(remote::workspaces(command, json))),
        Command::Key(command) => done(remote::block_on(remote::key(command, json))),
        Command::Warden(command) => done(warden::warden(command, json)),
        Command::Doctor(args) => done(doctor::doctor(args, json)),
        Command::Bench(args) => done(bench::bench(args, json)),
        Command::GuestFiles(args) => done(cli::guest_files(&args)),
        Command::Completions { shell } => done(cli::completions(shell)),
    }
}
