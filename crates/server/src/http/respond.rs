//! What surrounds every handler: request id, log line, figures, authentication, limits, and the one error shape.

use super::extract::{Peer, names_loopback};
use crate::{
    app::{App, AppError},
    auth::Identity,
};
use axum::{
    Json,
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
    middleware::Next,
    response::IntoResponse,
};
use bytes::Bytes;
use csb_api::{ErrorBody, ErrorCode, ErrorDetail, Invalid, Role};
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tracing::Instrument as _;

const REQUEST_ID: &str = "x-request-id";
/// Characters of a path that are logged: more than any route of ours has with the ids that we give.
const LOGGED: usize = 256;

/// A failed request on its way out. `surround` gives it its body, which names the request.
#[derive(Debug, Clone)]
pub struct Failure(AppError);

impl<E: Into<AppError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        let mut response = status(self.0.code).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What a handler answers.
pub type Answer<T> = Result<T, Failure>;

fn status(code: ErrorCode) -> StatusCode {
    // The table holds statuses from 400 to 599; a test says so.
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The id of a request, for streams that report an error after their head was sent.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// One error as it stands in a body.
pub fn detail(error: &AppError, request_id: &str) -> ErrorDetail {
    ErrorDetail {
        code: error.code.as_str().into(),
        message: error.message.clone(),
        hint: error.hint.clone().unwrap_or_else(|| error.code.hint().into()),
        request_id: request_id.into(),
    }
}

/// A caller may give its own id, when it is short and plain enough for a log.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    match given {
        Some(id)
            if (1..=64).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c)) =>
        {
            id.into()
        }
        _ => format!("req-{}", hex::encode(rand::random::<[u8; 8]>())).into(),
    }
}

