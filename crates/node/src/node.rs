//! All sandboxes of a host: handed out from the pool or built, looked up, counted.

use crate::{
    Cleaning, CreateError, MemoryStats, NodeConfig, NodeError, PoolStats, PressureConfig, Sandbox, TemplateInfo,
    TemplateSource, WakeError, WardenInfo, WardenSource,
    awaited::{self, Awaited},
    clean, hardened,
    ledger::{Ledger, SandboxV1},
    local::{self, Locals},
    memory,
    plan::{self, Lower},
    pool::{Fit, Kept, Policy, Pool, nearest},
    pressure, supervise, workspace,
};
use csb_backends::{Backend, disk};
use csb_engine::{
    Handle, Keeper, Last, Meta, Need, Seat, Shelf, scarce,
    warden::{Link, WardenError},
};
use csb_image::{Source, Store, StoreError, Template};
use csb_sys::packet::Conn;
use csb_types::{Kind, Limits, Phase, SandboxId, SandboxSpec, StartedBy, Upper};
use csb_wire::Mode;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
};

/// A change of the host's `/etc` may reach `csb run` this much later.
const RECENT: Duration = Duration::from_secs(60);

/// How long a template that was replaced stays, for those who have just looked it up.
const TEMPLATE_GRACE: Duration = Duration::from_secs(300);

/// More processes than this may be more than a host has.
const MANY_PIDS: u32 = 8192;

/// Waited for sandboxes to go when all are ended.
const PATIENCE: Duration = Duration::from_secs(15);

/// All sandboxes of a host.
#[derive(Debug)]
pub struct Node {
    inner: Arc<Inner>,
    tasks: Mutex<JoinSet<()>>,
}

/// What the node and its background tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) data_dir: PathBuf,
    /// A private warden that ends with its connection: nothing is written down, nothing outlives this process.
    pub(crate) private: bool,
    pub(crate) link: Arc<Link>,
    pub(crate) ledger: Arc<Ledger>,
    /// That of `vfs` sandboxes, in memory.
    pub(crate) memory_ledger: Option<Arc<Ledger>>,
    /// Directories for spools to come.
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) warden: Mutex<WardenInfo>,
    /// Set before the connection is given up on purpose.
    pub(crate) leaving: AtomicBool,
    /// Wakes the supervisor when it has given up on the warden.
    pub(crate) warden_kick: Notify,
    /// In the order of [`State::pools`].
    pub(crate) pools: Vec<Kept>,
    min: u32,
    max: u32,
    default_template: String,
    aliases: BTreeMap<String, String>,
    store: Store,
    host: Mutex<Option<Template>>,
    images: hardened::Images,
    pub(crate) backends: Vec<Arc<dyn Backend>>,
    /// What backends that do not answer yet may hold.
    pub(crate) awaited: Awaited,
    /// Whether backends were asked what they hold. They are once: what lives has its driver then.
    pub(crate) asked: AtomicBool,
    pub(crate) locals: Option<Arc<Locals>>,
    pub(crate) memory_watch: pressure::Watch,
    /// Directory in memory, for what is written down of `vfs` sandboxes, and a shelf for their output.
    pub(crate) memory: Option<PathBuf>,
    pub(crate) memory_shelf: Arc<Shelf>,
    state: Mutex<State>,
    /// Sandboxes that are being built on request now.
    busy: AtomicU32,
    lock: Mutex<Option<File>>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// All that are not gone, whether handed out or not.
    pub(crate) sandboxes: HashMap<SandboxId, Handle>,
    /// Those of `sandboxes` that somebody has.
    pub(crate) handed_out: HashSet<SandboxId>,
    /// Those that nobody has had, oldest first.
    pub(crate) pools: Vec<Pool>,
    claimed_at: Option<Instant>,
    claims: u64,
    colds: u64,
    failures: u64,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// One more while it lives.
