//! Reading requests: bounded in size and time, refused with our one error shape.

use super::respond::Failure;
use crate::{
    app::{App, AppError, Idem},
    auth::Identity,
};
use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use csb_api::{ErrorCode, Invalid};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

/// The two ends of the connection that a request came by.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The client.
    pub remote: SocketAddr,
    /// Us.
    pub local: SocketAddr,
}

/// The caller; present behind `authenticate`.
#[derive(Debug, Clone)]
pub struct Who(pub Identity);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let identity = parts.extensions.get::<Identity>().cloned();
        identity.map(Self).ok_or_else(|| AppError::internal("a guarded route was reached without a caller").into())
    }
}

/// A query string; unknown parameters are refused where the type says so.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Invalid::new(format!("query: {}", cause(&rejection))).into()),
        }
    }
}

/// The parts of the path that a route names.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match <axum::extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Invalid::new(format!("path: {}", cause(&rejection))).into()),
        }
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// A JSON body that may be absent.
pub struct Json<T> {
    /// What it says; the default when there is no body.
    pub value: T,
    /// The idempotency key, bound to this route and body.
    pub idem: Option<Idem>,
}

/// A JSON body that must be there.
pub struct NeedJson<T>(pub T);

/// A JSON body that must be there, of a request that starts something.
pub struct Keyed<T> {
    /// What it says.
    pub value: T,
    /// The idempotency key, bound to this route and body.
    pub idem: Option<Idem>,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for NeedJson<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Failure> {
        Keyed::from_request(request, app).await.map(|keyed| Self(keyed.value))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Keyed<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let bytes = json_bytes(&parts.headers, body, app).await?;
        if bytes.is_empty() {
            return Err(AppError::new(ErrorCode::MalformedJson, "the body is empty; it is a JSON object").into());
        }
        Ok(Self { value: parse(&parts.headers, &bytes)?, idem: idem(&parts, &bytes)? })
    }
}

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let bytes = json_bytes(&parts.headers, body, app).await?;
        let value = if bytes.is_empty() { T::default() } else { parse(&parts.headers, &bytes)? };
        Ok(Self { value, idem: idem(&parts, &bytes)? })
    }
}

/// The one idempotency key of a request. Of two, nobody could say which one counts.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Invalid> {
    let mut keys = headers.get_all("idempotency-key").iter();
    match (keys.next(), keys.next()) {
        (key, None) => Ok(key),
        _ => Err(Invalid::new("Idempotency-Key is there twice")),
    }
}

/// The idempotency key of a request, and what tells the request from others.
fn idem(parts: &Parts, body: &[u8]) -> Result<Option<Idem>, Failure> {
    let Some(key) = idempotency_key(&parts.headers)? else { return Ok(None) };
    let key = key.to_str().map_err(|_| Invalid::new("Idempotency-Key is not visible ASCII"))?;
    let mut hash = Sha256::new();
    for part in [parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), body] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(Some(Idem { key: key.to_owned(), request: hex::encode(hash.finalize()) }))
}

/// Whether the media type is JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

/// A JSON body as it came.
pub async fn json_bytes(headers: &HeaderMap, body: Body, app: &App) -> Result<Bytes, Failure> {
    let limit = app.config.json_limit;
    let too_large = || {
        let message = format!("the JSON body is larger than {}", csb_types::format_bytes(limit));
        Failure::from(AppError::new(ErrorCode::PayloadTooLarge, message))
    };
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let read = async {
        let mut body = body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| AppError::new(ErrorCode::MalformedJson, format!("the body broke off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() as u64 + data.len() as u64 > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    };
    let bytes = match tokio::time::timeout(app.config.body_timeout, read).await {
        Ok(result) => result?,
        Err(_) => {
            let message = format!("the body did not arrive within {:?}", app.config.body_timeout);
            return Err(AppError::new(ErrorCode::RequestTimeout, message).into());
        }
    };
    // Only now, so that a client that sends too much learns that first.
    if !bytes.is_empty() && !is_json(headers) {
        return Err(AppError::new(ErrorCode::UnsupportedMediaType, "the body is not declared as JSON").into());
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(_: &HeaderMap, bytes: &[u8]) -> Result<T, Failure> {
    use serde_json::error::Category;
    let refuse = |path: String, error: serde_json::Error| -> Failure {
        let code = match error.classify() {
            Category::Data => ErrorCode::InvalidRequest,
            Category::Syntax | Category::Eof | Category::Io => ErrorCode::MalformedJson,
        };
        let field = if path == "." { String::new() } else { format!("{path}: ") };
        AppError::new(code, format!("{field}{error}")).into()
    };
    // A derived type also reads a list of its fields in order, which nobody means.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| refuse(".".into(), e))?;
        return Err(Invalid::new("the body is not a JSON object").into());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value =
        serde_path_to_error::deserialize(&mut json).map_err(|e| refuse(e.path().to_string(), e.into_inner()))?;
    json.end().map_err(|e| refuse(".".into(), e))?;
    Ok(value)
}

/// A body as a stream that fails when it pauses too long.
pub fn upload(body: Body, pause: Duration) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let pieces = body.into_data_stream();
    Box::pin(stream::unfold(Some(pieces), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(pause, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, "the upload paused too long")), None)),
        }
    }))
}

/// Whether an event stream was asked for.
pub struct WantsEvents(pub bool);

impl<S: Send + Sync> FromRequestParts<S> for WantsEvents {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let accept = parts.headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
        Ok(Self(accept.flat_map(|v| v.split(',')).any(|v| v.trim().starts_with("text/event-stream"))))
    }
}

/// An upgrade to a WebSocket.
pub struct Upgrade(pub axum::extract::WebSocketUpgrade);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        use axum::extract::WebSocketUpgrade;
        match WebSocketUpgrade::from_request_parts(parts, state).await {
            Ok(upgrade) => Ok(Self(upgrade)),
            _ => Err(Invalid::new("this route is a WebSocket; connect with one (RFC 6455)").into()),
        }
    }
}

/// Whether the request came to a name of this very host: a web page that re-points its own name at 127.0.0.1 cannot
/// change the `Host` and `Origin` that the browser sends.
pub fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or("");
    let origin = headers.get(header::ORIGIN).map(|v| v.to_str().unwrap_or("null"));
    let origin_host = origin.map(|o| o.split_once("://").map_or("", |(_, rest)| rest));
    is_loopback_name(host) && origin_host.is_none_or(is_loopback_name)
}

fn is_loopback_name(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_count_as_loopback() {
        for good in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:80", "127.9.9.9", "LOCALHOST:1"] {
            assert!(is_loopback_name(good), "{good}");
        }
        for bad in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "10.0.0.1", "[::2]"] {
            assert!(!is_loopback_name(bad), "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:8080".parse().unwrap());
        assert!(names_loopback(&headers));
        headers.insert("origin", "http://localhost:3000".parse().unwrap());
        assert!(names_loopback(&headers));
        for origin in ["https://evil.example", "null"] {
            headers.insert("origin", origin.parse().unwrap());
            assert!(!names_loopback(&headers), "{origin}");
        }
    }
}
