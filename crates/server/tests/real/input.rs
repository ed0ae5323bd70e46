//! Bad input: each gives one error shape, the right status, a stable code; nothing is lost, nothing leaks.

use crate::support::{Host, code, sandbox, trial};
use http_body_util::StreamBody;
use hyper::body::Frame;
use libtest_mimic::Trial;
use serde_json::json;
use std::{io, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("bad_requests_are_refused_by_name", requests),
        trial("bad_paths_bodies_and_queries_of_a_sandbox_are_refused_by_name", of_a_sandbox),
        trial("a_json_body_past_the_limit_is_refused_while_it_is_read", huge),
        trial("a_client_that_sends_a_byte_at_a_time_is_cut_off", slow),
        trial("a_request_id_of_the_caller_is_kept_when_it_is_plain", request_ids),
    ]
}

async fn requests(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let json = user.with("content-type", "application/json");
    for (method, path, body, expected) in [
        ("GET", "/nowhere", "", "not_found"),
        ("GET", "/api/v1/sandboxes/", "", "not_found"),
        ("PUT", "/api/v1/sandboxes", "", "method_not_allowed"),
        ("POST", "/health", "", "method_not_allowed"),
        ("POST", "/api/v1/sandboxes", "{", "malformed_json"),
        ("POST", "/api/v1/sandboxes", "{\"timeout\":NaN}", "malformed_json"),
        ("POST", "/api/v1/sandboxes", "\u{fffd}", "malformed_json"),
        ("POST", "/api/v1/sandboxes", "{} {}", "malformed_json"),
        ("POST", "/api/v1/sandboxes", "[]", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"tempalte\":\"host\"}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"template\":1}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"template\":\"host\",\"template\":\"host\"}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"template\":\"nowhere\"}", "template_not_found"),
        ("POST", "/api/v1/sandboxes", "{\"template\":\"../../etc\"}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"resources\":{\"memory\":\"1\"}}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"resources\":{\"memory\":\"999999999t\"}}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"resources\":{\"cpu\":-1}}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"timeout\":0}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"timeout\":-5}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"timeout\":31536000}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"timeout\":1e400}", "malformed_json"),
        ("POST", "/api/v1/sandboxes", "{\"sandbox\":{\"kind\":\"k8s\"}}", "unsupported"),
        ("POST", "/api/v1/sandboxes", "{\"network\":\"full\"}", "unsupported"),
        ("POST", "/api/v1/sandboxes", "{\"env\":{\"A\\u0000\":\"\"}}", "invalid_request"),
        ("POST", "/api/v1/sandboxes", "{\"hostname\":\"-\"}", "invalid_request"),
        ("GET", "/api/v1/sandboxes?limit=0", "", "invalid_request"),
        ("GET", "/api/v1/sandboxes?limit=many", "", "invalid_request"),
        ("GET", "/api/v1/sandboxes?cursor=!!", "", "invalid_request"),
        ("GET", "/api/v1/sandboxes?state=gone", "", "invalid_request"),
        ("GET", "/api/v1/sandboxes?wat=1", "", "invalid_request"),
        ("GET", "/api/v1/sandboxes/sb-short", "", "sandbox_not_found"),
        ("GET", "/api/v1/sandboxes/..%2f..%2fetc", "", "sandbox_not_found"),
        ("GET", "/api/v1/sandboxes/%00", "", "sandbox_not_found"),
        ("GET", "/api/v1/sandboxes/%ff", "", "invalid_request"),
        ("GET", "/api/v1/sessions/se-short", "", "session_not_found"),
        ("POST", "/api/v1/sessions", "{\"template_id\":\"nowhere\"}", "template_not_found"),
        ("POST", "/api/v1/sessions", "{\"timeout\":0}", "invalid_request"),
        ("POST", "/api/v1/execute", "", "malformed_json"),
        ("POST", "/api/v1/execute", "{\"code\":\"1\"}", "invalid_request"),
        ("POST", "/api/v1/auth/token", "{\"role\":\"root\"}", "invalid_request"),
    ] {
        let reply = json.send(method, path, body).await;
        assert_eq!(code(&reply), expected, "{method} {path} {body}: {}", reply.text());
    }
    let form = user.with("content-type", "application/x-www-form-urlencoded");
    assert_eq!(code(&form.send("POST", "/api/v1/sandboxes", "{}").await), "unsupported_media_type");
    assert_eq!(code(&user.send("POST", "/api/v1/sandboxes", "{}").await), "unsupported_media_type");
    let refused = json.send("PUT", "/health", "").await;
    assert_eq!(refused.header("allow"), Some("GET,HEAD"));
    for key in ["a b", "", &"k".repeat(256)] {
        let reply = json.with("idempotency-key", key).send("POST", "/api/v1/sandboxes", "{}").await;
        assert_eq!(code(&reply), "invalid_request", "{key:?}");
    }
    let deep = format!("{{\"event\":{}", "[".repeat(100_000));
    assert_eq!(code(&json.send("POST", "/api/v1/sessions/se-x/execute", deep).await), "malformed_json");
    let expired = json.with("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.");
    assert_eq!(code(&expired.send("GET", "/api/v1/sandboxes", "").await), "unauthorized");
    assert_eq!(user.get("/api/v1/sandboxes").await.expect(200)["items"], json!([]), "nothing was made");
    server.stop().await;
}

