//! Keeps a node connected and its pool filled: first contact, adoption, the warden's news and its death, refills.

use crate::{
    NodeError, Pressure, WardenInfo,
    ledger::SandboxV1,
    memory,
    node::{Inner, lock},
    pool::{Action, Fit, Pool, fit},
};
use csb_backends::{Held, disk};
use csb_engine::{
    Handle, Keeper, Seat,
    warden::{Client, Connected, HelloError},
};
use csb_sys::{load::is_crowded, packet::Conn};
use csb_types::{Kind, Limits, Phase, SandboxId};
use rustix::process::{Resource, Rlimit};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

type Gone = mpsc::UnboundedReceiver<(SandboxId, i32)>;

/// Tries to get a warden back, one after another, before waiting for somebody to want one.
const ATTEMPTS: u32 = 6;
/// A warden that ends lets go of its socket within this.
const ENDING: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Without one, tried again so often.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// An init that has nothing to hide reports at once.
const REPORT: Duration = Duration::from_secs(10);
/// For a kind to say what it holds before the server begins without. Longer than it waits for any one sandbox.
const HELD: Duration = Duration::from_secs(60);
/// Without claims for so long the pool shrinks towards its minimum.
const CALM: Duration = Duration::from_secs(30);
/// The most a refill is put off because others are building.
const POLITE: Duration = Duration::from_secs(1);
/// Whoever took a sandbox out of the pool gets the machine for so long: what is refilled meanwhile, those who wait would pay.
const QUIET: Duration = Duration::from_millis(10);
const MOST_BACKOFF: Duration = Duration::from_secs(30);
/// Tries to release what an earlier server left: half an hour of them.
const MOST_RELEASES: u32 = 64;

