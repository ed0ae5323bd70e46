//! Sessions.

use super::execs::{ResultQuery, wait};
use crate::{
    app::{App, Outcome, parse_cursor, session_view},
    http::{
        extract::{Json as MaybeJson, Keyed, Path, Query, WantsEvents, Who},
        respond::{Answer, RequestId, mark_replayed, replay},
        stream::events,
    },
};
use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use csb_api::{ErrorBody, ExecResultView, Page, SessionExecuteRequest, SessionRequest, SessionView};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Most items of a page, 1 to 1000; default 50.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Creates a session
///
/// Sent again with the same `Idempotency-Key` and body, it answers the same and makes nothing new.
#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", operation_id = "create_session",
    params(("Idempotency-Key" = Option<String>, Header)), request_body = Option<SessionRequest>,
    responses((status = 201, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn create(State(app): State<Arc<App>>, Who(who): Who, body: MaybeJson<SessionRequest>) -> Answer<Response> {
    Ok(match app.create_session(&who, body.value, body.idem).await? {
        Outcome::Made(view) => (StatusCode::CREATED, Json(view)).into_response(),
        Outcome::Replayed(stored) => replay(stored),
    })
}

/// Lists sessions
///
/// Own ones, newest first; an admin sees all users'.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", operation_id = "list_sessions", params(ListQuery),
    responses((status = 200, body = Page<SessionView>), (status = "default", body = ErrorBody)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<SessionView>>> {
    let after = query.cursor.as_deref().map(parse_cursor).transpose()?;
    Ok(Json(app.list_sessions(&who, after, super::sandboxes::page_size(query.limit)?).await?))
}

/// One session
#[utoipa::path(get, path = "/api/v1/sessions/{session_id}", tag = "sessions", operation_id = "get_session",
    params(("session_id" = String, Path)),
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn get(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<SessionView>> {
    Ok(Json(session_view(&app.session(&who, &id).await?)?))
}

/// Ends a session and its sandbox
#[utoipa::path(delete, path = "/api/v1/sessions/{session_id}", tag = "sessions", operation_id = "delete_session",
    params(("session_id" = String, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn delete(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<StatusCode> {
    app.delete_session(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Freezes a session's sandbox
#[utoipa::path(post, path = "/api/v1/sessions/{session_id}/pause", tag = "sessions", operation_id = "pause_session",
    params(("session_id" = String, Path)),
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn pause(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<SessionView>> {
    Ok(Json(app.pause_session(&who, &id).await?))
}

/// Thaws a session's sandbox
///
/// Where it is gone, a new one is started and `note` says what was lost.
#[utoipa::path(post, path = "/api/v1/sessions/{session_id}/resume", tag = "sessions", operation_id = "resume_session",
    params(("session_id" = String, Path)),
    responses((status = 200, body = SessionView), (status = "default", body = ErrorBody)))]
pub async fn resume(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<SessionView>> {
    Ok(Json(app.resume_session(&who, &id).await?))
}

/// Runs code in a session
///
/// Python and JavaScript that define a top-level `handler(event)` or `handler(event, context)` have it called, and
/// `result` is what it returned.
#[utoipa::path(post, path = "/api/v1/sessions/{session_id}/execute", tag = "sessions", operation_id = "execute_in_session",
    params(("session_id" = String, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = SessionExecuteRequest,
    responses((status = 200, body = ExecResultView), (status = "default", body = ErrorBody)))]
pub async fn execute(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    WantsEvents(events_wanted): WantsEvents,
    Extension(request_id): Extension<RequestId>,
    body: Keyed<SessionExecuteRequest>,
) -> Answer<Response> {
    let (stream, event, code) = body.value.split();
    let run = app.session_execute_once(&who, &id, code, event, body.idem).await?;
    let replayed = run.replayed;
    let response = if stream || events_wanted {
        events(app, run, 0, true, request_id)
    } else {
        let mut view = run.ended(&app).await;
        view.session_id = Some(id);
        Json(view).into_response()
    };
    Ok(if replayed { mark_replayed(response) } else { response })
}

/// The result of code that ran in a session
#[utoipa::path(get, path = "/api/v1/sessions/{session_id}/executions/{exec_id}", tag = "sessions", operation_id = "get_session_execution",
    params(("session_id" = String, Path), ("exec_id" = String, Path), ResultQuery),
    responses((status = 200, body = ExecResultView), (status = "default", body = ErrorBody)))]
pub async fn execution(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path((id, exec_id)): Path<(String, String)>,
    Query(query): Query<ResultQuery>,
) -> Answer<Json<ExecResultView>> {
    Ok(Json(app.session_result(&who, &id, &exec_id, wait(query.wait)?).await?))
}
