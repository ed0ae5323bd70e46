//! Owns what the server does for a caller: who may touch what, quotas, idempotency, lifetimes, running code.
//! Knows nothing of HTTP; speaks views of `csb_api` and handles of the node.

mod code;
mod ends;
mod error;
mod execs;
mod idempotency;
mod limits;
mod owners;
mod places;
mod remote;
mod remote_sessions;
mod sandboxes;
mod sessions;
mod workspaces;

pub use code::CodeRun;
pub use error::AppError;
pub use execs::{exec_view, parse_cursor};
pub use idempotency::{Idem, Outcome};
pub use limits::{Limiter, Slot};
pub use owners::{Owned, Owners};
pub use remote::{MineFar, is_gone};
pub use remote_sessions::MineFarSession;
pub use sessions::session_view;
pub(crate) use workspaces::run as clean_on_schedule;

use crate::{
    auth::{Authenticator, Identity, generate_key, hash_key, user_id_is_valid},
    config::Config,
    db::{Db, KeyRow, NewKey},
    metrics::Metrics,
    remote::Remotes,
};
use csb_api::{
    ErrorCode, KeyRequest, KeySecretView, KeyView, KindView, PoolStatsView, PoolView, Role, SandboxCounts,
    TemplateView, TokenRequest, TokenView, WardenView, time_from_ms,
};
use csb_node::{Mode, Node, TemplateSource};
use csb_types::{Kind, Language, Phase};
use ends::Ends;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Everything a request needs. One per server.
#[derive(Debug)]
pub struct App {
    /// Settings.
    pub config: Arc<Config>,
    /// State.
    pub db: Db,
    /// Sandboxes of this host.
    pub node: Arc<Node>,
    /// Other servers, and what is theirs.
    pub remotes: Remotes,
    /// Who calls.
    pub auth: Authenticator,
    /// How much a caller may ask.
    pub limiter: Limiter,
    /// Figures.
    pub metrics: Metrics,
    /// Set when the server is to end; streams end by it.
    pub stopping: CancellationToken,
    /// Work that goes on when its caller has hung up.
    pub tasks: TaskTracker,
    /// When this server began, ms since 1970.
    started_ms: i64,
    /// When what is elsewhere was last looked at; held by whoever decides to look.
    refreshed: tokio::sync::Mutex<Option<std::time::Instant>>,
    owners: Arc<Owners>,
    ends: Ends,
    session_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    probes: Mutex<HashMap<(String, String), Result<(), String>>>,
    /// Held while a sandbox is made to try a language.
    probing: tokio::sync::Mutex<()>,
}

impl App {
    /// With everything it works on.
    pub fn new(config: Arc<Config>, db: Db, node: Arc<Node>, remotes: Remotes, auth: Authenticator) -> Arc<Self> {
        Arc::new(Self {
            limiter: Limiter::new(&config),
            metrics: Metrics::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            started_ms: crate::db::now_ms(),
            refreshed: tokio::sync::Mutex::default(),
            owners: Arc::default(),
            ends: Ends::default(),
            session_locks: Mutex::default(),
            probes: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
            config,
            db,
            node,
            remotes,
            auth,
        })
    }

    /// A token. `who` is the API key's identity; none for a caller that `--dev` trusts.
    pub fn token(&self, who: Option<&Identity>, request: &TokenRequest) -> Result<TokenView, AppError> {
        if let Some(user_id) = &request.user_id
            && !user_id_is_valid(user_id)
        {
            return Err(bad_user_id());
        }
        let role = request.role.unwrap_or(Role::User);
        let identity = match who {
            None if role != Role::User => {
                return Err(AppError::new(ErrorCode::RoleDenied, "without an API key only role `user` is given"));
            }
            None => Identity { user_id: request.user_id.as_deref().unwrap_or("dev").into(), role, key_id: None },
            Some(key) => {
                if role > key.role {
                    let message = format!("role `{}` is above the API key's `{}`", role.as_str(), key.role.as_str());
                    return Err(AppError::new(ErrorCode::RoleDenied, message));
                }
                let user_id = match &request.user_id {
                    Some(other) if **other != *key.user_id && key.role != Role::Admin => {
                        let message = "only an admin's API key makes tokens for other users";
                        return Err(AppError::new(ErrorCode::RoleDenied, message));
                    }
                    Some(other) => other.as_str().into(),
                    None => key.user_id.clone(),
                };
                Identity { user_id, role, key_id: key.key_id.clone() }
            }
        };
        Ok(TokenView {
            access_token: self.auth.issue(&identity)?,
            token_type: "bearer".into(),
            expires_in: self.config.token_ttl.as_secs(),
            user_id: identity.user_id.to_string(),
            role: identity.role,
        })
    }

    /// Makes an API key.
    pub async fn create_key(&self, who: &Identity, request: &KeyRequest) -> Result<KeySecretView, AppError> {
        admin(who)?;
        let role = request.role.unwrap_or(Role::User);
        let (api_key, row) = new_key(&self.db, &request.user_id, role, request.name.as_deref()).await?;
        Ok(KeySecretView { api_key, key: key_view(row) })
    }

