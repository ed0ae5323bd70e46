//! Owns the control plane: HTTP, authorisation, state in the database.
//! Knows nothing of how a sandbox is built; it asks the node.
//!
//! `serve` starts everything and returns a [`Running`] server. The way of a request: `http` reads it, `app` decides and
//! acts, `db` remembers, the node does.

mod app;
pub mod auth;
pub mod config;
pub mod db;
mod http;
pub mod keys;
pub mod logging;
mod metrics;
mod reconcile;
mod remote;

pub use app::AppError;
pub use config::{Config, ConfigError, Sources};
pub use http::openapi_json;

use app::App;
use auth::{Authenticator, Jwt, SecretError, load_or_make, write_private};
use csb_api::Role;
use csb_backends::{Backend, Docker, Guests, K8s, Microvm, Oci};
use csb_node::{Node, NodeConfig, NodeError, PoolConfig, WardenSource, WorkspaceConfig};
use csb_types::SandboxSpec;
use db::{Db, DbError};
use std::{
    fs::DirBuilder,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be made or written.
    #[error("cannot use data directory `{}`", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The secret that signs tokens cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The sandboxes of this host cannot be managed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// No client for another server can be set up.
    #[error("cannot set up the client of other servers")]
    Remote(#[from] reqwest::Error),
    /// What runs could not be compared with what should.
    #[error("cannot take over what runs: {0}")]
    Reconcile(AppError),
}

/// Takes all descriptors the hard limit allows: a few for each sandbox and each connection. The soft limit is 1024 on most hosts.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// A server at work.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub local_addrs: Vec<SocketAddr>,
    /// The file with the first admin key, if this start made it.
    pub new_admin_key: Option<PathBuf>,
    /// What the start found running and finished.
    pub found: reconcile::Found,
    app: Arc<App>,
    served: tokio::task::JoinHandle<()>,
    reconciled: tokio::task::JoinHandle<()>,
}

impl Running {
    /// The first address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addrs[0]
    }

    /// The node, for the command line and for tests.
    pub fn node(&self) -> &Arc<Node> {
        &self.app.node
    }

    /// Ends the server: no new connections, requests under way may end, streams are cut. Sandboxes go on.
    pub async fn shutdown(self) {
        self.app.stopping.cancel();
        for task in [self.served, self.reconciled] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the server had ended early");
            }
        }
        self.app.tasks.close();
        if tokio::time::timeout(self.app.config.shutdown_grace, self.app.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.app.tasks.len(), "work under way is left to the next start");
        }
        self.app.node.shutdown().await;
        self.app.db.close().await;
    }
}

/// What builds the kinds that the warden does not. Whether it is there is seen when somebody asks for a sandbox.
fn backends(config: &Config) -> Result<Vec<Arc<dyn Backend>>, ServeError> {
    let failed = |source| ServeError::DataDir { path: config.data_dir.clone(), source };
    let guests = Guests::lasting(&config.data_dir).map_err(failed)?;
    Ok(vec![
        Arc::new(Docker::new(guests.clone(), config.docker.clone())),
        Arc::new(Oci::new(guests.clone())),
        Arc::new(Microvm::new(guests, config.microvm.clone())),
        Arc::new(K8s::new(&config.data_dir, config.k8s.clone()).map_err(failed)?),
    ])
}

/// Ends the sandboxes of a data directory that no warden holds: containers, machines, pods. No server may work there. Answers how many
/// were ended, and what was refused, in words.
pub async fn end_guests(config: &Config) -> Result<(u32, Vec<String>), ServeError> {
    let failed = |source| ServeError::DataDir { path: config.data_dir.clone(), source };
    let known = csb_node::known(&config.data_dir).map_err(failed)?;
    let (mut ended, mut refused) = (0, Vec::new());
    for backend in backends(config)? {
        let kind = backend.kind().name();
        match backend.held().await {
            Ok(held) => {
                for one in held {
                    drop(one.conn);
                    match backend.release(&one.id).await {
                        Ok(()) => ended += 1,
                        Err(error) => refused.push(format!("{kind} {}: {error}", one.id)),
                    }
                }
            }
            // What does not answer and has nothing of ours is nobody's loss.
            Err(error) => {
                let its = known.iter().filter(|(_, one)| *one == backend.kind()).map(|(id, _)| id.as_str());
                let its: Vec<&str> = its.collect();
                if !its.is_empty() {
                    refused.push(format!("{kind} {}: {error}", its.join(", ")));
                }
            }
        }
    }
    Ok((ended, refused))
}

