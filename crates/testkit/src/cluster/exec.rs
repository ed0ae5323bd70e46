//! `pods/exec`: a command in a container, its streams as channels of a WebSocket (`v5.channel.k8s.io`, `v4.channel.k8s.io`).

use super::{Shared, kubelet, objects::Refusal};
use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{process::Stdio, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;
const CHUNK: usize = 32 * 1024;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

/// The container that a pod's command is for, if it runs.
pub(super) fn container(pod: &Value, asked: &str) -> Result<String, Refusal> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let first = pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default();
    let wanted = if asked.is_empty() { first } else { asked };
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    match all.into_iter().find(|one| one["name"] == wanted) {
        Some(one) if !one["state"]["running"].is_null() => Ok(wanted.to_owned()),
        Some(_) => Err(Refusal::new(
            500,
            "InternalError",
            format!("unable to upgrade connection: container not found (\"{wanted}\")"),
        )),
        None => Err(Refusal::new(400, "BadRequest", format!("container {wanted} is not valid for pod {name}"))),
    }
}

async fn pass(mut from: impl tokio::io::AsyncRead + Unpin, channel: u8, to: mpsc::Sender<Message>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                let mut frame = vec![channel];
                frame.extend_from_slice(&buffer[..length]);
                if to.send(Message::Binary(frame.into())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Runs it, until it ends or the client does.
pub(super) async fn serve(shared: Arc<Shared>, asked: Asked, socket: WebSocket) {
    let mut command = kubelet::runc(&shared);
    command.arg("exec").arg(kubelet::runc_id(&asked.pod, &asked.container)).args(&asked.command);
    let stream = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
    command.stdin(stream(asked.stdin)).stdout(stream(asked.stdout)).stderr(stream(asked.stderr)).kill_on_drop(true);
    let (mut sender, mut receiver) = socket.split();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let status = Refusal::new(500, "InternalError", error.to_string()).status();
            let _ = sender.send(message(STATUS, &status)).await;
            return;
        }
    };
    let (out, mut waiting) = mpsc::channel::<Message>(4);
    let mut passing = tokio::task::JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        passing.spawn(pass(stdout, STDOUT, out.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        passing.spawn(pass(stderr, STDERR, out.clone()));
    }
    let mut stdin = child.stdin.take();
    let mut cut = shared.kubelet_cuts();
    let sending = tokio::spawn(async move {
        while let Some(message) = waiting.recv().await {
            if sender.send(message).await.is_err() {
                return;
            }
        }
        let _ = sender.close().await;
    });
    let gone = loop {
        tokio::select! {
            message = receiver.next() => match message {
                Some(Ok(Message::Binary(frame))) => {
                    if !take(&frame, &mut stdin).await {
                        stdin = None;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => break true,
            },
            _ = child.wait() => break false,
            // Of a network that breaks, or a node that says nothing any more.
            _ = cut.changed() => break true,
        }
    };
    if gone {
        drop(stdin);
        // Whoever runs in the container sees the end of its input; its runtime's helper is ended by hand.
        let _ = child.kill().await;
        sending.abort();
        return;
    }
    while passing.join_next().await.is_some() {}
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(137);
    let status = match code {
        0 => json!({ "metadata": {}, "status": "Success" }),
        code => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
    };
    let _ = out.send(message(STATUS, &status)).await;
    drop(out);
    let _ = sending.await;
}

fn message(channel: u8, value: &Value) -> Message {
    let mut frame = vec![channel];
    frame.extend_from_slice(value.to_string().as_bytes());
    Message::Binary(frame.into())
}

/// Hands on what came for the command's input; false at its end.
async fn take(frame: &Bytes, stdin: &mut Option<tokio::process::ChildStdin>) -> bool {
    match (frame.first(), stdin) {
        (Some(&STDIN), Some(stdin)) => stdin.write_all(&frame[1..]).await.is_ok(),
        (Some(&CLOSE), Some(_)) => frame.get(1) != Some(&STDIN),
        _ => true,
    }
}