/// Makes the data directory ready, and keeps other servers out of it until the file is dropped.
pub(crate) fn prepare(data_dir: &Path, private: bool) -> Result<Option<File>, NodeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| NodeError::DataDir { path, source }
    };
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path));
    if private {
        make(data_dir)?;
        return Ok(None);
    }
    for name in ["run", "spool", "sandboxes"] {
        make(&data_dir.join(name))?;
    }
    spread(&data_dir.join("spool"));
    raise_descriptor_limit();
    let path = data_dir.join("run").join("server.lock");
    let lock =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed(&path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(NodeError::InUse { path: data_dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => return Err(failed(&path)(source)),
    }
    let disks = data_dir.join("disks");
    disk::sweep(&disks).map_err(failed(&disks))?;
    Ok(Some(lock))
}

/// Asks ext4 to put each sandbox's spools into a block group of its own, for what the shelf does not hold: see there.
fn spread(spool: &Path) {
    let flagged = File::open(spool).and_then(|dir| {
        let flags = rustix::fs::ioctl_getflags(&dir)?;
        Ok(rustix::fs::ioctl_setflags(&dir, flags | rustix::fs::IFlags::TOPDIR)?)
    });
    if let Err(error) = flagged {
        tracing::debug!(%error, "the data directory's file system has no such flag");
    }
}

/// Takes the descriptors that the system grants: the usual soft limit of 1024 is for programs that use select(2), and
/// the warden started from here inherits it.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

pub(crate) async fn hello(conn: Conn) -> Result<Connected, NodeError> {
    Client::connect(conn).await.map_err(|error| match error {
        HelloError::Io(source) => NodeError::Warden { source },
        HelloError::Version { theirs } => NodeError::Version { theirs, ours: csb_wire::VERSION },
    })
}

/// Reaches the warden of a data directory, or starts one. One that ends at this moment may still take a connection, and says no
/// word in it: then there will be none soon, and another one is started.
pub(crate) async fn connect(data_dir: &Path) -> Result<Connected, NodeError> {
    let patience = Instant::now() + ENDING;
    loop {
        let dir = data_dir.to_owned();
        let reached = tokio::task::spawn_blocking(move || match csb_warden::connect(&dir)? {
            Some(conn) => Ok((conn, true)),
            None => Ok((csb_warden::start_daemon(&dir)?, false)),
        });
        let reached = reached.await.map_err(io::Error::other).and_then(|reached| reached);
        let (conn, was_there) = reached.map_err(|source| NodeError::Warden { source })?;
        match hello(conn).await {
            Err(NodeError::Warden { source }) if was_there && is_end(&source) && Instant::now() < patience => {
                tracing::warn!(%source, "a warden ended while it was spoken to");
                sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Makes a new connection the one in use: adopts what the warden holds, cleans up after what it no longer holds.
pub(crate) async fn take_over(inner: &Arc<Inner>, connected: Connected) -> Result<Gone, NodeError> {
    let Connected { client, held, gone } = connected;
    *lock(&inner.warden) = WardenInfo { pid: client.pid(), mode: client.mode() };
    if inner.private {
        inner.link.set(Some(client));
        return Ok(gone);
    }
    let mut held_ids: HashSet<SandboxId> = held.iter().map(|(jail, _)| jail.id.clone()).collect();
    let known: Vec<Handle> = inner.state().sandboxes.values().cloned().collect();
    let is_first = !inner.asked.swap(true, Ordering::Relaxed);
    // What other programs hold has nothing to do with a warden that is another one now, and its drivers are at work.
    let elsewhere = if is_first { held_elsewhere(inner).await } else { vec![] };
    let is_elsewhere = |kind: Kind| inner.backend(kind).is_some();
    held_ids.extend(elsewhere.iter().map(|(_, held)| held.id.clone()));
    let known_ids: HashSet<&SandboxId> = known.iter().map(Handle::id).collect();
    let is_known = |id: &SandboxId| known_ids.contains(id);
    let mut entries: HashMap<SandboxId, SandboxV1> = HashMap::new();
    for ledger in std::iter::once(&inner.ledger).chain(&inner.memory_ledger) {
        let read = ledger.read(|entry| match &inner.locals {
            // There may be many, and nothing is to be done for them.
            Some(locals) if entry.kind() == Kind::Local && !is_known(&entry.id) => {
                locals.put_asleep(&entry.id, entry.paused);
                if held_ids.contains(&entry.id) {
                    entries.insert(entry.id.clone(), entry);
                }
            }
            _ => drop(entries.insert(entry.id.clone(), entry)),
        });
        read.map_err(|source| NodeError::DataDir { path: ledger.dir().to_owned(), source })?;
    }
    // Before the connection is in use: what is made through it must not be taken for left over.
    let left = |(id, entry): &(&SandboxId, &SandboxV1)| {
        let kind = entry.kind();
        let hidden = is_elsewhere(kind) && (!is_first || inner.awaited.is_silent(kind));
        !held_ids.contains(id) && !is_known(id) && kind != Kind::Local && !hidden
    };
    if is_first {
        let silent = entries.values().filter(|entry| inner.awaited.is_silent(entry.kind()));
        silent.for_each(|entry| inner.awaited.put(entry.clone()));
    }
    for (id, entry) in entries.iter().filter(left) {
        if let Err(error) = inner.ledger(entry.kind()).remove(id) {
            tracing::error!(sandbox = %id, %error, "cannot remove the ledger's entry of a sandbox that is gone");
        }
    }
    let hidden: HashSet<&SandboxId> =
        entries.values().filter(|entry| is_elsewhere(entry.kind())).map(|entry| &entry.id).collect();
    let is_hidden = |id: &SandboxId| inner.awaited.contains(id) || (!is_first && hidden.contains(id));
    sweep_spools(inner, |id| held_ids.contains(id) || is_known(id) || inner.is_local(id) || is_hidden(id));
    inner.link.set(Some(client.clone()));
    let mut reports = JoinSet::new();
    for (jail, conn) in held.into_iter().filter(|(jail, _)| !is_known(&jail.id)) {
        match entries.remove(&jail.id) {
            Some(entry) => {
                let found = Found {
                    id: jail.id,
                    conn,
                    keeper: inner.link.clone(),
                    frozen: jail.frozen,
                    limits: Some(jail.limits),
                    init: jail.pid,
                };
                reports.spawn(adopt(inner.clone(), found, entry))
            }
            None => reports.spawn(release_unknown(inner.clone(), inner.link.clone(), jail.id)),
        };
    }
    for (backend, Held { id, conn, frozen }) in elsewhere {
        match entries.remove(&id) {
            Some(entry) => {
                let found = Found { id, conn, keeper: backend, frozen, limits: None, init: 0 };
                reports.spawn(adopt(inner.clone(), found, entry))
            }
            None => reports.spawn(release_unknown(inner.clone(), backend, id)),
        };
    }
    for handle in &known {
        if inner.backend(handle.spec().built_as()).is_some() {
            // Not the warden's.
        } else if held_ids.contains(handle.id()) {
            handle.relinked();
        } else {
            handle.lost();
        }
    }
    while reports.join_next().await.is_some() {}
    Ok(gone)
}

/// What the backends hold, asked beside each other. One that does not answer is asked again later (`awaited`).
async fn held_elsewhere(inner: &Inner) -> Vec<(Arc<dyn Keeper>, Held)> {
    let mut asked = JoinSet::new();
    for backend in inner.backends.iter().cloned() {
        asked.spawn(async move {
            let answer = timeout(HELD, backend.held()).await;
            (backend, answer)
        });
    }
    let mut all: Vec<(Arc<dyn Keeper>, Held)> = Vec::new();
    for (backend, answer) in asked.join_all().await {
        let why = match answer {
            Ok(Ok(held)) => {
                all.extend(held.into_iter().map(|held| (backend.clone() as Arc<dyn Keeper>, held)));
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it has not said so within {} s", HELD.as_secs()),
        };
        let kind = backend.kind();
        tracing::error!(kind = kind.name(), error = why, "a kind does not say what it holds: it is asked again");
        inner.awaited.silence(kind, why);
    }
    all
}

/// Removes spools of sandboxes that are gone.
fn sweep_spools(inner: &Inner, is_alive: impl Fn(&SandboxId) -> bool) {
    let places = [Some(inner.data_dir.join("spool")), inner.memory.as_deref().map(memory::spools)];
    let entries = places.into_iter().flatten().filter_map(|place| fs::read_dir(place).ok()).flatten();
    for entry in entries.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok());
        if id.is_none_or(|id| !is_alive(&id))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::error!(path = %entry.path().display(), %error, "cannot remove an old spool");
        }
    }
}

/// Nobody's: a server was killed while it built it, or its entry cannot be read.
pub(crate) async fn release_unknown(inner: Arc<Inner>, keeper: Arc<dyn Keeper>, id: SandboxId) {
    tracing::warn!(sandbox = %id, "releasing a sandbox that nothing tells of");
    if let Err(error) = keeper.release(&id).await {
        tracing::error!(sandbox = %id, %error, "cannot release an unknown sandbox");
        // What stands in its way may pass, and nobody else asks. The next server tries as well.
        return drop(tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            for _ in 0..MOST_RELEASES {
                sleep(pause).await;
                pause = (pause * 2).min(MOST_BACKOFF);
                if keeper.release(&id).await.is_ok() {
                    return forget_spools(&inner, &id);
                }
            }
        }));
    }
    forget_spools(&inner, &id);
}

fn forget_spools(inner: &Inner, id: &SandboxId) {
    for spool in [Kind::Process, Kind::Vfs].map(|kind| inner.spool(id, kind)) {
        match fs::remove_dir_all(&spool) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %spool.display(), %error, "cannot remove an old spool");
            }
            _ => {}
        }
    }
}