async fn of_a_sandbox(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let base = format!("/api/v1/sandboxes/{id}");
    let json = user.with("content-type", "application/json");
    let long = format!("/files?path=/{}", "a".repeat(5000));
    let long_name = format!("/files?path=/workspace/{}", "a".repeat(300));
    for (method, path, body, expected) in [
        ("POST", "/execs", "{\"command\":\"\"}", "invalid_request"),
        ("POST", "/execs", "{\"command\":[]}", "invalid_request"),
        ("POST", "/execs", "{\"command\":\"true\",\"timeout\":0}", "invalid_request"),
        ("POST", "/execs", "{\"command\":\"true\",\"timeout\":31536000}", "invalid_request"),
        ("POST", "/execs", "{\"command\":\"true\",\"max_output_bytes\":\"1Gi\"}", "invalid_request"),
        ("POST", "/execs", "{\"command\":\"true\",\"cwd\":\"relative\"}", "invalid_request"),
        ("POST", "/execs", "{\"command\":\"true\",\"cwd\":\"/nowhere\"}", "bad_cwd"),
        ("POST", "/execs", "{\"command\":\"true\",\"user\":\"nobody-here\"}", "bad_user"),
        ("POST", "/execs", "{\"command\":[\"no-such-program\"]}", "command_not_found"),
        ("POST", "/execs", "{\"command\":[\"/etc/passwd\"]}", "command_not_executable"),
        ("GET", "/execs/ex-short", "", "exec_not_found"),
        ("GET", "/execs/ex-aaaaaaaaaaaaaaaaaaaa/output", "", "exec_not_found"),
        ("POST", "/run-code", "{\"code\":\"1\",\"language\":\"cobol\"}", "unknown_language"),
        ("POST", "/run-code", "{\"code\":\"1\",\"timeout\":-1}", "invalid_request"),
        ("GET", "/files?path=relative", "", "invalid_path"),
        ("GET", "/files?path=/workspace/../etc/shadow", "", "invalid_path"),
        ("GET", "/files?path=/a%00b", "", "invalid_path"),
        ("GET", &long, "", "invalid_path"),
        ("GET", &long_name, "", "invalid_path"),
        ("GET", "/files", "", "invalid_request"),
        ("GET", "/files?path=/nowhere", "", "file_not_found"),
        ("GET", "/files?path=/workspace", "", "is_directory"),
        ("GET", "/files?path=/dev/zero", "", "not_regular"),
        ("PUT", "/files?path=/usr/bin/evil", "x", "permission_denied"),
        ("PUT", "/files?path=/workspace", "x", "is_directory"),
        ("PUT", "/files?path=/workspace/f&mode=99", "x", "invalid_request"),
        ("PUT", "/files?path=/workspace/f&user=a:b", "x", "invalid_request"),
        ("GET", "/files/list?path=/etc/passwd", "", "not_directory"),
        ("GET", "/files/list?path=/workspace&depth=0", "", "invalid_request"),
        ("POST", "/files/mkdir", "{\"path\":\"/etc/passwd\"}", "file_exists"),
        ("POST", "/files/move", "{\"from\":\"/nowhere\",\"to\":\"/workspace/x\"}", "file_not_found"),
        ("DELETE", "/files?path=/nowhere", "", "file_not_found"),
        ("PUT", "/archive?path=/workspace/a", "this is no tar archive", "invalid_archive"),
        ("PATCH", "", "{\"resources\":{\"memory\":0}}", "invalid_request"),
        ("PATCH", "", "{}", "invalid_request"),
    ] {
        let reply = json.send(method, &format!("{base}{path}"), body).await;
        assert_eq!(code(&reply), expected, "{method} {path} {body}: {}", reply.text());
    }
    let long_code = "#".repeat((1 << 20) + 1);
    let reply = json.post(&format!("{base}/run-code"), json!({"code": long_code})).await;
    assert_eq!(code(&reply), "payload_too_large");
    server.stop().await;
}

