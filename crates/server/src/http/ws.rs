//! An exec on a WebSocket: output out, stdin, signals and terminal sizes in. The exec does not notice who listens.

use super::respond::{InFlight, RequestId, detail};
use crate::app::{App, AppError, exec_view};
use axum::{
    extract::ws::{Message, WebSocket},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use csb_api::{Invalid, PtySizeRequest, WsClient, WsServer, ws_frame};
use csb_node::Exec;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// The subprotocol that is spoken.
pub const PROTOCOL: &str = "csb.v1";
/// In front of a token among the subprotocols that a client offers.
const BEARER: &str = "csb.bearer.";

/// The token that a browser offers as a subprotocol: it can set no header, and a URL ends up in logs and histories.
pub fn offered_token(headers: &HeaderMap) -> Option<String> {
    let upgrades = headers.get(header::UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let token = offered.flat_map(|value| value.split(',')).find_map(|name| name.trim().strip_prefix(BEARER))?;
    upgrades.then(|| format!("Bearer {token}"))
}

/// Largest frame of a client.
pub const MOST_FRAME: usize = 1 << 20;
const PING: Duration = Duration::from_secs(20);
/// A peer that answers no ping for this long is gone.
const SILENCE: Duration = Duration::from_secs(70);
/// A peer that does not say goodbye within this is left.
const FAREWELL: Duration = Duration::from_secs(2);

/// With so much stdin that the command has not taken, no more is read of a client.
const MOST_WAITING: usize = 1 << 20;
/// What an input takes beside its bytes, about.
const INPUT: usize = 64;

enum Input {
    Bytes(Bytes),
    Close,
}

impl Input {
    fn weight(&self) -> usize {
        match self {
            Input::Bytes(bytes) => INPUT + bytes.len(),
            Input::Close => INPUT,
        }
    }
}

/// Serves one socket until the exec ends, the client hangs up or the server stops.
pub async fn attach(socket: WebSocket, app: Arc<App>, exec: Exec, from: u64, id: RequestId, held: Option<InFlight>) {
    let (mut sink, mut source) = socket.split();
    let (replies, mut pending) = mpsc::channel::<WsServer>(16);
    let (stdin, feeds) = mpsc::channel::<Input>(1);
    let writer = tokio::spawn(feed(exec.clone(), feeds, replies.clone(), id.clone()));
    let output = async {
        send(&mut sink, &WsServer::Start(exec_view(&exec))).await?;
        let mut reader = exec.output(from);
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        loop {
            tokio::select! {
                chunk = reader.next() => match chunk {
                    Some(c) => sink.send(Message::Binary(ws_frame(c.stream, c.seq, &c.bytes).into())).await?,
                    None => break,
                },
                Some(reply) = pending.recv() => send(&mut sink, &reply).await?,
                _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await?,
                () = app.stopping.cancelled() => return sink.close().await,
            }
        }
        if reader.is_broken() {
            let error = AppError::internal("kept output cannot be read");
            send(&mut sink, &WsServer::Error(detail(&error, &id.0))).await?;
            return sink.close().await;
        }
        exec.wait().await;
        send(&mut sink, &WsServer::End(exec_view(&exec))).await?;
        sink.close().await
    };
    let ended = {
        let input = read(&mut source, &exec, stdin, replies, &id);
        tokio::pin!(output, input);
        tokio::select! {
            ended = &mut output => Some(ended),
            () = &mut input => None,
        }
    };
    writer.abort();
    match ended {
        Some(Ok(())) => farewell(&mut source, &app).await,
        Some(Err(error)) => tracing::debug!(exec = %exec.id(), %error, "socket"),
        None => {}
    }
    drop(held);
}

/// Reads a peer to its goodbye, when ours is said. What it had sent before and nobody read would have the kernel reset the
/// connection, and the peer might not hear the end.
pub async fn farewell(source: &mut SplitStream<WebSocket>, app: &App) {
    let heard = async {
        while let Some(Ok(message)) = source.next().await
            && !matches!(message, Message::Close(_))
        {}
    };
    tokio::select! {
        _ = tokio::time::timeout(FAREWELL, heard) => {}
        () = app.stopping.cancelled() => {}
    }
}

async fn send(sink: &mut SplitSink<WebSocket, Message>, frame: &WsServer) -> Result<(), axum::Error> {
    let text = serde_json::to_string(frame).map_err(axum::Error::new)?;
    sink.send(Message::Text(text.into())).await
}

/// Stdin that the command has not taken yet, in the order in which it came.
#[derive(Default)]
struct Waiting {
    inputs: VecDeque<Input>,
    bytes: usize,
}

impl Waiting {
    fn push(&mut self, input: Input) {
        self.bytes += input.weight();
        self.inputs.push_back(input);
    }

    fn pop(&mut self) -> Option<Input> {
        let input = self.inputs.pop_front()?;
        self.bytes -= input.weight();
        Some(input)
    }
}

/// Reads the client until it hangs up. While stdin waits for the command, signals and sizes get past it; too much of it stops
/// the reading, and so the client.
async fn read(
    source: &mut SplitStream<WebSocket>,
    exec: &Exec,
    stdin: mpsc::Sender<Input>,
    replies: mpsc::Sender<WsServer>,
    id: &RequestId,
) {
    let mut waiting = Waiting::default();
    loop {
        let message = tokio::select! {
            biased;
            Ok(room) = stdin.reserve(), if !waiting.inputs.is_empty() => {
                if let Some(input) = waiting.pop() {
                    room.send(input);
                }
                continue;
            }
            message = tokio::time::timeout(SILENCE, source.next()), if waiting.bytes < MOST_WAITING => message,
            else => return,
        };
        let Ok(Some(Ok(message))) = message else { break };
        let done = match message {
            Message::Binary(bytes) => {
                waiting.push(Input::Bytes(bytes));
                Ok(())
            }
            Message::Text(text) => match serde_json::from_str::<WsClient>(&text) {
                Ok(WsClient::CloseStdin) => {
                    waiting.push(Input::Close);
                    Ok(())
                }
                Ok(request) => control(exec, request).await,
                Err(error) => Err(Invalid::new(format!("frame: {error}")).into()),
            },
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => Ok(()),
        };
        if let Err(error) = done
            && replies.send(WsServer::Error(detail(&error, &id.0))).await.is_err()
        {
            return;
        }
    }
    // What it sent before it hung up is the command's.
    while let Some(input) = waiting.pop()
        && stdin.send(input).await.is_ok()
    {}
}

async fn control(exec: &Exec, request: WsClient) -> Result<(), AppError> {
    match request {
        WsClient::Resize { cols, rows } => Ok(exec.resize(PtySizeRequest { cols, rows }.size()?).await?),
        WsClient::Signal { signal, tree } => Ok(exec.signal(signal.number()?, tree.unwrap_or(false)).await?),
        WsClient::CloseStdin => Ok(()),
    }
}

/// Writes stdin at the command's pace, apart from the reading of the socket, so that a signal gets past a full pipe.
async fn feed(exec: Exec, mut input: mpsc::Receiver<Input>, replies: mpsc::Sender<WsServer>, id: RequestId) {
    while let Some(input) = input.recv().await {
        let done = match input {
            Input::Bytes(bytes) => exec.write_stdin(bytes).await,
            Input::Close => exec.close_stdin().await,
        };
        if let Err(error) = done {
            let frame = WsServer::Error(detail(&error.into(), &id.0));
            if replies.send(frame).await.is_err() {
                return;
            }
        }
    }
}
