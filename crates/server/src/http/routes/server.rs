//! The server itself: health, figures, templates, languages.

use crate::{
    app::{App, AppError},
    http::respond::{Answer, may_see_figures},
};
use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::IntoResponse,
};
use csb_api::{ErrorBody, HealthView, Items, KindView, LanguageView, TemplateView};
use std::sync::Arc;

/// Health
#[utoipa::path(get, path = "/health", tag = "server", operation_id = "health", security(()),
    responses((status = 200, body = HealthView)))]
pub async fn health() -> Json<HealthView> {
    Json(HealthView { service: "gateway".into(), status: "ok".into() })
}

/// Figures for Prometheus
///
/// For this host without a credential, else for admins.
#[utoipa::path(get, path = "/metrics", tag = "server", operation_id = "metrics", security((), ("token" = []), ("api_key" = [])),
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = "default", body = ErrorBody)))]
pub async fn metrics(State(app): State<Arc<App>>, request: Request) -> Answer<impl IntoResponse> {
    let (parts, _) = request.into_parts();
    may_see_figures(&app, &parts.extensions, &parts.headers).await?;
    let text = app
        .metrics
        .text(&app.pool(), app.node.local_counts(), app.node.memory())
        .map_err(|e| AppError::internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

/// Lists templates
#[utoipa::path(get, path = "/api/v1/templates", tag = "server", operation_id = "list_templates",
    responses((status = 200, body = Items<TemplateView>), (status = "default", body = ErrorBody)))]
pub async fn templates(State(app): State<Arc<App>>) -> Json<Items<TemplateView>> {
    Json(Items { items: app.templates().await })
}

/// Lists kinds of sandboxes
///
/// What each one isolates and cannot do, and whether this server has it.
#[utoipa::path(get, path = "/api/v1/kinds", tag = "server", operation_id = "list_kinds",
    responses((status = 200, body = Items<KindView>), (status = "default", body = ErrorBody)))]
pub async fn kinds(State(app): State<Arc<App>>) -> Json<Items<KindView>> {
    Json(Items { items: app.kinds().await })
}

/// Lists languages
#[utoipa::path(get, path = "/api/v1/languages", tag = "server", operation_id = "list_languages",
    responses((status = 200, body = Items<LanguageView>), (status = "default", body = ErrorBody)))]
pub async fn languages(State(app): State<Arc<App>>) -> Json<Items<LanguageView>> {
    let view = |l: &csb_types::Language| LanguageView {
        name: l.name.clone(),
        aliases: l.aliases.clone(),
        extension: l.extension().to_owned(),
    };
    Json(Items { items: app.config.languages.iter().map(view).collect() })
}
