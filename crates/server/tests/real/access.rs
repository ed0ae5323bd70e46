//! Who may do what.

use crate::{
    client::Caller,
    support::{Host, code, sandbox, sh, trial},
};
use csb_api::Role;
use libtest_mimic::Trial;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("in_dev_a_token_needs_no_credential_but_a_loopback_name", dev_tokens),
        trial("outside_dev_nothing_opens_without_the_admin_key_of_the_first_start", first_start),
        trial("an_admin_key_makes_keys_and_a_revoked_one_opens_nothing", keys),
        trial("another_users_objects_are_answered_like_ones_that_never_were", strangers),
        trial("a_user_past_the_rate_is_told_when_to_come_back", rate),
        trial("a_user_past_the_quota_is_told_so_and_another_is_not", quota),
        trial("figures_are_for_this_host_and_admins", figures),
        trial("the_documentation_is_served_without_a_credential_and_without_the_internet", docs),
    ]
}

async fn dev_tokens(host: Host) {
    let server = host.dev().await;
    let anyone = server.anyone();
    assert_eq!(anyone.get("/health").await.expect(200), json!({"service": "gateway", "status": "ok"}));
    let view = anyone.post("/api/v1/auth/token", json!({"user_id": "test", "role": "user"})).await.expect(200);
    assert_eq!((view["token_type"].as_str(), view["user_id"].as_str()), (Some("bearer"), Some("test")));
    assert!(view["expires_in"].as_u64().unwrap() > 0);
    // Without a body as well.
    anyone.send("POST", "/api/v1/auth/token", "").await.expect(200);

    assert_eq!(code(&anyone.post("/api/v1/auth/token", json!({"role": "admin"})).await), "role_denied");
    assert_eq!(code(&anyone.post("/api/v1/auth/token", json!({"user_id": "a/b"})).await), "invalid_request");
    for (header, value) in [("host", "evil.example:8080"), ("origin", "https://evil.example"), ("origin", "null")] {
        let reply = anyone.with(header, value).post("/api/v1/auth/token", json!({})).await;
        assert_eq!(code(&reply), "unauthorized", "{header}: {value}");
    }
    assert_eq!(code(&anyone.get("/api/v1/sandboxes").await), "unauthorized");
    assert!(host.config(&[("dev", "true"), ("listen", "0.0.0.0:0")]).unwrap_err().contains("not loopback"));
    server.stop().await;
}