async fn huge(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await.with("content-type", "application/json");
    // Declared: refused before a byte is read.
    let declared = user.with("content-length", &(1u64 << 30).to_string());
    let pieces = || {
        let piece = bytes::Bytes::from(vec![b'a'; 64 * 1024]);
        futures_util::stream::iter((0..1 << 14).map(move |_| Ok::<_, io::Error>(Frame::data(piece.clone()))))
    };
    let reply = declared.open("POST", "/api/v1/sandboxes", StreamBody::new(pieces())).await;
    assert_eq!(reply.status(), 413);
    // Not declared: refused as soon as it is too much.
    let reply = user.open("POST", "/api/v1/sandboxes", StreamBody::new(pieces())).await;
    assert_eq!(reply.status(), 413);
    // What is just below the limit is read, and refused for what it says.
    let padded = format!("{{\"hostname\":\"{}\"}}", "a".repeat((4 << 20) - 100));
    assert_eq!(code(&user.send("POST", "/api/v1/sandboxes", padded).await), "invalid_request");
    server.stop().await;
}

async fn slow(host: Host) {
    let flags = [("dev", "true"), ("http.header_timeout", "500ms"), ("http.body_timeout", "500ms")];
    let server = host.server(&flags).await;
    let addr = server.running.local_addr();
    let user = server.user("u").await;
    let token = &user.headers[0].1;

    let mut head = tokio::net::TcpStream::connect(addr).await.unwrap();
    head.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), head.read_to_end(&mut answer)).await.expect("it is cut off").unwrap();

    let mut body = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "POST /api/v1/sandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n{{"
    );
    body.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let n = tokio::time::timeout(Duration::from_secs(20), body.read(&mut answer)).await.expect("an answer").unwrap();
    let text = String::from_utf8_lossy(&answer[..n]);
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("request_timeout"), "{text}");
    user.get("/api/v1/languages").await.expect(200);
    server.stop().await;
}

async fn request_ids(host: Host) {
    let server = host.dev().await;
    let anyone = server.anyone();
    let given = anyone.with("x-request-id", "trace-7.a_b").get("/health").await;
    assert_eq!(given.header("x-request-id"), Some("trace-7.a_b"));
    let forged = anyone.with("x-request-id", "a b").get("/health").await;
    assert!(forged.header("x-request-id").unwrap().starts_with("req-"));
    assert_ne!(anyone.get("/health").await.header("x-request-id"), anyone.get("/health").await.header("x-request-id"));
    server.stop().await;
}
