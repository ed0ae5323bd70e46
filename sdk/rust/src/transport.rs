//! One request and its answer: credentials, retries, errors. Knows nothing of what the requests mean.

use crate::{ApiError, Error, request::idempotency_key};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header::HeaderMap};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// When a request may be sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Doing it twice is the same as doing it once (reads, removals, requests with an idempotency key).
    Always,
    /// Only while the server cannot have acted on it.
    UnlessSeen,
}

/// The header by which a server knows a request that it was sent before.
pub(crate) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// How often a request is sent at most, unless the caller says otherwise.
pub(crate) const TRIES: u32 = 4;
/// The longest `Retry-After` that is waited out; a longer one is the caller's to decide about.
const MOST_WAIT: Duration = Duration::from_secs(10);

pub(crate) struct Transport {
    pub(crate) http: reqwest::Client,
    /// Without a slash at its end.
    pub(crate) base: String,
    pub(crate) headers: HeaderMap,
    /// How often a request is sent at most.
    pub(crate) tries: u32,
}

impl Transport {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).headers(self.headers.clone())
    }

    /// Sends what `build` makes (anew for each try) and returns the answer if it is a success.
    pub(crate) async fn send(
        &self,
        what: &'static str,
        repeat: Repeat,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Response, Error> {
        let mut tried = 0;
        loop {
            tried += 1;
            let error = match build().send().await {
                Ok(response)
                    if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS =>
                {
                    return Ok(response);
                }
                Ok(response) => Error::Api(Box::new(refusal(response).await)),
                Err(source) if source.is_connect() => Error::Connect { url: self.base.clone(), source },
                Err(source) => Error::Lost { what, source: source.into() },
            };
            let Some(wait) = (tried < self.tries).then(|| pause(&error, repeat, tried)).flatten() else {
                return Err(error);
            };
            tokio::time::sleep(wait).await;
        }
    }

    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        repeat: Repeat,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<T, Error> {
        let response = self.send(what, repeat, build).await?;
        let body = response.bytes().await.map_err(|source| Error::Lost { what, source: source.into() })?;
        parse(&body)
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, Error> {
        self.json(what, Repeat::Always, || self.request(Method::GET, path).query(query)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        what: &'static str,
        repeat: Repeat,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.json(what, repeat, || self.request(Method::POST, path).json(body)).await
    }

    /// Starts a command, also over a connection that breaks: by the key the server starts it once.
    pub(crate) async fn start<T: DeserializeOwned>(
        &self,
        what: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let key = idempotency_key();
        let build = || self.request(Method::POST, path).header(IDEMPOTENCY_KEY, &key).json(body);
        self.json(what, Repeat::Always, build).await
    }

    pub(crate) async fn post_nothing(
        &self,
        what: &'static str,
        repeat: Repeat,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), Error> {
        self.send(what, repeat, || self.request(Method::POST, path).json(body)).await.map(drop)
    }
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::protocol(error.to_string()))
}

pub(crate) async fn refusal(response: Response) -> ApiError {
    let status = response.status().as_u16();
    let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let retry_after = header("retry-after").and_then(|v| v.parse().ok());
    let request_id = header("x-request-id");
    let body = response.bytes().await.unwrap_or_default();
    ApiError::read(status, retry_after, request_id, &body)
}

/// How long to wait before the next try; none: give up.
fn pause(error: &Error, repeat: Repeat, tried: u32) -> Option<Duration> {
    // From the tenth try on as long as after the ninth.
    let backoff = Duration::from_millis(50 << tried.min(9));
    match error {
        // A connection that was never made carried no request.
        Error::Connect { .. } => Some(backoff),
        // The limiter stands before everything else: nothing was done.
        Error::Api(api) if api.status == 429 => {
            let wait = api.retry_after.map_or(backoff, Duration::from_secs);
            (wait <= MOST_WAIT).then_some(wait)
        }
        Error::Lost { .. } if repeat == Repeat::Always => Some(backoff),
        Error::Api(api) if repeat == Repeat::Always && matches!(api.status, 502 | 504) => Some(backoff),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<u64>) -> Error {
        Error::Api(Box::new(ApiError::read(status, retry_after, None, b"")))
    }
    fn lost() -> Error {
        Error::Lost { what: "write to a command", source: "reset".into() }
    }

    #[test]
    fn what_must_not_happen_twice_is_not_sent_again_once_it_may_have_arrived() {
        assert_eq!(pause(&lost(), Repeat::UnlessSeen, 1), None);
        assert_eq!(pause(&refused(504, None), Repeat::UnlessSeen, 1), None);
        assert!(pause(&refused(429, Some(1)), Repeat::UnlessSeen, 1).is_some());
    }

    #[test]
    fn what_may_be_repeated_is_unless_the_wait_is_long() {
        assert!(pause(&lost(), Repeat::Always, 1).is_some());
        assert!(pause(&refused(429, Some(3600)), Repeat::Always, 1).is_none());
        assert!(pause(&refused(500, None), Repeat::Always, 1).is_none());
    }
}
