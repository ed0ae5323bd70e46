//! A server of a test's own, in a directory of its own.

use crate::client::{Caller, Reply};
use csb_server::{Config, Running, Sources};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use std::{future::Future, path::Path, path::PathBuf, time::Duration};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A test by its name.
pub fn trial<F: Future<Output = ()> + 'static>(name: &'static str, body: fn(Host) -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let host = Host::new();
        let dir = host.dir.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async { tokio::time::timeout(PATIENCE, body(host)).await })
        }));
        runtime.shutdown_timeout(Duration::from_secs(5));
        // Also after a failure: the next test must not find this one's warden.
        stop_warden(&dir);
        let removed = std::fs::remove_dir_all(&dir);
        match outcome {
            Ok(Ok(())) => removed.map_err(|e| format!("{}: {e}", dir.display()).into()),
            Ok(Err(_)) => Err("it took too long".into()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                Err(text.unwrap_or_else(|| "it panicked".into()).into())
            }
        }
    })
}

fn stop_warden(dir: &Path) {
    if let Ok(Some(conn)) = csb_warden::connect(dir) {
        let _ = csb_warden::stop(&conn);
    }
}

/// Where a test's servers live.
pub struct Host {
    pub dir: PathBuf,
}

impl Host {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("csb-server-{}", csb_types::SessionId::random()));
        std::fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    /// Settings of a server on a free loopback port, without a pool.
    pub fn config(&self, flags: &[(&str, &str)]) -> Result<Config, String> {
        let mut all =
            vec![("listen", "127.0.0.1:0"), ("pool.min", "0"), ("http.shutdown_grace", "5s"), ("log.filter", "warn")];
        all.extend_from_slice(flags);
        let flags = all.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let env = vec![("CSB_DATA_DIR".to_owned(), self.dir.display().to_string())];
        Config::load(&Sources { file: None, env, flags }).map_err(|e| e.to_string())
    }

    /// A server in development mode.
    pub async fn dev(&self) -> Server {
        self.server(&[("dev", "true")]).await
    }

    /// A server with these settings.
    pub async fn server(&self, flags: &[(&str, &str)]) -> Server {
        let config = self.config(flags).unwrap();
        csb_server::logging::start(&config);
        let running =
            csb_server::serve(config).await.unwrap_or_else(|e| panic!("{e}: {:?}", std::error::Error::source(&e)));
        Server { running }
    }
}

/// A server at work.
pub struct Server {
    pub running: Running,
}

impl Server {
    /// Someone without a credential.
    pub fn anyone(&self) -> Caller {
        Caller::new(self.running.local_addr())
    }

    /// A user of a server in development mode.
    pub async fn user(&self, name: &str) -> Caller {
        let reply = self.anyone().post("/api/v1/auth/token", json!({ "user_id": name })).await;
        let token = reply.expect(200)["access_token"].as_str().unwrap().to_owned();
        self.anyone().with("authorization", &format!("Bearer {token}"))
    }

    /// Ends the server; sandboxes go on.
    pub async fn stop(self) {
        self.running.shutdown().await;
    }
}

/// A user's new sandbox, by id.
pub async fn sandbox(user: &Caller) -> String {
    sandbox_as(user, json!({})).await
}

/// A user's new sandbox as asked.
pub async fn sandbox_as(user: &Caller, request: Value) -> String {
    let view = user.post("/api/v1/sandboxes", request).await.expect(201);
    view["sandbox_id"].as_str().unwrap().to_owned()
}

/// Runs a shell line to its end.
pub async fn sh(user: &Caller, sandbox: &str, line: &str) -> Value {
    user.post(&format!("/api/v1/sandboxes/{sandbox}/execs"), json!({ "command": line })).await.expect(200)
}

/// The error's code, after a look at its whole shape.
pub fn code(reply: &Reply) -> String {
    let body = reply.json();
    let error = &body["error"];
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    for field in ["code", "message", "hint", "request_id"] {
        assert!(error[field].as_str().is_some_and(|t| !t.is_empty()), "{field} of {body}");
    }
    assert_eq!(error.as_object().unwrap().len(), 4, "{body}");
    assert_eq!(reply.header("x-request-id"), error["request_id"].as_str(), "{body}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let code = error["code"].as_str().unwrap();
    let known = csb_api::ErrorCode::parse(code).unwrap_or_else(|| panic!("unknown code {code}"));
    assert_eq!(reply.status, known.status(), "{body}");
    code.to_owned()
}
