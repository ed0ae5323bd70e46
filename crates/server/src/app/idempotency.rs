//! Requests that make something, sent again with the same `Idempotency-Key`: done once, answered the same.

use super::{App, AppError, cut};
use crate::{
    auth::Identity,
    db::{Claim, EXEC_CLAIM, KeyAnswer, Stored},
};
use csb_api::ErrorCode;
use serde::Serialize;
use std::{sync::Arc, time::Duration};

/// How long a repeated request waits for the first one.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A key as it came with a request.
#[derive(Debug, Clone)]
pub struct Idem {
    /// The header's value.
    pub key: String,
    /// Tells requests apart: a hash of route and body.
    pub request: String,
}

/// What a request that makes something is answered with.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It was made now.
    Made(T),
    /// It was made before; the answer of then.
    Replayed(Stored),
}

/// A claimed key, let go when dropped before its answer was stored.
#[derive(Debug)]
pub(super) struct Claimed {
    app: Arc<App>,
    user_id: String,
    key: String,
    answered: bool,
}

impl Claimed {
    /// What to store together with what was made.
    pub fn answer(&self, status: u16, view: &impl Serialize) -> Result<KeyAnswer, AppError> {
        let answer = serde_json::to_string(view).map_err(|e| AppError::internal(e.to_string()))?;
        Ok(KeyAnswer { user_id: self.user_id.clone(), key: self.key.clone(), stored: Stored { status, answer } })
    }

    /// The answer is in the database.
    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Idem {
    /// Of a request to start a command: after a crash its claim stays, for the command may have run.
    pub fn of_exec(mut self) -> Self {
        self.request.insert_str(0, EXEC_CLAIM);
        self
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let (app, user_id, key) = (self.app.clone(), std::mem::take(&mut self.user_id), std::mem::take(&mut self.key));
        // The failed request must be free to be tried again; if this fails too, the next start forgets the claim.
        self.app.tasks.spawn(async move {
            if let Err(error) = app.db.abandon_key(&user_id, &key).await {
                tracing::warn!(error = AppError::chain(&error), "an idempotency key stays claimed");
            }
        });
    }
}

/// The caller's claim, or the answer of before.
#[derive(Debug)]
pub(super) enum Turn {
    /// No key was sent.
    Free,
    /// The key is ours.
    Ours(Claimed),
    /// Answered before.
    Replay(Stored),
}

impl App {
    /// Makes something, to its end even if the caller hangs up; where it was made before, finds the answer of then.
    pub(super) async fn make_once<T: Send + 'static, F>(
        self: &Arc<Self>,
        who: &Identity,
        idem: Option<Idem>,
        make: impl FnOnce(Arc<Self>, Option<Claimed>) -> F,
    ) -> Result<Outcome<T>, AppError>
    where
        F: Future<Output = Result<T, AppError>> + Send + 'static,
    {
        let claimed = match self.turn(who, idem).await? {
            Turn::Replay(stored) => return Ok(Outcome::Replayed(stored)),
            Turn::Ours(claimed) => Some(claimed),
            Turn::Free => None,
        };
        self.finish(make(self.clone(), claimed)).await.map(Outcome::Made)
    }

    pub(super) async fn turn(self: &Arc<Self>, who: &Identity, idem: Option<Idem>) -> Result<Turn, AppError> {
        let Some(idem) = idem else { return Ok(Turn::Free) };
        let visible = idem.key.bytes().all(|c| c.is_ascii_graphic());
        if !visible || !(1..=255).contains(&idem.key.len()) {
            let message = "Idempotency-Key is not valid: it is 1 to 255 visible ASCII characters without spaces";
            return Err(AppError::new(ErrorCode::InvalidRequest, message));
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.db.claim_key(&who.user_id, &idem.key, &idem.request).await? {
                Claim::Ours => {
                    return Ok(Turn::Ours(Claimed {
                        app: self.clone(),
                        user_id: who.user_id.to_string(),
                        key: idem.key,
                        answered: false,
                    }));
                }
                Claim::Answered(stored) => return Ok(Turn::Replay(stored)),
                Claim::Conflict => {
                    let message = format!("Idempotency-Key `{}` was used with another request", cut(&idem.key));
                    return Err(AppError::new(ErrorCode::IdempotencyConflict, message));
                }
                Claim::UnderWay(since) if since < self.started_ms => {
                    let message = format!(
                        "the server ended while it served the first request with Idempotency-Key `{}`: whether its command \
                         ran is not known",
                        cut(&idem.key)
                    );
                    return Err(AppError::new(ErrorCode::IdempotencyConflict, message)
                        .hint("look for it among the sandbox's execs; use a new key to run it again"));
                }
                Claim::UnderWay(_) if tokio::time::Instant::now() >= deadline => {
                    let message =
                        format!("the first request with Idempotency-Key `{}` is still under way", cut(&idem.key));
                    return Err(AppError::new(ErrorCode::IdempotencyConflict, message).hint("send it again later"));
                }
                Claim::UnderWay(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}