/// Makes the data directory, for its owner only.
fn make_data_dir(path: &Path) -> Result<(), ServeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| ServeError::DataDir { path: path.to_owned(), source })
}

/// Starts a server. When this returns, it answers requests.
pub async fn serve(config: Config) -> Result<Running, ServeError> {
    let config = Arc::new(config);
    make_data_dir(&config.data_dir)?;
    if !config.unknown_env.is_empty() {
        tracing::warn!(names = config.unknown_env.join(", "), "these variables are no settings");
    }
    // Addresses first: the error that a user meets most often should leave nothing behind.
    let mut listeners = Vec::new();
    for &address in &config.listen {
        let bound = http::Listener::bind(address).await;
        listeners.push(bound.map_err(|source| ServeError::Listen { address, source })?);
    }
    let local_addrs = listeners.iter().map(http::Listener::address).collect();

    raise_descriptor_limit();
    let pool = PoolConfig {
        min: config.pool_min,
        max: config.pool_max,
        specs: config.pool_kinds().into_iter().map(|kind| SandboxSpec { kind, ..SandboxSpec::default() }).collect(),
    };
    // The node's lock on the data directory also keeps a second server away from the database.
    let node = Node::start(NodeConfig {
        data_dir: config.data_dir.clone(),
        warden: WardenSource::Daemon,
        pool,
        default_template: config.default_template.clone(),
        aliases: config.aliases.clone(),
        backends: backends(&config)?,
        workspaces: Some(WorkspaceConfig {
            dir: config.workspaces.clone(),
            allow: config.local_allow.clone(),
            idle: config.local_idle,
            most_awake: config.local_max_awake,
            quota: config.workspace_quota,
        }),
        pressure: Some(config.pressure),
    })
    .await?;
    let db = Db::open(&config.database).await?;
    let secret = match &config.jwt_secret {
        Some(secret) => secret.clone(),
        None => load_or_make(&config.data_dir.join("jwt.secret"))?,
    };
    let auth = Authenticator::new(Jwt::new(secret.reveal().as_bytes(), config.token_ttl), db.clone());
    let new_admin_key = first_admin_key(&config, &db).await?;

    let remotes = remote::Remotes::new(&config)?;
    let app = App::new(config, db, node, remotes, auth);
    let found = reconcile::at_start(&app).await.map_err(ServeError::Reconcile)?;
    if found != reconcile::Found::default() {
        tracing::info!(?found, "took over what runs");
    }
    let served = tokio::spawn(http::serve(listeners, http::router(app.clone()), app.clone()));
    let reconciled = tokio::spawn(reconcile::run(app.clone()));
    tokio::spawn(app::clean_on_schedule(app.clone()));
    Ok(Running { local_addrs, new_admin_key, found, app, served, reconciled })
}

/// Outside `--dev` nobody could do anything without a key, so the first start makes one.
async fn first_admin_key(config: &Config, db: &Db) -> Result<Option<PathBuf>, ServeError> {
    if config.dev || db.has_admin_key().await? {
        return Ok(None);
    }
    let path = config.data_dir.join("admin.key");
    // Written before it is stored: a crash between the two leaves a file that the next start replaces.
    let key = auth::generate_key();
    write_private(&path, &key).map_err(|source| SecretError::Io { path: path.clone(), source })?;
    let new = db::NewKey {
        id: format!("key-{}", hex::encode(rand::random::<[u8; 8]>())),
        hash: auth::hash_key(&key),
        user_id: "admin".into(),
        role: Role::Admin,
        name: Some("made at first start".into()),
    };
    db.add_key(&new).await?;
    Ok(Some(path))
}
