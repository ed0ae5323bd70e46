//! Commands and code.

use crate::support::{Host, code, sandbox, sandbox_as, sh, trial};
use libtest_mimic::Trial;
use serde_json::json;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_quick_start_of_the_seed_works_as_printed", quick_start),
        trial("a_result_keeps_streams_apart_and_names_what_ended_it", results),
        trial("output_that_is_not_utf8_comes_as_base64", base64),
        trial("stdin_is_a_text_or_written_later", stdin),
        trial("an_exec_that_nobody_waits_for_can_be_asked_for_later", later),
        trial("a_caller_that_hangs_up_does_not_end_its_command", hang_up),
        trial("code_runs_in_its_language_and_leaves_nothing_behind", languages),
        trial("a_missing_interpreter_is_named", missing),
    ]
}

async fn quick_start(host: Host) {
    let server = host.server(&[("dev", "true"), ("pool.min", "1"), ("pool.max", "2")]).await;
    let user = server.user("test").await;
    let acquired = user.send("POST", "/api/v1/sandbox/acquire", "").await.expect(200);
    let id = acquired["sandbox_id"].as_str().unwrap();
    assert_eq!((acquired["user_id"].as_str(), acquired["state"].as_str()), (Some("test"), Some("running")));
    let body = json!({"sandbox_id": id, "code": "print('Hello!')", "language": "python"});
    let result = user.post("/api/v1/execute", body).await.expect(200);
    assert_eq!((result["stdout"].as_str(), result["exit_code"].as_i64()), (Some("Hello!\n"), Some(0)), "{result}");
    let stats = user.get("/api/v1/sandbox/stats").await.expect(200);
    assert_eq!(stats["sandboxes"]["running"], 1, "{stats}");
    assert_eq!(stats["pool"]["in_use"], 1, "{stats}");

    let files = format!("/api/v1/files?sandbox_id={id}&path=/workspace");
    user.put(&format!("{files}/test.py"), "x = 42").await.expect(200);
    assert_eq!(user.get(&format!("{files}/test.py")).await.text(), "x = 42");
    let listed = user.get(&files).await.expect(200);
    assert_eq!(listed["items"][0]["name"], "test.py", "{listed}");
    user.delete(&format!("{files}/test.py")).await.expect(204);

    for _ in 0..2 {
        let released = user.post("/api/v1/sandbox/release", json!({"sandbox_id": id})).await.expect(200);
        assert_eq!(released, json!({"sandbox_id": id, "released": true}));
    }
    assert_eq!(code(&user.get(&format!("/api/v1/sandboxes/{id}")).await), "sandbox_not_found");
    server.stop().await;
}

async fn results(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let result = sh(&user, &id, "echo out; echo err >&2; exit 3").await;
    for (field, value) in [
        ("state", json!("ended")),
        ("stdout", json!("out\n")),
        ("stderr", json!("err\n")),
        ("exit_code", json!(3)),
        ("signal", json!(null)),
        ("truncated", json!(false)),
        ("killed_by", json!(null)),
        ("encoding", json!("utf-8")),
    ] {
        assert_eq!(result[field], value, "{field} of {result}");
    }
    assert!(result["duration_ms"].as_f64().unwrap() > 0.0);
    let execs = format!("/api/v1/sandboxes/{id}/execs");
    let timed = user.post(&execs, json!({"command": ["sleep", "60"], "timeout": 0.2})).await.expect(200);
    assert_eq!((&timed["killed_by"], &timed["exit_code"]), (&json!("timeout"), &json!(137)), "{timed}");
    let flood = json!({"command": "yes | head -c 100000", "max_output_bytes": 1000});
    let flood = user.post(&execs, flood).await.expect(200);
    assert_eq!((&flood["truncated"], flood["stdout"].as_str().unwrap().len()), (&json!(true), 1000));
    let env = json!({"command": ["sh", "-c", "echo $A; pwd; id -u"], "env": {"A": "b"}, "cwd": "/tmp", "user": "root"});
    assert_eq!(user.post(&execs, env).await.expect(200)["stdout"], "b\n/tmp\n0\n");
    let listed = user.get(&execs).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 4);
    assert_eq!(listed["items"][1]["command"], json!(["sleep", "60"]));
    server.stop().await;
}

async fn base64(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let result = sh(&user, &id, "printf 'ok'; printf '\\377' >&2").await;
    assert_eq!((&result["encoding"], &result["stdout"]), (&json!("base64"), &json!("b2s=")), "{result}");
    assert_eq!(result["stderr"], "/w==");
    server.stop().await;
}

async fn stdin(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let execs = format!("/api/v1/sandboxes/{id}/execs");
    let text = "x".repeat(300_000);
    let result = user.post(&execs, json!({"command": "wc -c", "stdin": text})).await.expect(200);
    assert_eq!(result["stdout"].as_str().unwrap().trim(), "300000");
    let unread = user.post(&execs, json!({"command": "true", "stdin": text})).await.expect(200);
    assert_eq!(unread["exit_code"], 0);

    let exec = user.post(&execs, json!({"command": "cat", "stdin": true, "wait": false})).await.expect(202);
    let exec = format!("{execs}/{}", exec["exec_id"].as_str().unwrap());
    user.send("POST", &format!("{exec}/stdin"), "one\n").await.expect(204);
    user.send("POST", &format!("{exec}/stdin?close=true"), "two\n").await.expect(204);
    let result = user.get(&format!("{exec}/result?wait=30")).await.expect(200);
    assert_eq!(result["stdout"], "one\ntwo\n");
    assert_eq!(code(&user.send("POST", &format!("{exec}/stdin"), "x").await), "exec_ended");
    let deaf = user.post(&execs, json!({"command": "sleep 60", "wait": false})).await.expect(202);
    let deaf = format!("{execs}/{}", deaf["exec_id"].as_str().unwrap());
    assert_eq!(code(&user.send("POST", &format!("{deaf}/stdin"), "x").await), "exec_not_interactive");
    assert_eq!(
        code(&user.post(&format!("{deaf}/resize"), json!({"cols": 1, "rows": 1})).await),
        "exec_not_interactive"
    );
    server.stop().await;
}

