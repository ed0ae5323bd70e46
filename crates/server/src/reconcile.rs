//! Compares what the database intends with what runs, at start and periodically, and ends what has lived long enough.
//! Knows nothing of HTTP.

use crate::{
    app::{App, AppError, MineFar, Owned},
    db::{RemoteRow, SessionRow, now_ms},
    remote::FarSession,
};
use csb_api::SandboxState;
use csb_types::{Phase, SandboxId};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// How long ended objects and answers to idempotent requests are kept.
const KEEP_MS: i64 = 24 * 3600 * 1000;
/// How long a closed session can still be looked at.
const KEEP_SESSIONS_MS: i64 = 7 * 24 * 3600 * 1000;
/// Rows looked at in one go.
const PAGE: u32 = 1000;
const EXPIRY_TICK: Duration = Duration::from_secs(1);

/// What a comparison found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sandboxes that run and are known.
    pub adopted: usize,
    /// Sandboxes that were known and no longer run.
    pub lost: usize,
    /// Sandboxes that are known and whose kind does not answer.
    pub awaited: usize,
    /// Sandboxes that ran and nobody knew.
    pub orphans: usize,
    /// Releases that a crash had interrupted.
    pub finished: usize,
}

/// Before the first request: takes over what runs, records what ended, ends what nobody owns.
pub async fn at_start(app: &Arc<App>) -> Result<Found, AppError> {
    let mut found = Found::default();
    app.db.forget_keys(now_ms() - KEEP_MS, true).await?;
    let releasing: HashSet<String> = app.db.releasing_sandboxes().await?.into_iter().collect();
    let remote: HashMap<String, RemoteRow> =
        app.db.remotes().await?.into_iter().map(|row| (row.id.clone(), row)).collect();
    for row in app.db.remote_sessions().await? {
        let far = FarSession { endpoint: app.remotes.at(&row.endpoint), url: row.endpoint, far_id: row.far_id };
        app.remotes.known.insert_session(row.id, Arc::new(far));
    }
    let mut last = String::new();
    loop {
        let rows = app.db.live_sandboxes(&last, PAGE).await?;
        let Some(end) = rows.last() else { break };
        last.clone_from(&end.id);
        for row in rows {
            if let (Some(far), Ok(id)) = (remote.get(&row.id), row.id.parse::<SandboxId>()) {
                let owned = Owned::new(row.user_id.as_str().into(), row.session_id.clone(), row.expires_ms);
                if app.adopt_remote(id.clone(), far, owned) {
                    match app.remote_by_id(&id).filter(|_| releasing.contains(&row.id)) {
                        Some(mine) => {
                            found.finished += 1;
                            spawn_release_remote(app, mine);
                        }
                        None => found.adopted += 1,
                    }
                    continue;
                }
            }
            // Before it is looked for: it is found from the moment on at which it is not awaited.
            if let Ok(id) = row.id.parse::<SandboxId>()
                && app.node.awaits(&id).is_some()
            {
                app.adopt_later(id, Owned::new(row.user_id.into(), row.session_id, row.expires_ms));
                found.awaited += 1;
                continue;
            }
            let sandbox = row.id.parse::<SandboxId>().ok().and_then(|id| app.node.find(&id));
            let Some(sandbox) = sandbox else {
                app.db.end_sandbox(&row.id).await?;
                found.lost += 1;
                continue;
            };
            app.adopt(sandbox.clone(), Owned::new(row.user_id.into(), row.session_id, row.expires_ms));
            if releasing.contains(&row.id) {
                found.finished += 1;
                spawn_release(app, sandbox);
            } else {
                let state = SandboxState::from(sandbox.phase());
                if state.as_str() != row.state {
                    // A crash between the kernel's change of state and ours.
                    app.db.set_sandbox_state(&row.id, state).await?;
                }
                found.adopted += 1;
            }
        }
    }
    found.orphans = release_orphans(app).await;
    look_elsewhere(app);
    Ok(found)
}

/// Runs until the server stops.
pub async fn run(app: Arc<App>) {
    let mut expiry = tokio::time::interval(EXPIRY_TICK);
    let mut compare = tokio::time::interval(app.config.reconcile_interval);
    compare.reset();
    loop {
        let result = tokio::select! {
            () = app.stopping.cancelled() => return,
            _ = expiry.tick() => expire(&app).await,
            _ = compare.tick() => compare_once(&app).await,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "reconciliation will be tried again");
        }
    }
}

async fn compare_once(app: &Arc<App>) -> Result<(), AppError> {
    app.limiter.tidy();
    // Gone from the node, and its watcher did not get to record it.
    for (id, _) in app.owners().all() {
        if app.node.awaits(&id).is_none() && app.node.find(&id).is_none() && app.remotes.known.get(&id).is_none() {
            tracing::info!(sandbox = %id, "a sandbox ended by itself");
            app.ended(&id).await?;
        }
    }
    for id in app.db.releasing_sandboxes().await? {
        let Ok(id) = id.parse::<SandboxId>() else { continue };
        if let Some(sandbox) = app.node.find(&id) {
            spawn_release(app, sandbox);
        } else if let Some(mine) = app.remote_by_id(&id) {
            spawn_release_remote(app, mine);
        }
    }
    look_elsewhere(app);
    let orphans = release_orphans(app).await;
    if orphans > 0 {
        tracing::warn!(orphans, "released sandboxes that nobody owned");
    }
    let now = now_ms();
    app.db.forget_keys(now - KEEP_MS, false).await?;
    app.db.forget_sandboxes(now - KEEP_MS).await?;
    app.db.forget_sessions(now - KEEP_SESSIONS_MS).await?;
    Ok(())
}

