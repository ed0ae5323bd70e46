//! Sandboxes of kind `local`: a directory of the host and an entry in the ledger. Somebody who needs more than the entry wakes
//! one: a `process` sandbox is built on the directory, and ends when nobody has used it for a while.
//!
//! Of one that sleeps, memory holds its id and whether it is paused. Knows nothing of users.

use crate::{
    CreateError, Sandbox, WorkspaceConfig, clean,
    error::record_failed,
    ledger::SandboxV1,
    node::{Inner, lock, now_ms},
    quota::{self, Quota},
    workspace,
};
use csb_engine::{Handle, Lease, Meta, OpError, Seat, may_change};
use csb_types::{Kind, Limits, Phase, SandboxId, SandboxSpec, StartedBy, Usage};
use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::{BuildHasher, RandomState},
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex as Gate, MutexGuard as Passage},
    time::sleep,
};

/// So many sandboxes can be woken, or put to sleep, at once.
const GATES: usize = 256;
/// What is left of one whose processes ended goes within this time.
const ENDING: Duration = Duration::from_secs(10);
/// Those that nobody uses are looked for so often, at least.
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// Why a sandbox was not woken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    /// It is paused, or gone.
    #[error(transparent)]
    Op(#[from] OpError),
    /// What its commands run in could not be built.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// All `local` sandboxes of a node.
#[derive(Debug)]
pub(crate) struct Locals {
    pub(crate) config: WorkspaceConfig,
    slots: Mutex<HashMap<SandboxId, Slot>>,
    /// Held while a sandbox is made; while workspaces are cleaned, the directories of those made meanwhile.
    pub(crate) founding: Mutex<Option<HashSet<PathBuf>>>,
    /// Held while a sandbox changes from one state into the other: those with the same number wait for each other.
    gates: [Gate<()>; GATES],
    numbers: RandomState,
}

#[derive(Debug)]
enum Slot {
    Asleep { paused: bool },
    Awake(Box<Seated>),
}

#[derive(Debug)]
struct Seated {
    handle: Handle,
    /// Others have clones for as long as they need the sandbox.
    lease: Arc<Lease>,
    quota: Arc<Quota>,
    used: Instant,
}

impl Seated {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.lease) > 1 || self.handle.is_working() || self.handle.phase() != Phase::Running
    }
}

/// What a sandbox is now.
pub(crate) enum Now {
    Gone,
    Asleep { paused: bool },
    Awake(Handle),
}

impl Locals {
    pub(crate) fn new(config: WorkspaceConfig) -> Self {
        let gates = std::array::from_fn(|_| Gate::new(()));
        Self { config, slots: Mutex::default(), founding: Mutex::default(), gates, numbers: RandomState::new() }
    }

