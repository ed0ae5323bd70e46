//! Execs: start, find, wait; and the cursors of lists.

use super::{App, AppError, CodeRun, Idem, idempotency::Turn, sandboxes::Mine};
use crate::{auth::Identity, db::After};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use csb_api::{ErrorCode, ExecRequest, ExecResultView, ExecView, Invalid, RunCodeRequest};
use csb_node::{Exec, ExecError, OpError};
use csb_types::{Capability, DEFAULT_OUTPUT_BYTES, ExecId};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Pieces in which a text is fed to stdin.
const STDIN_PIECE: usize = 64 * 1024;

/// What a start is remembered by under its idempotency key.
#[derive(Debug, Serialize, Deserialize)]
struct StartV1 {
    exec_id: String,
}

/// What became of a request to start something.
#[derive(Debug)]
pub(super) enum Start {
    /// It runs.
    Now(CodeRun),
    /// It was started before, as this exec.
    Before(String),
}

impl App {
    /// Starts something once for each key: the same request again finds what the first one started.
    pub(super) async fn start_once(
        self: &Arc<Self>,
        who: &Identity,
        idem: Option<Idem>,
        start: impl Future<Output = Result<CodeRun, AppError>> + Send + 'static,
    ) -> Result<Start, AppError> {
        let claimed = match self.turn(who, idem.map(Idem::of_exec)).await? {
            // To its end even if the caller hangs up: what was begun without its input would wait for it for ever.
            Turn::Free => return self.finish(start).await.map(Start::Now),
            Turn::Replay(stored) => {
                let start: StartV1 = serde_json::from_str(&stored.answer)
                    .map_err(|error| AppError::internal(format!("an idempotency key's answer: {error}")))?;
                return Ok(Start::Before(start.exec_id));
            }
            Turn::Ours(claimed) => claimed,
        };
        let app = self.clone();
        // To its end even if the caller hangs up: one who asks again must find what runs.
        self.finish(async move {
            let run = start.await?;
            let answer = claimed.answer(202, &StartV1 { exec_id: run.exec.id().to_string() });
            // From here on the key is used, whether that can be written down or not.
            claimed.answered();
            app.db.answer_key(&answer?).await?;
            Ok(Start::Now(run))
        })
        .await
    }

    /// Starts a command; with a key, once.
    pub async fn exec_once(
        self: &Arc<Self>,
        who: &Identity,
        mine: &Mine,
        request: ExecRequest,
        idem: Option<Idem>,
    ) -> Result<CodeRun, AppError> {
        let (app, its) = (self.clone(), mine.clone());
        let start = async move { app.exec(&its, &request).await.map(CodeRun::plain) };
        self.started(mine, self.start_once(who, idem, start).await?).await
    }

    /// Starts code; with a key, once.
    pub async fn run_code_once(
        self: &Arc<Self>,
        who: &Identity,
        mine: &Mine,
        request: RunCodeRequest,
        idem: Option<Idem>,
    ) -> Result<CodeRun, AppError> {
        let (app, its) = (self.clone(), mine.clone());
        let start = async move { app.run_code(&its, &request, None).await };
        self.started(mine, self.start_once(who, idem, start).await?).await
    }

    async fn started(&self, mine: &Mine, start: Start) -> Result<CodeRun, AppError> {
        match start {
            Start::Now(run) => Ok(run),
            Start::Before(id) => {
                let mut run = CodeRun::plain(self.find_exec(mine, &id).await?);
                run.replayed = true;
                Ok(run)
            }
        }
    }

    /// Starts a command. It goes on whatever becomes of the caller.
    pub async fn exec(&self, mine: &Mine, request: &ExecRequest) -> Result<Exec, AppError> {
        self.try_exec(mine, request).await?.map_err(AppError::from)
    }

