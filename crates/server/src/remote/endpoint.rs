//! One other server, and one request to it with that server's credential.
//!
//! Redirects are not followed, proxies of the environment not used, and a request is sent again only where that cannot do a
//! thing twice: while nothing of it was sent, and where the caller of [`Endpoint::send`] says that it may be.

use super::RETRY;
use crate::{app::AppError, config::RemoteServer};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
};
use bytes::Bytes;
use csb_api::{ErrorBody, ErrorCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use reqwest::Response;
use std::time::{Duration, Instant};

/// Marks a request that a server sends for one of its own callers.
pub const FORWARDED: HeaderName = HeaderName::from_static("x-csb-forwarded");
/// For how long a request that may be repeated is sent again while the server does not answer: as long as one takes to start.
const PATIENCE: Duration = Duration::from_secs(4);
/// The same where it answered a moment ago: what was sent may have been done, and only it can tell.
const PATIENCE_LOST: Duration = Duration::from_secs(20);
const MOST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Largest answer that is read whole.
const MOST_ANSWER: usize = 1 << 20;
/// Time for such an answer to arrive.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Another server.
pub struct Endpoint {
    /// How requests and messages name it.
    pub name: String,
    /// Base address without a slash at its end.
    pub url: String,
    http: reqwest::Client,
    credential: (HeaderName, HeaderValue),
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a request carries.
pub enum Payload {
    /// Nothing.
    None,
    /// Little; it can be sent again.
    Bytes(Bytes),
    /// As it comes; it can be sent once.
    Stream(Body),
}

/// One request.
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Path and query below the base address.
    pub path: String,
    /// What [`super::asked`] left of a caller's headers, and what we add.
    pub headers: HeaderMap,
    /// Body.
    pub payload: Payload,
    /// Whether doing it twice is the same as doing it once.
    pub repeat: bool,
    /// Whether a server that cannot be reached is waited for.
    pub wait: bool,
}

impl Ask {
    /// Without headers and body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let repeat = method.is_safe() || method == Method::DELETE;
        Self { method, path: path.into(), headers: HeaderMap::new(), payload: Payload::None, repeat, wait: true }
    }

    /// A request to make something, known to the other server by its key.
    pub fn make(path: impl Into<String>, key: &str, json: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(key) = HeaderValue::from_str(key) {
            headers.insert("idempotency-key", key);
        }
        Self { headers, payload: Payload::Bytes(json.into()), repeat: true, ..Self::new(Method::POST, path) }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FarError {
    /// Nothing of the request was sent.
    #[error("server `{server}` does not answer ({why}): nothing was done")]
    Unreached {
        /// Its name.
        server: String,
        /// Why.
        why: String,
    },
    /// The request was sent, wholly or in part.
    #[error(
        "the connection to server `{server}` broke after the request was sent: it is not known whether it was done"
    )]
    Lost {
        /// Its name.
        server: String,
        /// Why.
        why: String,
    },
    /// It is not what it should be, or does not take us for whom we are.
    #[error("server `{server}` {why}")]
    Strange {
        /// Its name.
        server: String,
        /// What it did.
        why: String,
        /// Whether it may have done what it was asked for all the same.
        done: bool,
    },
    /// It refused.
    #[error("{}", .0.message)]
    Refused(AppError),
}

impl From<FarError> for AppError {
    fn from(error: FarError) -> Self {
        let message = error.to_string();
        let (hint, detail) = match error {
            FarError::Refused(error) => return error,
            FarError::Unreached { why, .. } => ("try again when it is back, as `Retry-After` says", why),
            FarError::Lost { why, .. } => ("look at what is there before you send it again", why),
            FarError::Strange { why, .. } => {
                ("the operator checks this server's REMOTE_SERVERS and its credential there", why)
            }
        };
        tracing::warn!(detail, "{message}");
        Self { retry_after: Some(RETRY), ..Self::new(ErrorCode::BackendUnavailable, message).hint(hint) }
    }
}

fn why(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    if error.is_timeout() { "timed out".into() } else { last.to_string() }
}

