//! A WebSocket to a far server under one of a caller: frames pass one by one, each side at the other's pace.

use crate::{
    app::{App, AppError},
    http::{
        respond::{RequestId, detail},
        ws::farewell,
    },
    remote::{Ask, FarError},
};
use axum::{
    extract::ws::{CloseFrame, Message as Near, WebSocket},
    http::{HeaderValue, Method, header},
};
use bytes::Bytes;
use csb_api::{ErrorCode, WsServer};
use futures_util::{SinkExt as _, StreamExt as _};
use std::time::Duration;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Far,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

type FarSocket = WebSocketStream<reqwest::Upgraded>;

/// Largest frame of a far server; output comes in far smaller ones.
const MOST_FRAME: usize = 16 << 20;
const PING: Duration = Duration::from_secs(20);
/// A peer that says nothing for this long, not even an answer to a ping, is gone.
const SILENCE: Duration = Duration::from_secs(70);

/// The request for a socket, and the key of its handshake.
pub fn request(path: String) -> (Ask, String) {
    let key = generate_key();
    let mut ask = Ask::new(Method::GET, path);
    ask.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    ask.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    ask.headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Ok(value) = HeaderValue::from_str(&key) {
        ask.headers.insert(header::SEC_WEBSOCKET_KEY, value);
    }
    (ask, key)
}

/// The socket, when the far server has agreed to it.
pub async fn accepted(response: reqwest::Response, key: &str, server: &str) -> Result<FarSocket, FarError> {
    let agreed = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if agreed.is_none_or(|a| a.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(FarError::Strange { server: server.into(), why: "does not speak WebSocket".into(), done: false });
    }
    let lost = |error: reqwest::Error| FarError::Lost { server: server.into(), why: error.to_string() };
    let io = response.upgrade().await.map_err(lost)?;
    let config = WebSocketConfig::default().max_message_size(Some(MOST_FRAME)).max_frame_size(Some(MOST_FRAME));
    Ok(WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await)
}

/// How a direction ended.
enum End {
    /// With the word of its side.
    Said(Option<CloseFrame>),
    /// Without one.
    Broken(String),
}

/// Passes frames until one side ends. A far side that breaks off is told to the caller as an error.
pub async fn tunnel(near: WebSocket, far: FarSocket, app: &App, server: &str, id: &RequestId) {
    let (mut near_sink, mut near_source) = near.split();
    let (mut far_sink, mut far_source) = far.split();
    let up = async {
        loop {
            let Ok(Some(Ok(message))) = tokio::time::timeout(SILENCE, near_source.next()).await else { return None };
            let message = match message {
                Near::Text(text) => Far::Text(text.as_str().into()),
                Near::Binary(bytes) => Far::Binary(bytes),
                Near::Ping(_) | Near::Pong(_) => continue,
                Near::Close(_) => return None,
            };
            if let Err(error) = far_sink.send(message).await {
                return Some(error.to_string());
            }
        }
    };
    let down = async {
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        let mut heard = tokio::time::Instant::now();
        loop {
            let message = tokio::select! {
                message = far_source.next() => message,
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Ok(End::Broken("silence".into()));
                    }
                    near_sink.send(Near::Ping(Bytes::new())).await?;
                    continue;
                }
                () = app.stopping.cancelled() => return Ok(End::Said(None)),
            };
            heard = tokio::time::Instant::now();
            let message = match message {
                Some(Ok(Far::Text(text))) => Near::Text(text.as_str().into()),
                Some(Ok(Far::Binary(bytes))) => Near::Binary(bytes),
                Some(Ok(Far::Ping(_) | Far::Pong(_) | Far::Frame(_))) => continue,
                Some(Ok(Far::Close(frame))) => {
                    let frame = frame.map(|f| CloseFrame { code: f.code.into(), reason: f.reason.as_str().into() });
                    return Ok(End::Said(frame));
                }
                Some(Err(error)) => return Ok(End::Broken(error.to_string())),
                None => return Ok(End::Broken("it ended without a word".into())),
            };
            near_sink.send(message).await?;
        }
    };
    let end = {
        tokio::pin!(up, down);
        tokio::select! {
            // The caller is gone, and with it whom to tell.
            why = &mut up => match why {
                None => None,
                // What the far side said before it broke is still on its way.
                Some(why) => match down.await {
                    Ok(End::Broken(_)) => Some(End::Broken(why)),
                    Ok(said) => Some(said),
                    Err::<_, axum::Error>(_) => None,
                },
            },
            end = &mut down => end.ok(),
        }
    };
    match end {
        None => {}
        Some(End::Said(frame)) => {
            drop(near_sink.send(Near::Close(frame)).await);
            farewell(&mut near_source, app).await;
        }
        Some(End::Broken(why)) => {
            tracing::warn!(server, why, "a socket broke off");
            let message = format!("the connection to server `{server}` broke; what runs there may go on");
            let error = AppError::new(ErrorCode::BackendUnavailable, message)
                .hint("attach again behind the last position when the server is back");
            let text = serde_json::to_string(&WsServer::Error(detail(&error, &id.0))).unwrap_or_default();
            if near_sink.send(Near::Text(text.into())).await.is_ok() && near_sink.close().await.is_ok() {
                farewell(&mut near_source, app).await;
            }
        }
    }
    drop(far_sink.close().await);
}
