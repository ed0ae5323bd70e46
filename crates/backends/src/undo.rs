//! A build that is whole, or undone.

use crate::BackendError;
use csb_types::SandboxId;
use std::time::Duration;

/// Between two tries to undo, at first, and how often: all together half an hour. What stands in its way may pass.
const PAUSE: Duration = Duration::from_millis(200);
const MOST_PAUSE: Duration = Duration::from_secs(30);
const TRIES: u32 = 64;

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
            let mut pause = PAUSE;
            for _ in 0..TRIES {
                let Err(error) = by.release(&id).await else { return };
                // The next server tries as well.
                tracing::error!(sandbox = %id, %error, "cannot remove what is left of a sandbox");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MOST_PAUSE);
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
