//! Sessions: what a user keeps.

use crate::{
    streams::Events,
    support::{Host, code, trial},
};
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_quick_example_of_the_control_plane_seed_works_as_printed", example),
        trial("a_handlers_result_is_apart_from_what_it_prints", handlers),
        trial("a_paused_session_is_frozen_and_goes_on_when_resumed", paused),
        trial("a_session_outlives_its_sandbox_and_says_what_was_lost", lost),
        trial("a_session_whose_time_has_passed_is_closed", expired),
    ]
}

async fn example(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let request = json!({
        "template_id": "python-basic", "timeout": 300, "resources": {"cpu": "1", "memory": "512Mi", "disk": "1Gi"}
    });
    let session = user.post("/api/v1/sessions", request).await.expect(201);
    assert_eq!((&session["template_id"], &session["state"]), (&json!("python-basic"), &json!("running")));
    assert_eq!((&session["timeout"], &session["resources"]["memory"]), (&json!(300.0), &json!(512 << 20)));
    let id = session["session_id"].as_str().unwrap();
    let execute = format!("/api/v1/sessions/{id}/execute");
    let body = json!({
        "code": "def handler(event):\n    return {\"result\": \"hello world\"}", "language": "python", "timeout": 30
    });
    let result = user.post(&execute, body).await.expect(200);
    assert_eq!((&result["exit_code"], &result["session_id"]), (&json!(0), &json!(id)), "{result}");
    assert_eq!(result["result"], json!({"result": "hello world"}));
    let looked_up = format!("/api/v1/sessions/{id}/executions/{}", result["exec_id"].as_str().unwrap());
    assert_eq!(user.get(&looked_up).await.expect(200)["result"], json!({"result": "hello world"}));
    assert_eq!(user.get("/api/v1/sessions").await.expect(200)["items"][0]["session_id"], id);
    user.delete(&format!("/api/v1/sessions/{id}")).await.expect(204);
    assert_eq!(code(&user.get(&format!("/api/v1/sessions/{id}")).await), "session_not_found");
    assert!(server.running.node().list().is_empty(), "its sandbox went with it");
    server.stop().await;
}

async fn handlers(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let session = user.post("/api/v1/sessions", json!({})).await.expect(201);
    let path = format!("/api/v1/sessions/{}/execute", session["session_id"].as_str().unwrap());
    let run = async |body: Value| user.post(&path, body).await.expect(200);

    let two = "import sys\ndef handler(event, context):\n    print('noise')\n    return [event['n'] + 1, context.memory_limit_in_mb, context.get_remaining_time_in_millis() > 0]";
    let result = run(json!({"code": two, "event": {"n": 41}, "timeout": 30})).await;
    assert_eq!((&result["result"], &result["stdout"]), (&json!([42, 512, true]), &json!("noise\n")), "{result}");

    let plain = run(json!({"code": "print('only a script')"})).await;
    assert_eq!((plain.get("result"), &plain["stdout"]), (None, &json!("only a script\n")));
    let null = run(json!({"code": "def handler(event):\n    pass"})).await;
    assert_eq!(null.get("result"), Some(&json!(null)), "{null}");
    let none = run(json!({"code": "print(1)", "event": {}})).await;
    assert_eq!(none["exit_code"], 1);
    assert!(none["stderr"].as_str().unwrap().contains("defines no `handler`"), "{none}");
    let raised = run(json!({"code": "\n\ndef handler(event):\n    raise ValueError('mine')"})).await;
    assert_eq!((raised.get("result"), &raised["exit_code"]), (None, &json!(1)));
    let trace = raised["stderr"].as_str().unwrap();
    assert!(trace.contains("line 4") && trace.contains("ValueError: mine") && !trace.contains("handler.py"), "{trace}");
    let odd = run(json!({"code": "def handler(event):\n    return {1, 2}"})).await;
    assert!(odd["stderr"].as_str().unwrap().contains("not JSON serializable"), "{odd}");
    let asynchronous = run(json!({"code": "async def handler(event):\n    return 7"})).await;
    assert_eq!(asynchronous["result"], 7, "{asynchronous}");
    let exits = run(json!({"code": "import sys\ndef handler(e): pass\nsys.exit(4)"})).await;
    assert_eq!(exits["exit_code"], 4);

    for (code, expected) in [
        ("exports.handler = async (event) => { console.log('noise'); return event.n * 2 }", json!(42)),
        ("function handler(event, context) { return context.memoryLimitInMB }", json!("512")),
        ("const handler = (event, context, done) => setTimeout(() => done(null, 'late'), 5)", json!("late")),
    ] {
        let result = run(json!({"code": code, "language": "javascript", "event": {"n": 21}})).await;
        assert_eq!(result["result"], expected, "{code}: {result}");
    }
    let reply = user.post(&path, json!({"code": "echo", "language": "bash", "event": {}})).await;
    assert_eq!(code(&reply), "unsupported");

    let mut events = Events::of(&user, "POST", &path, json!({"code": "def handler(e):\n  print(1)\n  return 2"})).await;
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    let last = last.unwrap();
    assert_eq!((last.name.as_str(), &last.data["result"]), ("end", &json!(2)));
    server.stop().await;
}

