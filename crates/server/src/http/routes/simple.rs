//! The few calls that most programs need: acquire, execute, files, release.

use super::{
    execs::answer,
    files::{checked, download, entries},
};
use crate::{
    app::{App, AppError, Outcome},
    http::{
        extract::{Json as MaybeJson, Keyed, NeedJson, Query, WantsEvents, Who, upload},
        forward,
        respond::{Answer, RequestId, replay},
    },
};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use csb_api::{
    ErrorBody, ExecResultView, ExecuteRequest, FileEntryView, PoolView, ReleaseRequest, ReleaseView, SandboxRequest,
    SandboxView,
};
use csb_types::FileErrorCode;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Gets a sandbox
///
/// From the pool where one fits. The body is optional.
#[utoipa::path(post, path = "/api/v1/sandbox/acquire", tag = "simple", operation_id = "acquire",
    params(("Idempotency-Key" = Option<String>, Header)), request_body = Option<SandboxRequest>,
    responses((status = 200, body = SandboxView), (status = "default", body = ErrorBody)))]
pub async fn acquire(State(app): State<Arc<App>>, Who(who): Who, body: MaybeJson<SandboxRequest>) -> Answer<Response> {
    Ok(match app.create_sandbox(&who, body.value, body.idem).await? {
        Outcome::Made(view) => Json(view).into_response(),
        Outcome::Replayed(mut stored) => {
            stored.status = 200;
            replay(stored)
        }
    })
}

/// Releases a sandbox
///
/// A second time is not an error.
#[utoipa::path(post, path = "/api/v1/sandbox/release", tag = "simple", operation_id = "release", request_body = ReleaseRequest,
    responses((status = 200, body = ReleaseView), (status = "default", body = ErrorBody)))]
pub async fn release(
    State(app): State<Arc<App>>,
    Who(who): Who,
    NeedJson(request): NeedJson<ReleaseRequest>,
) -> Answer<Json<ReleaseView>> {
    Ok(Json(app.release_by_id(&who, &request.sandbox_id).await?))
}

/// The pool, what runs, and the warden
#[utoipa::path(get, path = "/api/v1/sandbox/stats", tag = "simple", operation_id = "get_pool_stats",
    responses((status = 200, body = PoolView), (status = "default", body = ErrorBody)))]
pub async fn pool(State(app): State<Arc<App>>) -> Json<PoolView> {
    Json(app.pool())
}

/// Runs code
#[utoipa::path(post, path = "/api/v1/execute", tag = "simple", operation_id = "execute",
    params(("Idempotency-Key" = Option<String>, Header)), request_body = ExecuteRequest,
    responses((status = 200, body = ExecResultView), (status = "default", body = ErrorBody)))]
pub async fn execute(
    State(app): State<Arc<App>>,
    Who(who): Who,
    WantsEvents(events): WantsEvents,
    Extension(request_id): Extension<RequestId>,
    body: Keyed<ExecuteRequest>,
) -> Answer<Response> {
    if let Some(mine) = app.remote_sandbox(&who, &body.value.sandbox_id)? {
        let value = serde_json::to_value(&body.value).map_err(|e| AppError::internal(e.to_string()))?;
        return forward::execute(app, mine, value, body.idem, events, request_id, &who).await;
    }
    let (sandbox_id, stream, code) = body.value.split();
    let mine = app.sandbox(&who, &sandbox_id)?;
    let run = app.run_code_once(&who, &mine, code, body.idem).await?;
    Ok(answer(app, run, stream || events, true, request_id).await)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// Which sandbox.
    sandbox_id: String,
    /// Absolute path.
    path: String,
}

/// Reads a file, or lists a directory
///
/// A file's bytes; for a directory `FileListView` as JSON.
#[utoipa::path(get, path = "/api/v1/files", tag = "simple", operation_id = "read_file_of", params(FileQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = "default", body = ErrorBody)))]
pub async fn read_file(State(app): State<Arc<App>>, Who(who): Who, Query(q): Query<FileQuery>) -> Answer<Response> {
    let mine = app.sandbox(&who, &q.sandbox_id)?;
    let path = checked(&q.path)?;
    match mine.awake().await?.read_file(None, path, 0, None).await {
        Ok(reader) => Ok(download(reader, "application/octet-stream")),
        Err(error) if error.code == FileErrorCode::IsDirectory => {
            Ok(Json(entries(&mine.awake().await?, None, path, 1, 1000).await?).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes a file
#[utoipa::path(put, path = "/api/v1/files", tag = "simple", operation_id = "write_file_of", params(FileQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = FileEntryView), (status = "default", body = ErrorBody)))]
pub async fn write_file(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Query(q): Query<FileQuery>,
    body: Body,
) -> Answer<Json<FileEntryView>> {
    let mine = app.sandbox(&who, &q.sandbox_id)?;
    let body = upload(body, app.config.body_timeout);
    Ok(Json(mine.awake().await?.write_file(None, checked(&q.path)?, None, false, body).await?.into()))
}

/// Removes a file, or a directory with all below it
#[utoipa::path(delete, path = "/api/v1/files", tag = "simple", operation_id = "remove_file_of", params(FileQuery),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn remove_file(State(app): State<Arc<App>>, Who(who): Who, Query(q): Query<FileQuery>) -> Answer<StatusCode> {
    let mine = app.sandbox(&who, &q.sandbox_id)?;
    mine.awake().await?.remove_file(None, checked(&q.path)?, true).await?;
    Ok(StatusCode::NO_CONTENT)
}
