//! A build that is whole, or undone.

use crate::BackendError;
use csb_types::SandboxId;

/// Who removes what there is of a sandbox, however much of it was made.
pub(crate) trait Release: Clone + Send + Sync + 'static {
    fn release(&self, id: &SandboxId) -> impl Future<Output = Result<(), BackendError>> + Send;
}

/// Removes, unless it is kept.
struct Undo<R: Release> {
    by: R,
    id: Option<SandboxId>,
}

impl<R: Release> Drop for Undo<R> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let by = self.by.clone();
        tokio::spawn(async move {
            if let Err(error) = by.release(&id).await {
                // The next server tries again.
                tracing::error!(sandbox = %id, %error, "cannot remove what is left of a sandbox");
            }
        });
    }
}

/// Builds a sandbox. On an error, and where the future is dropped, nothing is left of it.
pub(crate) async fn whole<R: Release, T>(
    by: &R,
    id: &SandboxId,
    build: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let mut undo = Undo { by: by.clone(), id: Some(id.clone()) };
    let made = build.await;
    // Done before the answer, so that whoever is told finds nothing.
    if made.is_ok() || by.release(id).await.is_ok() {
        undo.id = None;
    }
    made
}
