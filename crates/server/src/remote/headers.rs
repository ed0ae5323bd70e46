//! Which headers pass, either way. What is not named here stays: credentials and cookies of our callers, hop-by-hop fields,
//! and whatever a far server would have browsers do with our name.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const ASKED: [HeaderName; 5] = [
    header::ACCEPT,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::RANGE,
    HeaderName::from_static("last-event-id"),
];

const ANSWERED: [HeaderName; 11] = [
    header::ACCEPT_RANGES,
    header::ALLOW,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::RETRY_AFTER,
    HeaderName::from_static("idempotency-replayed"),
];

/// What our routes answer with. Anything else a browser might show, or run, as ours.
const TYPES: [&str; 4] = ["application/json", "application/octet-stream", "application/x-tar", "text/event-stream"];

/// Longest value that passes, bytes.
const MOST_VALUE: usize = 1024;

fn only(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in names {
        for value in headers.get_all(name).iter().filter(|value| value.len() <= MOST_VALUE) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Of a caller's request, what the far server gets to see.
pub fn asked(headers: &HeaderMap) -> HeaderMap {
    only(&ASKED, headers)
}

/// Of a far server's answer, what the caller gets to see.
pub fn answered(headers: &HeaderMap) -> HeaderMap {
    let mut kept = only(&ANSWERED, headers);
    if let Some(value) = kept.get(header::CONTENT_TYPE) {
        let media = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if !TYPES.contains(&&*media) {
            kept.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn neither_credentials_nor_what_belongs_to_a_connection_passes() {
        let request = map(&[
            ("authorization", "Bearer x"),
            ("x-api-key", "csb_x"),
            ("cookie", "a=b"),
            ("sec-websocket-protocol", "csb.v1, csb.bearer.x"),
            ("connection", "accept"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("x-forwarded-for", "10.0.0.1"),
            ("accept", "text/event-stream"),
            ("content-type", "application/json"),
        ]);
        assert_eq!(asked(&request), map(&[("accept", "text/event-stream"), ("content-type", "application/json")]));
        let answer = map(&[
            ("set-cookie", "a=b"),
            ("location", "http://169.254.169.254/"),
            ("connection", "close"),
            ("access-control-allow-origin", "*"),
            ("content-type", "text/event-stream"),
        ]);
        assert_eq!(answered(&answer), map(&[("content-type", "text/event-stream")]));
    }

    #[test]
    fn a_far_server_has_no_page_shown_as_ours() {
        for (given, expected) in [
            ("application/json", "application/json"),
            ("Text/Event-Stream; charset=utf-8", "Text/Event-Stream; charset=utf-8"),
            ("text/html", "application/octet-stream"),
            ("image/svg+xml; charset=utf-8", "application/octet-stream"),
        ] {
            let answer = map(&[("content-type", given), ("x-content-type-options", "no")]);
            assert_eq!(answered(&answer), map(&[("content-type", expected)]));
        }
    }

    #[test]
    fn a_long_value_does_not_pass() {
        let mut request = HeaderMap::new();
        request.insert(header::ACCEPT, "a".repeat(MOST_VALUE + 1).parse().unwrap());
        assert!(asked(&request).is_empty());
    }
}
