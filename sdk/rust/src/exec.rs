//! One command in a sandbox.

use crate::{Attachment, Error, OutputStream, Sandbox, request::segment, transport::Repeat};
use bytes::Bytes;
use csb_api::{Encoding, ExecResultView, ExecView, PtySizeRequest, SignalRequest, SignalValue};
use csb_types::{KilledBy, PtySize};
use reqwest::Method;
use std::time::Duration;

/// How a command ended, with its output as bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Which exec.
    pub exec_id: String,
    /// Its standard output (all its output with a terminal).
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Wall-clock time, ms.
    pub duration_ms: f64,
    /// Whether output was dropped.
    pub truncated: bool,
    /// What ended it, when not itself.
    pub killed_by: Option<KilledBy>,
}

impl Outcome {
    pub(crate) fn read(view: ExecResultView) -> Result<Self, Error> {
        Ok(Self {
            exec_id: view.exec_id,
            stdout: decode(view.stdout, view.encoding)?,
            stderr: decode(view.stderr, view.encoding)?,
            exit_code: view.exit_code,
            signal: view.signal,
            duration_ms: view.duration_ms,
            truncated: view.truncated,
            killed_by: view.killed_by,
        })
    }
}

pub(crate) fn decode(text: String, encoding: Encoding) -> Result<Vec<u8>, Error> {
    match encoding {
        Encoding::Utf8 => Ok(text.into_bytes()),
        Encoding::Base64 => encoding.decode(&text).map_err(|error| Error::protocol(error.message)),
    }
}

/// A handle of one exec.
#[derive(Debug, Clone)]
pub struct Exec {
    pub(crate) sandbox: Sandbox,
    id: String,
    /// `/api/v1/sandboxes/ID/execs/ID`
    pub(crate) path: String,
}

impl Exec {
    pub(crate) fn new(sandbox: &Sandbox, id: String) -> Self {
        let path = format!("{}/execs/{}", sandbox.path, segment(&id));
        Self { sandbox: sandbox.clone(), id, path }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it runs, and how it ended.
    pub async fn view(&self) -> Result<ExecView, Error> {
        self.sandbox.client.transport.get("look at a command", &self.path, &()).await
    }

    /// Waits for its end, however long that takes and however often the connection breaks.
    pub async fn wait(&self) -> Result<Outcome, Error> {
        Outcome::read(self.wait_view().await?)
    }

    /// The same as the server writes it.
    pub async fn wait_view(&self) -> Result<ExecResultView, Error> {
        loop {
            match self.result_view(Duration::from_secs(30)).await {
                Err(error) if error.code() == Some("exec_running") => continue,
                other => return other,
            }
        }
    }

    /// Its result; an error with the code `exec_running` when it still runs after `wait`.
    pub async fn result(&self, wait: Duration) -> Result<Outcome, Error> {
        Outcome::read(self.result_view(wait).await?)
    }

    async fn result_view(&self, wait: Duration) -> Result<ExecResultView, Error> {
        let path = format!("{}/result", self.path);
        let query = [("wait", wait.as_secs_f64().to_string())];
        self.sandbox.client.transport.get("wait for a command", &path, &query).await
    }

    /// Its output from byte `from` of both streams together; 0 is the start.
    pub fn output(&self, from: u64) -> OutputStream {
        OutputStream::of(self.clone(), from)
    }

    /// Its output from byte `from` that is there now; of one that has ended, all of it.
    pub fn output_so_far(&self, from: u64) -> OutputStream {
        OutputStream::of(self.clone(), from).so_far()
    }

    /// A two-way connection: output from byte `from`, stdin, resize, signals.
    pub async fn attach(&self, from: u64) -> Result<Attachment, Error> {
        Attachment::open(self.clone(), from).await
    }

    /// Writes to its stdin; `last` closes it afterwards. Never repeated once it may have arrived.
    pub async fn write_stdin(&self, bytes: impl Into<Bytes>, last: bool) -> Result<(), Error> {
        let transport = &self.sandbox.client.transport;
        let path = format!("{}/stdin", self.path);
        let bytes = bytes.into();
        let sent = transport.send("write to a command", Repeat::UnlessSeen, || {
            transport.request(Method::POST, &path).query(&[("close", last)]).body(bytes.clone())
        });
        sent.await.map(drop)
    }

    /// Sends a signal by name (`TERM`) or number; `tree`: to every process that descends from it.
    pub async fn signal(&self, signal: &str, tree: bool) -> Result<(), Error> {
        let body = SignalRequest { signal: signal_value(signal), tree: Some(tree) };
        let path = format!("{}/signal", self.path);
        self.sandbox.client.transport.post_nothing("signal a command", Repeat::UnlessSeen, &path, &body).await
    }

    /// Changes the size of its terminal.
    pub async fn resize(&self, size: PtySize) -> Result<(), Error> {
        let body = PtySizeRequest { cols: size.cols, rows: size.rows };
        let path = format!("{}/resize", self.path);
        self.sandbox.client.transport.post_nothing("resize a terminal", Repeat::Always, &path, &body).await
    }
}

pub(crate) fn signal_value(signal: &str) -> SignalValue {
    signal.parse().map_or_else(|_| SignalValue::Name(signal.to_owned()), SignalValue::Number)
}