    async fn gate(&self, id: &SandboxId) -> Passage<'_, ()> {
        self.gates[self.numbers.hash_one(id) as usize % GATES].lock().await
    }

    pub(crate) fn now(&self, id: &SandboxId) -> Now {
        match lock(&self.slots).get(id) {
            None => Now::Gone,
            Some(Slot::Asleep { paused }) => Now::Asleep { paused: *paused },
            Some(Slot::Awake(seated)) => Now::Awake(seated.handle.clone()),
        }
    }

    /// One that is awake, for somebody who needs it.
    fn seated(&self, id: &SandboxId) -> Option<Handle> {
        match lock(&self.slots).get_mut(id) {
            Some(Slot::Awake(seated)) if matches!(seated.handle.phase(), Phase::Running | Phase::Paused) => {
                seated.used = Instant::now();
                seated.quota.stir();
                Some(seated.handle.leased(seated.lease.clone()))
            }
            _ => None,
        }
    }

    /// Puts one in its slot that was found, or made.
    pub(crate) fn put_asleep(&self, id: &SandboxId, paused: bool) {
        lock(&self.slots).insert(id.clone(), Slot::Asleep { paused });
    }

    /// Puts one in its slot that was built, or found running with this init; a clone for whoever needs it.
    pub(crate) fn put_awake(self: &Arc<Self>, inner: &Arc<Inner>, handle: &Handle, init: i32) -> Handle {
        let quota = Arc::new(Quota::new(&self.config, &handle.spec()));
        let lease = Arc::new(Lease { room: Some(quota.clone()) });
        let (inner, locals, watched) = (inner.clone(), self.clone(), handle.clone());
        let end = move || {
            let (inner, locals, handle) = (inner.clone(), locals.clone(), watched.clone());
            async move { locals.end(&inner, &handle).await }
        };
        tokio::spawn(quota::watch(quota.clone(), handle.clone(), init, end));
        let leased = handle.leased(lease.clone());
        let seated = Seated { handle: handle.clone(), lease, quota, used: Instant::now() };
        lock(&self.slots).insert(handle.id().clone(), Slot::Awake(Box::new(seated)));
        leased
    }

    /// Its processes ended by themselves: it sleeps.
    pub(crate) fn lost(&self, handle: &Handle) {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get_mut(handle.id())
            && matches!(slot, Slot::Awake(seated) if seated.handle.phase() == Phase::Gone)
        {
            *slot = Slot::Asleep { paused: false };
        }
    }

    /// Ends the processes of one that is awake, whoever uses it.
    async fn end(&self, inner: &Inner, handle: &Handle) {
        let _gate = self.gate(handle.id()).await;
        {
            let mut slots = lock(&self.slots);
            let Some(slot @ Slot::Awake(_)) = slots.get_mut(handle.id()) else { return };
            if !matches!(slot, Slot::Awake(seated) if seated.handle.is(handle)) {
                return;
            }
            *slot = Slot::Asleep { paused: false };
        }
        inner.unlist(handle);
        if let Err(error) = handle.vacate().await {
            tracing::error!(sandbox = %handle.id(), %error, "cannot end what writes beyond its quota");
        }
    }

    fn forget(&self, id: &SandboxId) -> bool {
        lock(&self.slots).remove(id).is_some()
    }

    pub(crate) fn ids(&self) -> Vec<SandboxId> {
        lock(&self.slots).keys().cloned().collect()
    }

    /// How many there are, and how many of them sleep.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let slots = lock(&self.slots);
        let asleep = slots.values().filter(|slot| matches!(slot, Slot::Asleep { .. })).count();
        (slots.len() as u64, asleep as u64)
    }

    /// Takes those out of their slots that nobody has used for `idle`, and, of the others that nobody uses now, the least
    /// recently used ones beyond `most`.
    fn idle(&self, idle: Duration, most: usize) -> Vec<Handle> {
        let slots = lock(&self.slots);
        let awake = slots.values().filter(|slot| matches!(slot, Slot::Awake(_))).count();
        let mut unused: Vec<(&Handle, Instant)> = slots
            .values()
            .filter_map(|slot| match slot {
                Slot::Awake(seated) if !seated.is_used() => Some((&seated.handle, seated.used)),
                _ => None,
            })
            .collect();
        unused.sort_by_key(|(_, used)| *used);
        let surplus = if most == 0 { 0 } else { awake.saturating_sub(most) };
        let due = unused.iter().enumerate().filter(|(i, (_, used))| *i < surplus || used.elapsed() >= idle);
        due.map(|(_, (handle, _))| (*handle).clone()).collect()
    }

    /// Marks those that are used now.
    fn mark_used(&self) {
        let now = Instant::now();
        for slot in lock(&self.slots).values_mut() {
            if let Slot::Awake(seated) = slot
                && seated.is_used()
            {
                seated.used = now;
            }
        }
    }

    /// Takes one out of its slot, unless somebody has come for it.
    fn unseat(&self, id: &SandboxId) -> bool {
        let mut slots = lock(&self.slots);
        let Some(slot @ Slot::Awake(_)) = slots.get_mut(id) else { return false };
        let unused = matches!(slot, Slot::Awake(seated) if !seated.is_used());
        if unused {
            *slot = Slot::Asleep { paused: false };
        }
        unused
    }

    /// Marks a sandbox's directory as used now.
    fn touch(&self, spec: &SandboxSpec) {
        clean::touch(&self.config.dir, spec.options.work_dir.as_deref().unwrap_or_default());
    }

    fn still_in_use(&self, id: &SandboxId) {
        if let Some(Slot::Awake(seated)) = lock(&self.slots).get_mut(id) {
            seated.used = Instant::now();
        }
    }
}

/// Puts sandboxes to sleep that nobody uses.
pub(crate) async fn rest(inner: Arc<Inner>, locals: Arc<Locals>) {
    let (idle, most) = (locals.config.idle, locals.config.most_awake as usize);
    loop {
        sleep((idle / 4).clamp(Duration::from_millis(20), MOST_PAUSE)).await;
        locals.mark_used();
        rest_those(&inner, &locals, locals.idle(idle, most)).await;
    }
}

