//! Sessions of other servers: the session there is what keeps sandbox and code together, ours is whose it is.

use super::{
    App, AppError, Idem, Outcome, Owned,
    remote::{SANDBOXES, far_request, gone},
    sessions::new_session,
};
use crate::{
    auth::Identity,
    db::{RemoteRow, RemoteSessionRow, SessionRow, now_ms},
    remote::{Ask, Endpoint, FarSession},
};
use axum::http::Method;
use csb_api::{ErrorCode, SandboxRequest, SandboxState, SessionRequest, SessionState, SessionView};
use csb_types::{SandboxId, SandboxSpec, SessionId};
use serde_json::Value;
use std::sync::Arc;

/// Path at which sessions are made.
pub(super) const SESSIONS: &str = "/api/v1/sessions";

/// A caller's session of another server.
#[derive(Debug)]
pub struct MineFarSession {
    /// Ours.
    pub row: SessionRow,
    /// Where it is.
    pub far: Arc<FarSession>,
}

impl MineFarSession {
    /// Its server, if that is still configured.
    pub fn endpoint(&self) -> Result<&Arc<Endpoint>, AppError> {
        self.far.endpoint.as_ref().ok_or_else(|| {
            let message =
                format!("the session is at a server, `{}`, that this one is no longer set up for", self.far.url);
            AppError::new(ErrorCode::BackendUnavailable, message)
                .hint("the operator names it in the setting REMOTE_SERVERS")
        })
    }
}

fn id_of<'a>(view: &'a Value, field: &str, endpoint: &Endpoint) -> Result<&'a str, AppError> {
    let plain = |id: &&str| !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    view[field].as_str().filter(plain).ok_or_else(|| {
        AppError::new(ErrorCode::BackendUnavailable, format!("server `{}` answers with no `{field}`", endpoint.name))
    })
}

impl App {
    /// The session of this id, if it is another server's and the caller's; none where it is no other server's.
    pub async fn remote_session(&self, who: &Identity, id: &str) -> Result<Option<MineFarSession>, AppError> {
        let Some(far) = self.remotes.known.session(id) else { return Ok(None) };
        let row = self.session(who, id).await?;
        Ok(Some(MineFarSession { row, far }))
    }

    /// Creates a session at another server, and with it its first sandbox.
    pub(super) async fn create_remote_session(
        self: &Arc<Self>,
        who: &Identity,
        request: SessionRequest,
        sandbox_request: SandboxRequest,
        spec: SandboxSpec,
        idem: Option<Idem>,
    ) -> Result<Outcome<SessionView>, AppError> {
        let endpoints = self.remotes.chosen(&spec.options.endpoints)?;
        let lifetime = self.lifetime(request.timeout)?;
        let user_id = who.user_id.clone();
        self.make_once(who, idem, |app, claimed| async move {
            let room = app.owners.room(&user_id, app.config.sandboxes_per_user)?;
            let (id, sandbox_id) = (SessionId::random().to_string(), SandboxId::random());
            let far = far_request(&sandbox_request);
            let body = SessionRequest { sandbox: None, resources: far.resources, ..request };
            let body = serde_json::to_string(&body).map_err(|e| AppError::internal(e.to_string()))?;
            let (endpoint, session, row) = app.make_far(&sandbox_id, &endpoints, SESSIONS, body).await?;
            let far_session = id_of(&session, "session_id", &endpoint)?.to_owned();
            let far_id = id_of(&session, "sandbox_id", &endpoint)?.to_owned();
            let row = RemoteRow { far_id: Some(far_id.clone()), far_session: Some(far_session.clone()), ..row };
            app.db.put_remote(&row).await?;
            let view = endpoint.json(Ask::new(Method::GET, format!("{SANDBOXES}/{far_id}"))).await?;
            let owned = Owned::new(user_id.clone(), Some(id.clone()), None);
            let made = (sandbox_id.clone(), room, owned);
            let fresh = app.fresh_far(made, &endpoint, Some(far_session.clone()), view, row).await?;
            let template = fresh.view().template;
            let row = new_session(id.clone(), &user_id, &sandbox_id, sandbox_request, template, lifetime);
            let far = RemoteSessionRow { id: id.clone(), endpoint: endpoint.url.clone(), far_id: far_session.clone() };
            app.db.add_remote_session(&far).await?;
            let view = match app.add_session(&row, &fresh.row(), claimed).await {
                Ok(view) => view,
                Err(error) => {
                    // Of a session that there is not, nobody would remove it.
                    app.db.forget_remote_session(&id).await?;
                    return Err(error);
                }
            };
            fresh.keep();
            let far = FarSession { url: endpoint.url.clone(), endpoint: Some(endpoint), far_id: far_session };
            app.remotes.known.insert_session(id, Arc::new(far));
            Ok(view)
        })
        .await
    }

