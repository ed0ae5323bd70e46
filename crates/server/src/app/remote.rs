//! Sandboxes of other servers: made, looked at, released, found again after a crash of either side.
//!
//! What may be made elsewhere is written down before the other server is asked. A row that no sandbox of ours belongs to is what
//! a crash or a lost answer left: it is asked for again with its idempotency key, which makes nothing new, and released.

use super::{App, AppError, Idem, Outcome, Owned, owners::Room};
use crate::{
    auth::Identity,
    db::{NewSandbox, RemoteRow, now_ms},
    remote::{Ask, Endpoint, Far, FarError, RETRY},
};
use axum::http::Method;
use csb_api::{ErrorCode, KindName, ResourcesRequest, SandboxRequest, SandboxState, SandboxView, time_from_ms};
use csb_types::SandboxId;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// Path at which sandboxes are made.
pub(super) const SANDBOXES: &str = "/api/v1/sandboxes";
/// How old what is shown in a list may be before it is asked for anew, behind the list's back.
const FRESH: Duration = Duration::from_secs(2);
/// For how long a server is sure to know an idempotency key; a little less than servers do.
const KEY_AGE_MS: i64 = 23 * 3600 * 1000;
/// Items of a page of another server's list; fewer where they are too large for one answer.
const PAGE: u32 = 1000;
/// Pages of a list that are read, whatever its server says.
const MOST_PAGES: u32 = 10_000;

/// A caller's sandbox of another server.
#[derive(Debug, Clone)]
pub struct MineFar {
    /// Our id of it.
    pub id: SandboxId,
    /// Where it is.
    pub far: Arc<Far>,
    /// Its owner.
    pub owned: Arc<Owned>,
}

impl MineFar {
    /// Its server, if that is still configured.
    pub fn endpoint(&self) -> Result<&Arc<Endpoint>, AppError> {
        self.far.endpoint.as_ref().ok_or_else(|| unconfigured(&self.far.url))
    }

    /// A view of the other server in our words; it is remembered for lists.
    pub fn adapt(&self, mut view: Value) -> Result<Value, AppError> {
        let seen = self.far.seen();
        ours(&mut view, &self.id, &self.owned, time_ms(&seen));
        let typed: SandboxView = serde_json::from_value(view.clone()).map_err(|e| unreadable(&self.far.url, &e))?;
        self.far.see(typed);
        Ok(view)
    }
}

fn time_ms(view: &SandboxView) -> i64 {
    (view.created_at.unix_timestamp_nanos() / 1_000_000) as i64
}

fn unconfigured(url: &str) -> AppError {
    let message = format!("the sandbox is at a server, `{url}`, that this one is no longer set up for");
    AppError::new(ErrorCode::BackendUnavailable, message).hint("the operator names it in the setting REMOTE_SERVERS")
}

fn unreadable(url: &str, error: &serde_json::Error) -> AppError {
    let message = "the server of this sandbox answers with what is no view of a sandbox";
    AppError { detail: Some(format!("{url}: {error}")), ..AppError::new(ErrorCode::BackendUnavailable, message) }
}

/// Puts our words into a view: whose it is, when it was made here, and when it ends, whoever ends it first.
fn ours(view: &mut Value, id: &SandboxId, owned: &Owned, created_ms: i64) {
    let time = |ms| serde_json::to_value(Rfc3339(time_from_ms(ms))).unwrap_or(Value::Null);
    let Some(fields) = view.as_object_mut() else { return };
    fields.insert("sandbox_id".into(), id.as_str().into());
    fields.insert("user_id".into(), (*owned.user_id).into());
    fields.insert("kind".into(), json!(KindName::Remote));
    fields.insert("created_at".into(), time(created_ms));
    if let Some(ms) = owned.expires_ms {
        fields.insert("expires_at".into(), time(ms));
    }
}

