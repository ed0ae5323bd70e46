//! An exec's output as server-sent events, from any position on.
//!
//! Every output event carries its position as `id`, so that a browser's own reconnect (`Last-Event-ID`) goes on where
//! it stopped. The exec does not notice who listens.

use super::respond::{RequestId, detail};
use crate::app::{App, AppError, CodeRun, exec_view};
use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use csb_api::{ErrorBody, ErrorCode, OutputEvent};
use csb_node::Exec;
use csb_types::{KilledBy, Stream};
use futures_util::stream;
use std::{convert::Infallible, sync::Arc, time::Duration};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

enum Step {
    Start,
    Output(csb_node::OutputReader),
    Done,
}

/// The output of `run` from `from` on, then its end. `with_start` puts a `start` event in front.
pub fn events(app: Arc<App>, run: CodeRun, from: u64, with_start: bool, id: RequestId) -> Response {
    let first = if with_start { Step::Start } else { Step::Output(run.exec.output(from)) };
    let stream = stream::unfold((first, run, app, id), move |(step, mut run, app, id)| async move {
        let (event, next) = match step {
            Step::Done => return None,
            Step::Start => {
                let event = json(Event::default().event("start"), &exec_view(&run.exec));
                (event, Step::Output(run.exec.output(from)))
            }
            Step::Output(mut reader) => {
                let chunk = tokio::select! {
                    chunk = reader.next() => chunk,
                    // The server ends, the exec goes on: the client comes back with its position.
                    () = app.stopping.cancelled() => return None,
                };
                match chunk {
                    Some(chunk) => {
                        let event = Event::default().event(name(chunk.stream)).id(chunk.seq.to_string());
                        (json(event, &OutputEvent::new(chunk.seq, &chunk.bytes)), Step::Output(reader))
                    }
                    None if reader.is_broken() => (broken(&id), Step::Done),
                    None => (end(&mut run, &id).await, Step::Done),
                }
            }
        };
        Some((Ok::<_, Infallible>(event), (next, run, app, id)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// The output of a running exec that is there now, from `from` on, then that it runs.
pub fn so_far(exec: Exec, from: u64, id: RequestId) -> Response {
    // A flood goes on meanwhile; what is there now has an end.
    let most = exec.output_len();
    let stream = stream::unfold(Some((exec.output(from), from)), move |state| {
        let (exec, id) = (exec.clone(), id.clone());
        async move {
            let (mut reader, at) = state?;
            let chunk = if at < most { reader.next_now() } else { None };
            let (event, next) = match chunk {
                Some(chunk) => {
                    let event = Event::default().event(name(chunk.stream)).id(chunk.seq.to_string());
                    (json(event, &OutputEvent::new(chunk.seq, &chunk.bytes)), Some((reader, chunk.seq)))
                }
                None if reader.is_broken() => (broken(&id), None),
                None => (json(Event::default().event("running"), &exec_view(&exec)), None),
            };
            Some((Ok::<_, Infallible>(event), next))
        }
    });
    Sse::new(stream).into_response()
}

fn broken(id: &RequestId) -> Event {
    let error = AppError::internal("kept output cannot be read");
    json(Event::default().event("error"), &ErrorBody { error: detail(&error, &id.0) })
}

async fn end(run: &mut CodeRun, id: &RequestId) -> Event {
    let result = run.exec.wait().await;
    let mut view = exec_view(&run.exec);
    let handler = run.handler_result().await;
    (view.result, view.note) = (handler.result, handler.note);
    if result.killed_by == Some(KilledBy::Released) {
        tracing::debug!(request_id = %id.0, "the sandbox ended under a stream");
    }
    json(Event::default().event("end"), &view)
}

fn json(event: Event, value: &impl serde::Serialize) -> Event {
    // Views hold nothing that JSON lacks; a failure here is a fault of ours, told as such.
    event.clone().json_data(value).unwrap_or_else(|error| {
        tracing::error!(%error, "an event was not written");
        event.data(serde_json::json!({ "error": detail(&AppError::new(ErrorCode::Internal, "event"), "") }).to_string())
    })
}

/// The name of an event.
pub fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Pty => "pty",
    }
}
