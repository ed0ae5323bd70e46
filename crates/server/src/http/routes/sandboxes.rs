//! Sandboxes.

use crate::{
    app::{App, Outcome, parse_cursor},
    http::{
        extract::{Json as MaybeJson, NeedJson, Path, Query, Who},
        respond::{Answer, replay},
    },
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use csb_api::{ErrorBody, Invalid, Page, PatchSandboxRequest, SandboxRequest, SandboxState, SandboxView, StatsView};
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
    /// Only those in this state.
    state: Option<SandboxState>,
}

/// How many items a page has.
pub(super) fn page_size(limit: Option<u32>) -> Result<u32, Invalid> {
    match limit.unwrap_or(50) {
        n @ 1..=1000 => Ok(n),
        _ => Err(Invalid::new("limit is not valid: it is between 1 and 1000")),
    }
}

/// Creates a sandbox
///
/// Sent again with the same `Idempotency-Key` and body, it answers the same and makes nothing new.
#[utoipa::path(post, path = "/api/v1/sandboxes", tag = "sandboxes", operation_id = "create_sandbox",
    params(("Idempotency-Key" = Option<String>, Header)), request_body = Option<SandboxRequest>,
    responses((status = 201, body = SandboxView), (status = "default", body = ErrorBody)))]
pub async fn create(State(app): State<Arc<App>>, Who(who): Who, body: MaybeJson<SandboxRequest>) -> Answer<Response> {
    Ok(match app.create_sandbox(&who, body.value, body.idem).await? {
        Outcome::Made(view) => (StatusCode::CREATED, Json(view)).into_response(),
        Outcome::Replayed(stored) => replay(stored),
    })
}

/// Lists sandboxes
///
/// Own ones, newest first; an admin sees all users'.
#[utoipa::path(get, path = "/api/v1/sandboxes", tag = "sandboxes", operation_id = "list_sandboxes", params(ListQuery),
    responses((status = 200, body = Page<SandboxView>), (status = "default", body = ErrorBody)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<SandboxView>>> {
    let after = query.cursor.as_deref().map(parse_cursor).transpose()?;
    Ok(Json(app.list_sandboxes(&who, query.state, after, page_size(query.limit)?).await?))
}

/// One sandbox
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}", tag = "sandboxes", operation_id = "get_sandbox",
    params(("sandbox_id" = String, Path)),
    responses((status = 200, body = SandboxView), (status = "default", body = ErrorBody)))]
pub async fn get(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<SandboxView>> {
    Ok(Json(app.sandbox(&who, &id)?.view()?))
}

/// Changes a sandbox's limits
///
/// Memory, CPU and processes change while it runs; the others cannot.
#[utoipa::path(patch, path = "/api/v1/sandboxes/{sandbox_id}", tag = "sandboxes", operation_id = "patch_sandbox",
    params(("sandbox_id" = String, Path)), request_body = PatchSandboxRequest,
    responses((status = 200, body = SandboxView), (status = "default", body = ErrorBody)))]
pub async fn patch(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    NeedJson(request): NeedJson<PatchSandboxRequest>,
) -> Answer<Json<SandboxView>> {
    let mine = app.sandbox(&who, &id)?;
    Ok(Json(app.patch(mine, request).await?))
}

/// Releases a sandbox
///
/// Answers when nothing is left of it.
#[utoipa::path(delete, path = "/api/v1/sandboxes/{sandbox_id}", tag = "sandboxes", operation_id = "delete_sandbox",
    params(("sandbox_id" = String, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn delete(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<StatusCode> {
    let mine = app.sandbox(&who, &id)?;
    app.release(mine.sandbox).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Freezes every process of a sandbox
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/pause", tag = "sandboxes", operation_id = "pause_sandbox",
    params(("sandbox_id" = String, Path)),
    responses((status = 200, body = SandboxView), (status = "default", body = ErrorBody)))]
pub async fn pause(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<SandboxView>> {
    let mine = app.sandbox(&who, &id)?;
    Ok(Json(app.pause(mine).await?))
}

/// Thaws a sandbox
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/resume", tag = "sandboxes", operation_id = "resume_sandbox",
    params(("sandbox_id" = String, Path)),
    responses((status = 200, body = SandboxView), (status = "default", body = ErrorBody)))]
pub async fn resume(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<SandboxView>> {
    let mine = app.sandbox(&who, &id)?;
    Ok(Json(app.resume(mine).await?))
}

/// What a sandbox uses
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/stats", tag = "sandboxes", operation_id = "get_sandbox_stats",
    params(("sandbox_id" = String, Path)),
    responses((status = 200, body = StatsView), (status = "default", body = ErrorBody)))]
pub async fn stats(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<Json<StatsView>> {
    let mine = app.sandbox(&who, &id)?;
    Ok(Json(app.stats(&mine).await?))
}