#[derive(serde::Serialize)]
struct Rfc3339(#[serde(with = "csb_api::rfc3339")] time::OffsetDateTime);

/// What is asked of the other server: all but the kind, which is decided there.
pub(super) fn far_request(request: &SandboxRequest) -> SandboxRequest {
    let asked = request.sandbox.clone().unwrap_or_default();
    let mut resources = request.resources.unwrap_or_default();
    resources.memory = resources.memory.or(asked.memory);
    resources.cpu = resources.cpu.or(asked.cpu);
    SandboxRequest {
        sandbox: None,
        resources: (resources != ResourcesRequest::default()).then_some(resources),
        ..request.clone()
    }
}

/// The key by which another server knows a request of ours that it was sent before.
pub(super) fn make_key(id: &SandboxId) -> String {
    format!("csb-{id}")
}

/// A sandbox that was made elsewhere and is not stored yet; given back unless it is kept.
pub(super) struct FreshFar {
    app: Arc<App>,
    id: SandboxId,
    far: Arc<Far>,
    written: RemoteRow,
    owned: Option<(Room, Owned)>,
}

impl FreshFar {
    pub fn row(&self) -> NewSandbox {
        let (user_id, session_id, expires_ms) = match &self.owned {
            Some((_, o)) => (o.user_id.to_string(), o.session_id.clone(), o.expires_ms),
            None => Default::default(),
        };
        NewSandbox { id: self.id.to_string(), user_id, session_id, created_ms: time_ms(&self.far.seen()), expires_ms }
    }

    pub fn view(&self) -> SandboxView {
        self.far.seen()
    }

    /// It is stored: from now on it is the caller's.
    pub fn keep(mut self) {
        if let Some((room, owned)) = self.owned.take() {
            self.app.remotes.known.insert(self.id.clone(), self.far.clone());
            room.fill(self.id.clone(), owned);
        }
    }
}

impl Drop for FreshFar {
    fn drop(&mut self) {
        if let Some(owned) = self.owned.take() {
            let (app, id, far) = (self.app.clone(), self.id.clone(), self.far.clone());
            let row = self.written.clone();
            self.app.tasks.spawn(async move {
                drop(owned);
                // Its row stays, and with it the work for reconciliation, until this has succeeded.
                let Some(endpoint) = &far.endpoint else { return };
                if let Err(error) = app.release_orphan(endpoint, &id, &row).await {
                    tracing::warn!(sandbox = %id, %error, "an unstored sandbox will be released later");
                }
            });
        }
    }
}

/// Ends a sandbox at its server; one that is gone is no error.
async fn release_there(far: &Far) -> Result<(), AppError> {
    let endpoint = far.endpoint.as_ref().ok_or_else(|| unconfigured(&far.url))?;
    let path = format!("{SANDBOXES}/{}", far.far_id);
    gone(endpoint.json(Ask::new(Method::DELETE, path)).await.map(drop))
}

/// That something is gone already is as good as its removal.
pub(super) fn gone(result: Result<(), FarError>) -> Result<(), AppError> {
    match result {
        Err(FarError::Refused(error)) if is_gone(error.code) => Ok(()),
        other => Ok(other?),
    }
}

/// Whether an answer says that the sandbox or session is no more.
pub fn is_gone(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::SandboxNotFound | ErrorCode::SandboxGone | ErrorCode::SessionNotFound)
}

/// What a server's list says of these, by its own ids. Others there may be anybody's, and as large as their owners like.
async fn listed(endpoint: &Endpoint, ours: &[MineFar]) -> Result<HashMap<String, Value>, FarError> {
    let wanted: HashSet<&str> = ours.iter().map(|mine| &*mine.far.far_id).collect();
    let mut there = HashMap::new();
    let (mut size, mut cursor) = (PAGE, String::new());
    for _ in 0..MOST_PAGES {
        let ask = Ask { wait: false, ..Ask::new(Method::GET, format!("{SANDBOXES}?limit={size}{cursor}")) };
        let mut page = match endpoint.json(ask).await {
            Err(FarError::Strange { .. }) if size > 1 => {
                size = (size / 4).max(1);
                continue;
            }
            page => page?,
        };
        for item in page["items"].as_array_mut().into_iter().flatten() {
            if let Some(id) = item["sandbox_id"].as_str().filter(|id| wanted.contains(id)).map(str::to_owned) {
                there.insert(id, item.take());
            }
        }
        match page["next_cursor"].as_str() {
            Some(next)
                if there.len() < wanted.len()
                    && next.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c)) =>
            {
                cursor = format!("&cursor={next}");
            }
            _ => break,
        }
    }
    Ok(there)
}

/// Whether a refusal says nothing about whether a thing was made.
fn is_for_later(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::IdempotencyConflict | ErrorCode::RateLimited | ErrorCode::RequestTimeout)
}