    /// Freezes or thaws a session there, its lock held, and records that.
    pub(super) async fn set_far_session(
        self: &Arc<Self>,
        mine: &MineFarSession,
        verb: &str,
        state: SessionState,
    ) -> Result<(), AppError> {
        let ask = Ask::new(Method::POST, format!("{SESSIONS}/{}/{verb}", mine.far.far_id));
        let there = mine.endpoint()?.json(Ask { repeat: true, ..ask }).await?;
        self.follow_session(&mine.row.id, &mine.far, &there).await?;
        self.db.set_session_state(&mine.row.id, state).await?;
        let row = self.db.session(&mine.row.id).await?;
        if let Some(sandbox) = row.and_then(|row| row.sandbox_id) {
            let state = match state {
                SessionState::Paused => SandboxState::Paused,
                SessionState::Running | SessionState::Closed => SandboxState::Running,
            };
            self.db.set_sandbox_state(&sandbox, state).await?;
        }
        Ok(())
    }

    /// Learns which sandbox a session has there now, after code has run in it.
    pub fn follow_later(self: &Arc<Self>, id: String, far: Arc<FarSession>) {
        let app = self.clone();
        self.tasks.spawn(async move {
            let Some(endpoint) = far.endpoint.clone() else { return };
            let ask = Ask { wait: false, ..Ask::new(Method::GET, format!("{SESSIONS}/{}", far.far_id)) };
            let followed = async {
                let there = endpoint.json(ask).await?;
                let _lock = app.lock_session(&id).await;
                app.follow_session(&id, &far, &there).await
            };
            if let Err(error) = followed.await {
                tracing::debug!(session = id, %error, "which sandbox a session has there is not known");
            }
        });
    }

    /// Binds our session to the sandbox that it has there, when that has changed.
    async fn follow_session(self: &Arc<Self>, id: &str, far: &FarSession, there: &Value) -> Result<(), AppError> {
        let (Some(endpoint), Some(far_id)) = (&far.endpoint, there["sandbox_id"].as_str()) else { return Ok(()) };
        let Some(row) = self.db.session(id).await? else { return Ok(()) };
        let bound: Option<SandboxId> = row.sandbox_id.as_ref().and_then(|id| id.parse().ok());
        if let Some(bound) = bound {
            match self.remotes.known.get(&bound) {
                Some(known) if known.far_id == far_id => return Ok(()),
                _ => self.ended_far(&bound).await?,
            }
        }
        let far_id = id_of(there, "sandbox_id", endpoint)?.to_owned();
        let sandbox_id = SandboxId::random();
        let view = endpoint.json(Ask::new(Method::GET, format!("{SANDBOXES}/{far_id}"))).await?;
        let user_id: Arc<str> = row.user_id.as_str().into();
        let room = self.owners.room(&user_id, u32::MAX)?;
        let owned = Owned::new(user_id, Some(row.id.clone()), None);
        let written = RemoteRow {
            id: sandbox_id.to_string(),
            endpoint: endpoint.url.clone(),
            route: SESSIONS.into(),
            request: String::new(),
            far_id: Some(far_id),
            far_session: None,
            seen: None,
            created_ms: now_ms(),
        };
        let fresh = self.fresh_far((sandbox_id.clone(), room, owned), endpoint, None, view, written).await?;
        self.db.add_sandbox(&fresh.row(), None).await?;
        self.db.bind_session(&row.id, sandbox_id.as_str(), there["note"].as_str()).await?;
        fresh.keep();
        Ok(())
    }

    /// Ends a session there. When its server does not answer, reconciliation ends it later; for its user it is gone now.
    pub(super) async fn end_far_session(self: &Arc<Self>, row: &SessionRow, far: &FarSession) -> Result<(), AppError> {
        let note = SandboxId::random();
        self.db
            .put_remote(&RemoteRow {
                id: note.to_string(),
                endpoint: far.url.clone(),
                route: SESSIONS.into(),
                request: String::new(),
                far_id: None,
                far_session: Some(far.far_id.clone()),
                seen: None,
                created_ms: now_ms(),
            })
            .await?;
        self.forget_far_session(row).await?;
        let Some(endpoint) = &far.endpoint else { return Ok(()) };
        let ask = Ask::new(Method::DELETE, format!("{SESSIONS}/{}", far.far_id));
        match gone(endpoint.json(ask).await.map(drop)) {
            Ok(()) => Ok(self.db.forget_remote(note.as_str()).await?),
            Err(error) => {
                tracing::warn!(session = row.id, %error, "a session elsewhere will be ended later");
                Ok(())
            }
        }
    }

    /// Forgets what is known of a session that is no more there.
    pub(super) async fn forget_far_session(self: &Arc<Self>, row: &SessionRow) -> Result<(), AppError> {
        self.remotes.known.remove_session(&row.id);
        self.db.forget_remote_session(&row.id).await?;
        if let Some(id) = row.sandbox_id.as_ref().and_then(|id| id.parse().ok()) {
            self.ended_far(&id).await?;
        }
        Ok(())
    }

    /// Closes a session that its server no longer has.
    pub async fn lost_session(self: &Arc<Self>, row: &SessionRow) -> Result<(), AppError> {
        let _lock = self.lock_session(&row.id).await;
        self.db.close_session(&row.id, "the server that had it has it no longer").await?;
        self.forget_far_session(row).await
    }
}
