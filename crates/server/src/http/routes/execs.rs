//! Commands and code in a sandbox.

use crate::{
    app::{App, AppError, CodeRun, exec_view},
    http::{
        extract::{Keyed, NeedJson, Path, Query, Upgrade, WantsEvents, Who, upload},
        respond::{Answer, InFlight, RequestId, mark_replayed},
        stream::{events, so_far},
        ws,
    },
};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use csb_api::{
    ErrorBody, ErrorCode, ExecRequest, ExecResultView, ExecView, Invalid, Items, PtySizeRequest, RunCodeRequest,
    Seconds, SignalRequest,
};
use csb_node::OpError;
use futures_util::StreamExt as _;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use utoipa::IntoParams;

/// Longest `wait` of a look-up.
const MOST_WAIT: Duration = Duration::from_secs(3600);

/// A number of seconds to wait, from a query.
pub(super) fn wait(seconds: Option<f64>) -> Result<Duration, Invalid> {
    seconds.map_or(Ok(Duration::ZERO), |s| Seconds(s).duration("wait", Duration::ZERO, MOST_WAIT))
}

/// Answers as asked: events, the result, or that it runs.
pub(super) async fn answer(app: Arc<App>, run: CodeRun, stream: bool, wait: bool, id: RequestId) -> Response {
    let replayed = run.replayed;
    let response = if stream {
        events(app, run, 0, true, id)
    } else if wait {
        Json(run.ended(&app).await).into_response()
    } else {
        (StatusCode::ACCEPTED, Json(exec_view(&run.exec))).into_response()
    };
    if replayed { mark_replayed(response) } else { response }
}

/// Runs a command
///
/// Answers with its result when it has ended; with `wait: false` at once; with `Accept: text/event-stream` with its
/// output as it comes. A caller that hangs up does not end it. Sent again with the same `Idempotency-Key` and body, it
/// starts nothing, and answers with what the first one started.
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/execs", tag = "execs", operation_id = "create_exec",
    params(("sandbox_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = ExecRequest,
    responses((status = 200, body = ExecResultView), (status = 202, body = ExecView, description = "With `wait: false`"),
        (status = "default", body = ErrorBody)))]
pub async fn create(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    WantsEvents(stream): WantsEvents,
    Extension(request_id): Extension<RequestId>,
    body: Keyed<ExecRequest>,
) -> Answer<Response> {
    let mine = app.sandbox(&who, &id)?;
    let wait = body.value.wait.unwrap_or(true);
    let run = app.exec_once(&who, &mine, body.value, body.idem).await?;
    Ok(answer(app, run, stream, wait, request_id).await)
}

/// Runs code
///
/// The code is written to a file, and the command of its language is run on it in the working directory.
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/run-code", tag = "execs", operation_id = "run_code",
    params(("sandbox_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = RunCodeRequest,
    responses((status = 200, body = ExecResultView), (status = 202, body = ExecView, description = "With `wait: false`"),
        (status = "default", body = ErrorBody)))]
pub async fn run_code(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    WantsEvents(stream): WantsEvents,
    Extension(request_id): Extension<RequestId>,
    body: Keyed<RunCodeRequest>,
) -> Answer<Response> {
    let mine = app.sandbox(&who, &id)?;
    let wait = body.value.wait.unwrap_or(true);
    let run = app.run_code_once(&who, &mine, body.value, body.idem).await?;
    Ok(answer(app, run, stream, wait, request_id).await)
}

/// Lists a sandbox's execs
///
/// Running ones and recently ended ones, oldest first.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/execs", tag = "execs", operation_id = "list_execs",
    params(("sandbox_id" = String, Path)),
    responses((status = 200, body = Items<ExecView>), (status = "default", body = ErrorBody)))]
pub async fn list(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<Items<ExecView>>> {
    let mine = app.sandbox(&who, &id)?;
    Ok(Json(Items { items: mine.handle().await?.execs().iter().map(exec_view).collect() }))
}

/// One exec
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/execs/{exec_id}", tag = "execs", operation_id = "get_exec",
    params(("sandbox_id" = String, Path), ("exec_id" = String, Path)),
    responses((status = 200, body = ExecView), (status = "default", body = ErrorBody)))]
