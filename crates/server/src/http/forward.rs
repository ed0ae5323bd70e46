//! Requests about a sandbox or session of another server: checked here like any other, then sent on as they are, and the answer
//! sent back as it comes.
//!
//! What the far server sees is this server's credential, our request id, and of the caller's headers those that
//! [`crate::remote::asked`] lets pass. Paths are rebuilt from plain segments, so that no caller leaves the sandbox that was
//! checked.

mod events;
mod rewrite;
mod socket;

use super::{
    extract::{idempotency_key, json_bytes, upload},
    respond::{Answer, InFlight, RequestId},
};
use crate::{
    app::{App, AppError, Idem, MineFar, MineFarSession, is_gone},
    auth::Identity,
    remote::{Ask, Endpoint, FORWARDED, FarError, Payload, answered, asked},
};
use axum::{
    body::Body,
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use csb_api::{ErrorCode, SandboxView};
use csb_types::Kind;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex, PoisonError};

const SANDBOXES: &str = "/api/v1/sandboxes/";
const SESSIONS: &str = "/api/v1/sessions/";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a forwarded request is about.
enum Subject {
    Sandbox(MineFar),
    Session(Box<MineFarSession>),
}

/// One request on its way to another server.
struct Forward {
    app: Arc<App>,
    subject: Subject,
    endpoint: Arc<Endpoint>,
    request_id: RequestId,
    /// The caller's idempotency key and what the far server gets in its place.
    key: Option<(String, String)>,
}

/// In front of the handlers, behind `authenticate`: sends on what is about another server's sandbox or session.
pub async fn forward(State(app): State<Arc<App>>, request: Request, next: Next) -> Answer<Response> {
    let (Some(who), Some(request_id)) =
        (request.extensions().get::<Identity>().cloned(), request.extensions().get::<RequestId>().cloned())
    else {
        return Ok(next.run(request).await);
    };
    let path = request.uri().path();
    if request.headers().contains_key(FORWARDED)
        && app.config.kind == Kind::Remote
        && request.method() == Method::POST
        && matches!(path, "/api/v1/sandboxes" | "/api/v1/sessions")
    {
        // Servers that name each other would pass one request on for ever.
        let message = "this server makes sandboxes at other servers, and does not pass on what a server asks of it";
        let hint = "name the server that is to make them in REMOTE_SERVERS, or set SANDBOX_KIND here to another kind";
        return Err(AppError::new(ErrorCode::Unsupported, message).hint(hint).into());
    }
    if let Some((id, rest)) = path.strip_prefix(SANDBOXES).map(split) {
        let Some(mine) = app.remote_sandbox(&who, id)? else { return Ok(next.run(request).await) };
        if rest.is_empty() && request.method() == Method::DELETE {
            app.release_remote(mine).await?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        usable(&mine)?;
        let rest = plain(rest)?.to_owned();
        let path = format!("{SANDBOXES}{}{rest}", mine.far.far_id);
        let endpoint = mine.endpoint()?.clone();
        let forward = Forward { app, subject: Subject::Sandbox(mine), endpoint, request_id, key: None };
        return forward.run(request, path, &rest).await;
    }
    if let Some((id, rest)) = path.strip_prefix(SESSIONS).map(split) {
        // The rest of a session's calls change what is known of it here as well.
        if rest != "/execute" && !rest.starts_with("/executions/") {
            return Ok(next.run(request).await);
        }
        let Some(mine) = app.remote_session(&who, id).await? else { return Ok(next.run(request).await) };
        let rest = plain(rest)?.to_owned();
        let path = format!("{SESSIONS}{}{rest}", mine.far.far_id);
        let endpoint = mine.endpoint()?.clone();
        let forward = Forward { app, subject: Subject::Session(Box::new(mine)), endpoint, request_id, key: None };
        return forward.run(request, path, &rest).await;
    }
    if path == "/api/v1/files"
        && let Some((id, query)) = file_query(request.uri().query().unwrap_or(""))
        && let Some(mine) = app.remote_sandbox(&who, &id)?
    {
        usable(&mine)?;
        let path = format!("/api/v1/files?{}", query(&mine.far.far_id));
        let endpoint = mine.endpoint()?.clone();
        let forward = Forward { app, subject: Subject::Sandbox(mine), endpoint, request_id, key: None };
        return forward.pass(request, path, "/files").await;
    }
    Ok(next.run(request).await)
}

/// Sends on a request to run code whose body names the sandbox.
pub async fn execute(
    app: Arc<App>,
    mine: MineFar,
    mut body: Value,
    idem: Option<Idem>,
    events: bool,
    request_id: RequestId,
    who: &Identity,
) -> Answer<Response> {
    usable(&mine)?;
    body["sandbox_id"] = mine.far.far_id.as_str().into();
    let endpoint = mine.endpoint()?.clone();
    let mut forward = Forward { app, subject: Subject::Sandbox(mine), endpoint, request_id, key: None };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if events {
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    }
    forward.keyed(&mut headers, idem.map(|idem| idem.key), who);
    let payload = Payload::Bytes(body.to_string().into());
    let ask = Ask { headers, payload, repeat: true, ..Ask::new(Method::POST, "/api/v1/execute") };
    forward.answer(ask, "/execute").await
}

/// The id and what follows it, beginning with its slash.
fn split(rest: &str) -> (&str, &str) {
    rest.find('/').map_or((rest, ""), |at| rest.split_at(at))
}

/// Refuses a path that another reader might take for a different one.
fn plain(rest: &str) -> Result<&str, AppError> {
    match rest.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_/".contains(&c)) {
        true => Ok(rest),
        false => Err(AppError::no_exec(rest.split('/').nth(2).unwrap_or(rest))),
    }
}

