//! One at a time asks a machine, and takes a thread for it only then: threads that may wait are there for all sandboxes, and a guest
//! that was taken over keeps whoever asks it for as long as it may.
//! Knows nothing of what is asked.

use super::aside;
use crate::{BackendError, guests::refusal};
use csb_types::Usage;
use csb_wire::Failure;
use std::{io, sync::Arc, time::Instant};
use tokio::sync::Mutex;

/// What a machine used, and when it said so.
type Told = Option<(Instant, Result<Usage, Failure>)>;

/// Of one machine; copies are the same one's.
#[derive(Debug, Default, Clone)]
pub(super) struct Turn(Arc<Mutex<Told>>);

impl Turn {
    /// Does something with the machine. Whoever does not wait for it any more ends nothing.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        step: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = self.0.clone().lock_owned().await;
        let done = aside(move || {
            let _turn = turn;
            Ok(work())
        });
        answer(step, done.await)
    }

    /// Asks what it uses, or hears what another was told who has asked meanwhile.
    pub(super) async fn share(
        &self,
        step: &'static str,
        work: impl FnOnce() -> io::Result<Usage> + Send + 'static,
    ) -> Result<Usage, Failure> {
        let since = Instant::now();
        let mut turn = self.0.clone().lock_owned().await;
        if let Some((_, told)) = turn.as_ref().filter(|(at, _)| *at >= since) {
            return told.clone();
        }
        let done = aside(move || {
            let told = work().map_err(|error| refusal(step, &error));
            *turn = Some((Instant::now(), told.clone()));
            Ok(told)
        });
        done.await.unwrap_or_else(|error| Err(refusal(step, &io::Error::other(error))))
    }
}

fn answer<T>(step: &str, done: Result<io::Result<T>, BackendError>) -> Result<T, Failure> {
    done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| refusal(step, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Mutex as Blocking,
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    #[test]
    fn however_many_ask_a_guest_that_is_silent_others_have_their_threads() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build().unwrap();
        runtime.block_on(async {
            let (turn, came, asked) = (Turn::default(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let (answer, heard) = mpsc::channel::<u64>();
            let heard = Arc::new(Blocking::new(heard));
            let all: Vec<_> = (0..600)
                .map(|_| {
                    let (turn, came, asked, heard) = (turn.clone(), came.clone(), asked.clone(), heard.clone());
                    tokio::spawn(async move {
                        came.fetch_add(1, Ordering::Relaxed);
                        let ask = move || {
                            asked.fetch_add(1, Ordering::Relaxed);
                            let memory = heard.lock().unwrap().recv().map_err(io::Error::other)?;
                            Ok(Usage { memory, ..Usage::default() })
                        };
                        turn.share("ask", ask).await
                    })
                })
                .collect();
            while came.load(Ordering::Relaxed) < 600 {
                tokio::task::yield_now().await;
            }
            assert_eq!(aside(|| Ok("another's")).await, Ok("another's"));
            answer.send(7).unwrap();
            for one in all {
                assert_eq!(one.await.unwrap().map(|usage| usage.memory), Ok(7));
            }
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            // Who asks later is told what is so then.
            answer.send(8).unwrap();
            let again = turn.share("ask", move || {
                let memory = heard.lock().unwrap().recv().map_err(io::Error::other)?;
                Ok(Usage { memory, ..Usage::default() })
            });
            assert_eq!(again.await.map(|usage| usage.memory), Ok(8));
        });
    }
}