/// Ends sandboxes that no row knows: their creation was interrupted before anyone was told of them.
async fn release_orphans(app: &Arc<App>) -> usize {
    // One being made is on the node before it is in the database.
    if app.owners().making() {
        return 0;
    }
    let mut orphans = 0;
    for sandbox in app.node.all() {
        let live = matches!(sandbox.phase(), Phase::Running | Phase::Paused);
        // The second look: its creation may have begun and ended since the list was taken.
        if live && app.owners().get(sandbox.id()).is_none() && !app.owners().making() {
            match app.db.sandbox(sandbox.id().as_str()).await {
                Ok(None) => {}
                _ => continue,
            }
            if app.owners().get(sandbox.id()).is_some() {
                continue;
            }
            orphans += 1;
            if let Err(error) = sandbox.release().await {
                tracing::warn!(sandbox = %sandbox.id(), %error, "an orphan was not released");
            }
        }
    }
    orphans
}

/// Ends what has reached its lifetime or was idle too long.
async fn expire(app: &Arc<App>) -> Result<(), AppError> {
    let now = now_ms();
    for row in app.db.expired_sessions(now).await? {
        spawn_close(app, row, "its lifetime has passed");
    }
    for id in app.db.expired_sandboxes(now).await? {
        let Ok(id) = id.parse::<SandboxId>() else { continue };
        if let Some(mine) = app.remote_by_id(&id).filter(|mine| !mine.far.is_releasing()) {
            tracing::info!(sandbox = %id, "lifetime has passed");
            spawn_release_remote(app, mine);
        }
        let Some(sandbox) = app.node.find(&id) else { continue };
        if !matches!(sandbox.phase(), Phase::Running | Phase::Paused) {
            continue;
        }
        tracing::info!(sandbox = %id, "lifetime has passed");
        spawn_release(app, sandbox);
    }
    let Some(idle) = app.config.idle_timeout else { return Ok(()) };
    for (id, owned) in app.owners().all() {
        if app.node.awaits(&id).is_some() {
            // Nobody can use it.
            owned.touch();
            continue;
        }
        if now - owned.used_ms() < idle.as_millis() as i64 {
            continue;
        }
        if let Some(mine) = app.remote_by_id(&id) {
            spawn_idle(app, mine);
            continue;
        }
        let Some(sandbox) = app.node.find(&id) else { continue };
        if sandbox.is_working() {
            owned.touch();
            continue;
        }
        tracing::info!(sandbox = %id, "idle for too long");
        match &owned.session_id {
            Some(session) => match app.db.session(session).await? {
                Some(row) => spawn_close(app, row, "it was idle for too long"),
                None => spawn_release(app, sandbox),
            },
            None => spawn_release(app, sandbox),
        }
    }
    Ok(())
}

/// What other servers have changes without a word to us, and one that does not answer must hold up nothing here.
fn look_elsewhere(app: &Arc<App>) {
    let app = app.clone();
    tokio::spawn(async move {
        app.refresh_remotes().await;
        match app.release_remote_orphans().await {
            Ok(0) => {}
            Ok(orphans) => tracing::warn!(orphans, "released sandboxes elsewhere that nobody owned"),
            Err(error) => tracing::warn!(%error, "sandboxes elsewhere will be compared again"),
        }
    });
}

fn spawn_release_remote(app: &Arc<App>, mine: MineFar) {
    let app = app.clone();
    tokio::spawn(async move {
        if let Err(error) = app.release_remote(mine).await {
            tracing::warn!(%error, "a release elsewhere will be tried again");
        }
    });
}

/// Ends a sandbox elsewhere that was not used for long and in which nothing runs.
fn spawn_idle(app: &Arc<App>, mine: MineFar) {
    // Asked about once in a while, not every second.
    let last = mine.owned.used_ms();
    mine.owned.touch();
    let app = app.clone();
    tokio::spawn(async move {
        if app.is_busy_there(&mine).await || mine.far.is_releasing() {
            return;
        }
        tracing::info!(sandbox = %mine.id, since = last, "idle for too long");
        let ended = match &mine.owned.session_id {
            Some(session) => match app.db.session(session).await {
                Ok(Some(row)) => app.close_session(&row, "it was idle for too long").await,
                Ok(None) => app.release_remote(mine).await,
                Err(error) => Err(error.into()),
            },
            None => app.release_remote(mine).await,
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "a release elsewhere will be tried again");
        }
    });
}

fn spawn_close(app: &Arc<App>, row: SessionRow, why: &'static str) {
    let app = app.clone();
    tokio::spawn(async move {
        if let Err(error) = app.close_session(&row, why).await {
            tracing::warn!(session = row.id, %error, "a session will be closed later");
        }
    });
}

/// One sandbox that is slow to end must not hold up the others.
fn spawn_release(app: &Arc<App>, sandbox: csb_node::Sandbox) {
    let app = app.clone();
    tokio::spawn(async move {
        if let Err(error) = app.release(sandbox).await {
            tracing::warn!(%error, "a release will be tried again");
        }
    });
}