/// A sandbox that an earlier server had.
pub(crate) struct Found {
    pub(crate) id: SandboxId,
    pub(crate) conn: Conn,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) frozen: bool,
    /// As they are now, where who holds it knows.
    pub(crate) limits: Option<Limits>,
    /// Host pid of its init, where the warden holds it.
    pub(crate) init: i32,
}

pub(crate) async fn adopt(inner: Arc<Inner>, found: Found, entry: SandboxV1) {
    let Found { id, conn, keeper, frozen, limits, init } = found;
    let mut meta = entry.meta();
    if let Some(limits) = limits {
        Arc::make_mut(&mut meta.spec).limits = limits;
    }
    let kind = meta.spec.kind;
    // Stopped for a moment by a server that died in it.
    let held = frozen && kind == Kind::Local && !entry.paused;
    let frozen = frozen && !held;
    if held && let Err(error) = keeper.freeze(&id, false).await {
        tracing::error!(sandbox = %id, %error, "cannot let a sandbox go on");
    }
    let seat = Seat {
        id: id.clone(),
        conn,
        keeper,
        meta,
        spool: inner.spool(&id, kind),
        durable: true,
        shelf: inner.shelf(kind),
        last: if kind == Kind::Local { None } else { Some(inner.last(&id, kind)) },
        adopted: Some(frozen),
    };
    let (handle, ready) = match Handle::seat(seat) {
        Ok(seated) => seated,
        Err(error) => return tracing::error!(sandbox = %id, %error, "cannot adopt a sandbox"),
    };
    inner.enter(&handle);
    if entry.claimed {
        inner.state().handed_out.insert(id.clone());
    }
    if let (Some(locals), Kind::Local) = (&inner.locals, kind) {
        locals.put_awake(&inner, &handle, init);
    }
    match timeout(REPORT, ready.wait()).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => return tracing::warn!(sandbox = %id, %failure, "a sandbox ended while it was adopted"),
        Err(_) => tracing::error!(sandbox = %id, "a sandbox's init does not report"),
    }
    if entry.claimed {
        return tracing::info!(sandbox = %id, execs = handle.execs().len(), "adopted a sandbox");
    }
    let unused = handle.execs().is_empty() && handle.phase() == Phase::Running;
    let mut state = inner.state();
    let pool = inner.pools.iter().position(|kept| fit(&handle.spec(), &kept.spec) == Fit::Yes);
    if unused && let Some(pool) = pool {
        state.pools[pool].ready.push_back(handle);
        tracing::info!(sandbox = %id, "adopted a ready sandbox");
    } else {
        drop(state);
        inner.abandon(handle);
    }
}