struct Busy<'a>(&'a AtomicU32);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Node {
    /// Reaches the warden, adopts what runs, starts to fill the pool.
    pub async fn start(config: NodeConfig) -> Result<Arc<Node>, NodeError> {
        let NodeConfig { data_dir, warden, pool, default_template, aliases, backends, workspaces, pressure } = config;
        let private = matches!(warden, WardenSource::Inherited(_));
        let lock_file = supervise::prepare(&data_dir, private)?;
        let store = Store::open(data_dir.join("templates")).map_err(|error| NodeError::Templates(error.to_string()))?;
        let memory = memory::find(&data_dir, private);
        // A pool of no sandboxes is none.
        let specs = if private || pool.min == 0 { vec![] } else { pool.specs };
        let kept: Vec<_> = specs
            .into_iter()
            .map(|spec| SandboxSpec { template: named(&spec.template, &default_template, &aliases), ..spec })
            .map(|spec| Kept { spec, kick: Notify::new() })
            .collect();
        let pools =
            kept.iter().map(|_| Pool { policy: Policy::new(pool.min, pool.max), ready: VecDeque::new() }).collect();
        let inner = Inner {
            ledger: Arc::new(Ledger::new(data_dir.join("sandboxes"))),
            memory_ledger: memory.as_ref().map(|memory| Arc::new(Ledger::new(memory::ledger(memory)))),
            shelf: Arc::default(),
            private,
            link: Arc::default(),
            warden: Mutex::new(WardenInfo { pid: 0, mode: Mode::Rootless }),
            leaving: AtomicBool::new(false),
            warden_kick: Notify::new(),
            pools: kept,
            min: pool.min,
            max: pool.max.max(pool.min),
            default_template,
            aliases,
            store,
            host: Mutex::new(None),
            images: hardened::Images::default(),
            backends,
            awaited: Awaited::default(),
            asked: AtomicBool::new(false),
            memory_watch: pressure::Watch::new(pressure.unwrap_or(PressureConfig { reserve: 0, stalled: 0 })),
            locals: workspaces.map(|workspaces| Arc::new(Locals::new(workspaces))),
            memory,
            memory_shelf: Arc::default(),
            data_dir,
            state: Mutex::new(State {
                sandboxes: HashMap::new(),
                handed_out: HashSet::new(),
                pools,
                claimed_at: None,
                claims: 0,
                colds: 0,
                failures: 0,
            }),
            busy: AtomicU32::new(0),
            lock: Mutex::new(lock_file),
        };
        for kept in &inner.pools {
            kept.spec.check().map_err(|source| NodeError::Pool { source })?;
        }
        if !private {
            let store = inner.store.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = store.prune(TEMPLATE_GRACE) {
                    tracing::warn!(error = chain(&error), "cannot remove old versions of templates");
                }
            });
        }
        let inner = Arc::new(inner);
        let connected = match warden {
            WardenSource::Daemon => supervise::connect(&inner.data_dir).await?,
            WardenSource::Inherited(fd) => supervise::hello(fd.into()).await?,
        };
        let gone = supervise::take_over(&inner, connected).await?;
        if !private {
            // Listed from the start, and not made while somebody waits for the first sandbox.
            let inner = inner.clone();
            let host = tokio::task::spawn_blocking(move || inner.template("host").map(drop)).await;
            if let Ok(Err(error)) = host {
                tracing::error!(%error, "cannot make the template `host`");
            }
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise::watch(inner.clone(), gone));
        for pool in 0..inner.pools.len() {
            tasks.spawn(supervise::refill(inner.clone(), pool));
        }
        tasks.spawn(supervise::tidy(inner.clone()));
        for backend in inner.backends.iter().filter(|backend| inner.awaited.is_silent(backend.kind())) {
            tasks.spawn(awaited::reach(inner.clone(), backend.clone()));
        }
        if pressure.is_some() {
            tasks.spawn(pressure::watch(inner.clone()));
        }
        if let (Some(locals), false) = (&inner.locals, private) {
            tasks.spawn(local::rest(inner.clone(), locals.clone()));
        }
        Ok(Arc::new(Node { inner, tasks: Mutex::new(tasks) }))
    }

    /// A sandbox of which no process need be there yet. Its id is taken where it is not one of the pool; `local` ones have it.
    pub async fn open(&self, id: SandboxId, spec: SandboxSpec) -> Result<Sandbox, CreateError> {
        if spec.kind != Kind::Local || self.inner.private {
            return self.create(spec).await.map(Sandbox::from);
        }
        self.found(id, spec)
    }

    fn found(&self, id: SandboxId, spec: SandboxSpec) -> Result<Sandbox, CreateError> {
        spec.check()?;
        self.check_limits(&spec.limits)?;
        self.check_spec(&spec)?;
        self.inner.found(id, self.inner.complete(spec))
    }

    /// A sandbox that is ready: claimed from the pool where one fits, else built. Dropped before it is done, it leaves nothing.
    pub async fn create(&self, spec: SandboxSpec) -> Result<Handle, CreateError> {
        if spec.kind == Kind::Local && !self.inner.private {
            let sandbox = self.found(SandboxId::random(), spec)?;
            return match sandbox.awake().await {
                Ok(handle) => Ok(handle),
                Err(error) => {
                    if let Err(error) = sandbox.release().await {
                        tracing::error!(sandbox = %sandbox.id(), %error, "cannot release a sandbox nobody waits for");
                    }
                    Err(match error {
                        WakeError::Create(error) => error,
                        WakeError::Op(error) => CreateError::Warden(error.to_string()),
                    })
                }
            };
        }
        spec.check()?;
        self.check_limits(&spec.limits)?;
        self.check_spec(&spec)?;
        self.inner.memory_watch.admit()?;
        let asked = Instant::now();
        let spec = self.inner.complete(spec);
        let (pool, fit) = nearest(&self.inner.pools, &spec);
        if fit == Fit::Yes
            && let Some(handle) = self.inner.claim(pool)
        {
            return self.inner.hand_out(handle, spec, asked);
        }
        let inner = self.inner.clone();
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let made = inner.make(spec, (pool, fit), asked).await;
            if let Err(Ok(handle)) = sender.send(made)
                && let Err(error) = handle.release().await
            {
                tracing::error!(sandbox = %handle.id(), %error, "cannot release a sandbox nobody waits for");
            }
        });
        receiver.await.unwrap_or_else(|_| Err(CreateError::Warden("the server is shutting down".into())))
    }

    /// Refuses limits that this host cannot give to a single sandbox.
    pub fn check_limits(&self, limits: &Limits) -> Result<(), CreateError> {
        // Read only for those who ask for much: everybody else fits on any host.
        if limits.pids > MANY_PIDS
            && let Some(most) = csb_sys::process::pids_for_sandboxes()
            && limits.pids > most
        {
            let what = format!("{} processes: this host has room for {most} of all sandboxes", limits.pids);
            return Err(CreateError::Unsupported { what: format!("{what} (kernel.pid_max, kernel.threads-max)") });
        }
        Ok(())
    }

    /// As `check_kind`, of the kind and of what builds it.
    fn check_spec(&self, spec: &SandboxSpec) -> Result<(), CreateError> {
        self.check_kind(spec.kind)?;
        self.check_kind(spec.built_as())
    }

    /// Refuses a kind that this host lacks what is needed for.
    pub fn check_kind(&self, kind: Kind) -> Result<(), CreateError> {
        let missing =
            |why: &str| Err(CreateError::Unsupported { what: format!("sandbox kind `{}`: {why}", kind.name()) });
        match kind {
            Kind::Process => Ok(()),
            Kind::Hardened => hardened::check(self.warden().mode),
            Kind::Vfs if self.inner.memory.is_none() => missing("this host has no /dev/shm in memory"),
            Kind::Vfs => Ok(()),
            Kind::Local => self.inner.locals().map(drop),
            Kind::Docker | Kind::Oci | Kind::Microvm | Kind::K8s if self.inner.backend(kind).is_none() => {
                missing("this server is not set up for it")
            }
            Kind::Docker | Kind::Oci | Kind::Microvm | Kind::K8s => Ok(()),
            Kind::Remote => missing("it is another server's"),
        }
    }

    /// As `check_kind`, and asks what builds such sandboxes whether it is there.
    pub async fn find_kind(&self, kind: Kind) -> Result<(), CreateError> {
        self.check_kind(kind)?;
        match self.inner.backend(kind) {
            Some(backend) => Ok(backend.ready().await?),
            None => Ok(()),
        }
    }

    /// What whoever chooses a kind should know of this host, as far as it was found out.
    pub fn note(&self, kind: Kind) -> Option<String> {
        self.inner.backend(kind)?.note()
    }

    /// A sandbox that was handed out and is not gone, whether a process of it is there or not.
    pub fn find(&self, id: &SandboxId) -> Option<Sandbox> {
        match &self.inner.locals {
            Some(locals) if !matches!(locals.now(id), local::Now::Gone) => {
                Some(Sandbox::local(id.clone(), self.inner.clone(), locals.clone()))
            }
            _ => self.get(id).map(Sandbox::from),
        }
    }

    /// All that `find` finds.
    pub fn all(&self) -> Vec<Sandbox> {
        let mut all: Vec<Sandbox> = Vec::new();
        if let Some(locals) = &self.inner.locals {
            let local = |id| Sandbox::local(id, self.inner.clone(), locals.clone());
            all.extend(locals.ids().into_iter().map(local));
        }
        all.extend(self.list().into_iter().filter(|handle| handle.spec().kind != Kind::Local).map(Sandbox::from));
        all
    }

    /// The kind of a sandbox that may well live, but whose kind does not answer, and why not.
    pub fn awaits(&self, id: &SandboxId) -> Option<(Kind, String)> {
        self.inner.awaited.why(id)
    }

    /// What is known of one that is awaited.
    pub fn awaited(&self, id: &SandboxId) -> Option<Meta> {
        self.inner.awaited.meta(id)
    }

    /// Returns once its kind answered: `find` finds it, or it is gone.
    pub async fn arrival(&self, id: &SandboxId) {
        self.inner.awaited.arrival(id).await;
    }

    /// Removes workspaces that nobody has used for so long, or says which it would.
    pub async fn clean_workspaces(&self, older: Duration, dry_run: bool) -> io::Result<Cleaning> {
        let Some(locals) = self.inner.locals.clone() else { return Ok(Cleaning::default()) };
        let inner = self.inner.clone();
        let cleaning = tokio::task::spawn_blocking(move || clean::clean(&inner, &locals, older, dry_run));
        cleaning.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Memory of the host, as it was when it was last looked at.
    pub fn memory(&self) -> MemoryStats {
        self.inner.memory_watch.stats()
    }

    /// `local` sandboxes, and those of them that sleep.
    pub fn local_counts(&self) -> (u64, u64) {
        self.inner.locals.as_ref().map_or((0, 0), |locals| locals.counts())
    }

    /// A sandbox that was handed out and is not gone, if its processes are there.
    pub fn get(&self, id: &SandboxId) -> Option<Handle> {
        // Its init has not told yet what runs.
        if self.inner.awaited.contains(id) {
            return None;
        }
        let state = self.inner.state();
        let handle = state.sandboxes.get(id)?;
        (handle.phase() != Phase::Gone && state.handed_out.contains(id)).then(|| handle.clone())
    }

    /// All that `get` gets.
    pub fn list(&self) -> Vec<Handle> {
        let all: Vec<Handle> = self.inner.state().handed_out().cloned().collect();
        all.into_iter().filter(|handle| !self.inner.awaited.contains(handle.id())).collect()
    }

    /// All pools together, now.
    pub fn pool_stats(&self) -> PoolStats {
        let state = self.inner.state();
        let pools = state.pools.len() as u32;
        PoolStats {
            min: self.inner.min * pools,
            max: self.inner.max * pools,
            ready: state.pools.iter().map(|pool| pool.ready.len() as u32).sum(),
            in_use: state.handed_out().count() as u32,
            claims: state.claims,
            colds: state.colds,
            failures: state.failures,
        }
    }

    /// Templates on this host.
    pub fn templates(&self) -> Vec<TemplateInfo> {
        let templates = self.inner.store.list().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot list templates");
            Vec::new()
        });
        templates.into_iter().map(|template| self.inner.describe(template)).collect()
    }

    /// Whether a template has a file there (`/usr/bin/node`), links followed as inside the sandbox. The empty name is
    /// the default template's.
    pub fn template_has(&self, template: &str, path: &str) -> bool {
        self.inner.template(&self.inner.named(template)).is_ok_and(|template| template.has_file(path))
    }

    /// The warden now.
    pub fn warden(&self) -> WardenInfo {
        *lock(&self.inner.warden)
    }

    /// Stops refilling and drops all connections; sandboxes live on.
    pub async fn shutdown(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        let handles: Vec<Handle> = self.inner.state().sandboxes.values().cloned().collect();
        for handle in handles {
            handle.detach().await;
        }
        if let Ok(client) = self.inner.link.client() {
            client.disconnect();
        }
        self.inner.link.set(None);
        self.inner.leave_memory();
        *lock(&self.inner.lock) = None;
    }

    /// Ends all sandboxes and the warden.
    pub async fn stop_all(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        if let Ok(client) = self.inner.link.client()
            && let Err(error) = client.stop().await
            && error != WardenError::Lost
        {
            tracing::error!(%error, "cannot stop the warden");
        }
        let handles: Vec<Handle> = self.inner.state().sandboxes.values().cloned().collect();
        for handle in &handles {
            match self.inner.backend(handle.spec().built_as()) {
                // Not the warden's, so still there.
                Some(_) => self.inner.abandon(handle.clone()),
                None => handle.lost(),
            }
        }
        let all_gone = async {
            for handle in &handles {
                handle.gone().await;
            }
        };
        if tokio::time::timeout(PATIENCE, all_gone).await.is_err() {
            tracing::error!("not all sandboxes went");
        }
        if let Ok(client) = self.inner.link.client() {
            client.disconnect();
        }
        self.inner.link.set(None);
        self.inner.leave_memory();
        *lock(&self.inner.lock) = None;
    }
}

