//! `csb exec` and `csb run-code`: a command in a sandbox of a server, as if it ran here.

use crate::{
    connect,
    failure::{Failure, Outcome},
    options::{self, CommandArgs, RemoteArgs, StdinArgs},
    print,
    signals::{self, Caught, Signals},
    stdio::Stdio,
    terminal::{self, RawMode},
};
use bytes::Bytes;
use clap::Args;
use csb_api::{CommandRequest, ExecRequest, ExecState, ExecView, PtySizeRequest, RunCodeRequest, StdinRequest};
use csb_client::{Attachment, Chunk, Error, Event, Exec, OutputStream, Sandbox};
use csb_types::{KilledBy, Languages, Stream};
use std::{fs, future::pending, io, io::Read as _, path::Path};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb exec SANDBOX -- ls -l
  csb exec -it SANDBOX -- bash
  echo 1 2 3 | csb exec SANDBOX -- tr ' ' '\\n'
  csb exec --detach SANDBOX -- ./server     prints the exec's id; see `csb logs`

The exit code is the command's; 128 + N when signal N ended it; 125 when csb failed, 126 when the program
cannot be executed, 127 when there is none.")]
pub struct ExecArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    command: CommandArgs,
    #[command(flatten)]
    stdin: StdinArgs,
    /// Start it and leave it
    #[arg(short = 'd', long, conflicts_with_all = ["tty", "interactive"], help_heading = "Command")]
    detach: bool,
    /// Sandbox
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// Program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  csb run-code SANDBOX -c 'print(6 * 7)'
  csb run-code SANDBOX script.js
  cat script.py | csb run-code SANDBOX -")]
pub struct RunCodeArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Language: python, javascript, typescript, bash, go [default: by FILE's extension, else python]
    #[arg(long, value_name = "LANGUAGE")]
    lang: Option<String>,
    /// Code to run
    #[arg(short = 'c', long = "code", value_name = "CODE", conflicts_with = "file")]
    code: Option<String>,
    #[command(flatten)]
    command: CommandArgs,
    /// Sandbox
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// File with code; `-` for stdin
    #[arg(value_name = "FILE", required_unless_present = "code")]
    file: Option<String>,
}

pub async fn exec(args: ExecArgs, json: bool) -> Outcome<u8> {
    let request = ExecRequest {
        env: Some(options::env(&args.command.env)?),
        cwd: args.command.cwd,
        user: args.command.user,
        timeout: args.command.timeout.map(Into::into),
        max_output_bytes: args.command.max_output.map(csb_api::Bytes),
        stdin: Some(StdinRequest::Open(!args.stdin.no_stdin && !args.detach)),
        pty: args.stdin.tty.then(|| {
            let size = terminal::size().unwrap_or_default();
            PtySizeRequest { cols: size.cols, rows: size.rows }
        }),
        ..ExecRequest::new(CommandRequest::Argv(args.argv))
    };
    let sandbox = connect::client(&args.remote).await?.sandbox(&args.sandbox);
    if args.detach {
        let exec = sandbox.start(&request).await?;
        if json {
            print::json(&exec.view().await?)?
        } else {
            print::line(exec.id())?
        }
        return Ok(0);
    }
    Ok(attached(&sandbox, &request, json).await?.0)
}

/// Runs a command with our stdin, stdout, stderr, signals and terminal, as far as `request` has them; its exit code, and whether
/// output was dropped.
pub async fn attached(sandbox: &Sandbox, request: &ExecRequest, json: bool) -> Outcome<(u8, bool)> {
    let stdin = matches!(request.stdin, Some(StdinRequest::Open(true)));
    if json {
        return captured(sandbox, request, stdin).await;
    }
    let end = if request.pty.is_some() {
        let exec = sandbox.start(request).await?;
        let raw = stdin && terminal::is_terminal(io::stdin());
        on_terminal(&exec, raw, stdin).await?
    } else if stdin {
        let exec = sandbox.start(request).await?;
        piped(exec.output(0), true).await?
    } else {
        piped(sandbox.stream(request).await?, false).await?
    };
    Ok((ended(&end), end.truncated == Some(true)))
}

