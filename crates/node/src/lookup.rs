//! Which sandboxes of a node somebody has, and how many.

use crate::{Handle, MemoryStats, Meta, Node, PoolStats, Sandbox, local, node::State};
use csb_types::{Kind, Phase, SandboxId};

impl Node {
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

    /// Memory of the host, as it was when it was last looked at.
    pub fn memory(&self) -> MemoryStats {
        self.inner.memory_watch.stats()
    }

    /// `local` sandboxes, and those of them that sleep.
    pub fn local_counts(&self) -> (u64, u64) {
        self.inner.locals.as_ref().map_or((0, 0), |locals| locals.counts())
    }
}

impl State {
    fn handed_out(&self) -> impl Iterator<Item = &Handle> {
        let all = self.sandboxes.values();
        all.filter(|handle| self.handed_out.contains(handle.id()) && handle.phase() != Phase::Gone)
    }
}
