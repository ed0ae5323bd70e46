//! Sessions: what a user keeps. A session is bound to one sandbox at a time.
//!
//! When its sandbox is gone (its host restarted, its first process died), the next use starts a new one from the same
//! template. Files and processes of the old one are lost then, and `note` says so.

use super::{
    App, AppError, CodeRun, Idem, MineFarSession, Outcome, code::HandlerCall, execs::Start, idempotency::Claimed,
    places, sandboxes::Mine,
};
use crate::{
    auth::Identity,
    db::{After, NewSandbox, SessionRow, now_ms},
};
use csb_api::{
    ErrorCode, ExecResultView, Page, ResourcesView, Role, RunCodeRequest, SandboxRequest, SandboxState, Seconds,
    SessionRequest, SessionState, SessionView, time_from_ms,
};
use csb_types::{Kind, Phase, SandboxId, SessionId};
use serde_json::Value;
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

const LOST: &str =
    "the sandbox of this session had ended, so a new one was started; files and processes of the old one are lost";
const LOST_LOCAL: &str = "the sandbox of this session had ended, so a new one was started on the same directory; processes of the \
                          old one and its files elsewhere are lost";
const LOST_VFS: &str = "the sandbox of this session had ended, so a new one was started; files, processes and environment of \
                        the old one, which were in memory only, are lost";

/// As the API shows it.
pub fn session_view(row: &SessionRow) -> Result<SessionView, AppError> {
    let spec = row.request.to_spec(Kind::default())?;
    Ok(SessionView {
        session_id: row.id.clone(),
        sandbox_id: row.sandbox_id.clone(),
        user_id: row.user_id.clone(),
        template_id: row.template.clone(),
        state: row.state,
        timeout: row.timeout_ms.map(|ms| Seconds(ms as f64 / 1000.0)),
        resources: ResourcesView::from(&spec.limits),
        metadata: spec.metadata,
        created_at: time_from_ms(row.created_ms),
        updated_at: time_from_ms(row.updated_ms),
        expires_at: row.expires_ms.map(time_from_ms),
        note: row.note.clone(),
    })
}

fn bound_id(row: &SessionRow) -> Option<SandboxId> {
    row.sandbox_id.as_ref()?.parse().ok()
}

/// A session that begins now.
pub(super) fn new_session(
    id: String,
    user_id: &str,
    sandbox: &SandboxId,
    request: SandboxRequest,
    template: String,
    lifetime: Option<Duration>,
) -> SessionRow {
    let now = now_ms();
    SessionRow {
        id,
        user_id: user_id.to_owned(),
        state: SessionState::Running,
        sandbox_id: Some(sandbox.to_string()),
        request,
        template,
        note: None,
        timeout_ms: lifetime.map(|l| l.as_millis() as i64),
        created_ms: now,
        updated_ms: now,
        expires_ms: lifetime.map(|l| now + l.as_millis() as i64),
    }
}

impl App {
    /// Stores a new session with its first sandbox, and the answer under its idempotency key.
    pub(super) async fn add_session(
        &self,
        row: &SessionRow,
        sandbox: &NewSandbox,
        claimed: Option<Claimed>,
    ) -> Result<SessionView, AppError> {
        let view = session_view(row)?;
        let answer = claimed.as_ref().map(|c| c.answer(201, &view)).transpose()?;
        self.db.add_session(row, sandbox, answer.as_ref()).await?;
        if let Some(claimed) = claimed {
            claimed.answered();
        }
        Ok(view)
    }

    /// Creates a session and its first sandbox.
    pub async fn create_session(
        self: &Arc<Self>,
        who: &Identity,
        request: SessionRequest,
        idem: Option<Idem>,
    ) -> Result<Outcome<SessionView>, AppError> {
        let mut sandbox_request = request.sandbox_request(self.config.kind)?;
        let mut spec = self.with_template(sandbox_request.to_spec(self.config.kind)?);
        if spec.kind == Kind::Remote {
            return self.create_remote_session(who, request, sandbox_request, spec, idem).await;
        }
        let id = SessionId::random().to_string();
        if spec.kind == Kind::Local {
            // Decided once: each of its sandboxes gets this directory.
            let (top, is_admin) = (&self.config.workspaces, who.role == Role::Admin);
            let place = top.join(places::place(top, &who.user_id, is_admin, &id, &spec.options)?);
            spec.options.work_dir = Some(place.display().to_string());
            sandbox_request.sandbox.get_or_insert_default().work_dir.clone_from(&spec.options.work_dir);
        }
        if spec.kind == Kind::Vfs {
            // The database is on a disk.
            sandbox_request.env = None;
        }
        let lifetime = self.lifetime(request.timeout)?;
        let user_id = who.user_id.clone();
        self.make_once(who, idem, |app, claimed| async move {
            let template = request.template_id.unwrap_or_else(|| spec.template.clone());
            let fresh = app.make(&user_id, true, spec, Some(id.clone()), None).await?;
            let row = new_session(id, &user_id, fresh.id(), sandbox_request, template, lifetime);
            let view = app.add_session(&row, &fresh.row(), claimed).await?;
            fresh.keep();
            Ok(view)
        })
        .await
    }

