//! Running code: it is written to a file in the sandbox, and the language's command is run on that file.
//!
//! A session's Python and JavaScript run below a small program that calls `handler(event, context)` when the code
//! defines one, and leaves what it returned in a file beside the code, so that nothing mixes with stdout.

use super::{App, AppError, cut, sandboxes::Mine};
use bytes::Bytes;
use csb_api::{CommandRequest, ErrorCode, ExecResultView, RunCodeRequest};
use csb_node::{Exec, ExecError, Handle};
use csb_types::{Command, ExecSpec, Kind, Language, SandboxSpec, WORKSPACE};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{io, sync::Arc, time::Duration};
use tokio::sync::oneshot;

const CODE_DIR: &str = "/tmp/csb-code";
/// Code as a text in JSON; more comes as a file.
const MOST_CODE: usize = 1 << 20;
/// What a handler may return.
const MOST_RESULT: usize = 4 << 20;
const RESULT_FILE: &str = "result.json";

const PYTHON_HANDLER: &str = include_str!("code/handler.py");
const JAVASCRIPT_HANDLER: &str = include_str!("code/handler.cjs");

/// What a handler returned, or why that is not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HandlerResult {
    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub result: Option<Value>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `null` is a value that a handler may return; serde alone would take it for an absent field.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(d).map(Some)
}

/// Code that runs.
#[derive(Debug)]
pub struct CodeRun {
    /// The exec.
    pub exec: Exec,
    /// Something the caller should know about where it runs.
    pub note: Option<String>,
    /// Whether it was started before, by the same request.
    pub replayed: bool,
    /// What its handler returned, once it has ended.
    handler: Option<oneshot::Receiver<HandlerResult>>,
}

impl CodeRun {
    /// An exec without a handler.
    pub fn plain(exec: Exec) -> Self {
        Self { exec, note: None, replayed: false, handler: None }
    }

    /// Waits for the handler's result; at once when there is none to wait for.
    pub async fn handler_result(&mut self) -> HandlerResult {
        let mut found = match &mut self.handler {
            None => HandlerResult::default(),
            Some(receiver) => receiver.await.unwrap_or_default(),
        };
        found.note = self.note.take().or(found.note);
        found
    }

    /// Waits for the end.
    pub async fn ended(mut self, app: &App) -> ExecResultView {
        let mut view = app.ended_exec(&self.exec).await;
        let handler = self.handler_result().await;
        (view.result, view.note) = (handler.result, handler.note);
        view
    }
}

/// Whether `handler` is looked for, and what it is called with.
#[derive(Debug, Clone)]
pub struct HandlerCall {
    /// Its argument; absent: `{}`, and code without a handler is no error.
    pub event: Option<Value>,
    /// The session, for `context`.
    pub session_id: String,
}