impl App {
    /// The sandbox of this id, if it is another server's and the caller's; none where it is no other server's.
    pub fn remote_sandbox(&self, who: &Identity, id: &str) -> Result<Option<MineFar>, AppError> {
        let Ok(parsed) = id.parse::<SandboxId>() else { return Ok(None) };
        let Some(far) = self.remotes.known.get(&parsed) else { return Ok(None) };
        let owned = self.owners.get(&parsed).filter(|o| who.may_see(&o.user_id));
        let owned = owned.ok_or_else(|| AppError::no_sandbox(id))?;
        owned.touch();
        Ok(Some(MineFar { id: parsed, far, owned }))
    }

    /// Makes something at the first server that can be reached. Only that nothing was sent leads to the next one; what was sent
    /// may have been done.
    pub(super) async fn make_far(
        &self,
        id: &SandboxId,
        endpoints: &[Arc<Endpoint>],
        route: &str,
        request: String,
    ) -> Result<(Arc<Endpoint>, Value, RemoteRow), AppError> {
        let mut unreached = Vec::new();
        for endpoint in endpoints {
            let row = RemoteRow {
                id: id.to_string(),
                endpoint: endpoint.url.clone(),
                route: route.to_owned(),
                request: request.clone(),
                far_id: None,
                far_session: None,
                seen: None,
                created_ms: now_ms(),
            };
            self.db.put_remote(&row).await?;
            let ask = Ask { wait: false, ..Ask::make(route, &make_key(id), request.clone()) };
            match endpoint.json(ask).await {
                Ok(view) => return Ok((endpoint.clone(), view, row)),
                Err(FarError::Unreached { server, why }) => unreached.push(format!("`{server}` ({why})")),
                // Whether it was done will be found out by reconciliation.
                Err(error @ (FarError::Lost { .. } | FarError::Strange { done: true, .. })) => return Err(error.into()),
                Err(error) => {
                    self.db.forget_remote(id.as_str()).await?;
                    return Err(error.into());
                }
            }
        }
        self.db.forget_remote(id.as_str()).await?;
        let message = format!("no server for the sandbox answers: {}", unreached.join(", "));
        let error = AppError::new(ErrorCode::BackendUnavailable, message);
        let error = error.hint("start one of them, or have the operator name others in the setting REMOTE_SERVERS");
        Err(AppError { retry_after: Some(RETRY), ..error })
    }

    /// A sandbox that was just made elsewhere, written down but not stored as the caller's yet.
    pub(super) async fn fresh_far(
        self: &Arc<Self>,
        made: (SandboxId, Room, Owned),
        endpoint: &Arc<Endpoint>,
        far_session: Option<String>,
        mut view: Value,
        row: RemoteRow,
    ) -> Result<FreshFar, AppError> {
        let (id, room, owned) = made;
        let Some(far_id) = view["sandbox_id"].as_str().filter(|id| id.parse::<SandboxId>().is_ok()).map(str::to_owned)
        else {
            let message = format!("server `{}` answers with no sandbox", endpoint.name);
            return Err(AppError::new(ErrorCode::BackendUnavailable, message));
        };
        let created_ms = now_ms();
        ours(&mut view, &id, &owned, created_ms);
        let seen: SandboxView = serde_json::from_value(view).map_err(|e| unreadable(&endpoint.url, &e))?;
        let row =
            RemoteRow { far_id: Some(far_id.clone()), far_session, seen: serde_json::to_string(&seen).ok(), ..row };
        let far = Far::new(endpoint.url.clone(), Some(endpoint.clone()), far_id, seen);
        self.db.put_remote(&row).await?;
        Ok(FreshFar { app: self.clone(), id, far: Arc::new(far), written: row, owned: Some((room, owned)) })
    }