/// Puts all to sleep that nobody uses at this moment.
pub(crate) async fn rest_now(inner: &Inner, locals: &Locals) {
    rest_those(inner, locals, locals.idle(Duration::ZERO, 0)).await;
}

async fn rest_those(inner: &Inner, locals: &Locals, idle: Vec<Handle>) {
    for handle in idle {
        let _gate = locals.gate(handle.id()).await;
        // What a command left behind in the background is use as well.
        if handle.usage().await.is_ok_and(|usage| usage.pids > 0) {
            locals.still_in_use(handle.id());
            continue;
        }
        if !locals.unseat(handle.id()) {
            continue;
        }
        inner.unlist(&handle);
        locals.touch(&handle.spec());
        if let Err(error) = handle.vacate().await {
            tracing::error!(sandbox = %handle.id(), %error, "cannot put a sandbox to sleep");
        }
    }
}

impl Inner {
    pub(crate) fn locals(&self) -> Result<&Arc<Locals>, CreateError> {
        self.locals.as_ref().ok_or_else(|| CreateError::Unsupported {
            what: "sandbox kind `local`: this server has no directory for workspaces".into(),
        })
    }

    pub(crate) fn is_local(&self, id: &SandboxId) -> bool {
        self.locals.as_ref().is_some_and(|locals| !matches!(locals.now(id), Now::Gone))
    }

    /// Makes the directory and the entry; nothing runs.
    pub(crate) fn found(self: &Arc<Self>, id: SandboxId, mut spec: SandboxSpec) -> Result<Sandbox, CreateError> {
        let asked = Instant::now();
        spec.options.work_dir.get_or_insert_with(|| id.to_string());
        let locals = self.locals()?;
        self.templates.get(&spec.template)?;
        let name = spec.options.work_dir.clone().unwrap_or_default();
        let mut founding = lock(&locals.founding);
        workspace::prepare(&locals.config, &spec)?;
        clean::touch(&locals.config.dir, &name);
        if let Some(since) = &mut *founding {
            since.insert(name.into());
        }
        let mut meta =
            Meta { spec: Arc::new(spec), started_by: StartedBy::Cold, start_micros: 0, created_ms: now_ms() };
        meta.start_micros = asked.elapsed().as_micros() as u64;
        self.ledger.write(&SandboxV1::new(&id, true, &meta)).map_err(|error| record_failed(&error))?;
        locals.put_asleep(&id, false);
        Ok(Sandbox::local(id, self.clone(), locals.clone()))
    }

    /// As it is written down.
    pub(crate) fn written(&self, id: &SandboxId) -> Result<SandboxV1, OpError> {
        self.ledger.entry(id).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpError::Gone,
            _ => OpError::Internal(format!("cannot read what is written down of the sandbox: {error}")),
        })
    }

    fn rewrite(&self, id: &SandboxId, change: impl FnOnce(&mut SandboxV1)) -> Result<(), OpError> {
        let mut entry = self.written(id)?;
        change(&mut entry);
        let internal = |error| OpError::Internal(format!("cannot write down the sandbox's change: {error}"));
        self.ledger.write(&entry).map_err(internal)
    }

    /// Builds what commands of a `local` sandbox run in.
    async fn seat(self: &Arc<Self>, locals: &Arc<Locals>, id: &SandboxId) -> Result<Handle, WakeError> {
        let meta = self.written(id)?.meta();
        self.has_room()?;
        let (init, conn, _no_image) = self.jail(id, &meta.spec).await?;
        let spool = self.spool(id, Kind::Local);
        let seat = Seat {
            id: id.clone(),
            conn,
            keeper: self.link.clone(),
            meta,
            // What its commands said before it slept can still be read.
            adopted: spool.exists().then_some(false),
            spool,
            durable: true,
            shelf: self.shelf(Kind::Local),
            last: None,
        };
        let (handle, ready) = match Handle::seat(seat) {
            Ok(seated) => seated,
            Err(error) => {
                self.link.client().map_err(CreateError::from)?.release(id).await.map_err(CreateError::from)?;
                return Err(record_failed(&error).into());
            }
        };
        locals.touch(&handle.spec());
        self.enter(&handle);
        ready.wait().await.map_err(|failure| CreateError::from_failure(&failure))?;
        self.state().handed_out.insert(id.clone());
        Ok(locals.put_awake(self, &handle, init))
    }
}