impl State {
    fn handed_out(&self) -> impl Iterator<Item = &Handle> {
        let all = self.sandboxes.values();
        all.filter(|handle| self.handed_out.contains(handle.id()) && handle.phase() != Phase::Gone)
    }
}

/// A template's own name.
fn named(template: &str, default: &str, aliases: &BTreeMap<String, String>) -> String {
    let name = if template.is_empty() { default } else { template };
    aliases.get(name).map_or(name, String::as_str).to_owned()
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What is done when a sandbox is gone.
    pub(crate) fn last(&self, id: &SandboxId, kind: Kind) -> Last {
        let (ledger, id) = (self.ledger(kind).clone(), id.clone());
        Last(Box::new(move || ledger.remove(&id)))
    }

    /// Where the output of a sandbox's commands goes.
    pub(crate) fn spool(&self, id: &SandboxId, kind: Kind) -> PathBuf {
        match (&self.memory, kind) {
            (Some(memory), Kind::Vfs) if self.private => memory.clone(),
            (Some(memory), Kind::Vfs) => memory::spools(memory).join(id.as_str()),
            _ if self.private => self.data_dir.clone(),
            _ => self.data_dir.join("spool").join(id.as_str()),
        }
    }

    /// Where what the next server must know of a sandbox is written down.
    pub(crate) fn ledger(&self, kind: Kind) -> &Arc<Ledger> {
        match (&self.memory_ledger, kind) {
            (Some(ledger), Kind::Vfs) => ledger,
            _ => &self.ledger,
        }
    }

    pub(crate) fn shelf(&self, kind: Kind) -> Arc<Shelf> {
        if kind == Kind::Vfs { self.memory_shelf.clone() } else { self.shelf.clone() }
    }

    /// Removes the directories in memory where nothing is left in them.
    fn leave_memory(&self) {
        if let (Some(memory), false) = (&self.memory, self.private) {
            self.memory_shelf.tidy(Duration::ZERO);
            self.memory_ledger.iter().for_each(|ledger| ledger.tidy());
            memory::leave(memory);
        }
    }

    pub(crate) fn backend(&self, kind: Kind) -> Option<&Arc<dyn Backend>> {
        self.backends.iter().find(|backend| backend.kind() == kind)
    }

    /// Whether a sandbox was taken from a pool less than `quiet` ago.
    pub(crate) fn has_just_claimed(&self, quiet: Duration) -> bool {
        self.state().claimed_at.is_some_and(|at| at.elapsed() < quiet)
    }

    /// Makes whoever fills a pool look again.
    pub(crate) fn kick_pools(&self) {
        self.pools.iter().for_each(|kept| kept.kick.notify_one());
    }

    /// Whether somebody waits for a sandbox to be built.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn named(&self, template: &str) -> String {
        named(template, &self.default_template, &self.aliases)
    }

    fn complete(&self, spec: SandboxSpec) -> SandboxSpec {
        SandboxSpec { template: self.named(&spec.template), ..spec }
    }

    pub(crate) fn template(&self, name: &str) -> Result<Template, CreateError> {
        let failed = |message: String| CreateError::Jail { step: "find the template".into(), message };
        if name == "host" {
            let mut host = lock(&self.host);
            return match &*host {
                Some(template) => Ok(template.clone()),
                None => {
                    let found = if self.private { self.store.recent_host(RECENT) } else { self.store.ensure_host() };
                    let template = found.map_err(|error| failed(chain(&error)))?;
                    Ok(host.insert(template).clone())
                }
            };
        }
        self.store.get(name).map_err(|error| match error {
            StoreError::NotFound { name } => CreateError::NoTemplate { name },
            error => failed(chain(&error)),
        })
    }

    fn describe(&self, template: Template) -> TemplateInfo {
        let aliases = self.aliases.iter().filter(|(_, name)| **name == template.name);
        TemplateInfo {
            aliases: aliases.map(|(alias, _)| alias.clone()).collect(),
            source: match template.source {
                Source::Host => TemplateSource::Host,
                Source::Directory => TemplateSource::Directory,
                Source::Tar => TemplateSource::Tar,
            },
            bytes: template.bytes,
            created_ms: template.created_ms,
            name: template.name,
        }
    }

    /// A ready sandbox of a pool that lives.
    fn claim(&self, pool: usize) -> Option<Handle> {
        let mut state = self.state();
        let found = loop {
            match state.pools[pool].ready.pop_front() {
                Some(handle) if handle.phase() == Phase::Running => break Some(handle),
                // It died while it waited; its driver cleans up.
                Some(_) => {}
                None => break None,
            }
        };
        match found {
            Some(_) => {
                state.claims += 1;
                state.claimed_at = Some(Instant::now());
            }
            None => state.pools[pool].policy.missed(),
        }
        self.pools[pool].kick.notify_one();
        found
    }

    fn hand_out(&self, handle: Handle, spec: SandboxSpec, asked: Instant) -> Result<Handle, CreateError> {
        let meta = Meta {
            spec: Arc::new(spec),
            started_by: StartedBy::Claim,
            start_micros: asked.elapsed().as_micros() as u64,
            created_ms: now_ms(),
        };
        // Before anybody can run something in it: otherwise the next server would take it for unused.
        if let Err(error) = self.ledger(meta.spec.kind).write(&SandboxV1::new(handle.id(), true, &meta)) {
            self.abandon(handle);
            return Err(record_failed(&error));
        }
        handle.assign(meta);
        self.state().handed_out.insert(handle.id().clone());
        Ok(handle)
    }

    pub(crate) fn abandon(&self, handle: Handle) {
        tokio::spawn(async move {
            if let Err(error) = handle.release().await {
                tracing::error!(sandbox = %handle.id(), %error, "cannot release a sandbox");
            }
        });
    }

    async fn make(
        self: &Arc<Self>,
        spec: SandboxSpec,
        (pool, fit): (usize, Fit),
        asked: Instant,
    ) -> Result<Handle, CreateError> {
        if fit == Fit::WithLimits
            && let Some(handle) = self.claim(pool)
        {
            match handle.set_limits(spec.limits.clone()).await {
                Ok(()) => return self.hand_out(handle, spec, asked),
                Err(error) => {
                    tracing::warn!(sandbox = %handle.id(), %error, "a ready sandbox did not take its limits");
                    self.abandon(handle);
                }
            }
        }
        let _busy = Busy::new(&self.busy);
        let made = self.build(spec, true, asked).await;
        let mut state = self.state();
        match &made {
            Ok(_) => state.colds += 1,
            Err(_) => state.failures += 1,
        }
        made
    }

    /// Builds one for a pool.
    pub(crate) async fn build_ready(self: &Arc<Self>, pool: usize) -> Result<(), CreateError> {
        match self.build(self.pools[pool].spec.clone(), false, Instant::now()).await {
            Ok(handle) => {
                self.state().pools[pool].ready.push_back(handle);
                Ok(())
            }
            Err(error) => {
                self.state().failures += 1;
                Err(error)
            }
        }
    }

    /// Whether the server, and its host, can hold one more.
    pub(crate) fn has_room(&self) -> Result<(), CreateError> {
        self.memory_watch.admit()?;
        if File::open("/dev/null").map_or(true, |probe| scarce(probe, Need::Sandbox)) {
            let hint = "raise `ulimit -n` for the server, or release sandboxes".into();
            return Err(CreateError::Capacity { limit: "open descriptors of the server".into(), hint });
        }
        Ok(())
    }

    async fn build(
        self: &Arc<Self>,
        mut spec: SandboxSpec,
        claimed: bool,
        asked: Instant,
    ) -> Result<Handle, CreateError> {
        self.has_room()?;
        let id = SandboxId::random();
        if spec.kind == Kind::Local {
            spec.options.work_dir.get_or_insert_with(|| id.to_string());
        }
        if let (Some(memory), Kind::Vfs, false) = (&self.memory, spec.kind, self.private) {
            memory::make(memory).map_err(|error| record_failed(&error))?;
        }
        let keeper: Arc<dyn Keeper> = match self.backend(spec.built_as()) {
            Some(backend) => backend.clone(),
            None => self.link.clone(),
        };
        let (conn, image) = match self.backend(spec.built_as()) {
            Some(backend) => (backend.create(&id, &spec).await?, None),
            None => {
                let (_, conn, image) = self.jail(&id, &spec).await?;
                (conn, image)
            }
        };
        let kind = spec.kind;
        let mut meta =
            Meta { spec: Arc::new(spec), started_by: StartedBy::Cold, start_micros: 0, created_ms: now_ms() };
        let seat = Seat {
            id: id.clone(),
            conn,
            keeper: keeper.clone(),
            meta: meta.clone(),
            spool: self.spool(&id, kind),
            durable: !self.private,
            shelf: self.shelf(kind),
            last: if self.private { None } else { Some(self.last(&id, kind)) },
            adopted: None,
        };
        let (handle, ready) = match Handle::seat(seat) {
            Ok(seated) => seated,
            Err(error) => {
                keeper.release(&id).await?;
                return Err(record_failed(&error));
            }
        };
        self.enter(&handle);
        // Made while its init is at work.
        let draft = if self.private { None } else { Some(self.ledger(kind).draft(&id)) };
        ready.wait().await.map_err(|failure| CreateError::from_failure(&failure))?;
        // Mounted now.
        drop(image);
        meta.start_micros = asked.elapsed().as_micros() as u64;
        let entry = SandboxV1::new(&id, claimed, &meta);
        if let Some(Err(error)) = draft.map(|draft| draft.and_then(|draft| draft.commit(&entry))) {
            self.abandon(handle);
            return Err(record_failed(&error));
        }
        handle.assign(meta);
        if claimed {
            self.state().handed_out.insert(id);
        }
        Ok(handle)
    }

    /// Has the warden build one: the pid of its init, the connection with it, and what is not needed once it is mounted.
    pub(crate) async fn jail(
        &self,
        id: &SandboxId,
        spec: &SandboxSpec,
    ) -> Result<(i32, Conn, Option<disk::Image>), CreateError> {
        let client = self.link.client().inspect_err(|_| self.warden_kick.notify_one())?;
        let template = self.template(&spec.template)?;
        let volumes = match spec.kind {
            Kind::Local => {
                let config = &self.locals()?.config;
                // It may have been removed meanwhile.
                workspace::prepare(config, spec)?;
                workspace::volumes(config, spec)?
            }
            _ => vec![],
        };
        let lower = match spec.kind {
            Kind::Hardened => Lower::Private(self.images.of(&self.store, template).await?),
            _ => Lower::Shared(template),
        };
        let image = match spec.decided_upper() {
            Upper::Disk => Some(disk::make(&self.data_dir.join("disks"), id, &spec.limits).await?),
            Upper::Memory | Upper::Auto => None,
        };
        let (jail, conn) = client.create(plan::jail(id, spec, &lower, volumes, image.as_ref())).await?;
        Ok((jail.pid, conn, image))
    }

    /// No longer knows a sandbox, unless its id is another seat's by now.
    pub(crate) fn unlist(&self, handle: &Handle) {
        let mut state = self.state();
        if state.sandboxes.get(handle.id()).is_some_and(|known| known.is(handle)) {
            state.sandboxes.remove(handle.id());
            state.handed_out.remove(handle.id());
            state.pools.iter_mut().for_each(|pool| pool.ready.retain(|ready| ready.id() != handle.id()));
        }
    }

    /// Knows a sandbox until it is gone.
    pub(crate) fn enter(self: &Arc<Self>, handle: &Handle) {
        self.state().sandboxes.insert(handle.id().clone(), handle.clone());
        let (inner, handle) = (self.clone(), handle.clone());
        tokio::spawn(async move {
            handle.gone().await;
            inner.unlist(&handle);
            if let Some(locals) = &inner.locals {
                locals.lost(&handle);
            }
            inner.kick_pools();
        });
    }
}

/// An error with its causes, for a field that holds text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub(crate) fn record_failed(error: &std::io::Error) -> CreateError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let message = format!("it cannot be recorded in the data directory: {error}");
    match error.kind() {
        StorageFull | QuotaExceeded => CreateError::Capacity {
            limit: format!("disk space of the data directory ({error})"),
            hint: "free some, or move the data directory".into(),
        },
        _ => CreateError::Jail { step: "record the sandbox".into(), message },
    }
}