pub async fn run_code(args: RunCodeArgs, json: bool) -> Outcome<u8> {
    if args.command.user.is_some() {
        return Err(Failure::usage("run-code always runs as the sandbox's user")
            .hint("write a file with `csb cp` and run it with `csb exec -u`"));
    }
    let by_name =
        args.file.as_deref().and_then(|file| Languages::builtin().of_file(Path::new(file)).map(|l| l.name.clone()));
    let code = match (args.code, args.file.as_deref()) {
        (Some(code), _) => code,
        (None, Some("-")) => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| Failure::because("cannot read the code from stdin", &e))?;
            text
        }
        (None, Some(file)) => {
            fs::read_to_string(file).map_err(|e| Failure::because(format!("cannot read `{file}`"), &e))?
        }
        (None, None) => return Err(Failure::usage("no code was given")),
    };
    let request = RunCodeRequest {
        code,
        language: args.lang.or(by_name),
        env: Some(options::env(&args.command.env)?),
        cwd: args.command.cwd,
        timeout: args.command.timeout.map(Into::into),
        max_output_bytes: args.command.max_output.map(csb_api::Bytes),
        ..Default::default()
    };
    let sandbox = connect::client(&args.remote).await?.sandbox(&args.sandbox);
    if json {
        let outcome = sandbox.run_code_view(&request).await?;
        print::json(&outcome)?;
        return Ok(outcome.exit_code as u8);
    }
    let output = sandbox.stream_code(&request).await?;
    Ok(ended(&piped(output, false).await?))
}

async fn captured(sandbox: &Sandbox, request: &ExecRequest, stdin: bool) -> Outcome<(u8, bool)> {
    let exec = sandbox.start(request).await?;
    let signals = catch()?;
    let input = async { if stdin { input(&exec).await } else { pending().await } };
    let view = tokio::select! {
        view = exec.wait_view() => view?,
        never = input => never,
        never = forward(&exec, signals) => never,
    };
    print::json(&view)?;
    Ok((view.exit_code as u8, view.truncated))
}

fn catch() -> Outcome<Signals> {
    Signals::catch().map_err(|error| Failure::because("cannot catch signals", &error))
}

/// Output as it comes, stdin and signals beside it.
pub async fn piped(mut output: OutputStream, stdin: bool) -> Outcome<ExecView> {
    let signals = catch()?;
    let exec = output.exec().clone();
    let input = async { if stdin { input(&exec).await } else { pending().await } };
    let copied = tokio::select! {
        copied = copy(&mut output) => copied,
        never = input => never,
        never = forward(&exec, signals) => never,
    };
    if let Err(failure) = copied {
        if failure.code() == crate::failure::exit::PIPE {
            // Nobody reads it any more: the command would run on for no one.
            let _ = exec.signal("KILL", true).await;
        }
        return Err(failure);
    }
    output.end().cloned().ok_or_else(|| Failure::new("the output ended before the command did"))
}

async fn copy(output: &mut OutputStream) -> Outcome {
    let mut sinks = Sinks::new();
    while let Some(chunk) = output.next().await? {
        sinks.write(&chunk).await?;
    }
    Ok(())
}

struct Sinks {
    stdout: Stdio,
    stderr: Stdio,
}

impl Sinks {
    fn new() -> Self {
        Self { stdout: Stdio::stdout(), stderr: Stdio::stderr() }
    }

    async fn write(&mut self, chunk: &Chunk) -> Outcome {
        let written = match chunk.stream {
            Stream::Stdout | Stream::Pty => self.stdout.write_all(&chunk.bytes).await,
            Stream::Stderr => match self.stderr.write_all(&chunk.bytes).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                other => other,
            },
        };
        written.map_err(|error| print::written(&error))
    }
}

/// The output that is there now.
pub async fn so_far(exec: &Exec, from: u64) -> Outcome {
    copy(&mut exec.output_so_far(from)).await
}

