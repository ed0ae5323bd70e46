//! Sandboxes from creation to release, also across the end of the server.

use crate::{
    client::Caller,
    support::{Host, code, sandbox, sandbox_as, sh, trial},
};
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_sandbox_looks_as_it_was_asked_for", views),
        trial("a_hardened_sandbox_is_made_by_each_call_that_makes_one", hardened),
        trial("a_repeated_create_answers_the_same_also_after_a_restart", idempotent),
        trial("pages_hold_every_sandbox_once", pages),
        trial("a_paused_sandbox_refuses_execs_until_resumed", paused),
        trial("limits_change_while_it_runs", patched),
        trial("a_restarted_server_finds_sandboxes_and_execs_again", restart),
        trial("a_restart_ends_what_nobody_owns_and_forgets_what_is_gone", reconciled),
        trial("an_idle_sandbox_is_released_and_a_busy_one_is_not", idle),
        trial("a_sandbox_whose_init_dies_is_gone_for_its_user", died),
        trial("a_second_server_in_one_directory_is_refused", second),
    ]
}

async fn views(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let request = json!({
        "template": "python-basic", "resources": {"cpu": "500m", "memory": "128Mi", "disk": 10485760, "pids": 64},
        "env": {"SECRET": "s"}, "metadata": {"team": "a"}, "hostname": "box", "timeout": 60, "network": "none",
        "sandbox": {"kind": "process"}, "storage": "memory"
    });
    let view = user.post("/api/v1/sandboxes", request).await.expect(201);
    let id = view["sandbox_id"].as_str().unwrap();
    for (field, value) in [
        ("user_id", json!("u")),
        ("state", json!("running")),
        ("kind", json!("process")),
        ("network", json!("none")),
        ("storage", json!("memory")),
        ("metadata", json!({"team": "a"})),
        ("hostname", json!("box")),
        ("started_by", json!("cold")),
    ] {
        assert_eq!(view[field], value, "{field} of {view}");
    }
    assert_eq!((&view["resources"]["cpu"], &view["resources"]["pids"]), (&json!(0.5), &json!(64)));
    assert!(view["start_ms"].as_f64().unwrap() > 0.0);
    assert!(view["created_at"].as_str().unwrap().ends_with('Z') && view["expires_at"].is_string());
    assert!(!view.to_string().contains("SECRET"), "the environment may hold secrets");
    assert_eq!(user.get(&format!("/api/v1/sandboxes/{id}")).await.expect(200), view);
    assert_eq!(sh(&user, id, "hostname; echo $SECRET").await["stdout"], "box\ns\n");
    let stats = user.get(&format!("/api/v1/sandboxes/{id}/stats")).await.expect(200);
    assert_eq!((&stats["memory_limit"], &stats["pids_limit"]), (&json!(128 << 20), &json!(64)));
    assert!(stats["cpu_usec"].as_u64().unwrap() > 0, "{stats}");
    server.stop().await;
}

async fn hardened(host: Host) {
    if !rustix::process::geteuid().is_root() {
        let server = host.dev().await;
        let refused = server.user("u").await.post("/api/v1/sandboxes", json!({"sandbox": {"kind": "hardened"}})).await;
        assert_eq!(code(&refused), "unsupported");
        return server.stop().await;
    }
    // Small, so that little is copied.
    let root = host.dir.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "cat", "wc"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    csb_image::Store::open(host.dir.join("templates")).unwrap().import_dir("small", &root).unwrap();

    let server = host.dev().await;
    let user = server.user("u").await;
    let kind = json!({"kind": "hardened"});
    let request = json!({"template": "small", "sandbox": kind});
    let made = user.post("/api/v1/sandboxes", request.clone()).await.expect(201);
    let acquired = user.post("/api/v1/sandbox/acquire", request).await.expect(200);
    let session = json!({"template_id": "small", "sandbox": kind});
    let session = user.post("/api/v1/sessions", session).await.expect(201);
    let of_session = session["sandbox_id"].as_str().unwrap().to_owned();
    let mut ids = vec![of_session];
    for view in [made, acquired] {
        assert_eq!(view["kind"], "hardened", "{view}");
        ids.push(view["sandbox_id"].as_str().unwrap().to_owned());
    }
    server.stop().await;
    let server = host.dev().await;
    let user = server.user("u").await;
    for id in &ids {
        assert_eq!(user.get(&format!("/api/v1/sandboxes/{id}")).await.expect(200)["kind"], "hardened");
        assert_eq!(sh(&user, id, "cat /proc/vmstat | wc -c").await["stdout"], "0\n");
    }
    server.stop().await;
}

