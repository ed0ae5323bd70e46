//! Files of a sandbox.

use crate::{
    app::{App, AppError},
    http::{
        extract::{NeedJson, Path, Query, Who, upload},
        respond::{Answer, Failure},
    },
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use csb_api::{
    ErrorBody, ErrorCode, FileEntryView, FileListView, Invalid, MkdirRequest, MoveRequest, UnpackView, parse_mode,
};
use csb_node::{FileReader, Handle};
use futures_util::stream;
use serde::Deserialize;
use std::{io, sync::Arc};
use utoipa::IntoParams;

/// Deepest listing; no path the kernel takes is deeper.
const MOST_DEPTH: u32 = 4096;
const MOST_ENTRIES: u32 = 100_000;

/// Refuses what no sandbox can have, before it is asked.
pub(super) fn checked(path: &str) -> Result<&str, AppError> {
    let bad = |why: &str| Err(AppError::new(ErrorCode::InvalidPath, format!("path is not valid: {why}")));
    match path {
        p if !p.starts_with('/') => bad("it is absolute, such as /workspace/file"),
        p if p.len() > 4095 => bad("it is at most 4095 bytes"),
        p if p.contains('\0') => bad("it holds no NUL"),
        p if p.split('/').any(|part| part == "..") => bad("it holds no `..`"),
        p => Ok(p),
    }
}

fn checked_user(user: Option<&str>) -> Result<Option<&str>, Invalid> {
    let plain =
        |u: &str| (1..=32).contains(&u.len()) && u.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
    match user {
        Some(user) if !plain(user) => {
            Err(Invalid::new("user is not valid: a name or number of 1 to 32 letters, digits, `.`, `_`, `-`"))
        }
        user => Ok(user),
    }
}

/// A file's or archive's bytes as they come; a failure under way breaks the connection off, so that half a file is not
/// taken for a whole one.
pub(super) fn download(reader: FileReader, content_type: &'static str) -> Response {
    let pieces = stream::try_unfold(reader, |mut reader| async move {
        match reader.next().await {
            Ok(Some(piece)) => Ok(Some((piece, reader))),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::warn!(%error, "a download broke off");
                Err(io::Error::other(error))
            }
        }
    });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(pieces)).into_response()
}

pub(super) async fn entries(
    handle: &Handle,
    user: Option<&str>,
    path: &str,
    depth: u32,
    limit: u32,
) -> Result<FileListView, AppError> {
    let (items, truncated) = handle.list_files(user, path, depth, limit).await?;
    Ok(FileListView { items: items.into_iter().map(Into::into).collect(), truncated })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadQuery {
    /// Absolute path.
    path: String,
    /// First byte; default 0.
    offset: Option<u64>,
    /// Most bytes; default to the end.
    length: Option<u64>,
    /// User inside the sandbox; default `user`.
    user: Option<String>,
}

/// Reads a file
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/files", tag = "files", operation_id = "read_file",
    params(("sandbox_id" = String, Path), ReadQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = "default", body = ErrorBody)))]
pub async fn read(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    Query(q): Query<ReadQuery>,
) -> Answer<Response> {
    let mine = app.sandbox(&who, &id)?;
    let user = checked_user(q.user.as_deref())?;
    let reader = mine.awake().await?.read_file(user, checked(&q.path)?, q.offset.unwrap_or(0), q.length).await?;
    Ok(download(reader, "application/octet-stream"))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// Absolute path; missing directories are made.
    path: String,
    /// Permission bits in octal of a new file; default 644.
    mode: Option<String>,
    /// Append in place instead of replacing.
    append: Option<bool>,
    /// User inside the sandbox; default `user`.
    user: Option<String>,
}

/// Writes a file
///
/// Replaced at once when all bytes are there; an upload that breaks off leaves the old file.
#[utoipa::path(put, path = "/api/v1/sandboxes/{sandbox_id}/files", tag = "files", operation_id = "write_file",
    params(("sandbox_id" = String, Path), WriteQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = FileEntryView), (status = "default", body = ErrorBody)))]
