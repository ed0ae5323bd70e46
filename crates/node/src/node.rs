//! All sandboxes of a host.

use crate::{CreateError, NodeConfig, NodeError, PoolStats, TemplateInfo, WardenInfo};
use csb_engine::Handle;
use csb_types::{SandboxId, SandboxSpec};
use std::sync::Arc;

/// All sandboxes of a host.
#[derive(Debug)]
pub struct Node {}

impl Node {
    /// Reaches the warden, adopts what runs, starts to fill the pool.
    pub async fn start(_config: NodeConfig) -> Result<Arc<Node>, NodeError> {
        unimplemented!()
    }
    /// A sandbox: claimed from the pool where one fits, else built.
    pub async fn create(&self, _spec: SandboxSpec) -> Result<Handle, CreateError> {
        unimplemented!()
    }
    /// A sandbox that was handed out and is not gone.
    pub fn get(&self, _id: &SandboxId) -> Option<Handle> {
        unimplemented!()
    }
    /// All that were handed out and are not gone.
    pub fn list(&self) -> Vec<Handle> {
        unimplemented!()
    }
    /// The pool now.
    pub fn pool_stats(&self) -> PoolStats {
        unimplemented!()
    }
    /// Templates on this host.
    pub fn templates(&self) -> Vec<TemplateInfo> {
        unimplemented!()
    }
    /// The warden now.
    pub fn warden(&self) -> WardenInfo {
        unimplemented!()
    }
    /// Stops refilling and drops all connections; sandboxes live on.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
    /// Ends all sandboxes and the warden.
    pub async fn stop_all(&self) {
        unimplemented!()
    }
}