/// What can be done with a `local` sandbox, awake or not.
impl Locals {
    pub(crate) async fn wake(self: Arc<Self>, inner: Arc<Inner>, id: SandboxId) -> Result<Handle, WakeError> {
        if let Some(handle) = self.seated(&id) {
            return Ok(handle);
        }
        // To its end, also when the one who wanted it has gone: half of a sandbox would be nobody's.
        let waking = tokio::spawn(async move {
            let _gate = self.gate(&id).await;
            if let Some(handle) = self.seated(&id) {
                return Ok(handle);
            }
            match self.now(&id) {
                Now::Gone => Err(OpError::Gone.into()),
                Now::Asleep { paused: true } => Err(OpError::WrongPhase(Phase::Paused).into()),
                Now::Asleep { .. } => inner.seat(&self, &id).await,
                Now::Awake(ending) => {
                    // If it takes longer, the warden says that it still has it.
                    let _ = tokio::time::timeout(ENDING, ending.gone()).await;
                    inner.unlist(&ending);
                    inner.seat(&self, &id).await
                }
            }
        });
        waking.await.unwrap_or_else(|error| Err(OpError::Internal(error.to_string()).into()))
    }

    pub(crate) async fn freeze(&self, inner: &Arc<Inner>, id: &SandboxId, frozen: bool) -> Result<(), OpError> {
        let _gate = self.gate(id).await;
        match self.now(id) {
            Now::Gone => Err(OpError::Gone),
            Now::Awake(handle) => {
                match frozen {
                    true => handle.pause().await?,
                    false => handle.resume().await?,
                }
                inner.rewrite(id, |entry| entry.paused = frozen)
            }
            Now::Asleep { paused } if paused == frozen => Ok(()),
            Now::Asleep { .. } => {
                inner.rewrite(id, |entry| entry.paused = frozen)?;
                self.put_asleep(id, frozen);
                Ok(())
            }
        }
    }

    pub(crate) async fn set_limits(&self, inner: &Arc<Inner>, id: &SandboxId, limits: Limits) -> Result<(), OpError> {
        let _gate = self.gate(id).await;
        match self.now(id) {
            Now::Gone => return Err(OpError::Gone),
            Now::Awake(handle) => handle.set_limits(limits.clone()).await?,
            Now::Asleep { .. } => may_change(&inner.written(id)?.meta().spec, &limits)?,
        }
        inner.rewrite(id, |entry| entry.set_limits(limits))
    }

    pub(crate) async fn usage(&self, inner: &Arc<Inner>, id: &SandboxId) -> Result<Usage, OpError> {
        match self.now(id) {
            Now::Gone => Err(OpError::Gone),
            Now::Awake(handle) => self.held(&handle.spec(), handle.usage().await?).await,
            Now::Asleep { .. } => self.held(&inner.written(id)?.meta().spec, Usage::default()).await,
        }
    }

    /// With what its directory holds.
    async fn held(&self, spec: &SandboxSpec, usage: Usage) -> Result<Usage, OpError> {
        let used = Arc::new(Quota::new(&self.config, spec)).used().await;
        let (disk, files) =
            used.map_err(|error| OpError::Internal(format!("cannot measure the workspace: {error}")))?;
        let inodes_free = spec.limits.inodes.saturating_sub(files);
        Ok(Usage { disk, disk_limit: spec.limits.disk, inodes_free, ..usage })
    }

    /// Ends it; its directory stays.
    pub(crate) async fn release(&self, inner: &Arc<Inner>, id: &SandboxId) -> Result<(), OpError> {
        let _gate = self.gate(id).await;
        match self.now(id) {
            Now::Gone => return Ok(()),
            Now::Awake(handle) => handle.release().await?,
            Now::Asleep { .. } => {}
        }
        let failed = |what: &str, error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(OpError::Internal(format!("cannot remove its {what}: {error}"))),
        };
        if let Ok(entry) = inner.written(id) {
            self.touch(&entry.meta().spec);
        }
        fs::remove_dir_all(inner.spool(id, Kind::Local)).or_else(|error| failed("kept output", error))?;
        inner.ledger.remove(id).or_else(|error| failed("entry in the ledger", error))?;
        self.forget(id);
        Ok(())
    }
}