pub async fn write(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    Query(q): Query<WriteQuery>,
    body: Body,
) -> Answer<Json<FileEntryView>> {
    let mine = app.sandbox(&who, &id)?;
    let mode = q.mode.as_deref().map(parse_mode).transpose()?;
    let (user, path) = (checked_user(q.user.as_deref())?, checked(&q.path)?);
    let body = upload(body, app.config.body_timeout);
    Ok(Json(mine.awake().await?.write_file(user, path, mode, q.append.unwrap_or(false), body).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveQuery {
    /// Absolute path.
    path: String,
    /// With all below it.
    recursive: Option<bool>,
    /// User inside the sandbox; default `user`.
    user: Option<String>,
}

/// Removes a file or directory
#[utoipa::path(delete, path = "/api/v1/sandboxes/{sandbox_id}/files", tag = "files", operation_id = "remove_file",
    params(("sandbox_id" = String, Path), RemoveQuery),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn remove(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    Query(q): Query<RemoveQuery>,
) -> Answer<StatusCode> {
    let mine = app.sandbox(&who, &id)?;
    let user = checked_user(q.user.as_deref())?;
    mine.awake().await?.remove_file(user, checked(&q.path)?, q.recursive.unwrap_or(false)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Absolute path of a directory; default /workspace.
    path: Option<String>,
    /// How deep; 1, the default, is the directory itself.
    depth: Option<u32>,
    /// Most entries; default 1000.
    limit: Option<u32>,
    /// All depths.
    recursive: Option<bool>,
    /// User inside the sandbox; default `user`.
    user: Option<String>,
}

/// Lists a directory
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/files/list", tag = "files", operation_id = "list_files",
    params(("sandbox_id" = String, Path), ListQuery),
    responses((status = 200, body = FileListView), (status = "default", body = ErrorBody)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    Query(q): Query<ListQuery>,
) -> Answer<Json<FileListView>> {
    let mine = app.sandbox(&who, &id)?;
    let (depth, limit) = (q.depth.unwrap_or(1), q.limit.unwrap_or(1000));
    if !(1..=MOST_DEPTH).contains(&depth) || !(1..=MOST_ENTRIES).contains(&limit) {
        let message = format!("depth is between 1 and {MOST_DEPTH}, limit between 1 and {MOST_ENTRIES}");
        return Err(Failure::from(Invalid::new(message)));
    }
    let depth = if q.recursive.unwrap_or(false) { MOST_DEPTH } else { depth };
    let path = checked(q.path.as_deref().unwrap_or(csb_types::WORKSPACE))?;
    Ok(Json(entries(&mine.awake().await?, checked_user(q.user.as_deref())?, path, depth, limit).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PathQuery {
    /// Absolute path.
    path: String,
    /// User inside the sandbox; default `user`.
    user: Option<String>,
}

/// One file or directory
///
/// A link is not followed.
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/files/stat", tag = "files", operation_id = "stat_file",
    params(("sandbox_id" = String, Path), PathQuery),
    responses((status = 200, body = FileEntryView), (status = "default", body = ErrorBody)))]
pub async fn stat(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    Query(q): Query<PathQuery>,
) -> Answer<Json<FileEntryView>> {
    let mine = app.sandbox(&who, &id)?;
    let user = checked_user(q.user.as_deref())?;
    Ok(Json(mine.awake().await?.stat_file(user, checked(&q.path)?).await?.into()))
}

/// Makes a directory and its missing parents
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/files/mkdir", tag = "files", operation_id = "make_directory",
    params(("sandbox_id" = String, Path)), request_body = MkdirRequest,
    responses((status = 200, body = FileEntryView), (status = "default", body = ErrorBody)))]
pub async fn mkdir(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    NeedJson(request): NeedJson<MkdirRequest>,
) -> Answer<Json<FileEntryView>> {
    let mine = app.sandbox(&who, &id)?;
    let user = checked_user(request.user.as_deref())?;
    Ok(Json(mine.awake().await?.make_dir(user, checked(&request.path)?).await?.into()))
}

/// Renames a file or directory
#[utoipa::path(post, path = "/api/v1/sandboxes/{sandbox_id}/files/move", tag = "files", operation_id = "move_file",
    params(("sandbox_id" = String, Path)), request_body = MoveRequest,
    responses((status = 200, body = FileEntryView), (status = "default", body = ErrorBody)))]
pub async fn rename(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    NeedJson(request): NeedJson<MoveRequest>,
) -> Answer<Json<FileEntryView>> {
    let mine = app.sandbox(&who, &id)?;
    let user = checked_user(request.user.as_deref())?;
    Ok(Json(mine.awake().await?.move_file(user, checked(&request.from)?, checked(&request.to)?).await?.into()))
}

/// Downloads a directory or file as a tar archive
#[utoipa::path(get, path = "/api/v1/sandboxes/{sandbox_id}/archive", tag = "files", operation_id = "download_archive",
    params(("sandbox_id" = String, Path), PathQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-tar"), (status = "default", body = ErrorBody)))]
pub async fn pack(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    Query(q): Query<PathQuery>,
) -> Answer<Response> {
    let mine = app.sandbox(&who, &id)?;
    let user = checked_user(q.user.as_deref())?;
    Ok(download(mine.awake().await?.pack(user, checked(&q.path)?).await?, "application/x-tar"))
}

/// Unpacks a tar archive below a directory
#[utoipa::path(put, path = "/api/v1/sandboxes/{sandbox_id}/archive", tag = "files", operation_id = "upload_archive",
    params(("sandbox_id" = String, Path), PathQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = UnpackView), (status = "default", body = ErrorBody)))]
pub async fn unpack(
    State(app): State<Arc<App>>,
    Who(who): Who,
    Path(id): Path<String>,
    Query(q): Query<PathQuery>,
    body: Body,
) -> Answer<Json<UnpackView>> {
    let mine = app.sandbox(&who, &id)?;
    let user = checked_user(q.user.as_deref())?;
    let body = upload(body, app.config.body_timeout);
    Ok(Json(UnpackView { bytes: mine.awake().await?.unpack(user, checked(&q.path)?, body).await? }))
}
