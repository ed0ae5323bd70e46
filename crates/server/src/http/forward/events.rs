//! A far server's event stream, event by event: one that breaks off ends with an `error` event, behind the last whole event.

use super::body_of;
use crate::{
    http::respond::{RequestId, detail},
    remote::FarError,
};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use csb_api::ErrorBody;
use futures_util::{StreamExt as _, stream};
use std::{convert::Infallible, io};
use tokio_util::sync::CancellationToken;

/// Largest event that is waited for whole.
const MOST_EVENT: usize = 16 << 20;

/// Takes what is whole from `held`: everything up to the last blank line.
fn whole(held: &mut BytesMut) -> Option<Bytes> {
    let mut end = None;
    for at in (1..held.len()).rev() {
        if held[at] == b'\n' && (held[at - 1] == b'\n' || (held[at - 1] == b'\r' && at >= 2 && held[at - 2] == b'\n')) {
            end = Some(at + 1);
            break;
        }
    }
    end.map(|end| held.split_to(end).freeze())
}

/// The answer's events as they come.
pub fn guarded(response: reqwest::Response, server: String, id: RequestId, stopping: CancellationToken) -> Body {
    let start = Some((body_of(response), BytesMut::new()));
    let events = stream::unfold(start, move |state| {
        let (server, id, stopping) = (server.clone(), id.clone(), stopping.clone());
        async move {
            let (mut pieces, mut held) = state?;
            loop {
                let piece = tokio::select! {
                    piece = pieces.next() => piece,
                    // This server ends, the command goes on: the client comes back with its position.
                    () = stopping.cancelled() => return None,
                };
                let why = match piece {
                    Some(Ok(piece)) => {
                        held.extend_from_slice(&piece);
                        if let Some(events) = whole(&mut held) {
                            return Some((Ok::<_, Infallible>(events), Some((pieces, held))));
                        }
                        if held.len() <= MOST_EVENT {
                            continue;
                        }
                        "an event without an end".to_owned()
                    }
                    // Its server ends in an orderly way.
                    None if held.is_empty() => return None,
                    None => io::ErrorKind::UnexpectedEof.to_string(),
                    Some(Err(error)) => error.to_string(),
                };
                let error = FarError::Lost { server, why };
                return Some((Ok(broken(error, &id)), None));
            }
        }
    });
    Body::from_stream(events)
}

fn broken(error: FarError, id: &RequestId) -> Bytes {
    let FarError::Lost { server, why } = &error else { return Bytes::new() };
    tracing::warn!(server, why, "a stream broke off");
    let message = format!("the connection to server `{server}` broke; what runs there may go on");
    let error = crate::app::AppError::new(csb_api::ErrorCode::BackendUnavailable, message)
        .hint("attach again behind the last event when the server is back");
    let body = ErrorBody { error: detail(&error, &id.0) };
    let text = serde_json::to_string(&body).unwrap_or_default();
    format!("event: error\ndata: {text}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_events_pass() {
        let mut held = BytesMut::from(&b"id: 1\ndata: a\n\nid: 2\ndata: b\r\n\r\nid: 3\nda"[..]);
        assert_eq!(whole(&mut held).as_deref(), Some(&b"id: 1\ndata: a\n\nid: 2\ndata: b\r\n\r\n"[..]));
        assert_eq!(&held[..], b"id: 3\nda");
        assert_eq!(whole(&mut held), None);
        held.extend_from_slice(b"ta: c\n");
        assert_eq!(whole(&mut held), None);
        held.extend_from_slice(b"\n");
        assert_eq!(whole(&mut held).as_deref(), Some(&b"id: 3\ndata: c\n\n"[..]));
        assert!(held.is_empty());
    }
}