async fn later(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let execs = format!("/api/v1/sandboxes/{id}/execs");
    let view = user.post(&execs, json!({"command": "sleep 60", "wait": false})).await.expect(202);
    assert_eq!((&view["state"], &view["exit_code"], &view["pty"]), (&json!("running"), &json!(null), &json!(false)));
    let exec = format!("{execs}/{}", view["exec_id"].as_str().unwrap());
    assert_eq!(code(&user.get(&format!("{exec}/result")).await), "exec_running");
    assert_eq!(code(&user.get(&format!("{exec}/result?wait=0.1")).await), "exec_running");
    assert_eq!(code(&user.get(&format!("{exec}/result?wait=-1")).await), "invalid_request");
    assert_eq!(code(&user.post(&format!("{exec}/signal"), json!({"signal": "NOPE"})).await), "invalid_request");
    user.post(&format!("{exec}/signal"), json!({"signal": "TERM", "tree": true})).await.expect(204);
    let result = user.get(&format!("{exec}/result?wait=30")).await.expect(200);
    assert_eq!(
        (&result["signal"], &result["exit_code"], &result["killed_by"]),
        (&json!(15), &json!(143), &json!("signal"))
    );
    assert_eq!(user.get(&exec).await.expect(200)["state"], "ended");
    assert_eq!(code(&user.post(&format!("{exec}/signal"), json!({"signal": 15})).await), "exec_ended");
    server.stop().await;
}

async fn hang_up(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let path = format!("/api/v1/sandboxes/{id}/execs");
    let patient = user.post(&path, json!({"command": "sleep 2; echo done > /workspace/done"}));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(700), patient).await.is_err());
    let exec = user.get(&path).await.expect(200)["items"][0]["exec_id"].as_str().unwrap().to_owned();
    let result = user.get(&format!("{path}/{exec}/result?wait=30")).await.expect(200);
    assert_eq!((&result["exit_code"], &result["killed_by"]), (&json!(0), &json!(null)));
    assert_eq!(user.get(&format!("/api/v1/sandboxes/{id}/files?path=/workspace/done")).await.text(), "done\n");
    server.stop().await;
}

async fn languages(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let path = format!("/api/v1/sandboxes/{id}/run-code");
    let files = format!("/api/v1/sandboxes/{id}/files");
    user.put(&format!("{files}?path=/workspace/mine.py"), "answer = 42").await.expect(200);
    for (language, text, expected) in [
        (None, "import mine, os; print(mine.answer, os.getcwd())", "42 /workspace\n"),
        (Some("py"), "import sys; print(sys.argv[1:], __name__)", "[] __main__\n"),
        (Some("bash"), "echo $((6*7))", "42\n"),
        (Some("javascript"), "console.log(6*7)", "42\n"),
    ] {
        let result = user.post(&path, json!({"code": text, "language": language})).await.expect(200);
        assert_eq!(result["stdout"], expected, "{language:?}: {result}");
    }
    let failed = user.post(&path, json!({"code": "1/0"})).await.expect(200);
    assert_eq!(failed["exit_code"], 1);
    assert!(failed["stderr"].as_str().unwrap().contains("ZeroDivisionError"), "{failed}");
    let mut left = String::new();
    for _ in 0..50 {
        left = sh(&user, &id, "ls /tmp/csb-code 2>/dev/null").await["stdout"].as_str().unwrap().to_owned();
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(left, "", "the code's files are removed");
    server.stop().await;
}

async fn missing(host: Host) {
    std::fs::write(
        host.dir.join("c.toml"),
        "[[languages]]\nname = \"ada\"\nextensions = [\"adb\"]\ncommand = [\"no-such-ada\", \"{file}\"]\n\
         [[languages]]\nname = \"new\"\nextensions = [\"new\"]\ncommand = [\"python3\", \"--experimental-x\", \"{file}\"]\n",
    )
    .unwrap();
    let mut config = host.config(&[("dev", "true")]).unwrap();
    let sources = csb_server::Sources { file: Some(host.dir.join("c.toml")), ..Default::default() };
    config.languages = csb_server::Config::load(&sources).unwrap().languages;
    let server = crate::support::Server { running: csb_server::serve(config).await.unwrap() };
    let user = server.user("u").await;
    let id = sandbox_as(&user, json!({"metadata": {"a": "b"}})).await;
    let path = format!("/api/v1/sandboxes/{id}/run-code");
    for (language, part) in [("ada", "needs `no-such-ada`"), ("new", "too old or lacks an option")] {
        let reply = user.post(&path, json!({"code": "x", "language": language})).await;
        assert_eq!(code(&reply), "unsupported");
        assert!(reply.text().contains(part), "{}", reply.text());
    }
    server.stop().await;
}
