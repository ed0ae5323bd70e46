//! `csb run --kind remote`: the one sandbox is a server's, made for this command and released after it.

use super::args::{Code, Far};
use crate::{
    connect,
    failure::{Failure, Outcome, exit},
    options::RemoteArgs,
    remote,
    signals::{Caught, Signals},
};
use csb_api::SandboxRequest;
use csb_client::{Client, Error, Sandbox, WriteOptions};
use std::path::Path;

/// A variable of the environment that is not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs it; returns the exit code of the command.
pub fn main(far: Far, json: bool) -> Outcome<u8> {
    remote::block_on(run(far, json)).map_err(remote::apart)
}

async fn run(far: Far, json: bool) -> Outcome<u8> {
    // From here on a signal does not end us: what was made at the server would stay.
    let mut signals = Signals::catch().map_err(|error| Failure::because("cannot catch signals", &error))?;
    let sandbox = make(&far.endpoints, &far.data_dir, &far.sandbox).await?;
    let result = match asked_to_end(&mut signals).await {
        Some(signal) => Ok(128 + signal as u8),
        None => command(&sandbox, &far, json).await,
    };
    let released = sandbox.release().await;
    let code = result?;
    released.map_err(|error| {
        Failure::because(format!("cannot release sandbox {}", sandbox.id()), &error).exit(exit::NO_COMMAND)
    })?;
    Ok(code)
}

/// A signal that came while the sandbox was made.
async fn asked_to_end(signals: &mut Signals) -> Option<i32> {
    tokio::select! {
        biased;
        caught = signals.next() => match caught {
            Caught::Forward(signal) => Some(signal),
            Caught::Resized => None,
        },
        () = std::future::ready(()) => None,
    }
}

/// A sandbox of the first server that can be reached.
async fn make(endpoints: &[String], data_dir: &Path, request: &SandboxRequest) -> Outcome<Sandbox> {
    let mut unreached = Vec::new();
    for (left, server) in endpoints.iter().enumerate().map(|(n, server)| (endpoints.len() - 1 - n, server)) {
        if left > 0
            && let Err(error @ Error::Connect { .. }) = Client::builder(server).tries(1).build()?.health().await
        {
            unreached.push(Failure::of(&error));
            continue;
        }
        let args = RemoteArgs {
            server: Some(server.clone()),
            api_key: variable(csb_client::API_KEY_VARIABLE),
            token: variable(csb_client::TOKEN_VARIABLE),
            data_dir: Some(data_dir.to_owned()),
        };
        match connect::client(&args).await?.create_sandbox(request).await {
            Err(error @ Error::Connect { .. }) if left > 0 => unreached.push(Failure::of(&error)),
            made => return Ok(made?),
        }
    }
    Err(unreached.pop().unwrap_or_else(|| Failure::usage("no server was named")))
}

async fn command(sandbox: &Sandbox, far: &Far, json: bool) -> Outcome<u8> {
    if let Some(Code { path, text }) = &far.code {
        sandbox.files().write(path, text.clone(), WriteOptions::default()).await?;
    }
    let (code, truncated) = remote::attached(sandbox, &far.exec, json).await?;
    if truncated && !far.bounded {
        // Whoever reads our output must not take a part for the whole.
        return Err(Failure::new("output past what the server keeps was dropped")
            .hint("say with --max-output how much is enough, or write it to a file and copy that"));
    }
    Ok(code)
}
