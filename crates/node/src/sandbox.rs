//! A sandbox as those see it who neither know nor care whether a process stands behind it now.

use crate::{
    WakeError,
    local::{Locals, Now},
    node::Inner,
};
use csb_engine::{Handle, Meta, OpError};
use csb_types::{Kind, Limits, Phase, SandboxId, Usage};
use std::sync::Arc;

/// A sandbox that was handed out. Clones are the same sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox(Place);

#[derive(Debug, Clone)]
enum Place {
    Seated(Handle),
    Local { id: SandboxId, inner: Arc<Inner>, locals: Arc<Locals> },
}

impl From<Handle> for Sandbox {
    fn from(handle: Handle) -> Self {
        Self(Place::Seated(handle))
    }
}

impl Sandbox {
    pub(crate) fn local(id: SandboxId, inner: Arc<Inner>, locals: Arc<Locals>) -> Self {
        Self(Place::Local { id, inner, locals })
    }

    /// Which.
    pub fn id(&self) -> &SandboxId {
        match &self.0 {
            Place::Seated(handle) => handle.id(),
            Place::Local { id, .. } => id,
        }
    }

    /// How it is isolated.
    pub fn kind(&self) -> Kind {
        match &self.0 {
            Place::Seated(handle) => handle.spec().kind,
            Place::Local { .. } => Kind::Local,
        }
    }

    /// Whether it can be there without a process: then nobody needs to wait for its end.
    pub fn is_local(&self) -> bool {
        matches!(self.0, Place::Local { .. })
    }

    /// Where it is in its life. One that sleeps is ready for execs.
    pub fn phase(&self) -> Phase {
        match &self.0 {
            Place::Seated(handle) => handle.phase(),
            Place::Local { id, locals, .. } => match locals.now(id) {
                Now::Gone => Phase::Gone,
                Now::Asleep { paused: true } => Phase::Paused,
                Now::Asleep { paused: false } => Phase::Running,
                Now::Awake(handle) => match handle.phase() {
                    // Its processes ended, and it is about to sleep.
                    Phase::Releasing | Phase::Gone => Phase::Running,
                    phase => phase,
                },
            },
        }
    }

    /// What is known of it.
    pub fn meta(&self) -> Result<Meta, OpError> {
        match &self.0 {
            Place::Seated(handle) => Ok(handle.meta()),
            Place::Local { id, inner, locals } => match locals.now(id) {
                Now::Gone => Err(OpError::Gone),
                Now::Asleep { .. } => Ok(inner.written(id)?.meta()),
                Now::Awake(handle) => Ok(handle.meta()),
            },
        }
    }

    /// Whether a command runs.
    pub fn is_working(&self) -> bool {
        match &self.0 {
            Place::Seated(handle) => handle.is_working(),
            Place::Local { id, locals, .. } => matches!(locals.now(id), Now::Awake(handle) if handle.is_working()),
        }
    }

    /// What runs commands and works on files. One that sleeps is woken, and stays awake for as long as a clone is held.
    pub async fn awake(&self) -> Result<Handle, WakeError> {
        match &self.0 {
            Place::Seated(handle) => Ok(handle.clone()),
            Place::Local { id, inner, locals } => locals.clone().wake(inner.clone(), id.clone()).await,
        }
    }

    /// Freezes every process; memory is kept. One that sleeps has none, and is not woken until it is resumed.
    pub async fn pause(&self) -> Result<(), OpError> {
        self.freeze(true).await
    }

    /// Undoes `pause`.
    pub async fn resume(&self) -> Result<(), OpError> {
        self.freeze(false).await
    }

    async fn freeze(&self, frozen: bool) -> Result<(), OpError> {
        match &self.0 {
            Place::Seated(handle) if frozen => handle.pause().await,
            Place::Seated(handle) => handle.resume().await,
            Place::Local { id, inner, locals } => locals.freeze(inner, id, frozen).await,
        }
    }

    /// Changes limits of memory, CPU, pids and disk speed; the others must stay as they are.
    pub async fn set_limits(&self, limits: Limits) -> Result<(), OpError> {
        match &self.0 {
            Place::Seated(handle) => handle.set_limits(limits).await,
            Place::Local { id, inner, locals } => locals.set_limits(inner, id, limits).await,
        }
    }

    /// What it uses.
    pub async fn usage(&self) -> Result<Usage, OpError> {
        match &self.0 {
            Place::Seated(handle) => handle.usage().await,
            Place::Local { id, inner, locals } => locals.usage(inner, id).await,
        }
    }

    /// Ends it; returns when nothing is left of it but, of a `local` one, its directory. A second call is not an error.
    pub async fn release(&self) -> Result<(), OpError> {
        match &self.0 {
            Place::Seated(handle) => handle.release().await,
            Place::Local { id, inner, locals } => {
                let (id, inner, locals) = (id.clone(), inner.clone(), locals.clone());
                let releasing = tokio::spawn(async move { locals.release(&inner, &id).await });
                releasing.await.unwrap_or_else(|error| Err(OpError::Internal(error.to_string())))
            }
        }
    }

    /// Why it ended, where nobody released it and whoever held it knows.
    pub fn why_ended(&self) -> Option<String> {
        match &self.0 {
            Place::Seated(handle) => handle.why_ended(),
            Place::Local { .. } => None,
        }
    }

    /// Waits until it is gone, for whatever reason. A `local` one does not go by itself.
    pub async fn gone(&self) {
        match &self.0 {
            Place::Seated(handle) => handle.gone().await,
            Place::Local { .. } => std::future::pending().await,
        }
    }
}