async fn first_start(host: Host) {
    let server = host.server(&[]).await;
    let path = server.running.new_admin_key.clone().expect("the first start makes a key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    let anyone = server.anyone();
    for request in [json!({}), json!({"user_id": "test", "role": "user"})] {
        assert_eq!(code(&anyone.post("/api/v1/auth/token", request).await), "unauthorized");
    }
    let admin = anyone.with("x-api-key", &key);
    let token = admin.post("/api/v1/auth/token", json!({"user_id": "bob"})).await.expect(200);
    assert_eq!((token["user_id"].as_str(), token["role"].as_str()), (Some("bob"), Some("user")));
    let bob = anyone.with("authorization", &format!("Bearer {}", token["access_token"].as_str().unwrap()));
    bob.get("/api/v1/sandboxes").await.expect(200);
    assert_eq!(code(&bob.post("/api/v1/auth/token", json!({})).await), "unauthorized", "a token makes no token");
    assert_eq!(code(&bob.get("/api/v1/keys").await), "role_denied");
    server.stop().await;

    let again = host.server(&[]).await;
    assert_eq!(again.running.new_admin_key, None, "the second start makes none");
    let bob = Caller { addr: again.running.local_addr(), ..bob };
    bob.get("/api/v1/sandboxes").await.expect(200);
    again.stop().await;
}

async fn keys(host: Host) {
    let server = host.server(&[]).await;
    let admin_key = std::fs::read_to_string(host.dir.join("admin.key")).unwrap();
    let anyone = server.anyone();
    let admin = anyone.with("x-api-key", admin_key.trim());
    let made = admin.post("/api/v1/keys", json!({"user_id": "carol", "name": "laptop"})).await.expect(201);
    let carol = anyone.with("x-api-key", made["api_key"].as_str().unwrap());
    carol.get("/api/v1/sandboxes").await.expect(200);
    for request in [json!({"user_id": "mallory"}), json!({"role": "admin"})] {
        assert_eq!(code(&carol.post("/api/v1/auth/token", request).await), "role_denied");
    }
    assert_eq!(code(&carol.post("/api/v1/keys", json!({"user_id": "carol"})).await), "role_denied");
    let token = carol.post("/api/v1/auth/token", json!({})).await.expect(200);
    let with_token = anyone.with("authorization", &format!("Bearer {}", token["access_token"].as_str().unwrap()));
    with_token.get("/api/v1/sandboxes").await.expect(200);

    // Made beside the running server, as the command line does.
    let config = host.config(&[]).unwrap();
    let dave = csb_server::keys::create_key(&config, "dave", Role::User, None).await.unwrap();
    anyone.with("x-api-key", &dave.api_key).get("/api/v1/sandboxes").await.expect(200);
    let listed = admin.get("/api/v1/keys").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    assert!(!listed.to_string().contains("csb_"), "a list shows no secret");

    admin.delete(&format!("/api/v1/keys/{}", made["key_id"].as_str().unwrap())).await.expect(204);
    assert_eq!(code(&carol.get("/api/v1/sandboxes").await), "unauthorized");
    assert_eq!(code(&with_token.get("/api/v1/sandboxes").await), "unauthorized", "its tokens end with it");
    assert_eq!(code(&admin.delete("/api/v1/keys/key-none").await), "key_not_found");
    server.stop().await;
}

async fn strangers(host: Host) {
    let server = host.dev().await;
    let (alice, mallory) = (server.user("alice").await, server.user("mallory").await);
    let id = sandbox(&alice).await;
    let exec = sh(&alice, &id, "echo secret > /workspace/s").await["exec_id"].as_str().unwrap().to_owned();
    let session = alice.post("/api/v1/sessions", json!({})).await.expect(201);
    let session = session["session_id"].as_str().unwrap().to_owned();

    // Each request twice: on Alice's object and on one that never was. Mallory cannot tell them apart.
    let never = (csb_types::SandboxId::random(), csb_types::SessionId::random(), csb_types::ExecId::random());
    let run = json!({"command": "true"});
    let code_body = json!({"code": "1"});
    let requests: Vec<(&str, String, serde_json::Value)> = vec![
        ("GET", "/api/v1/sandboxes/SB".into(), json!(null)),
        ("DELETE", "/api/v1/sandboxes/SB".into(), json!(null)),
        ("PATCH", "/api/v1/sandboxes/SB".into(), json!({"resources": {"pids": 100}})),
        ("POST", "/api/v1/sandboxes/SB/pause".into(), json!(null)),
        ("POST", "/api/v1/sandboxes/SB/resume".into(), json!(null)),
        ("GET", "/api/v1/sandboxes/SB/stats".into(), json!(null)),
        ("GET", "/api/v1/sandboxes/SB/execs".into(), json!(null)),
        ("POST", "/api/v1/sandboxes/SB/execs".into(), run),
        ("POST", "/api/v1/sandboxes/SB/run-code".into(), code_body.clone()),
        ("GET", "/api/v1/sandboxes/SB/execs/EX".into(), json!(null)),
        ("GET", "/api/v1/sandboxes/SB/execs/EX/result".into(), json!(null)),
        ("GET", "/api/v1/sandboxes/SB/execs/EX/output".into(), json!(null)),
        ("GET", "/api/v1/sandboxes/SB/execs/EX/ws".into(), json!(null)),
        ("POST", "/api/v1/sandboxes/SB/execs/EX/stdin".into(), json!(null)),
        ("POST", "/api/v1/sandboxes/SB/execs/EX/signal".into(), json!({"signal": 9})),
        ("POST", "/api/v1/sandboxes/SB/execs/EX/resize".into(), json!({"cols": 1, "rows": 1})),
        ("GET", "/api/v1/sandboxes/SB/files?path=/workspace/s".into(), json!(null)),
        ("PUT", "/api/v1/sandboxes/SB/files?path=/workspace/s".into(), json!(null)),
        ("DELETE", "/api/v1/sandboxes/SB/files?path=/workspace/s".into(), json!(null)),
        ("GET", "/api/v1/sandboxes/SB/files/list?path=/workspace".into(), json!(null)),
        ("GET", "/api/v1/sandboxes/SB/files/stat?path=/workspace/s".into(), json!(null)),
        ("POST", "/api/v1/sandboxes/SB/files/mkdir".into(), json!({"path": "/workspace/d"})),
        ("POST", "/api/v1/sandboxes/SB/files/move".into(), json!({"from": "/workspace/s", "to": "/workspace/t"})),
        ("GET", "/api/v1/sandboxes/SB/archive?path=/workspace".into(), json!(null)),
        ("PUT", "/api/v1/sandboxes/SB/archive?path=/workspace".into(), json!(null)),
        ("POST", "/api/v1/sandbox/release".into(), json!({"sandbox_id": "SB"})),
        ("POST", "/api/v1/execute".into(), json!({"sandbox_id": "SB", "code": "1"})),
        ("GET", "/api/v1/files?sandbox_id=SB&path=/workspace/s".into(), json!(null)),
        ("PUT", "/api/v1/files?sandbox_id=SB&path=/workspace/s".into(), json!(null)),
        ("DELETE", "/api/v1/files?sandbox_id=SB&path=/workspace/s".into(), json!(null)),
        ("GET", "/api/v1/sessions/SE".into(), json!(null)),
        ("DELETE", "/api/v1/sessions/SE".into(), json!(null)),
        ("POST", "/api/v1/sessions/SE/pause".into(), json!(null)),
        ("POST", "/api/v1/sessions/SE/resume".into(), json!(null)),
        ("POST", "/api/v1/sessions/SE/execute".into(), code_body),
        ("GET", "/api/v1/sessions/SE/executions/EX".into(), json!(null)),
    ];
    for (method, path, body) in requests {
        let mut answers = Vec::new();
        for ids in [[&id, &session, &exec], [&never.0.to_string(), &never.1.to_string(), &never.2.to_string()]] {
            let fill = |text: &str| text.replace("SB", ids[0]).replace("SE", ids[1]).replace("EX", ids[2]);
            let caller = mallory.with("content-type", "application/json").with("x-request-id", "same");
            let body = if body.is_null() { String::new() } else { fill(&body.to_string()) };
            let reply = caller.send(method, &fill(&path), body).await;
            let code = code(&reply);
            assert!(code.ends_with("_not_found"), "{method} {path}: {}", reply.text());
            let text = reply.text().replace(ids[0], "SB").replace(ids[1], "SE").replace(ids[2], "EX");
            answers.push((reply.status, text));
        }
        assert_eq!(answers[0], answers[1], "{method} {path}");
    }
    for list in ["/api/v1/sandboxes", "/api/v1/sessions"] {
        assert_eq!(mallory.get(list).await.expect(200)["items"], json!([]));
    }
    let still = sh(&alice, &id, "cat /workspace/s; ls /workspace").await;
    assert_eq!(still["stdout"], "secret\ns\n");
    server.stop().await;
}

async fn rate(host: Host) {
    let server = host.server(&[("dev", "true"), ("rate.per_second", "1"), ("rate.burst", "3")]).await;
    let alice = server.user("alice").await;
    let mut limited = None;
    for _ in 0..5 {
        let reply = alice.get("/api/v1/languages").await;
        if reply.status == 429 {
            limited = Some(reply);
            break;
        }
    }
    let limited = limited.expect("the bucket ends");
    assert_eq!(code(&limited), "rate_limited");
    assert!(limited.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let bob = server.user("bob").await;
    bob.get("/api/v1/languages").await.expect(200);
    server.stop().await;
}

async fn quota(host: Host) {
    let server = host.server(&[("dev", "true"), ("quota.sandboxes_per_user", "1")]).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let id = sandbox(&alice).await;
    assert_eq!(code(&alice.post("/api/v1/sandboxes", json!({})).await), "quota_exceeded");
    sandbox(&bob).await;
    alice.delete(&format!("/api/v1/sandboxes/{id}")).await.expect(204);
    sandbox(&alice).await;
    server.stop().await;
}

async fn figures(host: Host) {
    let server = host.dev().await;
    let anyone = server.anyone();
    anyone.get("/nowhere").await;
    let text = anyone.get("/metrics").await.text();
    for part in [
        "csb_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "csb_sandboxes{state=\"running\"} 0",
        "# EOF",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(code(&anyone.with("host", "evil.example").get("/metrics").await), "unauthorized");
    assert_eq!(code(&server.user("u").await.get("/metrics").await), "role_denied");
    server.stop().await;
}

async fn docs(host: Host) {
    let server = host.dev().await;
    let anyone = server.anyone();
    assert_eq!(anyone.get("/openapi.json").await.expect(200)["openapi"], "3.1.0");
    assert_eq!(anyone.get("/docs").await.header("location"), Some("/docs/"));
    let page = anyone.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(!page.text().contains("https://"), "the page loads nothing from elsewhere: {}", page.text());
    assert_eq!(anyone.get("/docs/swagger-ui-bundle.js").await.status, 200);
    server.stop().await;
}