/// Passes on the warden's news; when the connection ends, gets another.
pub(crate) async fn watch(inner: Arc<Inner>, mut gone: Gone) {
    loop {
        while let Some((id, status)) = gone.recv().await {
            tracing::debug!(sandbox = %id, status, "the warden says a sandbox is gone");
            let handle = inner.state().sandboxes.get(&id).cloned();
            if let Some(handle) = handle {
                handle.lost();
            }
        }
        if inner.leaving.load(Ordering::Relaxed) {
            return;
        }
        inner.link.set(None);
        lock(&inner.warden).pid = 0;
        if inner.private {
            tracing::error!("the warden ended");
            let handles: Vec<Handle> = inner.state().sandboxes.values().cloned().collect();
            return handles.iter().for_each(Handle::lost);
        }
        tracing::error!("the connection to the warden is lost");
        gone = reconnect(&inner).await;
    }
}

async fn reconnect(inner: &Arc<Inner>) -> Gone {
    loop {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            let again = async { take_over(inner, connect(&inner.data_dir).await?).await };
            match again.await {
                Ok(gone) => {
                    tracing::warn!(attempt, pid = lock(&inner.warden).pid, "connected to a warden again");
                    inner.kick_pools();
                    return gone;
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::error!(attempt, %error, cause, "cannot get the warden back");
                }
            }
            sleep(pause).await;
            pause *= 2;
        }
        tokio::select! {
            () = inner.warden_kick.notified() => {}
            () = sleep(GIVEN_UP) => {}
        }
    }
}

/// Removes empty directories and files that nobody has wanted for a while.
pub(crate) async fn tidy(inner: Arc<Inner>) {
    const AGE: Duration = Duration::from_secs(1);
    for second in 1_u64.. {
        sleep(AGE).await;
        let inner = inner.clone();
        let tidied = tokio::task::spawn_blocking(move || {
            // Of servers that were killed, as large as the disks that they were to be.
            if second % 60 == 0
                && let Err(error) = disk::sweep(&inner.data_dir.join("disks"))
            {
                tracing::warn!(%error, "cannot remove old disk images");
            }
            inner.memory_shelf.tidy(AGE);
            if inner.shelf.tidy(AGE) {
                inner.ledger.tidy();
                inner.memory_ledger.iter().for_each(|ledger| ledger.tidy());
            }
        });
        if let Err(error) = tidied.await {
            tracing::error!(%error, "cannot tidy up");
        }
    }
}

/// Keeps a pool at its watermark, one at a time, at most half of the time, and not while somebody waits for a sandbox.
pub(crate) async fn refill(inner: Arc<Inner>, pool: usize) {
    let mut backoff = FIRST_PAUSE;
    loop {
        let action = {
            let state = inner.state();
            let Pool { policy, ready } = &state.pools[pool];
            match (inner.memory_watch.level(), ready.len() as u32) {
                (Pressure::None, ready) => policy.next(ready),
                // What nobody has is given up before anybody is refused.
                (_, 0) => Action::Rest,
                _ => Action::Shed,
            }
        };
        match action {
            Action::Build => {
                let since = Instant::now();
                while (inner.is_busy() || inner.has_just_claimed(QUIET) || is_crowded()) && since.elapsed() < POLITE {
                    sleep(Duration::from_millis(2)).await;
                }
                let begun = Instant::now();
                match inner.build_ready(pool).await {
                    Ok(()) => {
                        backoff = FIRST_PAUSE;
                        sleep(begun.elapsed()).await;
                    }
                    Err(error) => {
                        let kind = inner.pools[pool].spec.kind.name();
                        tracing::error!(kind, %error, "cannot build a sandbox for the pool");
                        sleep(backoff).await;
                        backoff = (backoff * 2).min(MOST_BACKOFF);
                    }
                }
            }
            Action::Shed => {
                let surplus = inner.state().pools[pool].ready.pop_front();
                if let Some(handle) = surplus {
                    inner.abandon(handle);
                }
            }
            Action::Rest => {
                tokio::select! {
                    () = inner.pools[pool].kick.notified() => {}
                    () = sleep(CALM) => inner.state().pools[pool].policy.calm(),
                }
            }
        }
    }
}
