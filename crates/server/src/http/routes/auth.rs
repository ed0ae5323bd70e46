//! Tokens and API keys.

use crate::app::AppError;
use crate::{
    app::App,
    http::{
        extract::{Json as MaybeJson, NeedJson, Path, Who},
        respond::{Answer, Failure, caller, is_local, limit_peer},
    },
};
use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::IntoResponse,
};
use csb_api::{ErrorBody, ErrorCode, Items, KeyRequest, KeySecretView, KeyView, TokenRequest, TokenView};
use std::sync::Arc;

/// Makes a token
///
/// With an API key in `X-API-Key`; the token's user and role are the key's unless the key is an admin's.
/// With `--dev`, a request from this host needs no credential and gets role `user`.
#[utoipa::path(post, path = "/api/v1/auth/token", tag = "auth", operation_id = "create_token", security(("api_key" = []), ()),
    request_body = Option<TokenRequest>,
    responses((status = 200, body = TokenView), (status = "default", body = ErrorBody)))]
pub async fn token(State(app): State<Arc<App>>, request: Request) -> Answer<Json<TokenView>> {
    limit_peer(&app, request.extensions())?;
    let local = is_local(request.extensions(), request.headers());
    // A token makes no other token: a stolen one would live for ever.
    let by_token =
        request.headers().contains_key(header::AUTHORIZATION) && !request.headers().contains_key("x-api-key");
    let who = if by_token { None } else { caller(&app, request.extensions(), request.headers()).await? };
    let body = MaybeJson::<TokenRequest>::from_request(request, &app).await?;
    if who.is_none() && !(app.config.dev && local) {
        let message = match app.config.dev {
            true => "without an API key, tokens are given to this host only, through a loopback name",
            false => "a token needs an API key",
        };
        let hint = "send `X-API-Key: csb_…`; the first key is in `admin.key` in the server's data directory";
        return Err(Failure::from(AppError::new(ErrorCode::Unauthorized, message).hint(hint)));
    }
    Ok(Json(app.token(who.as_ref(), &body.value)?))
}

/// Lists API keys
///
/// Admins only. Secrets are never shown again.
#[utoipa::path(get, path = "/api/v1/keys", tag = "auth", operation_id = "list_keys",
    responses((status = 200, body = Items<KeyView>), (status = "default", body = ErrorBody)))]
pub async fn list_keys(State(app): State<Arc<App>>, Who(who): Who) -> Answer<Json<Items<KeyView>>> {
    Ok(Json(Items { items: app.keys(&who).await? }))
}

/// Makes an API key
///
/// Admins only. The answer shows the secret this once.
#[utoipa::path(post, path = "/api/v1/keys", tag = "auth", operation_id = "create_key", request_body = KeyRequest,
    responses((status = 201, body = KeySecretView), (status = "default", body = ErrorBody)))]
pub async fn create_key(
    State(app): State<Arc<App>>,
    Who(who): Who,
    NeedJson(request): NeedJson<KeyRequest>,
) -> Answer<impl IntoResponse> {
    Ok((StatusCode::CREATED, Json(app.create_key(&who, &request).await?)))
}

/// Revokes an API key
///
/// Admins only. Tokens made with the key end with it.
#[utoipa::path(delete, path = "/api/v1/keys/{key_id}", tag = "auth", operation_id = "revoke_key",
    params(("key_id" = String, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
pub async fn revoke_key(State(app): State<Arc<App>>, Who(who): Who, Path(id): Path<String>) -> Answer<StatusCode> {
    app.revoke_key(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