fn usable(mine: &MineFar) -> Result<(), AppError> {
    if mine.far.is_releasing() {
        let message = format!("sandbox `{}` is being released", mine.id);
        return Err(AppError::new(ErrorCode::SandboxReleasing, message));
    }
    Ok(())
}

/// The sandbox that a query names, and the same query with another in its place.
fn file_query(query: &str) -> Option<(String, impl Fn(&str) -> String + use<>)> {
    let pairs: Vec<(String, String)> =
        reqwest::Url::parse(&format!("http://x/?{query}")).ok()?.query_pairs().into_owned().collect();
    let mut named = pairs.iter().filter(|(name, _)| name == "sandbox_id");
    let (Some((_, id)), None) = (named.next(), named.next()) else { return None };
    let id = id.clone();
    let with = move |far_id: &str| {
        let mut url = reqwest::Url::parse("http://x/").expect("it is an address");
        for (name, value) in &pairs {
            url.query_pairs_mut().append_pair(name, if name == "sandbox_id" { far_id } else { value });
        }
        url.query().unwrap_or("").to_owned()
    };
    Some((id, with))
}

/// Whether a request starts something, which its body's key lets happen once.
fn starts(method: &Method, rest: &str) -> bool {
    method == Method::POST && matches!(rest, "/execs" | "/run-code" | "/execute")
}

impl Forward {
    async fn run(mut self, request: Request, path: String, rest: &str) -> Answer<Response> {
        let path = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        if rest.ends_with("/ws") {
            return self.socket(request, path).await;
        }
        if !starts(request.method(), rest) {
            return self.pass(request, path, rest).await;
        }
        let who = request.extensions().get::<Identity>().cloned();
        let (parts, body) = request.into_parts();
        let bytes = json_bytes(&parts.headers, body, &self.app).await?;
        let mut headers = asked(&parts.headers);
        headers.remove(header::CONTENT_LENGTH);
        let given = idempotency_key(&parts.headers)?.map(checked_key).transpose()?;
        if let Some(who) = who {
            self.keyed(&mut headers, given, &who);
        }
        let ask = Ask { headers, payload: Payload::Bytes(bytes), repeat: true, ..Ask::new(parts.method, path) };
        self.answer(ask, rest).await
    }

    /// Gives a request the key under which the far server does it once. Callers' keys are told apart by user: to the far server
    /// we are one user. Without one of the caller's the request has one of its own, for our own retries.
    fn keyed(&mut self, headers: &mut HeaderMap, given: Option<String>, who: &Identity) {
        let far = match &given {
            Some(key) => {
                let mut hash = Sha256::new();
                for part in [who.user_id.as_bytes(), key.as_bytes()] {
                    hash.update((part.len() as u64).to_le_bytes());
                    hash.update(part);
                }
                hex::encode(hash.finalize())
            }
            None => hex::encode(rand::random::<[u8; 32]>()),
        };
        if let Ok(value) = HeaderValue::from_str(&far) {
            headers.insert(IDEMPOTENCY_KEY, value);
        }
        self.key = given.map(|key| (key, far));
    }

