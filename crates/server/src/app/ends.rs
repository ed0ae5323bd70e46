//! Why sandboxes ended that nobody released, for those who ask for one later. Kept in memory, the newest of them.
//! Knows nothing of sandboxes.

use csb_types::SandboxId;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// So many are remembered.
const MOST: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<VecDeque<(SandboxId, Arc<str>, String)>>);

impl Ends {
    /// Records the end of a user's sandbox.
    pub(super) fn put(&self, id: SandboxId, user_id: Arc<str>, why: String) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() >= MOST {
            ends.pop_front();
        }
        ends.push_back((id, user_id, why));
    }

    /// Why one ended, if whoever asks `may_see` its user's.
    pub(super) fn why(&self, id: &SandboxId, may_see: impl Fn(&str) -> bool) -> Option<String> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ends.iter().rev().find(|(one, ..)| one == id)?;
        may_see(&found.1).then(|| found.2.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_to_its_owner_alone_and_old_ones_are_forgotten() {
        let ends = Ends::default();
        let first = SandboxId::random();
        ends.put(first.clone(), "ann".into(), "evicted".into());
        assert_eq!(ends.why(&first, |user| user == "ann").as_deref(), Some("evicted"));
        assert_eq!(ends.why(&first, |user| user == "bob"), None);
        for _ in 0..MOST {
            ends.put(SandboxId::random(), "ann".into(), String::new());
        }
        assert_eq!(ends.why(&first, |_| true), None);
    }
}
