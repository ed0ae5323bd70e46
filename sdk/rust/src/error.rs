//! What a call can fail with.

use csb_api::{ErrorBody, ErrorCode, ErrorDetail};

/// The server's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status; inside a stream the one that the code stands for.
    pub status: u16,
    /// Stable code, such as `sandbox_not_found`.
    pub code: String,
    /// What failed.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Finds the request in the server's log.
    pub request_id: Option<String>,
    /// How long the server asks to wait before the next try, seconds.
    pub retry_after: Option<u64>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's address is not one.
    #[error("`{url}` is not a server address such as http://127.0.0.1:8080")]
    Url {
        /// What was given.
        url: String,
    },
    /// A key or token holds characters that no header may hold.
    #[error("the API key or token holds characters that cannot be sent")]
    Credential,
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// No connection was made; the server saw nothing of the request.
    #[error("cannot reach the server at {url}")]
    Connect {
        /// The server's address.
        url: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// The connection broke after the request may have been seen; what it asked for may or may not have been done.
    #[error("lost the connection to the server while waiting to {what}")]
    Lost {
        /// What was asked for: `start a command`.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused.
    #[error("{}", .0.message)]
    Api(Box<ApiError>),
    /// The answer is not what the contract says; the peer may be something else, or of another version.
    #[error("unexpected answer from the server: {what}")]
    Protocol {
        /// What was wrong with it.
        what: String,
    },
    /// The caller's own data could not be read or written.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Error {
    /// The server's stable code, if it was the server that refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Api(api) => Some(&api.code),
            _ => None,
        }
    }

    /// The same as a type; none when a newer server sent one that this client does not know.
    pub fn known_code(&self) -> Option<ErrorCode> {
        ErrorCode::parse(self.code()?)
    }

    /// Whether what was asked for may be there again after a while: no connection, a broken one, or a server that cannot reach
    /// the server where the sandbox is.
    pub fn is_away(&self) -> bool {
        matches!(self, Error::Connect { .. } | Error::Lost { .. })
            || self.known_code() == Some(ErrorCode::BackendUnavailable)
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Api(api) => api.hint.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Error::Protocol { what: what.into() }
    }
}

impl ApiError {
    /// An error that came inside a stream.
    pub(crate) fn of_stream(detail: ErrorDetail) -> Self {
        Self {
            status: detail.known_code().map_or(0, |code| code.status()),
            code: detail.code,
            message: detail.message,
            hint: Some(detail.hint),
            request_id: Some(detail.request_id),
            retry_after: None,
        }
    }

    /// Reads an error body; one of another shape (a proxy's page) is shown by its status alone.
    pub(crate) fn read(status: u16, retry_after: Option<u64>, request_id: Option<String>, body: &[u8]) -> Self {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { error }) => Self { status, retry_after, ..Self::of_stream(error) },
            Err(_) => Self {
                status,
                code: "unknown".into(),
                message: format!("the server answered with status {status} and no explanation"),
                hint: Some("check that the address is that of a Cloud Sandbox server".into()),
                request_id,
                retry_after,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_body_is_read_in_full() {
        let body =
            br#"{"error":{"code":"sandbox_not_found","message":"no sandbox `x`","hint":"csb ps","request_id":"r1"}}"#;
        let error = ApiError::read(404, None, None, body);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("sandbox_not_found", "no sandbox `x`"));
        assert_eq!((error.hint.as_deref(), error.request_id.as_deref()), (Some("csb ps"), Some("r1")));
    }

    #[test]
    fn what_may_come_back_is_told_apart_from_what_is_refused() {
        let api = |code: &str| {
            let body = format!(r#"{{"error":{{"code":"{code}","message":"m","hint":"h","request_id":"r"}}}}"#);
            Error::Api(Box::new(ApiError::read(503, None, None, body.as_bytes())))
        };
        assert!(api("backend_unavailable").is_away());
        assert!(Error::Lost { what: "x", source: "reset".into() }.is_away());
        assert!(!api("capacity").is_away());
        assert_eq!((api("capacity").known_code(), api("later").known_code()), (Some(ErrorCode::Capacity), None));
    }

    #[test]
    fn a_page_of_something_else_is_named_by_its_status() {
        let error = ApiError::read(502, None, Some("r2".into()), b"<html>Bad Gateway</html>");
        assert!(error.message.contains("502"), "{}", error.message);
        assert_eq!(error.request_id.as_deref(), Some("r2"));
    }
}