pub async fn get(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
) -> Answer<Json<ExecView>> {
    let mine = app.sandbox(&who, &id)?;
    Ok(Json(exec_view(&app.find_exec(&mine, &exec_id).await?)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ResultQuery {
    /// Seconds to wait for its end; default 0.
    pub wait: Option<f64>,
}

/// An exec's result
///
/// `exec_running` when it has not ended after `wait` seconds.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/execs/{exec_id}/result", tag = "execs", operation_id = "get_exec_result",
    params(("sandbox_id" = String, Path), ("exec_id" = String, Path), ResultQuery),
    responses((status = 200, body = ExecResultView), (status = "default", body = ErrorBody)))]
pub async fn result(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
    Query(query): Query<ResultQuery>,
) -> Answer<Json<ExecResultView>> {
    let wait = wait(query.wait)?;
    let exec = app.find_exec(&app.sandbox(&who, &id)?, &exec_id).await?;
    Ok(Json(app.exec_result(&exec, wait).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FromQuery {
    /// Position to begin behind; default 0, the start.
    from: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
    /// Position to begin behind; default 0, the start.
    from: Option<u64>,
    /// Whether to wait for what comes; default true. If not, the stream has what is there now.
    follow: Option<bool>,
}

/// An exec's output as it comes
///
/// Server-sent events `stdout`, `stderr` or `pty` with `OutputEvent` as data and the position as id; then `end` with
/// the `ExecView`. Attach as often as wanted; `from` or `Last-Event-ID` goes on where an earlier stream broke off. With
/// `follow=false` the stream of an exec that runs has its output so far and then `running` with the `ExecView`.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/execs/{exec_id}/output", tag = "execs", operation_id = "get_exec_output",
    params(("sandbox_id" = String, Path), ("exec_id" = String, Path), OutputQuery, ("Last-Event-ID" = Option<u64>, Header)),
    responses((status = 200, body = String, content_type = "text/event-stream"), (status = "default", body = ErrorBody)))]
pub async fn output(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
    Query(query): Query<OutputQuery>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
) -> Answer<Response> {
    let exec = app.find_exec(&app.sandbox(&who, &id)?, &exec_id).await?;
    // The browser's own reconnect repeats the URL, `from` included, and knows better where it stopped.
    let last = match headers.get("last-event-id").filter(|v| !v.is_empty()) {
        None => None,
        Some(value) => {
            let number = value.to_str().ok().and_then(|v| v.parse::<u64>().ok());
            Some(number.ok_or_else(|| Invalid::new("Last-Event-ID is not valid: it is an event's id"))?)
        }
    };
    let from = last.or(query.from).unwrap_or(0);
    Ok(match query.follow {
        Some(false) if exec.result().is_none() => so_far(exec, from, request_id),
        _ => events(app, CodeRun::plain(exec), from, false, request_id),
    })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StdinQuery {
    /// Whether stdin ends after these bytes.
    close: Option<bool>,
}

/// Writes to an exec's stdin
///
/// The body is raw bytes, as many as wanted; the answer comes when the command's pipe has taken all.
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/execs/{exec_id}/stdin", tag = "execs", operation_id = "write_exec_stdin",
    params(("sandbox_id" = String, Path), ("exec_id" = String, Path), StdinQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn stdin(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
    Query(query): Query<StdinQuery>,
    body: Body,
) -> Answer<StatusCode> {
    let exec = app.find_exec(&app.sandbox(&who, &id)?, &exec_id).await?;
    let mut pieces = upload(body, app.config.body_timeout);
    let mut taken = false;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| AppError::new(ErrorCode::RequestTimeout, format!("the body broke off: {e}")))?;
        if !piece.is_empty() {
            exec.write_stdin(piece).await?;
            taken = true;
        }
    }
    if query.close.unwrap_or(false) {
        match exec.close_stdin().await {
            // It had all it wanted and ended before we came to close: nothing is wrong.
            Err(OpError::ExecEnded) if taken => {}
            closed => closed?,
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a signal to an exec
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/execs/{exec_id}/signal", tag = "execs", operation_id = "signal_exec",
    params(("sandbox_id" = String, Path), ("exec_id" = String, Path)), request_body = SignalRequest,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn signal(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
    NeedJson(request): NeedJson<SignalRequest>,
) -> Answer<StatusCode> {
    let number = request.signal.number()?;
    let exec = app.find_exec(&app.sandbox(&who, &id)?, &exec_id).await?;
    exec.signal(number, request.tree.unwrap_or(false)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells an exec's terminal a new size
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/execs/{exec_id}/resize", tag = "execs", operation_id = "resize_exec",
    params(("sandbox_id" = String, Path), ("exec_id" = String, Path)), request_body = PtySizeRequest,
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn resize(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
    NeedJson(request): NeedJson<PtySizeRequest>,
) -> Answer<StatusCode> {
    let size = request.size()?;
    let exec = app.find_exec(&app.sandbox(&who, &id)?, &exec_id).await?;
    exec.resize(size).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An exec on a WebSocket
///
/// Server: text `WsServer`; binary: one byte stream (1 stdout, 2 stderr, 3 terminal), eight bytes position after it
/// (little-endian), the bytes. Client: binary is stdin; text `WsClient`. A browser, which can set no header, offers the
/// subprotocols `csb.v1` and `csb.bearer.TOKEN`; the server takes `csb.v1`.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/execs/{exec_id}/ws", tag = "execs", operation_id = "attach_exec",
    params(("sandbox_id" = String, Path), ("exec_id" = String, Path), FromQuery),
    responses((status = 101, description = "Switching to a WebSocket"), (status = "default", body = ErrorBody)))]
pub async fn ws(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
    Query(query): Query<FromQuery>,
    Extension(request_id): Extension<RequestId>,
    held: Option<Extension<InFlight>>,
    upgrade: Result<Upgrade, crate::http::respond::Failure>,
) -> Answer<Response> {
    let exec = app.find_exec(&app.sandbox(&who, &id)?, &exec_id).await?;
    let from = query.from.unwrap_or(0);
    let Upgrade(upgrade) = upgrade?;
    let upgrade = upgrade.protocols([ws::PROTOCOL]).max_message_size(ws::MOST_FRAME).max_frame_size(ws::MOST_FRAME);
    Ok(upgrade.on_upgrade(move |socket| ws::attach(socket, app, exec, from, request_id, held.map(|h| h.0))))
}