    /// Creates a sandbox at another server.
    pub(super) async fn create_remote(
        self: &Arc<Self>,
        who: &Identity,
        request: SandboxRequest,
        endpoints: &[String],
        idem: Option<Idem>,
    ) -> Result<Outcome<SandboxView>, AppError> {
        let endpoints = self.remotes.chosen(endpoints)?;
        let lifetime = self.lifetime(request.timeout)?;
        let user_id = who.user_id.clone();
        self.make_once(who, idem, |app, claimed| async move {
            let room = app.owners.room(&user_id, app.config.sandboxes_per_user)?;
            let id = SandboxId::random();
            let body = serde_json::to_string(&far_request(&request)).map_err(|e| AppError::internal(e.to_string()))?;
            let made = app.make_far(&id, &endpoints, SANDBOXES, body).await;
            let (endpoint, view, row) = made.inspect_err(|_| app.metrics.create_failed())?;
            let expires_ms = lifetime.map(|l| now_ms() + l.as_millis() as i64);
            let owned = Owned::new(user_id, None, expires_ms);
            let fresh = app.fresh_far((id, room, owned), &endpoint, None, view, row).await?;
            let view = fresh.view();
            app.add_sandbox(&fresh.row(), &view, claimed).await?;
            fresh.keep();
            Ok(view)
        })
        .await
    }

    /// Ends a sandbox of another server; returns when nothing is left of it.
    pub async fn release_remote(self: &Arc<Self>, mine: MineFar) -> Result<(), AppError> {
        let app = self.clone();
        self.finish(async move {
            // Intent first: if this server dies now or the other one does not answer, reconciliation finishes it.
            app.db.set_sandbox_state(mine.id.as_str(), SandboxState::Releasing).await?;
            mine.far.see(SandboxView { state: SandboxState::Releasing, ..mine.far.seen() });
            release_there(&mine.far).await.map_err(|error| match error.code {
                ErrorCode::BackendUnavailable => {
                    let message = format!(
                        "{}. The sandbox is taken for released and ended when its server is back",
                        error.message
                    );
                    AppError { message, ..error }
                }
                _ => error,
            })?;
            app.ended_far(&mine.id).await
        })
        .await
    }

    /// Records that a sandbox of another server is no more.
    pub async fn ended_far(&self, id: &SandboxId) -> Result<(), AppError> {
        self.remotes.known.remove(id);
        self.ended(id).await?;
        Ok(self.db.forget_remote(id.as_str()).await?)
    }

    /// Records how a sandbox of another server looks now.
    pub async fn saw_remote(&self, id: &SandboxId, view: &SandboxView) -> Result<(), AppError> {
        // There is no way back from a release that was begun here.
        self.db.set_sandbox_state(id.as_str(), view.state).await?;
        if let Ok(text) = serde_json::to_string(view) {
            self.db.set_remote_seen(id.as_str(), &text).await?;
        }
        Ok(())
    }

    /// At start: takes over a sandbox of another server.
    pub(crate) fn adopt_remote(&self, id: SandboxId, row: &RemoteRow, owned: Owned) -> bool {
        let view = row.seen.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let (Some(far_id), Some(view)) = (row.far_id.clone(), view) else { return false };
        let far = Far::new(row.endpoint.clone(), self.remotes.at(&row.endpoint), far_id, view);
        self.owners.adopt(id.clone(), owned);
        self.remotes.known.insert(id, Arc::new(far));
        true
    }

    /// A refresh of what is known of sandboxes elsewhere, one at a time, that nobody waits for.
    pub(super) fn refresh_later(self: &Arc<Self>) {
        let fresh = self.refreshed.try_lock().map(|last| last.is_some_and(|at| at.elapsed() < FRESH));
        if fresh.unwrap_or(true) || self.remotes.known.all().is_empty() {
            return;
        }
        let app = self.clone();
        tokio::spawn(async move {
            // Held to the end: a server that answers slowly is not asked the same once more meanwhile.
            let Ok(mut last) = app.refreshed.try_lock() else { return };
            app.refresh_remotes().await;
            *last = Some(std::time::Instant::now());
        });
    }

    /// Asks each server for its list, and compares. A server that does not answer changes nothing.
    pub(crate) async fn refresh_remotes(self: &Arc<Self>) {
        let mut by_server: HashMap<String, Vec<MineFar>> = HashMap::new();
        for (id, far) in self.remotes.known.all() {
            if let Some(owned) = self.owners.get(&id) {
                by_server.entry(far.url.clone()).or_default().push(MineFar { id, far, owned });
            }
        }
        let each = by_server.into_values().map(|mine| async move {
            if let Err(error) = self.refresh_at(&mine).await {
                tracing::debug!(server = mine[0].far.url, %error, "what is there is not known");
            }
        });
        futures_util::future::join_all(each).await;
    }