    /// The session of this id, if it is the caller's. Someone else's is answered like one that never was.
    pub async fn session(&self, who: &Identity, id: &str) -> Result<SessionRow, AppError> {
        let _: SessionId = id.parse().map_err(|_| AppError::no_session(id))?;
        let row = self.db.session(id).await?.filter(|row| who.may_see(&row.user_id));
        row.ok_or_else(|| AppError::no_session(id))
    }

    /// A part of the list of the caller's sessions (an admin's: of all).
    pub async fn list_sessions(
        &self,
        who: &Identity,
        after: Option<After>,
        limit: u32,
    ) -> Result<Page<SessionView>, AppError> {
        let user = (who.role != Role::Admin).then_some(&*who.user_id);
        let mut rows = self.db.list_sessions(user, after.as_ref(), limit + 1).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_cursor = rows.last().filter(|_| more).map(|r| super::execs::cursor(r.created_ms, &r.id));
        let items: Result<Vec<_>, _> = rows.iter().map(session_view).collect();
        Ok(Page { items: items?, next_cursor })
    }

    /// Freezes a session's sandbox.
    pub async fn pause_session(self: &Arc<Self>, who: &Identity, id: &str) -> Result<SessionView, AppError> {
        let _lock = self.lock_of(who, id).await?;
        let row = self.open_session(who, id).await?;
        if let Some(far) = self.remotes.known.session(id) {
            self.set_far_session(&MineFarSession { row, far }, "pause", SessionState::Paused).await?;
            return session_view(&self.session(who, id).await?);
        }
        if let Some(mine) = self.bound(&row)? {
            self.pause(mine).await?;
        }
        self.db.set_session_state(id, SessionState::Paused).await?;
        session_view(&self.session(who, id).await?)
    }

    /// Thaws a session's sandbox; a new one where the old one is gone.
    pub async fn resume_session(self: &Arc<Self>, who: &Identity, id: &str) -> Result<SessionView, AppError> {
        let lock = self.lock_of(who, id).await?;
        let row = self.open_session(who, id).await?;
        let app = self.clone();
        let who = who.clone();
        self.finish(async move {
            let _lock = lock;
            let id = row.id.clone();
            match app.remotes.known.session(&id) {
                Some(far) => app.set_far_session(&MineFarSession { row, far }, "resume", SessionState::Running).await?,
                None => {
                    app.bind(&row).await.map(drop)?;
                    app.db.set_session_state(&id, SessionState::Running).await?;
                }
            }
            session_view(&app.session(&who, &id).await?)
        })
        .await
    }

    /// Ends a session and its sandbox.
    pub async fn delete_session(self: &Arc<Self>, who: &Identity, id: &str) -> Result<(), AppError> {
        let lock = self.lock_of(who, id).await?;
        let row = self.session(who, id).await?;
        let app = self.clone();
        self.finish(async move {
            let _lock = lock;
            app.db.set_session_state(&row.id, SessionState::Closed).await?;
            if let Some(far) = app.remotes.known.session(&row.id) {
                app.end_far_session(&row, &far).await?;
            } else {
                app.end_bound(&row).await?;
            }
            app.db.remove_session(&row.id).await?;
            app.forget_lock(&row.id);
            Ok(())
        })
        .await
    }

    /// Closes a session whose time has passed; it can be looked at until it is forgotten.
    pub(crate) async fn close_session(self: &Arc<Self>, row: &SessionRow, note: &str) -> Result<(), AppError> {
        let _lock = self.lock_session(&row.id).await;
        // Bound again, perhaps, while the lock was waited for.
        let Some(row) = self.db.session(&row.id).await? else { return Ok(()) };
        self.db.close_session(&row.id, note).await?;
        if let Some(far) = self.remotes.known.session(&row.id) {
            self.end_far_session(&row, &far).await?;
        } else {
            self.end_bound(&row).await?;
        }
        self.forget_lock(&row.id);
        Ok(())
    }

    /// Starts code in a session; with a key, once.
    pub async fn session_execute_once(
        self: &Arc<Self>,
        who: &Identity,
        id: &str,
        run: RunCodeRequest,
        event: Option<Value>,
        idem: Option<Idem>,
    ) -> Result<CodeRun, AppError> {
        let (app, caller, session) = (self.clone(), who.clone(), id.to_owned());
        let start = async move { app.session_execute(&caller, &session, run, event).await };
        match self.start_once(who, idem, start).await? {
            Start::Now(run) => Ok(run),
            Start::Before(exec_id) => {
                let row = self.session(who, id).await?;
                let mine = self.bound(&row)?.ok_or_else(|| AppError::no_exec(&exec_id))?;
                let exec = self.find_exec(&mine, &exec_id).await?;
                Ok(self.again(mine.handle().await?, exec))
            }
        }
    }