/// Never returns.
async fn input<T>(exec: &Exec) -> T {
    let mut stdin = Stdio::stdin();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = match stdin.read(&mut buffer).await {
            Ok(count) => count,
            Err(error) => {
                eprintln!("csb: cannot read stdin: {error}");
                0
            }
        };
        let sent = exec.write_stdin(Bytes::copy_from_slice(&buffer[..count]), count == 0).await;
        match sent {
            Ok(()) if count > 0 => {}
            // The command ended, or reads no more. That is its business.
            Ok(()) => break,
            Err(error) if matches!(error.code(), Some("exec_ended" | "stdin_closed")) => break,
            Err(error) => {
                eprintln!("csb: cannot write to the command's stdin: {error}");
                break;
            }
        }
    }
    pending().await
}

/// Never returns: a forwarded signal ends us by ending the command.
async fn forward<T>(exec: &Exec, mut signals: Signals) -> T {
    loop {
        if let Caught::Forward(signal) = signals.next().await
            && let Err(error) = exec.signal(&signal.to_string(), false).await
            && error.code() != Some("exec_ended")
        {
            eprintln!("csb: cannot pass on {}: {error}", signals::name(signal));
        }
    }
}

/// The caller's terminal becomes the command's.
async fn on_terminal(exec: &Exec, raw: bool, stdin: bool) -> Outcome<ExecView> {
    enum Wake {
        Event(Event),
        Typed(usize),
        Signal(Caught),
    }
    let mut link: Attachment = exec.attach(0).await?;
    let mut signals = catch()?;
    let _raw = match raw.then(RawMode::enter).transpose() {
        Ok(raw) => raw,
        Err(error) => return Err(Failure::because("cannot set the terminal to raw mode", &error)),
    };
    let mut sinks = Sinks::new();
    let mut keys = Stdio::stdin();
    let mut typing = stdin;
    let mut buffer = vec![0; 4096];
    loop {
        let wake = tokio::select! {
            event = link.next() => Wake::Event(event?),
            typed = keys.read(&mut buffer), if typing => Wake::Typed(typed.unwrap_or(0)),
            caught = signals.next() => Wake::Signal(caught),
        };
        let sent = match wake {
            Wake::Event(Event::End(view)) => return Ok(*view),
            Wake::Event(Event::Output(chunk)) => {
                sinks.write(&chunk).await?;
                continue;
            }
            Wake::Typed(0) => {
                typing = false;
                link.close_stdin().await
            }
            Wake::Typed(count) => link.write(Bytes::copy_from_slice(&buffer[..count])).await,
            Wake::Signal(Caught::Resized) => match terminal::size() {
                Some(size) => link.resize(size).await,
                None => continue,
            },
            Wake::Signal(Caught::Forward(signal)) => link.signal(&signal.to_string()).await,
        };
        match sent {
            // What was typed is lost, as on a telephone; whether the connection comes back, `next` will say.
            Ok(()) | Err(Error::Lost { .. } | Error::Connect { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Says what ended a command when it was not the command itself; its exit code.
pub fn ended(end: &ExecView) -> u8 {
    let why = match end.killed_by {
        Some(KilledBy::Timeout) => Some("killed: timeout"),
        Some(KilledBy::Oom) => Some("killed: out of memory"),
        Some(KilledBy::Pids) => Some("failed: out of processes"),
        Some(KilledBy::Disk) => Some("failed: out of disk space or files"),
        Some(KilledBy::Released) => Some("killed: the sandbox ended"),
        Some(KilledBy::Signal) | None => None,
    };
    if let Some(why) = why {
        eprintln!("csb: {why}");
    } else if let Some(signal) = end.signal
        && terminal::is_terminal(io::stderr())
    {
        eprintln!("csb: ended by {}", signals::name(signal));
    }
    if end.truncated == Some(true) {
        eprintln!("csb: output past the limit was dropped");
    }
    debug_assert!(end.state == ExecState::Ended);
    end.exit_code.unwrap_or(0) as u8
}