    async fn refresh_at(&self, all: &[MineFar]) -> Result<(), AppError> {
        let endpoint = all[0].endpoint()?;
        let mut there = listed(endpoint, all).await?;
        for mine in all {
            let before = mine.far.seen();
            if mine.far.is_releasing() {
                continue;
            }
            match there.remove(&mine.far.far_id) {
                Some(view) => {
                    if let Err(error) = mine.adapt(view) {
                        // One that cannot be read says nothing about the others.
                        tracing::debug!(sandbox = %mine.id, %error, "what is there is not known");
                        continue;
                    }
                    let now = mine.far.seen();
                    if now != before {
                        self.saw_remote(&mine.id, &now).await?;
                    }
                }
                // The list may have been taken a moment too early.
                None => match endpoint.json(Ask::new(Method::GET, format!("{SANDBOXES}/{}", mine.far.far_id))).await {
                    Err(FarError::Refused(error)) if is_gone(error.code) => {
                        tracing::info!(sandbox = %mine.id, server = endpoint.name, "a sandbox elsewhere has ended");
                        self.ended_far(&mine.id).await?;
                    }
                    Ok(view) => drop(mine.adapt(view)?),
                    Err(error) => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    /// Whether a command runs in a sandbox elsewhere; unknown is yes.
    pub(crate) async fn is_busy_there(&self, mine: &MineFar) -> bool {
        let Ok(endpoint) = mine.endpoint() else { return true };
        let ask = Ask { wait: false, ..Ask::new(Method::GET, format!("{SANDBOXES}/{}/execs", mine.far.far_id)) };
        match endpoint.json(ask).await {
            Ok(list) => {
                list["items"].as_array().is_none_or(|items| items.iter().any(|exec| exec["state"] == "running"))
            }
            Err(FarError::Refused(error)) => !is_gone(error.code),
            Err(_) => true,
        }
    }

    /// A sandbox of another server, for those who act for the server itself.
    pub(crate) fn remote_by_id(&self, id: &SandboxId) -> Option<MineFar> {
        Some(MineFar { id: id.clone(), far: self.remotes.known.get(id)?, owned: self.owners.get(id)? })
    }

    /// Releases what may have been made elsewhere and is no sandbox of ours; how many were.
    pub(crate) async fn release_remote_orphans(&self) -> Result<usize, AppError> {
        let mut released = 0;
        for row in self.db.remotes().await? {
            let Ok(id) = row.id.parse::<SandboxId>() else { continue };
            // One being made is written down before it is known.
            if self.owners.making() || self.remotes.known.get(&id).is_some() {
                continue;
            }
            let Some(endpoint) = self.remotes.at(&row.endpoint) else { continue };
            match self.release_orphan(&endpoint, &id, &row).await {
                Ok(()) => released += 1,
                Err(error) => tracing::debug!(sandbox = %id, %error, "an orphan elsewhere will be released later"),
            }
        }
        Ok(released)
    }

    async fn release_orphan(&self, endpoint: &Endpoint, id: &SandboxId, row: &RemoteRow) -> Result<(), AppError> {
        let (mut far_id, mut far_session) = (row.far_id.clone(), row.far_session.clone());
        // Past that age its key is no longer known there, and asking again would make another one.
        if far_id.is_none() && far_session.is_none() && row.created_ms > now_ms() - KEY_AGE_MS {
            let ask = Ask { wait: false, ..Ask::make(row.route.clone(), &make_key(id), row.request.clone()) };
            match endpoint.json(ask).await {
                Ok(made) => {
                    far_id = made["sandbox_id"].as_str().map(str::to_owned);
                    far_session = made["session_id"].as_str().map(str::to_owned);
                }
                // It cannot be made now, so it was not made then.
                Err(FarError::Refused(error)) if error.code.status() < 500 && !is_for_later(error.code) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let path = match (far_session, far_id) {
            (Some(session), _) => Some(format!("{}/{session}", super::remote_sessions::SESSIONS)),
            (None, Some(sandbox)) => Some(format!("{SANDBOXES}/{sandbox}")),
            (None, None) => None,
        };
        if let Some(path) = path {
            gone(endpoint.json(Ask { wait: false, ..Ask::new(Method::DELETE, path) }).await.map(drop))?;
        }
        Ok(self.db.forget_remote(id.as_str()).await?)
    }
}
