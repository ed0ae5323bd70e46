//! Sandboxes that an earlier server had and whose kind does not answer yet, such as pods of a cluster that is away. They live on as
//! far as anybody knows: nothing of theirs is removed, and they are adopted once their kind answers.
//! Knows nothing of kinds.

use crate::{
    ledger::SandboxV1,
    node::{Inner, lock},
    supervise::{self, Found},
};
use csb_backends::{Backend, Held};
use csb_engine::Meta;
use csb_types::{Kind, SandboxId};
use std::{
    collections::HashMap,
    fs, io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The most between two questions to a kind that does not answer.
const MOST_PAUSE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    entries: Mutex<HashMap<SandboxId, SandboxV1>>,
    /// Why a kind does not answer, in its words.
    silent: Mutex<HashMap<Kind, String>>,
    /// Told of each that is awaited no more.
    changed: watch::Sender<()>,
}

impl Awaited {
    /// A kind does not answer.
    pub(crate) fn silence(&self, kind: Kind, why: String) {
        lock(&self.silent).insert(kind, why);
    }

    pub(crate) fn is_silent(&self, kind: Kind) -> bool {
        lock(&self.silent).contains_key(&kind)
    }

    pub(crate) fn put(&self, entry: SandboxV1) {
        lock(&self.entries).insert(entry.id.clone(), entry);
    }

    pub(crate) fn contains(&self, id: &SandboxId) -> bool {
        lock(&self.entries).contains_key(id)
    }

    /// Its kind, and why that does not answer.
    pub(crate) fn why(&self, id: &SandboxId) -> Option<(Kind, String)> {
        let kind = lock(&self.entries).get(id)?.kind();
        Some((kind, lock(&self.silent).get(&kind).cloned().unwrap_or_default()))
    }

    pub(crate) fn meta(&self, id: &SandboxId) -> Option<Meta> {
        lock(&self.entries).get(id).map(SandboxV1::meta)
    }

    fn of(&self, kind: Kind) -> HashMap<SandboxId, SandboxV1> {
        let entries = lock(&self.entries);
        entries
            .iter()
            .filter(|(_, entry)| entry.kind() == kind)
            .map(|(id, entry)| (id.clone(), entry.clone()))
            .collect()
    }

    fn done(&self, id: &SandboxId) {
        lock(&self.entries).remove(id);
        self.changed.send_replace(());
    }

    /// Returns once it is not awaited any more.
    pub(crate) async fn arrival(&self, id: &SandboxId) {
        let mut changed = self.changed.subscribe();
        while self.contains(id) && changed.changed().await.is_ok() {}
    }
}

/// Asks a kind until it answers, ever more rarely; then takes over what it holds.
pub(crate) async fn reach(inner: Arc<Inner>, backend: Arc<dyn Backend>) {
    let (kind, mut pause) = (backend.kind(), FIRST_PAUSE);
    let held = loop {
        sleep(pause).await;
        pause = (pause * 2).min(MOST_PAUSE);
        match backend.held().await {
            Ok(held) => break held,
            Err(error) => inner.awaited.silence(kind, error.to_string()),
        }
    };
    let mut entries = inner.awaited.of(kind);
    tracing::info!(kind = kind.name(), held = held.len(), awaited = entries.len(), "a kind answers");
    let mut reports = JoinSet::new();
    for Held { id, conn, frozen } in held {
        let keeper = backend.clone();
        match entries.remove(&id) {
            Some(entry) => {
                let (inner, found) = (inner.clone(), Found { id, conn, keeper, frozen, limits: None, init: 0 });
                reports.spawn(async move {
                    let id = found.id.clone();
                    supervise::adopt(inner.clone(), found, entry).await;
                    inner.awaited.done(&id);
                });
            }
            None => drop(reports.spawn(supervise::release_unknown(inner.clone(), keeper, id))),
        }
    }
    // It answered, and these are not there.
    for id in entries.keys() {
        tracing::warn!(sandbox = %id, "a sandbox ended while its kind did not answer");
        if let Err(error) = inner.ledger(kind).remove(id) {
            tracing::error!(sandbox = %id, %error, "cannot remove the ledger's entry of a sandbox that is gone");
        }
        match fs::remove_dir_all(inner.spool(id, kind)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(sandbox = %id, %error, "cannot remove an old spool");
            }
            _ => {}
        }
        inner.awaited.done(id);
    }
    while reports.join_next().await.is_some() {}
    lock(&inner.awaited.silent).remove(&kind);
}
