//! The sandboxes and sessions of other servers that callers of this one have, in memory: a request asks this and not the
//! database.

use super::Endpoint;
use csb_api::{SandboxState, SandboxView};
use csb_types::SandboxId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A sandbox of another server.
#[derive(Debug)]
pub struct Far {
    /// Base address of its server.
    pub url: String,
    /// Its server; none when that is no longer configured.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Its id there.
    pub far_id: String,
    /// As last seen, in our words.
    seen: Mutex<SandboxView>,
}

impl Far {
    /// As it looks now.
    pub fn new(url: String, endpoint: Option<Arc<Endpoint>>, far_id: String, seen: SandboxView) -> Self {
        Self { url, endpoint, far_id, seen: Mutex::new(seen) }
    }

    /// As it was last seen.
    pub fn seen(&self) -> SandboxView {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records how it looks. There is no way back from a release that was begun.
    pub fn see(&self, view: SandboxView) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.state != SandboxState::Releasing {
            *seen = view;
        }
    }

    /// Whether its release was begun.
    pub fn is_releasing(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).state == SandboxState::Releasing
    }
}

/// A session of another server.
#[derive(Debug)]
pub struct FarSession {
    /// Base address of its server.
    pub url: String,
    /// Its server; none when that is no longer configured.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Its id there.
    pub far_id: String,
}

#[derive(Debug, Default)]
struct Inner {
    sandboxes: HashMap<SandboxId, Arc<Far>>,
    sessions: HashMap<String, Arc<FarSession>>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Known(Mutex<Inner>);

impl Known {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sandbox by our id.
    pub fn get(&self, id: &SandboxId) -> Option<Arc<Far>> {
        self.lock().sandboxes.get(id).cloned()
    }

    /// Adds a sandbox.
    pub fn insert(&self, id: SandboxId, far: Arc<Far>) {
        self.lock().sandboxes.insert(id, far);
    }

    /// Forgets a sandbox.
    pub fn remove(&self, id: &SandboxId) -> Option<Arc<Far>> {
        self.lock().sandboxes.remove(id)
    }

    /// All sandboxes.
    pub fn all(&self) -> Vec<(SandboxId, Arc<Far>)> {
        self.lock().sandboxes.iter().map(|(id, far)| (id.clone(), far.clone())).collect()
    }

    /// A session by our id.
    pub fn session(&self, id: &str) -> Option<Arc<FarSession>> {
        self.lock().sessions.get(id).cloned()
    }

    /// Adds a session.
    pub fn insert_session(&self, id: String, session: Arc<FarSession>) {
        self.lock().sessions.insert(id, session);
    }

    /// Forgets a session.
    pub fn remove_session(&self, id: &str) {
        self.lock().sessions.remove(id);
    }
}