async fn paused(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let session = user.post("/api/v1/sessions", json!({})).await.expect(201);
    let base = format!("/api/v1/sessions/{}", session["session_id"].as_str().unwrap());
    let run = json!({"code": "echo here >> kept; cat kept", "language": "bash"});
    user.post(&format!("{base}/execute"), run.clone()).await.expect(200);
    for _ in 0..2 {
        let view = user.send("POST", &format!("{base}/pause"), "").await.expect(200);
        assert_eq!((&view["state"], &view["sandbox_id"]), (&json!("paused"), &session["sandbox_id"]));
    }
    assert_eq!(code(&user.post(&format!("{base}/execute"), run.clone()).await), "sandbox_paused");
    server.stop().await;

    // Days later, as far as the server can tell.
    let server = host.dev().await;
    let user = crate::client::Caller { addr: server.running.local_addr(), ..user };
    assert_eq!(user.get(&base).await.expect(200)["state"], "paused");
    for _ in 0..2 {
        let view = user.send("POST", &format!("{base}/resume"), "").await.expect(200);
        assert_eq!((&view["state"], &view["sandbox_id"]), (&json!("running"), &session["sandbox_id"]));
        assert_eq!(view.get("note"), None);
    }
    let result = user.post(&format!("{base}/execute"), run).await.expect(200);
    assert_eq!(result["stdout"], "here\nhere\n");
    server.stop().await;
}

async fn lost(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let session = user.post("/api/v1/sessions", json!({"env": {"A": "b"}})).await.expect(201);
    let base = format!("/api/v1/sessions/{}", session["session_id"].as_str().unwrap());
    let first = session["sandbox_id"].as_str().unwrap();
    user.delete(&format!("/api/v1/sandboxes/{first}")).await.expect(204);
    assert_eq!(user.get(&base).await.expect(200)["sandbox_id"], json!(null));
    let run = json!({"code": "echo $A", "language": "bash"});
    let result = user.post(&format!("{base}/execute"), run.clone()).await.expect(200);
    assert_eq!(result["stdout"], "b\n", "the new one is as the session asked");
    assert!(result["note"].as_str().unwrap().contains("lost"), "{result}");
    let view = user.get(&base).await.expect(200);
    assert_ne!(view["sandbox_id"], json!(first));
    assert!(view["note"].as_str().unwrap().contains("lost"));
    assert_eq!(user.post(&format!("{base}/execute"), run).await.expect(200).get("note"), None, "said once");
    server.stop().await;
}

async fn expired(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let session = user.post("/api/v1/sessions", json!({"timeout": 1})).await.expect(201);
    let sandbox = user.post("/api/v1/sandboxes", json!({"timeout": 1})).await.expect(201);
    assert!(session["expires_at"].is_string() && sandbox["expires_at"].is_string());
    let base = format!("/api/v1/sessions/{}", session["session_id"].as_str().unwrap());
    for _ in 0..100 {
        let gone = user.get(&format!("/api/v1/sandboxes/{}", sandbox["sandbox_id"].as_str().unwrap())).await;
        let closed = user.get(&base).await.expect(200);
        if gone.status == 404 && closed["state"] == "closed" && closed["sandbox_id"].is_null() {
            let run = json!({"code": "1"});
            assert_eq!(code(&user.post(&format!("{base}/execute"), run).await), "session_not_found");
            assert_eq!(server.running.node().list().len(), 0);
            server.stop().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("they were not ended");
}