impl App {
    /// Starts code. It goes on whatever becomes of the caller.
    pub async fn run_code(
        self: &Arc<Self>,
        mine: &Mine,
        run: &RunCodeRequest,
        call: Option<HandlerCall>,
    ) -> Result<CodeRun, AppError> {
        if run.code.len() > MOST_CODE {
            let message = format!("code is {} bytes, more than 1 MiB", run.code.len());
            return Err(AppError::new(ErrorCode::PayloadTooLarge, message)
                .hint("upload it with PUT /files and run the file with an exec"));
        }
        let name = run.language.as_deref().unwrap_or("python");
        let language = self.config.languages.find(name).ok_or_else(|| {
            let known: Vec<&str> = self.config.languages.iter().map(|l| l.name.as_str()).collect();
            let message = format!("there is no language `{}`; there are {}", cut(name), known.join(", "));
            AppError::new(ErrorCode::UnknownLanguage, message)
        })?;
        // Refused before anything is written into the sandbox.
        run.exec(CommandRequest::Argv(vec!["true".into()])).to_spec()?;
        self.probe(mine, language).await?;

        let wrapper = match language.name.as_str() {
            "python" => Some(("handler.py", PYTHON_HANDLER)),
            "javascript" => Some(("handler.cjs", JAVASCRIPT_HANDLER)),
            _ => None,
        };
        let call = match (call, wrapper) {
            (Some(call), None) if call.event.is_some() => {
                let message = format!("language `{}` has no handlers; Python and JavaScript have", language.name);
                return Err(AppError::new(ErrorCode::Unsupported, message));
            }
            (call, wrapper) => call.zip(wrapper),
        };
        let dir = format!("{CODE_DIR}/{}", hex::encode(rand::random::<[u8; 10]>()));
        let file = format!("{dir}/main.{}", language.extension());
        let has_handler = call.is_some();
        let argv = match call {
            None => {
                let body = stream::once(std::future::ready(Ok(Bytes::from(run.code.clone()))));
                mine.awake().await?.write_file(None, &file, None, false, Box::pin(body)).await?;
                language.argv(&file, &[])
            }
            Some((call, (name, program))) => {
                let event = context(&mine.sandbox.meta()?.spec, run, &call, &dir);
                let files = [
                    (file.trim_start_matches(&dir), run.code.as_bytes()),
                    (name, program.as_bytes()),
                    ("event.json", &event),
                ];
                let body = stream::once(std::future::ready(Ok(
                    archive(&files).map_err(|e| AppError::internal(format!("cannot pack code: {e}")))?
                )));
                mine.awake().await?.unpack(None, &dir, Box::pin(body)).await?;
                let rest = [file.clone(), format!("{dir}/event.json"), format!("{dir}/{RESULT_FILE}")];
                language.argv(&format!("{dir}/{name}"), &rest)
            }
        };
        let mut request = run.exec(CommandRequest::Argv(argv));
        let sandbox = mine.sandbox.meta()?.spec;
        let env = request.env.get_or_insert_default();
        let cwd = request.cwd.as_deref().unwrap_or(WORKSPACE);
        // The code's file is not in the working directory, and users expect to import what is.
        for (name, value) in [("PYTHONPATH", cwd.to_owned()), ("NODE_PATH", format!("{cwd}/node_modules"))] {
            let concerned = match name {
                "PYTHONPATH" => language.name == "python",
                _ => matches!(language.name.as_str(), "javascript" | "typescript"),
            };
            if concerned && !sandbox.env.contains_key(name) {
                env.entry(name.into()).or_insert(value);
            }
        }
        let started = self.try_exec(mine, &request).await;
        let exec = match started {
            Ok(Ok(exec)) => exec,
            other => {
                remove_later(self, mine.handle().await?, dir);
                return Err(match other {
                    Err(error) => error,
                    Ok(Err(ExecError::NotFound { program })) => missing(language, &program, &sandbox.template),
                    Ok(Err(error)) => error.into(),
                    Ok(Ok(_)) => AppError::internal("unreachable"),
                });
            }
        };
        Ok(self.follow(mine.handle().await?, exec, dir, has_handler))
    }