async fn idempotent(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await.with("idempotency-key", "k-1");
    let request = json!({"metadata": {"a": "b"}});
    // At once: one makes it, the others get its answer.
    let replies = futures_util::future::join_all((0..4).map(|_| user.post("/api/v1/sandboxes", request.clone()))).await;
    let views: Vec<Value> = replies.iter().map(|r| r.expect(201)).collect();
    assert!(views.iter().all(|v| *v == views[0]), "{views:?}");
    assert_eq!(replies.iter().filter(|r| r.header("idempotency-replayed").is_some()).count(), 3);
    let other = user.post("/api/v1/sandboxes", json!({})).await;
    assert_eq!(code(&other), "idempotency_conflict");
    let stranger = server.user("v").await.with("idempotency-key", "k-1");
    assert_ne!(stranger.post("/api/v1/sandboxes", request.clone()).await.expect(201), views[0]);
    let failing = user.with("idempotency-key", "k-2");
    let absent = json!({"template": "absent"});
    assert_eq!(code(&failing.post("/api/v1/sandboxes", absent).await), "template_not_found");
    let mut made = failing.post("/api/v1/sandboxes", json!({})).await;
    for _ in 0..20 {
        if made.status == 201 {
            break;
        }
        made = failing.post("/api/v1/sandboxes", json!({})).await;
    }
    made.expect(201);
    let session = user.with("idempotency-key", "k-3");
    let first = session.post("/api/v1/sessions", json!({})).await.expect(201);
    assert_eq!(session.post("/api/v1/sessions", json!({})).await.expect(201), first);
    server.stop().await;

    let server = host.dev().await;
    let user = Caller { addr: server.running.local_addr(), ..user };
    assert_eq!(user.post("/api/v1/sandboxes", request).await.expect(201), views[0]);
    server.stop().await;
}

async fn pages(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(sandbox(&user).await);
    }
    user.send("POST", &format!("/api/v1/sandboxes/{}/pause", made[1]), "").await.expect(200);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = user.get(&format!("/api/v1/sandboxes?limit=2{cursor}")).await.expect(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|v| v["sandbox_id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.sort();
    let mut expected = made.clone();
    expected.sort();
    assert_eq!(seen, expected);
    let paused = user.get("/api/v1/sandboxes?state=paused").await.expect(200);
    assert_eq!(paused["items"].as_array().unwrap().len(), 1);
    assert_eq!(paused["items"][0]["sandbox_id"], made[1]);
    server.stop().await;
}

async fn paused(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let base = format!("/api/v1/sandboxes/{id}");
    let counter = json!({"command": "while :; do date +%s%N >> t; done", "wait": false});
    user.post(&format!("{base}/execs"), counter).await.expect(202);
    for _ in 0..2 {
        assert_eq!(user.send("POST", &format!("{base}/pause"), "").await.expect(200)["state"], "paused");
    }
    assert_eq!(code(&user.post(&format!("{base}/execs"), json!({"command": "true"})).await), "sandbox_paused");
    assert_eq!(code(&user.get(&format!("{base}/files?path=/workspace/t")).await), "sandbox_paused");
    assert_eq!(code(&user.put(&format!("{base}/files?path=/workspace/u"), "x").await), "sandbox_paused");
    user.get(&format!("{base}/stats")).await.expect(200);
    for _ in 0..2 {
        assert_eq!(user.send("POST", &format!("{base}/resume"), "").await.expect(200)["state"], "running");
    }
    assert_eq!(
        sh(&user, &id, "a=$(wc -c < t); sleep 0.3; [ \"$a\" != \"$(wc -c < t)\" ]; echo $?").await["stdout"],
        "0\n"
    );
    user.send("POST", &format!("{base}/pause"), "").await.expect(200);
    user.delete(&base).await.expect(204);
    assert_eq!(code(&user.delete(&base).await), "sandbox_not_found");
    server.stop().await;
}

async fn patched(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    let base = format!("/api/v1/sandboxes/{id}");
    let view = user.patch(&base, json!({"resources": {"pids": 40, "memory": "256Mi"}})).await.expect(200);
    assert_eq!((&view["resources"]["pids"], &view["resources"]["memory"]), (&json!(40), &json!(256 << 20)));
    let stats = user.get(&format!("{base}/stats")).await.expect(200);
    assert_eq!((&stats["pids_limit"], &stats["memory_limit"]), (&json!(40), &json!(256 << 20)));
    server.stop().await;
}

async fn restart(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox_as(&user, json!({"metadata": {"kept": "yes"}})).await;
    let execs = format!("/api/v1/sandboxes/{id}/execs");
    let body = json!({"command": "echo before; sleep 2; echo after", "wait": false});
    let exec = user.post(&execs, body).await.expect(202)["exec_id"].as_str().unwrap().to_owned();
    server.stop().await;

    let server = host.dev().await;
    let user = Caller { addr: server.running.local_addr(), ..user };
    let view = user.get(&format!("/api/v1/sandboxes/{id}")).await.expect(200);
    assert_eq!(view["metadata"], json!({"kept": "yes"}));
    let result = user.get(&format!("{execs}/{exec}/result?wait=30")).await.expect(200);
    assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("before\nafter\n"), &json!(0)));
    assert_eq!(code(&server.user("v").await.get(&format!("/api/v1/sandboxes/{id}")).await), "sandbox_not_found");
    user.delete(&format!("/api/v1/sandboxes/{id}")).await.expect(204);
    server.stop().await;
}