/// Outermost: names the request, logs and counts it, and gives every failure the one shape.
pub async fn surround(State(app): State<Arc<App>>, mut request: Request, next: Next) -> axum::response::Response {
    let start = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(LOGGED).collect();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", |m| m.as_str()).to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));
    let request = request.map(|body| Body::new(Drained { body: Some(body) }));
    let span = tracing::info_span!("request", request_id = %id, user = tracing::field::Empty);
    let mut response = next.run(request).instrument(span.clone()).await;
    let _entered = span.enter();

    let failure = response.extensions_mut().remove::<Failure>();
    let failed = failure.map(|f| f.0).or_else(|| foreign_failure(&response));
    if let Some(error) = &failed {
        shape(&mut response, error, &id);
        if let Some(detail) = &error.detail {
            tracing::error!(code = error.code.as_str(), detail, "request failed");
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let (status, took) = (response.status().as_u16(), start.elapsed());
    app.metrics.answered(method.as_str(), &route, status, took);
    let code = failed.as_ref().map(|e| e.code.as_str());
    tracing::info!(%method, path, status, code, ms = took.as_micros() as f64 / 1000.0, "answered");
    response
}

/// A failure that the framework answered in its own way.
fn foreign_failure(response: &axum::response::Response) -> Option<AppError> {
    let code = match response.status() {
        s if s.as_u16() < 400 => return None,
        StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::PayloadTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ErrorCode::UnsupportedMediaType,
        StatusCode::REQUEST_TIMEOUT => ErrorCode::RequestTimeout,
        s if s.is_server_error() => return Some(AppError::internal(format!("the framework answered {s}"))),
        _ => ErrorCode::InvalidRequest,
    };
    let message = match code {
        ErrorCode::MethodNotAllowed => "this path does not have this method",
        ErrorCode::NotFound => "there is no such route",
        _ => "the request is not valid",
    };
    Some(AppError::new(code, message))
}

fn shape(response: &mut axum::response::Response, error: &AppError, id: &str) {
    let allow = response.headers().get(header::ALLOW).cloned();
    let body = ErrorBody { error: detail(error, id) };
    *response = (status(error.code), Json(body)).into_response();
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    if let Some(wait) = error.retry_after {
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if error.code.status() == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

/// A panic of a handler is an internal error of that request and of nothing else.
pub async fn catch_panic(request: Request, next: Next) -> axum::response::Response {
    let result = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Failure(AppError::internal(format!("panic: {text}"))).into_response()
    })
}

/// No such route.
pub async fn no_route() -> Failure {
    AppError::new(ErrorCode::NotFound, "there is no such route").into()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    match headers.get(name) {
        None => Ok(None),
        Some(value) => {
            let text = value.to_str().map_err(|_| Invalid::new(format!("header {name} is not visible ASCII")))?;
            Ok(Some(text))
        }
    }
}

/// The caller of a request, if it says who it is. One that says it wrongly may try as often as one that says nothing.
pub async fn caller(app: &App, extensions: &Extensions, headers: &HeaderMap) -> Result<Option<Identity>, Failure> {
    let (token, key) = (text(headers, "authorization")?, text(headers, "x-api-key")?);
    let offered = super::ws::offered_token(headers);
    let token = match key {
        None => token.or(offered.as_deref()),
        Some(_) => token,
    };
    if token.is_none() && key.is_none() {
        return Ok(None);
    }
    match app.auth.authenticate(token, key).await {
        Ok(who) => Ok(Some(who)),
        Err(error) => {
            limit_peer(app, extensions)?;
            Err(error.into())
        }
    }
}

/// In front of all guarded routes: who calls, and how much they may ask.
pub async fn authenticate(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<axum::response::Response, Failure> {
    let Some(who) = caller(&app, request.extensions(), request.headers()).await? else {
        limit_peer(&app, request.extensions())?;
        return Err(AppError::new(ErrorCode::Unauthorized, "no credential was sent").into());
    };
    app.limiter.admit(&who.user_id)?;
    let slot = Arc::new(app.limiter.slot(&who.user_id)?);
    tracing::Span::current().record("user", &*who.user_id);
    request.extensions_mut().insert(who);
    request.extensions_mut().insert(InFlight(slot.clone()));
    let response = next.run(request).await;
    Ok(response.map(|body| Body::new(Held { body, _slot: InFlight(slot) })))
}

/// A place among the requests under way, to be held by what outlives its handler.
#[derive(Debug, Clone)]
pub struct InFlight(#[expect(dead_code, reason = "held for its drop")] Arc<crate::app::Slot>);

/// Limits requests without a good credential by the address they come from.
pub fn limit_peer(app: &App, extensions: &Extensions) -> Result<(), Failure> {
    if let Some(peer) = extensions.get::<Peer>() {
        app.limiter.admit(&format!("address {}", peer.remote.ip()).into())?;
    }
    Ok(())
}

/// Whether the request comes from this very host, and was meant for it.
pub fn is_local(extensions: &Extensions, headers: &HeaderMap) -> bool {
    let loopback = |p: &Peer| p.remote.ip().to_canonical().is_loopback() && p.local.ip().to_canonical().is_loopback();
    extensions.get::<Peer>().is_some_and(loopback) && names_loopback(headers)
}

/// Whether figures may be shown: to this host, and to admins.
pub async fn may_see_figures(app: &App, extensions: &Extensions, headers: &HeaderMap) -> Result<(), Failure> {
    match caller(app, extensions, headers).await? {
        Some(who) if who.role == Role::Admin => Ok(()),
        Some(_) => Err(AppError::new(ErrorCode::RoleDenied, "figures are for admins").into()),
        None if is_local(extensions, headers) => Ok(()),
        None => {
            limit_peer(app, extensions)?;
            Err(AppError::new(ErrorCode::Unauthorized, "no credential was sent").into())
        }
    }
}

/// A response's body that holds the caller's place until it is sent or given up.
struct Held {
    body: Body,
    _slot: InFlight,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body that is read on for a while when its handler has answered without reading it all. Closing the
/// connection under a client that still sends would reset it before the client has read our answer.
struct Drained {
    body: Option<Body>,
}

const DRAIN_TIME: Duration = Duration::from_secs(10);
const DRAIN_PAUSE: Duration = Duration::from_secs(2);
const DRAIN_BYTES: u64 = 2 << 30;

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|b| b.is_end_stream())
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(|b| b.size_hint()).unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|b| !b.is_end_stream()) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let drain = async {
                let mut left = DRAIN_BYTES;
                while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_PAUSE, body.frame()).await {
                    let length = frame.data_ref().map_or(0, |d| d.len() as u64);
                    if length > left {
                        return;
                    }
                    left -= length;
                }
            };
            // Past its time the connection is closed, whatever the client still sends.
            let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
        });
    }
}

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Says that the request was answered before.
pub fn mark_replayed(mut response: axum::response::Response) -> axum::response::Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// An answer that was made before, byte for byte.
pub fn replay(stored: crate::db::Stored) -> axum::response::Response {
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(REPLAYED, "true")
        .body(Body::from(stored.answer))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