    /// Starts code in a session.
    pub async fn session_execute(
        self: &Arc<Self>,
        who: &Identity,
        id: &str,
        run: RunCodeRequest,
        event: Option<Value>,
    ) -> Result<CodeRun, AppError> {
        let lock = self.lock_of(who, id).await?;
        let row = self.open_session(who, id).await?;
        if row.state == SessionState::Paused {
            let message = format!("session `{id}` is paused");
            return Err(AppError::new(ErrorCode::SandboxPaused, message)
                .hint("resume it with POST /api/v1/sessions/{id}/resume"));
        }
        let (app, id) = (self.clone(), row.id.clone());
        let (mine, note) = self
            .finish(async move {
                let _lock = lock;
                let bound = app.bind(&row).await?;
                app.db.touch_session(&row.id).await?;
                Ok(bound)
            })
            .await?;
        let call = HandlerCall { event, session_id: id };
        let mut started = self.run_code(&mine, &run, Some(call)).await?;
        started.note = note;
        Ok(started)
    }

    /// The result of code that ran in a session's sandbox.
    pub async fn session_result(
        &self,
        who: &Identity,
        id: &str,
        exec_id: &str,
        wait: Duration,
    ) -> Result<ExecResultView, AppError> {
        let row = self.session(who, id).await?;
        let mine = self.bound(&row)?.ok_or_else(|| AppError::no_exec(exec_id))?;
        let exec = self.find_exec(&mine, exec_id).await?;
        let mut view = self.exec_result(&exec, wait).await?;
        let kept = self.kept_result(&mine.handle().await?, &exec).await?;
        (view.result, view.note, view.session_id) = (kept.result, kept.note, Some(row.id));
        Ok(view)
    }

    async fn open_session(&self, who: &Identity, id: &str) -> Result<SessionRow, AppError> {
        let row = self.session(who, id).await?;
        if row.state == SessionState::Closed {
            let message = format!("session `{id}` is closed");
            return Err(AppError::new(ErrorCode::SessionNotFound, message).hint("create a new session"));
        }
        Ok(row)
    }

    /// The sandbox bound to a session, if it lives. An error where nobody can tell, because its kind does not answer.
    fn bound(&self, row: &SessionRow) -> Result<Option<Mine>, AppError> {
        let Some(id) = bound_id(row) else { return Ok(None) };
        let Some(owned) = self.owners.get(&id) else { return Ok(None) };
        owned.touch();
        // Asked first: it is found from the moment on at which it is not awaited.
        if self.node.awaits(&id).is_some() {
            return Err(self.not_here(&id));
        }
        let sandbox = self.node.find(&id).filter(|s| !matches!(s.phase(), Phase::Releasing | Phase::Gone));
        Ok(sandbox.map(|sandbox| Mine { sandbox, owned }))
    }

    /// Ends the sandbox bound to a session that ends. One that is not here is ended once its kind answers.
    async fn end_bound(self: &Arc<Self>, row: &SessionRow) -> Result<(), AppError> {
        match (self.bound(row), bound_id(row)) {
            (Ok(Some(mine)), _) => self.release(mine.sandbox).await,
            (Err(_), Some(id)) => Ok(self.db.set_sandbox_state(id.as_str(), SandboxState::Releasing).await?),
            _ => Ok(()),
        }
    }

    /// A running sandbox for a session: the bound one, thawed if need be, or a new one. Its lock is held.
    async fn bind(self: &Arc<Self>, row: &SessionRow) -> Result<(Mine, Option<String>), AppError> {
        if let Some(mine) = self.bound(row)? {
            if mine.sandbox.phase() == Phase::Paused {
                mine.sandbox.resume().await?;
                self.db.set_sandbox_state(mine.sandbox.id().as_str(), SandboxState::Running).await?;
            }
            return Ok((mine, None));
        }
        let spec = self.with_template(row.request.to_spec(Kind::default())?);
        let lost = match spec.kind {
            Kind::Vfs => LOST_VFS,
            Kind::Local => LOST_LOCAL,
            _ => LOST,
        };
        let user_id: Arc<str> = row.user_id.as_str().into();
        // Which directory it may have was decided when the session was made.
        let fresh = self.make(&user_id, true, spec, Some(row.id.clone()), None).await?;
        let sandbox_id = fresh.id().to_string();
        self.db.add_sandbox(&fresh.row(), None).await?;
        if !self.db.bind_session(&row.id, &sandbox_id, Some(lost)).await? {
            self.db.end_sandbox(&sandbox_id).await?;
            return Err(AppError::no_session(&row.id));
        }
        let mine = fresh.keep().ok_or_else(|| AppError::internal("a fresh sandbox had no owner"))?;
        Ok((mine, Some(lost.into())))
    }

    /// The lock of one of the caller's sessions. What is none has no lock: anybody can think of ids.
    async fn lock_of(&self, who: &Identity, id: &str) -> Result<tokio::sync::OwnedMutexGuard<()>, AppError> {
        let row = self.session(who, id).await?;
        Ok(self.lock_session(&row.id).await)
    }

    pub(super) async fn lock_session(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.session_locks.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > 10_000 {
                // Those of sessions that nobody uses now.
                locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            locks.entry(id.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    fn forget_lock(&self, id: &str) {
        let mut locks = self.session_locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Someone may wait for it; then it stays until the next sweep.
        if locks.get(id).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            locks.remove(id);
        }
    }
}
