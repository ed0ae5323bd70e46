//! Sandboxes: create, find, list, pause, resume, change, release, expire.

use super::{App, AppError, Idem, Outcome, Owned, idempotency::Claimed, places};
use crate::{
    auth::Identity,
    db::{After, NewSandbox},
};
use csb_api::{
    ErrorCode, Invalid, NetworkName, Page, PatchSandboxRequest, ReleaseView, Role, SandboxRequest, SandboxState,
    SandboxView, Seconds, StatsView, StorageName, time_from_ms,
};
use csb_node::{Handle, Meta, OpError, Sandbox};
use csb_types::{Capability, Kind, Phase, SandboxId, SandboxSpec, Upper};
use std::{sync::Arc, time::Duration};

/// Host name inside a sandbox that asked for none; the same for all, so that pooled ones need no change.
const DEFAULT_HOSTNAME: &str = "sandbox";

/// A caller's sandbox.
#[derive(Debug, Clone)]
pub struct Mine {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its owner.
    pub owned: Arc<Owned>,
}

impl Mine {
    /// The sandbox, for what runs a process in it: in a paused one that process would wait for the resume.
    pub async fn awake(&self) -> Result<Handle, AppError> {
        match self.sandbox.phase() {
            Phase::Running => self.handle().await,
            phase => Err(OpError::WrongPhase(phase).into()),
        }
    }

    /// Refuses what its kind cannot do, with the reason.
    pub fn able(&self, capability: Capability) -> Result<(), AppError> {
        let kind = self.sandbox.kind();
        match kind.lacks(capability) {
            None => Ok(()),
            Some(why) => {
                let message = format!("a sandbox of kind `{}` has no `{}`: {why}", kind.name(), capability.name());
                Err(AppError::new(ErrorCode::Unsupported, message)
                    .hint("GET /api/v1/kinds lists what each kind can do"))
            }
        }
    }

    /// The sandbox with what is known of its execs.
    pub async fn handle(&self) -> Result<Handle, AppError> {
        Ok(self.sandbox.awake().await?)
    }

    /// As the API shows it.
    pub fn view(&self) -> Result<SandboxView, AppError> {
        let meta = self.sandbox.meta()?;
        Ok(shown(self.sandbox.id(), &self.owned, &meta, self.sandbox.phase().into()))
    }
}

/// A sandbox as the API shows it.
fn shown(id: &SandboxId, owned: &Owned, meta: &Meta, state: SandboxState) -> SandboxView {
    let spec = &meta.spec;
    SandboxView {
        sandbox_id: id.to_string(),
        user_id: owned.user_id.to_string(),
        state,
        kind: spec.kind.into(),
        template: spec.template.clone(),
        resources: (&spec.limits).into(),
        network: NetworkName::None,
        storage: match spec.decided_upper() {
            _ if spec.kind == Kind::Local => StorageName::Disk,
            Upper::Disk => StorageName::Disk,
            Upper::Memory | Upper::Auto => StorageName::Memory,
        },
        metadata: spec.metadata.clone(),
        hostname: spec.hostname.clone().unwrap_or_else(|| DEFAULT_HOSTNAME.into()),
        started_by: meta.started_by.into(),
        start_ms: meta.start_micros as f64 / 1000.0,
        created_at: time_from_ms(meta.created_ms),
        expires_at: owned.expires_ms.map(time_from_ms),
    }
}

/// A sandbox that is made but not stored yet; released again unless it is kept.
pub(super) struct Fresh {
    app: Arc<App>,
    sandbox: Sandbox,
    created_ms: i64,
    pub owned: Option<(super::owners::Room, Owned)>,
}

impl Fresh {
    pub fn id(&self) -> &SandboxId {
        self.sandbox.id()
    }

    pub fn row(&self) -> NewSandbox {
        let (user_id, session_id, expires_ms) = match &self.owned {
            Some((_, o)) => (o.user_id.to_string(), o.session_id.clone(), o.expires_ms),
            None => Default::default(),
        };
        NewSandbox { id: self.id().to_string(), user_id, session_id, created_ms: self.created_ms, expires_ms }
    }

    /// As it will look.
    pub fn view(&self) -> Result<SandboxView, AppError> {
        let row = self.row();
        let owned = Owned::new(row.user_id.into(), row.session_id, row.expires_ms);
        Mine { sandbox: self.sandbox.clone(), owned: Arc::new(owned) }.view()
    }