impl Endpoint {
    /// Connects to nothing yet.
    pub fn new(server: &RemoteServer, connect_timeout: Duration) -> Result<Self, reqwest::Error> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been first; then its provider serves as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("csb-server/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            // Shorter than the server keeps an idle connection (15 s): one that it closes under a request would leave open
            // whether the request was seen.
            .pool_idle_timeout(Duration::from_secs(10))
            // A host that went without a word is noticed under a command that says nothing for hours.
            .tcp_keepalive(Duration::from_secs(15))
            .tcp_keepalive_interval(Duration::from_secs(5))
            .tcp_keepalive_retries(4)
            .tcp_user_timeout(Duration::from_secs(40))
            .tcp_nodelay(true);
        if server.url.starts_with("http://") {
            // Reading the host's certificates takes milliseconds that plain connections need not pay.
            http = http.tls_certs_only([]);
        }
        let key = server.key.reveal();
        let (name, value) = match key.starts_with("csb_") {
            true => (HeaderName::from_static("x-api-key"), key.to_owned()),
            false => (header::AUTHORIZATION, format!("Bearer {key}")),
        };
        // The settings let only visible ASCII pass.
        let mut value = HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static(""));
        value.set_sensitive(true);
        Ok(Self { name: server.name.clone(), url: server.url.clone(), http: http.build()?, credential: (name, value) })
    }

    fn strange(&self, why: impl Into<String>, done: bool) -> FarError {
        FarError::Strange { server: self.name.clone(), why: why.into(), done }
    }

    /// Sends a request and returns the head of its answer, whatever its status. A stream is sent once; other bodies are sent
    /// again for a while when they did not arrive, and when they may have if that does no harm.
    pub async fn send(&self, ask: Ask) -> Result<Response, FarError> {
        let Ask { method, path, headers, payload, repeat, wait } = ask;
        let url = format!("{}{path}", self.url);
        let build = || {
            let (name, value) = self.credential.clone();
            let request = self.http.request(method.clone(), &url).headers(headers.clone());
            request.header(FORWARDED, "1").header(name, value)
        };
        let bytes = match payload {
            Payload::Stream(body) => {
                let sent = build().body(reqwest::Body::wrap_stream(body.into_data_stream())).send().await;
                return sent.map_err(|error| self.failed(&error));
            }
            Payload::Bytes(bytes) => Some(bytes),
            Payload::None => None,
        };
        let (mut since, mut pause) = (None, FIRST_PAUSE);
        let mut lost = false;
        loop {
            let request = build();
            let request = match &bytes {
                Some(bytes) => request.body(bytes.clone()),
                None => request,
            };
            let error = match request.send().await {
                Ok(response) => return Ok(response),
                Err(error) => self.failed(&error),
            };
            lost |= matches!(error, FarError::Lost { .. });
            let failing = since.get_or_insert_with(Instant::now).elapsed();
            let patience = if lost { PATIENCE_LOST } else { PATIENCE };
            if (lost && !repeat) || (!lost && !wait) || failing + pause > patience {
                return Err(match error {
                    // What was sent before that may have been done.
                    FarError::Unreached { server, why } if lost => FarError::Lost { server, why },
                    error => error,
                });
            }
            tokio::time::sleep(pause).await;
            pause = MOST_PAUSE.min(pause * 2);
        }
    }

    fn failed(&self, error: &reqwest::Error) -> FarError {
        let (server, why) = (self.name.clone(), why(error));
        if error.is_connect() || error.is_builder() {
            FarError::Unreached { server, why }
        } else {
            FarError::Lost { server, why }
        }
    }

    /// An answer that is a success, or why not, in our words.
    pub async fn accepted(&self, response: Response) -> Result<Response, FarError> {
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        if status.is_redirection() {
            return Err(self.strange(format!("answers with status {}, which is not followed", status.as_u16()), false));
        }
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let body = self.whole(response).await?;
        let Ok(ErrorBody { error }) = serde_json::from_slice::<ErrorBody>(&body) else {
            return Err(self.strange(format!("answers with status {} and no explanation", status.as_u16()), true));
        };
        let code = match error.known_code() {
            Some(ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::RoleDenied) => {
                return Err(self.strange(format!("refuses this server's credential: {}", error.message), false));
            }
            Some(code) => code,
            None => {
                return Err(
                    self.strange(format!("answers with an error of its own, {}: {}", error.code, error.message), true)
                );
            }
        };
        let refused = AppError::new(code, error.message).hint(error.hint);
        Err(FarError::Refused(AppError { retry_after: retry_after.map(Duration::from_secs), ..refused }))
    }

    /// A small answer to its end.
    pub async fn whole(&self, response: Response) -> Result<Bytes, FarError> {
        let body = Limited::new(reqwest::Body::from(response), MOST_ANSWER).collect();
        match tokio::time::timeout(ANSWER_TIME, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.strange("answers with more than 1 MiB", true)),
            Ok(Err(error)) => Err(FarError::Lost { server: self.name.clone(), why: error.to_string() }),
            Err(_) => Err(FarError::Lost { server: self.name.clone(), why: "the answer did not arrive".into() }),
        }
    }

    /// Sends a request whose answer is small JSON.
    pub async fn json(&self, ask: Ask) -> Result<serde_json::Value, FarError> {
        let response = self.send(ask).await?;
        let response = self.accepted(response).await?;
        let body = self.whole(response).await?;
        if body.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| self.strange("answers with what is no JSON", true))
    }
}
