//! Between this process's stdin, stdout, stderr, signals and terminal, and those of one exec.

use crate::{
    failure::{Failure, Outcome},
    print,
    signals::{self, Caught, Signals},
    stdio::Stdio,
    terminal::{self, RawMode},
};
use bytes::Bytes;
use csb_engine::{Exec, Handle, OpError};
use csb_types::{ExecResult, Stream};
use std::{future::pending, io};

/// So many Ctrl-C mean that the command does not listen.
const IMPATIENT: u32 = 3;

/// Passes everything on as it comes, until the exec has ended and all its output is written.
pub async fn live(exec: &Exec, handle: &Handle, stdin: bool, raw: bool) -> Outcome<ExecResult> {
    let signals = catch()?;
    let _raw = match raw.then(RawMode::enter).transpose() {
        Ok(raw) => raw,
        Err(error) => return Err(Failure::because("cannot set the terminal to raw mode", &error)),
    };
    let written = tokio::select! {
        written = output(exec) => written,
        never = forward(exec, signals) => never,
        never = input(exec, stdin) => never,
    };
    if let Err(error) = written {
        // Nobody reads it any more: the command would run on for no one.
        let _ = handle.release().await;
        return Err(print::written(&error));
    }
    Ok(exec.wait().await)
}

/// Passes stdin and signals on; leaves the output in the exec.
pub async fn quietly(exec: &Exec, stdin: bool) -> Outcome<ExecResult> {
    let signals = catch()?;
    tokio::select! {
        result = exec.wait() => Ok(result),
        never = forward(exec, signals) => never,
        never = input(exec, stdin) => never,
    }
}

fn catch() -> Outcome<Signals> {
    Signals::catch().map_err(|error| Failure::because("cannot catch signals", &error))
}

async fn output(exec: &Exec) -> io::Result<()> {
    let mut reader = exec.output(0);
    let mut stdout = Stdio::stdout();
    let mut stderr = Stdio::stderr();
    while let Some(chunk) = reader.next().await {
        match chunk.stream {
            Stream::Stdout | Stream::Pty => stdout.write_all(&chunk.bytes).await?,
            // A closed stderr is no reason to stop what still has a stdout.
            Stream::Stderr => match stderr.write_all(&chunk.bytes).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                other => other?,
            },
        }
    }
    Ok(())
}

/// Never returns: the output's end is the end.
async fn input<T>(exec: &Exec, wanted: bool) -> T {
    if wanted {
        let mut stdin = Stdio::stdin();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match stdin.read(&mut buffer).await {
                Ok(count) => count,
                Err(error) => {
                    eprintln!("csb: cannot read stdin: {error}");
                    0
                }
            };
            if count == 0 {
                // The command may have closed it or ended first.
                let _ = exec.close_stdin().await;
                break;
            }
            match exec.write_stdin(Bytes::copy_from_slice(&buffer[..count])).await {
                Ok(()) => {}
                // The command reads no more. That is its business.
                Err(OpError::StdinClosed | OpError::ExecEnded | OpError::Gone) => break,
                Err(error) => {
                    eprintln!("csb: cannot write to the command's stdin: {error}");
                    break;
                }
            }
        }
    }
    pending().await
}

/// Never returns: a forwarded signal ends us by ending the command.
async fn forward<T>(exec: &Exec, mut signals: Signals) -> T {
    let mut interrupts = 0;
    loop {
        match signals.next().await {
            Caught::Resized => {
                if let Some(size) = terminal::size() {
                    // Without a terminal inside there is nothing to resize.
                    let _ = exec.resize(size).await;
                }
            }
            Caught::Forward(signal) => {
                interrupts += u32::from(signal == signals::INT);
                let sent = if interrupts >= IMPATIENT {
                    exec.signal(signals::KILL, true).await
                } else {
                    exec.signal(signal, false).await
                };
                if let Err(error) = sent
                    && !matches!(error, OpError::ExecEnded | OpError::Gone)
                {
                    eprintln!("csb: cannot pass on {}: {error}", signals::name(signal));
                }
            }
        }
    }
}
