//! All commands as clap sees them.

use crate::{
    bench::BenchArgs,
    doctor::DoctorArgs,
    failure::{Failure, Outcome},
    print, remote,
    run::RunArgs,
    serve::ServeArgs,
    template::TemplateCommand,
    warden::WardenCommand,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

/// Run code that nobody has read, in a real sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "csb",
    version,
    arg_required_else_help = true,
    max_term_width = 110,
    after_help = "\
Without a server:
  csb run -- echo hello
  csb run script.py

With one:
  csb serve --dev
  id=$(csb create); csb exec $id -- python3 -V; csb rm $id"
)]
pub struct Cli {
    /// Print JSON: results on stdout, errors on stderr
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// `csb run` alone, as `Cli` has it.
#[derive(Debug, Parser)]
#[command(name = "csb run", max_term_width = 110, about = ABOUT_RUN)]
pub struct RunCli {
    /// Print JSON: results on stdout, errors on stderr
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub run: RunArgs,
}

const ABOUT_RUN: &str = "Run a command or code in a sandbox of its own, without a server";

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(about = ABOUT_RUN)]
    Run(Box<RunArgs>),
    /// Serve the HTTP API
    Serve(ServeArgs),
    /// List your sandboxes, or the commands of one
    Ps(remote::PsArgs),
    /// Make a sandbox and print its id
    Create(Box<remote::CreateArgs>),
    /// Run a command in a sandbox
    Exec(Box<remote::ExecArgs>),
    /// Run code in a sandbox
    RunCode(Box<remote::RunCodeArgs>),
    /// Copy files and directories into or out of a sandbox
    Cp(remote::CopyArgs),
    /// Show the output of a command
    Logs(remote::LogsArgs),
    /// Release sandboxes
    Rm(remote::RmArgs),
    /// Show what sandboxes use
    Stats(remote::StatsArgs),
    /// Freeze sandboxes; their memory is kept
    Pause(remote::PauseArgs),
    /// Let frozen sandboxes go on
    Resume(remote::ResumeArgs),
    /// What sandboxes start from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Directories of `local` sandboxes
    #[command(subcommand)]
    Workspaces(remote::WorkspacesCommand),
    /// API keys
    #[command(subcommand)]
    Key(remote::KeyCommand),
    /// The process that holds a server's sandboxes
    #[command(subcommand)]
    Warden(WardenCommand),
    /// Say what this host can do, what is lost without the rest, and how to get it
    Doctor(DoctorArgs),
    /// Measure
    Bench(BenchArgs),
    /// Copy this program into a pod of kind `k8s`
    #[command(hide = true)]
    GuestFiles(GuestFilesArgs),
    /// Print a completion script
    #[command(after_help = "Example:\n  csb completions bash > /etc/bash_completion.d/csb")]
    Completions {
        /// For which shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// What an init container of a pod is started with; see `csb_backends::install`.
#[derive(Debug, Args)]
pub struct GuestFilesArgs {
    /// Version of the protocol that the server speaks
    #[arg(long)]
    protocol: u32,
    programs: PathBuf,
    files: PathBuf,
    shared: PathBuf,
}

/// Copies the program.
pub fn guest_files(args: &GuestFilesArgs) -> Outcome {
    let own = csb_wire::VERSION;
    if args.protocol != own {
        let what =
            format!("this image's `csb` speaks version {own} of the protocol, the server version {}", args.protocol);
        return Err(
            Failure::new(what).hint("the setting `k8s.program_image` names an image of the server's own version")
        );
    }
    csb_backends::install(&args.programs, &args.files, &args.shared)
        .map_err(|error| Failure::because("cannot copy the program that is a pod's init", &error))
}

/// Prints the script.
pub fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "csb", &mut script);
    print::out(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_described_without_contradiction() {
        Cli::command().debug_assert();
        RunCli::command().debug_assert();
    }
}
