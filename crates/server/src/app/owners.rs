//! Who owns which live sandbox, in memory: an exec asks this and not the database.

use super::AppError;
use csb_api::ErrorCode;
use csb_types::SandboxId;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

/// What is known of a live sandbox beside what the node knows.
#[derive(Debug)]
pub struct Owned {
    /// Whose it is.
    pub user_id: Arc<str>,
    /// The session it is bound to.
    pub session_id: Option<String>,
    /// When it is to be released.
    pub expires_ms: Option<i64>,
    /// Held while its limits change: a change starts from what the one before it has left.
    pub(super) limits: tokio::sync::Mutex<()>,
    /// When it was last asked for anything.
    used_ms: AtomicI64,
}

impl Owned {
    /// Used now.
    pub fn new(user_id: Arc<str>, session_id: Option<String>, expires_ms: Option<i64>) -> Self {
        let used_ms = AtomicI64::new(crate::db::now_ms());
        Self { user_id, session_id, expires_ms, limits: tokio::sync::Mutex::default(), used_ms }
    }

    /// Records a use.
    pub fn touch(&self) {
        self.used_ms.store(crate::db::now_ms(), Ordering::Relaxed);
    }

    /// When it was last used.
    pub fn used_ms(&self) -> i64 {
        self.used_ms.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<SandboxId, Arc<Owned>>,
    /// Live and about to be made, by user.
    counts: HashMap<Arc<str>, u32>,
    /// About to be made, of all users.
    making: u32,
}

impl Inner {
    fn less(&mut self, user_id: &Arc<str>) {
        if let Some(count) = self.counts.get_mut(user_id) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(user_id);
            }
        }
    }
}

/// All live sandboxes with their owners.
#[derive(Debug, Default)]
pub struct Owners(Mutex<Inner>);

/// Room for one more sandbox of a user; given back when dropped unused.
#[derive(Debug)]
pub struct Room {
    owners: Arc<Owners>,
    user_id: Arc<str>,
    used: bool,
}

impl Owners {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more sandbox of a user, or the quota's refusal.
    pub fn room(self: &Arc<Self>, user_id: &Arc<str>, most: u32) -> Result<Room, AppError> {
        let mut inner = self.lock();
        let count = inner.counts.entry(user_id.clone()).or_default();
        if *count >= most {
            let message = format!("user `{user_id}` has {count} sandboxes, as many as allowed");
            return Err(AppError::new(ErrorCode::QuotaExceeded, message));
        }
        *count += 1;
        inner.making += 1;
        Ok(Room { owners: self.clone(), user_id: user_id.clone(), used: false })
    }

    /// A live sandbox's owner.
    pub fn get(&self, id: &SandboxId) -> Option<Arc<Owned>> {
        self.lock().live.get(id).cloned()
    }

    /// Adds a sandbox found at start.
    pub fn adopt(&self, id: SandboxId, owned: Owned) {
        let mut inner = self.lock();
        *inner.counts.entry(owned.user_id.clone()).or_default() += 1;
        inner.live.insert(id, Arc::new(owned));
    }

    /// Forgets a sandbox; false when it was forgotten before.
    pub fn remove(&self, id: &SandboxId) -> bool {
        let mut inner = self.lock();
        let Some(owned) = inner.live.remove(id) else { return false };
        inner.less(&owned.user_id);
        true
    }

    /// All of them.
    pub fn all(&self) -> Vec<(SandboxId, Arc<Owned>)> {
        self.lock().live.iter().map(|(id, owned)| (id.clone(), owned.clone())).collect()
    }

    /// Whether a sandbox may be on the node that is not listed here yet.
    pub fn making(&self) -> bool {
        self.lock().making > 0
    }
}

impl Room {
    /// The sandbox it was for.
    pub fn fill(mut self, id: SandboxId, owned: Owned) -> Arc<Owned> {
        self.used = true;
        let owned = Arc::new(owned);
        let mut inner = self.owners.lock();
        inner.making -= 1;
        inner.live.insert(id, owned.clone());
        drop(inner);
        owned
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.used {
            let mut inner = self.owners.lock();
            inner.making -= 1;
            inner.less(&self.user_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_what_lives_and_what_is_being_made() {
        let owners = Arc::new(Owners::default());
        let user: Arc<str> = "u".into();
        let first = owners.room(&user, 2).unwrap();
        let second = owners.room(&user, 2).unwrap();
        assert_eq!(owners.room(&user, 2).unwrap_err().code, ErrorCode::QuotaExceeded);
        assert!(owners.room(&"v".into(), 2).is_ok(), "another user has room");
        drop(second);
        let id = SandboxId::random();
        first.fill(id.clone(), Owned::new(user.clone(), None, None));
        assert!(!owners.making());
        let again = owners.room(&user, 2).unwrap();
        assert!(owners.room(&user, 2).is_err());
        assert!(owners.remove(&id));
        assert!(!owners.remove(&id), "the second time it is gone already");
        assert!(owners.room(&user, 2).is_ok());
        drop(again);
    }
}
