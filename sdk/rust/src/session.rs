//! One session: what a user keeps.

use crate::{Client, Error, Sandbox, request::segment, transport::Repeat};
use csb_api::{ExecResultView, SessionExecuteRequest, SessionView};
use reqwest::Method;

/// A handle of one session.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    id: String,
    path: String,
}

impl Session {
    pub(crate) fn new(client: Client, id: String) -> Self {
        let path = format!("/api/v1/sessions/{}", segment(&id));
        Self { client, id, path }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is, and the sandbox bound to it.
    pub async fn view(&self) -> Result<SessionView, Error> {
        self.client.transport.get("look at a session", &self.path, &()).await
    }

    /// The sandbox bound to it now, if any.
    pub async fn sandbox(&self) -> Result<Option<Sandbox>, Error> {
        Ok(self.view().await?.sandbox_id.map(|id| self.client.sandbox(id)))
    }

    /// Runs code to its end. The answer holds what `handler` returned, if the code defines one.
    pub async fn execute(&self, request: &SessionExecuteRequest) -> Result<ExecResultView, Error> {
        let path = format!("{}/execute", self.path);
        let request = SessionExecuteRequest { stream: Some(false), ..request.clone() };
        self.client.transport.start("run code", &path, &request).await
    }

    /// The result of an earlier execution.
    pub async fn execution(&self, exec_id: &str) -> Result<ExecResultView, Error> {
        let path = format!("{}/executions/{}", self.path, segment(exec_id));
        self.client.transport.get("look at an execution", &path, &()).await
    }

    /// Freezes it.
    pub async fn pause(&self) -> Result<SessionView, Error> {
        let path = format!("{}/pause", self.path);
        self.client.transport.post("pause a session", Repeat::Always, &path, &serde_json::Map::new()).await
    }

    /// Lets it go on.
    pub async fn resume(&self) -> Result<SessionView, Error> {
        let path = format!("{}/resume", self.path);
        self.client.transport.post("resume a session", Repeat::Always, &path, &serde_json::Map::new()).await
    }

    /// Ends it. One that is gone already is no error.
    pub async fn close(&self) -> Result<(), Error> {
        let transport = &self.client.transport;
        let sent =
            transport.send("close a session", Repeat::Always, || transport.request(Method::DELETE, &self.path)).await;
        match sent {
            Err(error) if error.code() == Some("session_not_found") => Ok(()),
            other => other.map(drop),
        }
    }
}