    /// Reads the handler's result when the exec has ended, and removes the code then.
    fn follow(self: &Arc<Self>, handle: Handle, exec: Exec, dir: String, has_handler: bool) -> CodeRun {
        let (sender, receiver) = oneshot::channel();
        let (app, followed) = (self.clone(), exec.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = followed.wait() => {}
                () = app.stopping.cancelled() => return,
            }
            if has_handler {
                let found = read_result(&handle, &dir).await;
                if handle.spec().kind == Kind::Vfs {
                    // No disk may have it: it stays where it was written, and is looked up there.
                    let _ = sender.send(found);
                    return;
                }
                if found != HandlerResult::default()
                    && let Ok(text) = serde_json::to_string(&found)
                    && let Err(error) =
                        app.db.put_handler_result(followed.id().as_str(), handle.id().as_str(), &text).await
                {
                    tracing::warn!(exec = %followed.id(), error = AppError::chain(&error), "a result is not kept");
                }
                // Its caller may have hung up; then it is looked up later.
                let _ = sender.send(found);
            }
            remove_later(&app, handle, dir);
        });
        CodeRun { exec, note: None, replayed: false, handler: has_handler.then_some(receiver) }
    }

    /// Code that an earlier request started in a session.
    pub(super) fn again(self: &Arc<Self>, handle: Handle, exec: Exec) -> CodeRun {
        let (sender, receiver) = oneshot::channel();
        let (app, followed) = (self.clone(), exec.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = followed.wait() => {}
                () = app.stopping.cancelled() => return,
            }
            let mut found = app.kept_result(&handle, &followed).await;
            if found.as_ref().is_ok_and(|found| *found == HandlerResult::default()) {
                // Between the two places that were looked at, whoever follows the first request may have moved it.
                found = app.kept_result(&handle, &followed).await;
            }
            match found {
                Ok(found) => drop(sender.send(found)),
                Err(error) => tracing::warn!(exec = %followed.id(), %error, "a handler's result was not found"),
            }
        });
        CodeRun { exec, note: None, replayed: true, handler: Some(receiver) }
    }

    /// What the handler of an ended exec returned.
    pub(super) async fn kept_result(&self, handle: &Handle, exec: &Exec) -> Result<HandlerResult, AppError> {
        if let Some(text) = self.db.handler_result(exec.id().as_str()).await? {
            return Ok(serde_json::from_str(&text).unwrap_or_default());
        }
        // The server that followed it may have died before it read the file.
        let dir = match &exec.spec().command {
            Command::Argv(argv) => {
                argv.last().and_then(|last| last.strip_suffix(RESULT_FILE)).filter(|d| d.starts_with(CODE_DIR))
            }
            Command::Shell(_) => None,
        };
        Ok(match dir {
            Some(dir) => read_result(handle, dir.trim_end_matches('/')).await,
            None => HandlerResult::default(),
        })
    }

    /// Whether a template whose files have a language's program runs that language: where the file alone does not tell, it
    /// is tried once, in a sandbox of its own. What could not be tried is not said to run.
    pub(super) async fn runs(&self, template: &str, language: &Language) -> bool {
        if !is_probed(language) {
            return true;
        }
        let _one = self.probing.lock().await;
        if let Some(answer) = self.known_probe(template, language) {
            return answer.is_ok();
        }
        let spec = SandboxSpec { template: template.to_owned(), ..SandboxSpec::default() };
        match self.node.create(spec).await {
            Ok(handle) => {
                let tried = self.try_language(&handle, template, language).await;
                if let Err(error) = handle.release().await {
                    tracing::error!(sandbox = %handle.id(), %error, "a sandbox that tried a language was not released");
                }
                tried.is_ok_and(|answer| answer.is_ok())
            }
            Err(error) => {
                tracing::warn!(template, language = language.name, %error, "a language was not tried");
                false
            }
        }
    }

    fn known_probe(&self, template: &str, language: &Language) -> Option<Result<(), String>> {
        let key = (template.to_owned(), language.name.clone());
        self.probes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).cloned()
    }

    /// Runs nothing in a language, and remembers how that went.
    async fn try_language(
        &self,
        handle: &Handle,
        template: &str,
        language: &Language,
    ) -> Result<Result<(), String>, ExecError> {
        let mut spec = ExecSpec::argv(language.argv("/dev/null", &[]));
        (spec.timeout, spec.max_output) = (Some(Duration::from_secs(10)), 4096);
        let exec = handle.exec(spec).await?;
        let result = exec.wait().await;
        if result.killed_by.is_some() {
            // The sandbox's limits struck, which says nothing about the interpreter: let the code try.
            return Ok(Ok(()));
        }
        let stderr = String::from_utf8_lossy(&exec.read_all().await.1).trim().to_owned();
        let answer = if result.exit_code == 0 { Ok(()) } else { Err(stderr) };
        let key = (template.to_owned(), language.name.clone());
        self.probes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, answer.clone());
        Ok(answer)
    }

    /// Asks the interpreter once per template whether it takes the options of the language's command.
    async fn probe(&self, mine: &Mine, language: &Language) -> Result<(), AppError> {
        if !is_probed(language) {
            return Ok(());
        }
        let template = mine.sandbox.meta()?.spec.template.clone();
        let answer = match self.known_probe(&template, language) {
            Some(answer) => answer,
            None => match self.try_language(&mine.handle().await?, &template, language).await {
                Ok(answer) => answer,
                Err(ExecError::NotFound { program }) => return Err(missing(language, &program, &template)),
                Err(error) => return Err(error.into()),
            },
        };
        answer.map_err(|stderr| {
            let message = format!(
                "template `{template}` cannot run {}: its `{}` is too old or lacks an option ({})",
                language.name,
                language.command.first().map_or("", String::as_str),
                cut(&stderr)
            );
            let hint = match language.name.as_str() {
                "typescript" => "TypeScript needs Node.js 22.6 or newer in the template",
                _ => "use a template with a newer version",
            };
            AppError::new(ErrorCode::Unsupported, message).hint(hint)
        })
    }
}