    /// Starts a command; the engine's refusal is the caller's to explain.
    pub(super) async fn try_exec(
        &self,
        mine: &Mine,
        request: &ExecRequest,
    ) -> Result<Result<Exec, ExecError>, AppError> {
        let (mut spec, text) = request.to_spec()?;
        if spec.pty.is_some() {
            mine.able(Capability::Pty)?;
        }
        match request.max_output_bytes {
            Some(bytes) if bytes.0 > self.config.max_output => {
                let most = csb_types::format_bytes(self.config.max_output);
                return Err(Invalid::new(format!("max_output_bytes is more than this server allows: {most}")).into());
            }
            Some(_) => {}
            None => spec.max_output = DEFAULT_OUTPUT_BYTES.min(self.config.max_output),
        }
        let exec = match mine.handle().await?.exec(spec).await {
            Ok(exec) => exec,
            Err(error) => return Ok(Err(error)),
        };
        self.metrics.exec_started();
        if let Some(text) = text {
            feed(exec.clone(), text);
        }
        Ok(Ok(exec))
    }

    /// An exec of a sandbox.
    pub async fn find_exec(&self, mine: &Mine, id: &str) -> Result<Exec, AppError> {
        let parsed: ExecId = id.parse().map_err(|_| AppError::no_exec(id))?;
        mine.handle().await?.find_exec(&parsed).ok_or_else(|| AppError::no_exec(id))
    }

    /// Waits for an exec's end at most this long, then answers with its output.
    pub async fn exec_result(&self, exec: &Exec, wait: Duration) -> Result<ExecResultView, AppError> {
        if exec.result().is_none() && (wait.is_zero() || tokio::time::timeout(wait, exec.wait()).await.is_err()) {
            let message = format!("exec `{}` has not ended yet", exec.id());
            return Err(AppError::new(ErrorCode::ExecRunning, message));
        }
        Ok(self.ended_exec(exec).await)
    }

    /// Waits for an exec's end, however long.
    pub async fn ended_exec(&self, exec: &Exec) -> ExecResultView {
        let result = exec.wait().await;
        let (stdout, stderr) = exec.read_all().await;
        ExecResultView::new(&result, stdout, stderr)
    }
}

/// As the API shows it.
pub fn exec_view(exec: &Exec) -> ExecView {
    ExecView::new(exec.id(), exec.spec(), exec.pid(), exec.started_ms(), exec.result().as_ref())
}

/// Writes a text to stdin and closes it, at the command's pace. A command that ends without reading it is no error.
fn feed(exec: Exec, text: String) {
    tokio::spawn(async move {
        let mut rest = Bytes::from(text);
        let mut done: Result<(), OpError> = Ok(());
        while done.is_ok() && !rest.is_empty() {
            done = exec.write_stdin(rest.split_to(rest.len().min(STDIN_PIECE))).await;
        }
        if done.is_ok() {
            done = exec.close_stdin().await;
        }
        if let Err(error) = done {
            tracing::debug!(exec = %exec.id(), %error, "stdin was not taken to its end");
        }
    });
}

/// A place in a list, opaque to callers.
pub(super) fn cursor(created_ms: i64, id: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{created_ms}:{id}"))
}

/// The place a cursor names.
pub fn parse_cursor(text: &str) -> Result<After, AppError> {
    let after = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| {
        let text = String::from_utf8(bytes).ok()?;
        let (ms, id) = text.split_once(':')?;
        Some(After { created_ms: ms.parse().ok()?, id: id.to_owned() })
    });
    after.ok_or_else(|| {
        Invalid::new("cursor is not valid: pass `next_cursor` of the page before, or leave it out").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_the_place_it_was_made_for() {
        let after = parse_cursor(&cursor(17, "sb-x")).unwrap();
        assert_eq!((after.created_ms, after.id.as_str()), (17, "sb-x"));
        for bad in ["", "x", "!!!", "OnNi"] {
            assert_eq!(parse_cursor(bad).unwrap_err().code, ErrorCode::InvalidRequest, "{bad}");
        }
    }
}
