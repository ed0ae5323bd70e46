//! The life of a node, from the warden's connection to the end of all sandboxes, and the making of one: claimed from a pool
//! or built. What is refused first is in `admit.rs`, what is found again in `lookup.rs`.

use crate::{
    CreateError, NodeConfig, NodeError, PressureConfig, Sandbox, WakeError, WardenInfo, WardenSource,
    awaited::{self, Awaited},
    error::record_failed,
    ledger::{Ledger, SandboxV1},
    local::{self, Locals},
    memory, plan,
    pool::{Fit, Kept, Policy, Pool, nearest},
    pressure, supervise,
    templates::Templates,
    workspace,
};
use csb_backends::{Backend, disk};
use csb_engine::{
    Handle, Keeper, Meta, Seat, Shelf,
    warden::{Link, WardenError},
};
use csb_sys::packet::Conn;
use csb_types::{Kind, Phase, SandboxId, SandboxSpec, StartedBy, Upper};
use csb_wire::Mode;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
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

/// Waited for sandboxes to go when all are ended.
const PATIENCE: Duration = Duration::from_secs(15);

/// All sandboxes of a host.
#[derive(Debug)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
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
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) templates: Templates,
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
    pub(crate) claims: u64,
    pub(crate) colds: u64,
    pub(crate) failures: u64,
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
        let templates = Templates::open(&data_dir, private, default_template, aliases)?;
        let memory = memory::find(&data_dir, private);
        // A pool of no sandboxes is none.
        let specs = if private || pool.min == 0 { vec![] } else { pool.specs };
        let kept: Vec<_> =
            specs.into_iter().map(|spec| Kept { spec: templates.complete(spec), kick: Notify::new() }).collect();
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
            templates,
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
            inner.templates.prune();
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
            let host = tokio::task::spawn_blocking(move || inner.templates.get("host").map(drop)).await;
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
        self.check(&spec)?;
        self.inner.found(id, self.inner.templates.complete(spec))
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
        self.check(&spec)?;
        self.inner.memory_watch.admit()?;
        let asked = Instant::now();
        let spec = self.inner.templates.complete(spec);
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

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
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
        let lower = self.templates.lower(spec).await?;
        let volumes = match spec.kind {
            Kind::Local => {
                let config = &self.locals()?.config;
                // It may have been removed meanwhile.
                workspace::prepare(config, spec)?;
                workspace::volumes(config, spec)?
            }
            _ => vec![],
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