    /// Sends a request on with its body as it comes.
    async fn pass(self, request: Request, path: String, rest: &str) -> Answer<Response> {
        let (parts, body) = request.into_parts();
        let headers = asked(&parts.headers);
        let broken = Broken::default();
        let payload = match axum::body::HttpBody::is_end_stream(&body) {
            true => Payload::None,
            false => Payload::Stream(broken.watched(body, self.app.config.body_timeout)),
        };
        let ask = Ask { headers, payload, ..Ask::new(parts.method, path) };
        // A removal that is sent again finds nothing to remove.
        let repeat = ask.method.is_safe();
        match self.answer(Ask { repeat, ..ask }, rest).await {
            Err(failure) => match broken.why() {
                Some(why) => Err(AppError::new(ErrorCode::RequestTimeout, format!("the body broke off: {why}")).into()),
                None => Err(failure),
            },
            answer => answer,
        }
    }

    async fn answer(self, ask: Ask, rest: &str) -> Answer<Response> {
        let method = ask.method.clone();
        let response = self.ask(ask).await?;
        let headers = answered(response.headers());
        let status = response.status();
        let is_events = is_events(&headers);
        if is_events {
            let body = events::guarded(
                response,
                self.endpoint.name.clone(),
                self.request_id.clone(),
                self.app.stopping.clone(),
            );
            self.ran(rest);
            return Ok(respond(status, headers, body));
        }
        match &self.subject {
            Subject::Sandbox(mine) => match (method, rest) {
                (Method::GET | Method::PATCH, "") | (Method::POST, "/pause" | "/resume") => {
                    let view = mine.adapt(self.small(response).await?)?;
                    let typed: SandboxView = mine.far.seen();
                    self.app.saw_remote(&mine.id, &typed).await?;
                    Ok((status, axum::Json(view)).into_response())
                }
                (Method::GET, "/stats") => {
                    let mut view = self.small(response).await?;
                    view["sandbox_id"] = mine.id.as_str().into();
                    Ok((status, axum::Json(view)).into_response())
                }
                _ => Ok(respond(status, headers, Body::new(reqwest::Body::from(response)))),
            },
            Subject::Session(mine) => {
                let mut headers = headers;
                headers.remove(header::CONTENT_LENGTH);
                let body = reqwest::Body::from(response);
                let body = rewrite::field(body, "session_id", mine.row.id.clone());
                self.ran(rest);
                Ok(respond(status, headers, body))
            }
        }
    }

    /// Sends a request and returns an answer that is a success; anything else in our words.
    async fn ask(&self, mut ask: Ask) -> Result<reqwest::Response, AppError> {
        if let Ok(id) = HeaderValue::from_str(&self.request_id.0) {
            ask.headers.insert(REQUEST_ID, id);
        }
        let response = match self.endpoint.send(ask).await {
            Ok(response) => self.endpoint.accepted(response).await,
            Err(error) => Err(error),
        };
        match response {
            Ok(response) => Ok(response),
            Err(error) => Err(self.refused(error).await),
        }
    }

