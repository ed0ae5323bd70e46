//! Workspaces of all users.

use crate::{
    app::App,
    http::{
        extract::{NeedJson, Who},
        respond::Answer,
    },
};
use axum::{Json, extract::State};
use csb_api::{CleanRequest, CleanView, ErrorBody};
use std::sync::Arc;

/// Removes workspaces that nobody has used for long
///
/// Admins only. A workspace of a sandbox that exists is never touched, awake or not. With `dry_run` nothing is removed.
#[utoipa::path(post, path = "/api/v1/workspaces/clean", tag = "server", operation_id = "clean_workspaces",
    request_body = CleanRequest,
    responses((status = 200, body = CleanView), (status = "default", body = ErrorBody)))]
pub async fn clean(
    State(app): State<Arc<App>>,
    Who(who): Who,
    NeedJson(request): NeedJson<CleanRequest>,
) -> Answer<Json<CleanView>> {
    Ok(Json(app.clean_workspaces(&who, &request).await?))
}