    /// All API keys.
    pub async fn keys(&self, who: &Identity) -> Result<Vec<KeyView>, AppError> {
        admin(who)?;
        Ok(self.db.keys().await?.into_iter().map(key_view).collect())
    }

    /// Revokes an API key.
    pub async fn revoke_key(&self, who: &Identity, id: &str) -> Result<(), AppError> {
        admin(who)?;
        let found = self.db.revoke_key(id).await?;
        self.auth.forget_keys();
        match found {
            Some(_) => Ok(()),
            None => Err(AppError::new(ErrorCode::KeyNotFound, format!("there is no API key `{}`", cut(id)))),
        }
    }

    /// The pool, what runs and the warden.
    pub fn pool(&self) -> PoolView {
        let (stats, warden) = (self.node.pool_stats(), self.node.warden());
        let mut sandboxes = SandboxCounts::default();
        for sandbox in self.node.all() {
            match sandbox.phase() {
                Phase::Running => sandboxes.running += 1,
                Phase::Paused => sandboxes.paused += 1,
                Phase::Releasing | Phase::Gone => {}
            }
        }
        PoolView {
            pool: PoolStatsView {
                min: stats.min.into(),
                max: stats.max.into(),
                ready: stats.ready.into(),
                in_use: stats.in_use.into(),
                claims: stats.claims,
                colds: stats.colds,
                failures: stats.failures,
            },
            sandboxes,
            warden: WardenView {
                pid: warden.pid.into(),
                mode: match warden.mode {
                    Mode::Root => "root".into(),
                    Mode::Rootless => "rootless".into(),
                },
            },
        }
    }

    /// Every kind, and why this server lacks it.
    pub async fn kinds(&self) -> Vec<KindView> {
        let mut views = Vec::new();
        for kind in Kind::ALL {
            let found = match kind {
                Kind::Remote => self.remotes.chosen(&[]).map(drop),
                kind => self.node.find_kind(kind).await.map_err(AppError::from),
            };
            views.push(KindView::new(kind, found.err().map(|error| error.message), self.node.note(kind)));
        }
        views
    }

    /// Templates of this host.
    pub async fn templates(&self) -> Vec<TemplateView> {
        let mut views = Vec::new();
        for t in self.node.templates() {
            let mut languages = Vec::new();
            for language in self.config.languages.iter() {
                if self.has_program(&t.name, language) && self.runs(&t.name, language).await {
                    languages.push(language.name.clone());
                }
            }
            views.push(TemplateView {
                source: match t.source {
                    TemplateSource::Host => "host".into(),
                    TemplateSource::Directory => "directory".into(),
                    TemplateSource::Tar => "tar".into(),
                },
                languages,
                created_at: (t.created_ms > 0).then(|| time_from_ms(t.created_ms)),
                name: t.name,
                aliases: t.aliases,
                bytes: t.bytes,
            });
        }
        views
    }

    /// Whether a template has what runs a language; not whether that is new enough.
    fn has_program(&self, template: &str, language: &Language) -> bool {
        const PLACES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        language.command.first().is_some_and(|program| match program.starts_with('/') {
            true => self.node.template_has(template, program),
            false => PLACES.iter().any(|place| self.node.template_has(template, &format!("{place}/{program}"))),
        })
    }
}

fn admin(who: &Identity) -> Result<(), AppError> {
    match who.role {
        Role::Admin => Ok(()),
        Role::User => Err(AppError::new(ErrorCode::RoleDenied, "API keys are managed by admins")),
    }
}

fn bad_user_id() -> AppError {
    let message = "user_id is not valid: it is 1 to 128 letters, digits, `.`, `_`, `-`, `@`, `:`, `+`";
    AppError::new(ErrorCode::InvalidRequest, message)
}

/// Makes and stores an API key; the text is returned this once.
pub async fn new_key(db: &Db, user_id: &str, role: Role, name: Option<&str>) -> Result<(String, KeyRow), AppError> {
    if !user_id_is_valid(user_id) {
        return Err(bad_user_id());
    }
    if name.is_some_and(|n| n.is_empty() || n.chars().count() > 128 || n.chars().any(char::is_control)) {
        return Err(AppError::new(ErrorCode::InvalidRequest, "name is not valid: it is 1 to 128 visible characters"));
    }
    let key = generate_key();
    let new = NewKey {
        id: format!("key-{}", hex::encode(rand::random::<[u8; 8]>())),
        hash: hash_key(&key),
        user_id: user_id.to_owned(),
        role,
        name: name.map(str::to_owned),
    };
    let row = db.add_key(&new).await?;
    Ok((key, row))
}

/// A key without its secret.
pub fn key_view(row: KeyRow) -> KeyView {
    KeyView {
        key_id: row.id,
        user_id: row.user_id,
        role: row.role,
        name: row.name,
        created_at: time_from_ms(row.created_ms),
        revoked_at: row.revoked_ms.map(time_from_ms),
    }
}

/// A caller's text, short enough for a message.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
