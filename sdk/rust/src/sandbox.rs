//! One sandbox of a server.

use crate::{Client, Error, Exec, Files, Outcome, OutputStream, request::segment, transport::Repeat};
use csb_api::{
    ExecRequest, ExecResultView, ExecView, Items, PatchSandboxRequest, ResourcesRequest, RunCodeRequest, SandboxView,
    StatsView,
};
use reqwest::Method;
use serde::Serialize;

/// A handle of one sandbox. Dropping it changes nothing: end a sandbox with [`Sandbox::release`].
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub(crate) client: Client,
    id: String,
    /// `/api/v1/sandboxes/ID`
    pub(crate) path: String,
}

impl Sandbox {
    pub(crate) fn new(client: Client, id: String) -> Self {
        let path = format!("/api/v1/sandboxes/{}", segment(&id));
        Self { client, id, path }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is and what it may use.
    pub async fn view(&self) -> Result<SandboxView, Error> {
        self.client.transport.get("look at a sandbox", &self.path, &()).await
    }

    /// What it uses now.
    pub async fn stats(&self) -> Result<StatsView, Error> {
        self.client.transport.get("read a sandbox's figures", &format!("{}/stats", self.path), &()).await
    }

    /// Freezes every process; memory is kept.
    pub async fn pause(&self) -> Result<SandboxView, Error> {
        let path = format!("{}/pause", self.path);
        self.client.transport.post("pause a sandbox", Repeat::Always, &path, &serde_json::Map::new()).await
    }

    /// Lets every process go on.
    pub async fn resume(&self) -> Result<SandboxView, Error> {
        let path = format!("{}/resume", self.path);
        self.client.transport.post("resume a sandbox", Repeat::Always, &path, &serde_json::Map::new()).await
    }

    /// Changes limits while it runs.
    pub async fn set_limits(&self, resources: ResourcesRequest) -> Result<SandboxView, Error> {
        let transport = &self.client.transport;
        let body = PatchSandboxRequest { resources };
        transport
            .json("change a sandbox's limits", Repeat::Always, || {
                transport.request(Method::PATCH, &self.path).json(&body)
            })
            .await
    }

    /// Ends it. One that is gone already is no error.
    pub async fn release(&self) -> Result<(), Error> {
        let transport = &self.client.transport;
        let sent =
            transport.send("release a sandbox", Repeat::Always, || transport.request(Method::DELETE, &self.path)).await;
        match sent {
            Err(error) if matches!(error.code(), Some("sandbox_not_found" | "sandbox_gone")) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Runs a command to its end: one request, output in the answer.
    pub async fn run(&self, request: &ExecRequest) -> Result<Outcome, Error> {
        Outcome::read(self.run_view(request).await?)
    }

    /// The same as the server writes it.
    pub async fn run_view(&self, request: &ExecRequest) -> Result<ExecResultView, Error> {
        self.run_at("execs", &ExecRequest { wait: Some(true), ..request.clone() }).await
    }

    /// Runs code to its end.
    pub async fn run_code(&self, request: &RunCodeRequest) -> Result<Outcome, Error> {
        Outcome::read(self.run_code_view(request).await?)
    }

    /// The same as the server writes it.
    pub async fn run_code_view(&self, request: &RunCodeRequest) -> Result<ExecResultView, Error> {
        self.run_at("run-code", &RunCodeRequest { wait: Some(true), ..request.clone() }).await
    }

    async fn run_at(&self, leaf: &str, request: &impl Serialize) -> Result<ExecResultView, Error> {
        let path = format!("{}/{leaf}", self.path);
        self.client.transport.start("run a command", &path, request).await
    }

    /// Starts a command and returns at once.
    pub async fn start(&self, request: &ExecRequest) -> Result<Exec, Error> {
        self.start_at("execs", &ExecRequest { wait: Some(false), ..request.clone() }).await
    }

    /// Starts code and returns at once.
    pub async fn start_code(&self, request: &RunCodeRequest) -> Result<Exec, Error> {
        self.start_at("run-code", &RunCodeRequest { wait: Some(false), ..request.clone() }).await
    }

    async fn start_at(&self, leaf: &str, request: &impl Serialize) -> Result<Exec, Error> {
        let path = format!("{}/{leaf}", self.path);
        let view: ExecView = self.client.transport.start("start a command", &path, request).await?;
        Ok(Exec::new(self, view.exec_id))
    }

    /// Starts a command and streams its output in one request; the stream re-attaches when the connection breaks.
    pub async fn stream(&self, request: &ExecRequest) -> Result<OutputStream, Error> {
        OutputStream::start(self, &format!("{}/execs", self.path), request).await
    }

    /// Starts code and streams its output.
    pub async fn stream_code(&self, request: &RunCodeRequest) -> Result<OutputStream, Error> {
        OutputStream::start(self, &format!("{}/run-code", self.path), request).await
    }

    /// Running and recently ended execs.
    pub async fn execs(&self) -> Result<Vec<ExecView>, Error> {
        let page: Items<ExecView> =
            self.client.transport.get("list commands", &format!("{}/execs", self.path), &()).await?;
        Ok(page.items)
    }

    /// A handle of an exec known by id.
    pub fn exec(&self, id: impl Into<String>) -> Exec {
        Exec::new(self, id.into())
    }

    /// Its files, as the sandbox's user sees them.
    pub fn files(&self) -> Files {
        Files::new(self.clone())
    }
}