/// Whether a language's command takes an option that older interpreters lack.
fn is_probed(language: &Language) -> bool {
    language.command.iter().any(|word| word.starts_with("--experimental"))
}

fn missing(language: &Language, program: &str, template: &str) -> AppError {
    let message =
        format!("language `{}` needs `{}`, which template `{template}` does not have", language.name, cut(program));
    AppError::new(ErrorCode::Unsupported, message).hint(format!("use a template that has `{}`", cut(program)))
}

/// What the wrapper is told, as JSON.
fn context(spec: &SandboxSpec, run: &RunCodeRequest, call: &HandlerCall, dir: &str) -> Vec<u8> {
    let deadline = run.timeout.map(|t| crate::db::now_ms() as f64 + t.0 * 1000.0);
    json!({
        "event": call.event.clone().unwrap_or_else(|| json!({})),
        "given": call.event.is_some(),
        "context": {
            "function_name": "handler",
            "aws_request_id": dir.rsplit('/').next(),
            "memory_limit_in_mb": spec.limits.memory >> 20,
            "session_id": call.session_id,
            "deadline_ms": deadline,
        },
    })
    .to_string()
    .into_bytes()
}

fn archive(files: &[(&str, &[u8])]) -> io::Result<Bytes> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, name.trim_start_matches('/'), *bytes)?;
    }
    builder.into_inner().map(Bytes::from)
}

async fn read_result(handle: &Handle, dir: &str) -> HandlerResult {
    let path = format!("{dir}/{RESULT_FILE}");
    // Absent is the rule: the code defined no handler, or failed before it returned.
    let Ok(mut reader) = handle.read_file(None, &path, 0, Some(MOST_RESULT as u64 + 1)).await else {
        return HandlerResult::default();
    };
    let mut bytes = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) => {
                return HandlerResult { result: None, note: Some(format!("the result was not read: {error}")) };
            }
        }
        if bytes.len() > MOST_RESULT {
            return HandlerResult { result: None, note: Some("the handler returned more than 4 MiB of JSON".into()) };
        }
    }
    match serde_json::from_slice(&bytes) {
        Ok(value) => HandlerResult { result: Some(value), note: None },
        Err(_) => HandlerResult { result: None, note: Some("the handler's result was overwritten".into()) },
    }
}

/// Removes the code of an exec; a sandbox that is paused or gone meanwhile keeps or loses it.
fn remove_later(app: &Arc<App>, handle: Handle, dir: String) {
    let app = app.clone();
    tokio::spawn(async move {
        tokio::select! {
            // Paused meanwhile, it may take days.
            () = app.stopping.cancelled() => {}
            removed = handle.remove_file(None, &dir, true) => {
                if let Err(error) = removed {
                    tracing::debug!(sandbox = %handle.id(), dir, %error, "code was not removed");
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_returns_null_has_a_result() {
        let found = HandlerResult { result: Some(Value::Null), note: None };
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<HandlerResult>(&text).unwrap(), found);
        assert_eq!(serde_json::from_str::<HandlerResult>("{}").unwrap(), HandlerResult::default());
    }

    #[test]
    fn packed_code_has_plain_relative_names() {
        let bytes = archive(&[("/main.py", b"x"), ("event.json", b"{}")]).unwrap();
        let mut tar = tar::Archive::new(&bytes[..]);
        let names: Vec<_> = tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [std::path::Path::new("main.py"), std::path::Path::new("event.json")]);
    }
}