    /// It is stored: from now on it is the caller's.
    pub fn keep(mut self) -> Option<Mine> {
        let (room, owned) = self.owned.take()?;
        let owned = room.fill(self.id().clone(), owned);
        self.app.watch(self.sandbox.clone());
        Some(Mine { sandbox: self.sandbox.clone(), owned })
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(owned) = self.owned.take() {
            let sandbox = self.sandbox.clone();
            // Storing it failed: nobody knows of it, so nobody would ever release it.
            self.app.tasks.spawn(async move {
                if let Err(error) = sandbox.release().await {
                    tracing::error!(sandbox = %sandbox.id(), %error, "an unstored sandbox was not released");
                }
                drop(owned);
            });
        }
    }
}

impl App {
    /// Runs `work` to its end even if the caller hangs up meanwhile.
    pub(super) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AppError>> + Send + 'static,
    ) -> Result<T, AppError> {
        use tracing::Instrument as _;
        match self.tasks.spawn(work.in_current_span()).await {
            Ok(result) => result,
            Err(error) => Err(AppError::internal(format!("a task ended early: {error}"))),
        }
    }

    /// Stores a new sandbox, and the answer under its idempotency key.
    pub(super) async fn add_sandbox(
        &self,
        new: &NewSandbox,
        view: &SandboxView,
        claimed: Option<Claimed>,
    ) -> Result<(), AppError> {
        let answer = claimed.as_ref().map(|c| c.answer(201, view)).transpose()?;
        self.db.add_sandbox(new, answer.as_ref()).await?;
        if let Some(claimed) = claimed {
            claimed.answered();
        }
        Ok(())
    }

    /// The sandbox of this id, if it is the caller's. Someone else's is answered like one that never was.
    pub fn sandbox(&self, who: &Identity, id: &str) -> Result<Mine, AppError> {
        let parsed: SandboxId = id.parse().map_err(|_| AppError::no_sandbox(id))?;
        let owned = self.owners.get(&parsed).filter(|o| who.may_see(&o.user_id));
        let owned = owned.ok_or_else(|| self.no_sandbox(who, &parsed))?;
        owned.touch();
        let sandbox = self.node.find(&parsed).ok_or_else(|| self.not_here(&parsed))?;
        Ok(Mine { sandbox, owned })
    }

    /// No such sandbox; to whoever had it, how it ended.
    fn no_sandbox(&self, who: &Identity, id: &SandboxId) -> AppError {
        match self.ends.why(id, |user| who.may_see(user)) {
            Some(why) => AppError::new(ErrorCode::SandboxNotFound, format!("sandbox `{id}` has ended: {why}")),
            None => AppError::no_sandbox(id.as_str()),
        }
    }

    /// Why a sandbox is not found that somebody owns.
    pub(super) fn not_here(&self, id: &SandboxId) -> AppError {
        let Some((kind, why)) = self.node.awaits(id) else { return AppError::no_sandbox(id.as_str()) };
        let message = format!("sandbox `{id}` is not reached: kind `{}` does not answer", kind.name());
        let error = AppError::new(ErrorCode::BackendUnavailable, message)
            .hint("nothing of it is lost: it goes on, and is there again once its kind answers");
        // Where it would be is the operator's.
        AppError { retry_after: Some(Duration::from_secs(5)), detail: Some(why), ..error }
    }

    /// With the configured template where none was asked for.
    pub(super) fn with_template(&self, mut spec: SandboxSpec) -> SandboxSpec {
        if spec.template.is_empty() {
            spec.template.clone_from(&self.config.default_template);
        }
        spec
    }

    /// The lifetime asked for or configured, as ms from now.
    pub(super) fn lifetime(&self, asked: Option<Seconds>) -> Result<Option<Duration>, Invalid> {
        match asked {
            Some(seconds) => seconds.duration("timeout", Duration::from_secs(1), self.config.lifetime_max).map(Some),
            None => Ok(self.config.lifetime_default),
        }
    }

    /// Makes a sandbox on the node, not stored yet.
    pub(super) async fn make(
        self: &Arc<Self>,
        user_id: &Arc<str>,
        is_admin: bool,
        mut spec: SandboxSpec,
        session_id: Option<String>,
        lifetime: Option<Duration>,
    ) -> Result<Fresh, AppError> {
        let room = self.owners.room(user_id, self.config.sandboxes_per_user)?;
        let id = SandboxId::random();
        if spec.kind == Kind::Local {
            let place = places::place(&self.config.workspaces, user_id, is_admin, id.as_str(), &spec.options)?;
            spec.options.work_dir = Some(place);
        }
        let sandbox = self.node.open(id, spec).await.inspect_err(|_| self.metrics.create_failed())?;
        let meta = sandbox.meta()?;
        self.metrics.created(meta.started_by, meta.start_micros);
        let expires_ms = lifetime.map(|l| meta.created_ms + l.as_millis() as i64);
        let owned = Owned::new(user_id.clone(), session_id, expires_ms);
        Ok(Fresh { app: self.clone(), sandbox, created_ms: meta.created_ms, owned: Some((room, owned)) })
    }

    /// Creates a sandbox.
    pub async fn create_sandbox(
        self: &Arc<Self>,
        who: &Identity,
        request: SandboxRequest,
        idem: Option<Idem>,
    ) -> Result<Outcome<SandboxView>, AppError> {
        let spec = self.with_template(request.to_spec(self.config.kind)?);
        if spec.kind == Kind::Remote {
            return self.create_remote(who, request, &spec.options.endpoints, idem).await;
        }
        let lifetime = self.lifetime(request.timeout)?;
        let (user_id, is_admin) = (who.user_id.clone(), who.role == Role::Admin);
        self.make_once(who, idem, |app, claimed| async move {
            let fresh = app.make(&user_id, is_admin, spec, None, lifetime).await?;
            let view = fresh.view()?;
            app.add_sandbox(&fresh.row(), &view, claimed).await?;
            fresh.keep();
            Ok(view)
        })
        .await
    }

    /// A part of the list of the caller's sandboxes (an admin's: of all).
    pub async fn list_sandboxes(
        self: &Arc<Self>,
        who: &Identity,
        state: Option<SandboxState>,
        after: Option<After>,
        limit: u32,
    ) -> Result<Page<SandboxView>, AppError> {
        let user = (who.role != Role::Admin).then_some(&*who.user_id);
        let rows = self.db.list_sandboxes(user, state, after.as_ref(), limit + 1).await?;
        let more = rows.len() > limit as usize;
        let rows = &rows[..rows.len().min(limit as usize)];
        let next_cursor = rows.last().filter(|_| more).map(|r| super::execs::cursor(r.created_ms, &r.id));
        // A row without a sandbox has ended this moment; its watcher is about to say so.
        let found = rows.iter().filter_map(|r| {
            let id: SandboxId = r.id.parse().ok()?;
            if let Some(far) = self.remotes.known.get(&id) {
                return Some(far.seen());
            }
            let owned = self.owners.get(&id)?;
            match self.node.find(&id) {
                Some(sandbox) => Mine { sandbox, owned }.view().ok(),
                None => {
                    let states = [SandboxState::Paused, SandboxState::Releasing];
                    let state = states.into_iter().find(|state| state.as_str() == r.state);
                    let meta = self.node.awaited(&id)?;
                    Some(shown(&id, &owned, &meta, state.unwrap_or(SandboxState::Running)))
                }
            }
        });
        let page = Page { items: found.collect(), next_cursor };
        self.refresh_later();
        Ok(page)
    }

    /// Freezes every process.
    pub async fn pause(self: &Arc<Self>, mine: Mine) -> Result<SandboxView, AppError> {
        mine.able(Capability::Pause)?;
        let app = self.clone();
        self.finish(async move {
            if mine.sandbox.phase() != Phase::Paused {
                mine.sandbox.pause().await?;
            }
            app.db.set_sandbox_state(mine.sandbox.id().as_str(), SandboxState::Paused).await?;
            mine.view()
        })
        .await
    }

    /// Undoes `pause`.
    pub async fn resume(self: &Arc<Self>, mine: Mine) -> Result<SandboxView, AppError> {
        let app = self.clone();
        self.finish(async move {
            if mine.sandbox.phase() != Phase::Running {
                mine.sandbox.resume().await?;
            }
            app.db.set_sandbox_state(mine.sandbox.id().as_str(), SandboxState::Running).await?;
            mine.view()
        })
        .await
    }

    /// Changes limits.
    pub async fn patch(self: &Arc<Self>, mine: Mine, request: PatchSandboxRequest) -> Result<SandboxView, AppError> {
        mine.able(Capability::LiveLimits)?;
        if request.resources.pids.is_some() {
            mine.able(Capability::PidsLimit)?;
        }
        let app = self.clone();
        self.finish(async move {
            let _alone = mine.owned.limits.lock().await;
            let limits = request.resources.over(&mine.sandbox.meta()?.spec.limits)?;
            app.node.check_limits(&limits)?;
            mine.sandbox.set_limits(limits).await?;
            mine.view()
        })
        .await
    }

    /// What it uses.
    pub async fn stats(&self, mine: &Mine) -> Result<StatsView, AppError> {
        let usage = mine.sandbox.usage().await?;
        Ok(StatsView::new(mine.sandbox.id().as_str(), &usage, &mine.sandbox.meta()?.spec.limits))
    }

    /// Ends a sandbox; returns when nothing is left of it.
    pub async fn release(self: &Arc<Self>, sandbox: Sandbox) -> Result<(), AppError> {
        let app = self.clone();
        self.finish(async move {
            // Intent first: if the server dies now, the next one finishes it.
            app.db.set_sandbox_state(sandbox.id().as_str(), SandboxState::Releasing).await?;
            sandbox.release().await?;
            app.ended(sandbox.id()).await
        })
        .await
    }

    /// Releases by id; a second time is not an error for its owner.
    pub async fn release_by_id(self: &Arc<Self>, who: &Identity, id: &str) -> Result<ReleaseView, AppError> {
        let view = ReleaseView { sandbox_id: id.to_owned(), released: true };
        if let Some(mine) = self.remote_sandbox(who, id)? {
            return self.release_remote(mine).await.map(|()| view);
        }
        match self.sandbox(who, id) {
            Ok(mine) => self.release(mine.sandbox).await.map(|()| view),
            Err(away) if away.code == ErrorCode::BackendUnavailable => Err(away),
            Err(missing) => match self.db.sandbox_owner(id).await? {
                Some(owner) if who.may_see(&owner) => Ok(view),
                _ => Err(missing),
            },
        }
    }

    /// Records that nothing is left of a sandbox.
    pub(crate) async fn ended(&self, id: &SandboxId) -> Result<(), AppError> {
        self.owners.remove(id);
        self.db.end_sandbox(id.as_str()).await?;
        Ok(())
    }

    /// Adds a sandbox that was running when the server started.
    pub(crate) fn adopt(self: &Arc<Self>, sandbox: Sandbox, owned: Owned) {
        self.owners.adopt(sandbox.id().clone(), owned);
        self.watch(sandbox);
    }

    /// Adds one whose kind does not answer yet.
    pub(crate) fn adopt_later(self: &Arc<Self>, id: SandboxId, owned: Owned) {
        self.owners.adopt(id.clone(), owned);
        let app = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = app.stopping.cancelled() => return,
                () = app.node.arrival(&id) => {}
            }
            if let Some(owned) = app.owners.get(&id) {
                owned.touch();
            }
            match app.node.find(&id) {
                Some(sandbox) => {
                    app.watch(sandbox.clone());
                    app.end_if_wanted(sandbox).await;
                }
                // If this fails, reconciliation records it.
                None => {
                    if let Err(error) = app.ended(&id).await {
                        tracing::warn!(sandbox = %id, %error, "the end of a sandbox is not recorded yet");
                    }
                }
            }
        });
    }

    /// Ends one that was to end while it was not here.
    async fn end_if_wanted(self: &Arc<Self>, sandbox: Sandbox) {
        let ended = async {
            match self.db.sandbox(sandbox.id().as_str()).await? {
                Some(row) if row.state == SandboxState::Releasing.as_str() => self.release(sandbox.clone()).await,
                _ => Ok(()),
            }
        };
        if let Err(error) = ended.await {
            // Reconciliation does.
            tracing::warn!(sandbox = %sandbox.id(), %error, "a release will be tried again");
        }
    }

    /// Live sandboxes and their owners.
    pub(crate) fn owners(&self) -> &super::Owners {
        &self.owners
    }

    pub(crate) fn watch(self: &Arc<Self>, sandbox: Sandbox) {
        if sandbox.is_local() {
            return;
        }
        let app = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = app.stopping.cancelled() => {}
                () = sandbox.gone() => {
                    if let (Some(owned), Some(why)) = (app.owners.get(sandbox.id()), sandbox.why_ended()) {
                        app.ends.put(sandbox.id().clone(), owned.user_id.clone(), why);
                    }
                    // If this fails, reconciliation records it.
                    if let Err(error) = app.ended(sandbox.id()).await {
                        tracing::warn!(sandbox = %sandbox.id(), %error, "the end of a sandbox is not recorded yet");
                    }
                }
            }
        });
    }
}