    /// A refusal with our ids in place of the far server's; what it says is gone is gone here as well.
    async fn refused(&self, error: FarError) -> AppError {
        let FarError::Refused(mut error) = error else { return error.into() };
        let (far_id, id) = match &self.subject {
            Subject::Sandbox(mine) => (&mine.far.far_id, mine.id.as_str()),
            Subject::Session(mine) => (&mine.far.far_id, mine.row.id.as_str()),
        };
        error.message = error.message.replace(far_id.as_str(), id);
        match &self.key {
            Some((key, far)) => error.message = error.message.replace(far.as_str(), &crate::app::cut(key)),
            // The key is none that the caller knows.
            None if error.code == ErrorCode::IdempotencyConflict => {
                let (server, why) = (self.endpoint.name.clone(), error.message);
                return FarError::Lost { server, why }.into();
            }
            None => {}
        }
        if is_gone(error.code) {
            let ended = match &self.subject {
                Subject::Sandbox(mine) => self.app.ended_far(&mine.id).await,
                Subject::Session(mine) if error.code == ErrorCode::SessionNotFound => {
                    self.app.lost_session(&mine.row).await
                }
                Subject::Session(_) => Ok(()),
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "the end of what is elsewhere is not recorded yet");
            }
        }
        error
    }

    async fn small(&self, response: reqwest::Response) -> Result<Value, AppError> {
        let body = self.endpoint.whole(response).await?;
        serde_json::from_slice(&body).map_err(|_| {
            let why = "answers with what is no JSON".to_owned();
            FarError::Strange { server: self.endpoint.name.clone(), why, done: true }.into()
        })
    }

    /// Code has run in a session: it may have another sandbox now.
    fn ran(&self, rest: &str) {
        if let Subject::Session(mine) = &self.subject
            && rest == "/execute"
        {
            let (app, id, far) = (self.app.clone(), mine.row.id.clone(), mine.far.clone());
            app.follow_later(id, far);
        }
    }

    async fn socket(self, request: Request, path: String) -> Answer<Response> {
        let (mut parts, _) = request.into_parts();
        let held = parts.extensions.get::<InFlight>().cloned();
        let super::extract::Upgrade(upgrade) =
            super::extract::Upgrade::from_request_parts(&mut parts, &self.app).await?;
        let (ask, key) = socket::request(path);
        let response = self.ask(ask).await?;
        let far = socket::accepted(response, &key, &self.endpoint.name).await?;
        let (app, request_id, server) = (self.app.clone(), self.request_id.clone(), self.endpoint.name.clone());
        let upgrade = upgrade
            .protocols([super::ws::PROTOCOL])
            .max_message_size(super::ws::MOST_FRAME)
            .max_frame_size(super::ws::MOST_FRAME);
        Ok(upgrade.on_upgrade(move |near| async move {
            socket::tunnel(near, far, &app, &server, &request_id).await;
            drop(held);
        }))
    }
}

fn checked_key(key: &HeaderValue) -> Result<String, AppError> {
    let text = key.to_str().ok().filter(|k| (1..=255).contains(&k.len()) && k.bytes().all(|c| c.is_ascii_graphic()));
    text.map(str::to_owned).ok_or_else(|| {
        let message = "Idempotency-Key is not valid: it is 1 to 255 visible ASCII characters without spaces";
        AppError::new(ErrorCode::InvalidRequest, message)
    })
}

fn is_events(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"))
}

fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Whether it was the caller's own body that broke off.
#[derive(Clone, Default)]
struct Broken(Arc<Mutex<Option<String>>>);

impl Broken {
    fn watched(&self, body: Body, pause: std::time::Duration) -> Body {
        let broken = self.clone();
        Body::from_stream(upload(body, pause).map(move |piece: std::io::Result<Bytes>| {
            if let Err(error) = &piece {
                *broken.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
            piece
        }))
    }

    fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A stream of bytes that ends with its first error.
fn body_of(
    response: reqwest::Response,
) -> impl futures_util::Stream<Item = Result<Bytes, reqwest::Error>> + Unpin + Send {
    let pieces = http_body_util::BodyDataStream::new(reqwest::Body::from(response));
    Box::pin(stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.next().await? {
            Ok(piece) => Some((Ok(piece), Some(pieces))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_sandbox_that_was_checked() {
        assert_eq!(split("sb-a/execs/ex-b/ws"), ("sb-a", "/execs/ex-b/ws"));
        assert_eq!(split("sb-a"), ("sb-a", ""));
        for good in ["", "/execs", "/execs/ex-b/output", "/run-code"] {
            assert_eq!(plain(good).unwrap(), good);
        }
        for bad in ["/execs/..", "/execs/%2e%2e/result", "/execs/a?b", "/execs/a#b", "/execs/a\\b", "/execs/ü"] {
            assert_eq!(plain(bad).unwrap_err().code, ErrorCode::ExecNotFound, "{bad}");
        }
    }

    #[test]
    fn a_query_keeps_all_but_the_sandbox() {
        let (id, with) = file_query("path=%2Fa%20b&sandbox_id=sb%2Da&user=ro%26ot").unwrap();
        assert_eq!(id, "sb-a");
        assert_eq!(with("sb-far"), "path=%2Fa+b&sandbox_id=sb-far&user=ro%26ot");
        for bad in ["", "path=/x", "sandbox_id=a&sandbox_id=b"] {
            assert!(file_query(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_requests_that_a_key_protects_are_taken_for_starts() {
        for (method, rest, expected) in [
            (Method::POST, "/execs", true),
            (Method::POST, "/run-code", true),
            (Method::GET, "/execs", false),
            (Method::POST, "/execs/ex-a/stdin", false),
            (Method::POST, "/pause", false),
        ] {
            assert_eq!(starts(&method, rest), expected, "{method} {rest}");
        }
    }
}