async fn reconciled(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let (gone, stays) = (sandbox(&user).await, sandbox(&user).await);
    // Made beside the server's back: nobody owns it.
    let orphan = server.running.node().create(csb_types::SandboxSpec::default()).await.unwrap().id().clone();
    server.stop().await;

    let db = csb_server::db::Db::open(&host.dir.join("state.db")).await.unwrap();
    db.set_sandbox_state(&gone, csb_api::SandboxState::Releasing).await.unwrap();
    let never = csb_types::SandboxId::random().to_string();
    let row = csb_server::db::NewSandbox {
        id: never.clone(),
        user_id: "u".into(),
        session_id: None,
        created_ms: 1,
        expires_ms: None,
    };
    db.add_sandbox(&row, None).await.unwrap();
    db.close().await;

    let server = host.dev().await;
    let found = &server.running.found;
    assert_eq!((found.adopted, found.lost, found.orphans, found.finished), (1, 1, 1, 1), "{found:?}");
    let user = Caller { addr: server.running.local_addr(), ..user };
    while server.running.node().list().len() > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for id in [&gone, &never, orphan.as_str()] {
        assert_eq!(code(&user.get(&format!("/api/v1/sandboxes/{id}")).await), "sandbox_not_found");
    }
    let listed = user.get("/api/v1/sandboxes").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["sandbox_id"], stays);
    assert_eq!(server.running.node().list().len(), 1);
    server.stop().await;
}

async fn idle(host: Host) {
    let server = host.server(&[("dev", "true"), ("lifetime.idle", "2s")]).await;
    let user = server.user("u").await;
    let (idle, busy) = (sandbox(&user).await, sandbox(&user).await);
    let body = json!({"command": "sleep 60", "wait": false});
    user.post(&format!("/api/v1/sandboxes/{busy}/execs"), body).await.expect(202);
    for _ in 0..100 {
        let listed = user.get("/api/v1/sandboxes").await.expect(200);
        let left: Vec<_> = listed["items"].as_array().unwrap().iter().map(|v| v["sandbox_id"].clone()).collect();
        assert!(left.contains(&json!(busy)));
        if !left.contains(&json!(idle)) {
            server.stop().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the idle sandbox lives");
}

async fn died(host: Host) {
    let server = host.dev().await;
    let user = server.user("u").await;
    let id = sandbox(&user).await;
    // Its first process: the only init whose parent is this server's warden.
    let wanted = format!("CSB_WARDEN_DIR={}", std::fs::canonicalize(&host.dir).unwrap().display());
    let init = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim();
        let environ = std::fs::read(format!("/proc/{parent}/environ")).ok()?;
        let inner = status.lines().find(|l| l.starts_with("NSpid:"))?.split_whitespace().last()?.to_owned();
        let ours = environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
        (name == "csb-init\n" && ours && inner == "1").then_some(pid)
    });
    let init = rustix::process::Pid::from_raw(init.expect("an init")).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    for _ in 0..100 {
        if user.get(&format!("/api/v1/sandboxes/{id}")).await.status == 404 {
            assert_eq!(user.get("/api/v1/sandboxes").await.expect(200)["items"], json!([]));
            server.stop().await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it still looks alive");
}

async fn second(host: Host) {
    let server = host.dev().await;
    let config = host.config(&[("dev", "true")]).unwrap();
    let error = csb_server::serve(config).await.expect_err("one is enough").to_string();
    assert!(error.contains("in use by another server"), "{error}");
    server.anyone().get("/health").await.expect(200);
    server.stop().await;
}
