//! How a sandbox ends: released on request, or found dead; results for what ran, nothing left on the host.

use crate::{
    ExecError,
    admit::Request,
    driver::{Command, Driver, Next, warden_failed},
    handle::Last,
    pump::{Exit, released},
    shelf::Shelf,
    spool::Home,
    warden::WardenError,
};
use csb_types::{ExecId, Phase};
use std::{collections::HashSet, io, sync::Arc, time::Duration};
use tokio::time::timeout;

/// For output that is still on its way when no process is left.
const WIND_DOWN: Duration = Duration::from_secs(2);
/// Between two tries of a release that is refused, at first and at most: what stands in its way, such as a host without descriptors, may
/// pass, and nobody else will ask.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MOST_PAUSE: Duration = Duration::from_secs(30);

impl Driver {
    pub(crate) fn release(&mut self) {
        self.let_go(false);
    }

    /// `by_itself`: nobody asked for it, and it is over already.
    fn let_go(&mut self, by_itself: bool) {
        if self.admit(Request::Release) != Ok(true) {
            return;
        }
        self.sandbox.set_phase(Phase::Releasing);
        if std::mem::replace(&mut self.releasing, true) {
            return;
        }
        let sandbox = self.sandbox.clone();
        tokio::spawn(async move {
            if by_itself {
                sandbox.ask_why().await;
            }
            let done = sandbox.keeper.release(&sandbox.id).await;
            let _ = sandbox.commands.send(Command::Released(done));
        });
    }

    pub(crate) fn on_released(&mut self, done: Result<(), WardenError>) -> Next {
        self.releasing = false;
        match done {
            Ok(()) => Next::End,
            Err(WardenError::Failed(failure)) if failure.errno == libc::ENOENT => Next::End,
            // The node makes a new connection and tells by it: `Lost` or `Relinked`.
            Err(WardenError::Lost) => Next::Go,
            Err(error) => {
                tracing::error!(sandbox = %self.sandbox.id, %error, "cannot release a sandbox");
                for reply in self.releases.drain(..) {
                    let _ = reply.send(Err(warden_failed(error.clone())));
                }
                if !self.retries {
                    self.retries = true;
                    let (commands, pause) = (self.sandbox.commands.clone(), self.pause);
                    self.pause = (pause * 2).min(MOST_PAUSE);
                    tokio::spawn(async move {
                        tokio::time::sleep(pause).await;
                        let _ = commands.send(Command::ReleaseAgain);
                    });
                }
                Next::Go
            }
        }
    }

    /// Init is no more; its sandbox is over, whoever ended it. The warden may know or not yet.
    pub(crate) fn on_eof(&mut self) {
        self.port = None;
        self.outbox.clear();
        // Dropped, it says that init ended at once.
        self.ready = None;
        self.let_go(true);
    }

    /// Everything ends: execs get their results, files go, waiters hear of it.
    pub(crate) async fn end(mut self) {
        self.sandbox.set_phase(Phase::Releasing);
        self.port = None;
        for (_, starting) in self.starting.drain() {
            let _ = starting.reply.send(Err(ExecError::Gone));
        }
        for live in self.live.values_mut() {
            if let Some(exit) = live.exit.take() {
                let _ = exit.send(Exit::Released);
            }
        }
        for exec in self.unreported.take().unwrap_or_default().into_values() {
            exec.publish(released(&exec));
        }
        self.ended.clear();
        self.open.clear();
        // No process is left, so every pipe comes to its end.
        let wound_down = timeout(WIND_DOWN, async { while self.pumps.join_next().await.is_some() {} }).await;
        if wound_down.is_err() {
            tracing::error!(sandbox = %self.sandbox.id, "output of a sandbox that is gone does not end");
            self.pumps.shutdown().await;
        }
        // Whoever has one of these now is a reader.
        self.live.clear();
        let mut read = HashSet::new();
        // Under the lock: nobody else can come by an exec meanwhile.
        for exec in self.sandbox.execs().iter() {
            if Arc::strong_count(exec) > 1 {
                exec.spool.pin();
                read.insert(exec.id.clone());
            } else {
                exec.spool.forget();
            }
        }
        drop(self.journal.take());
        let (home, shelf, last) = (self.sandbox.home.clone(), self.shelf.clone(), self.last.take());
        if home.durable() || last.is_some() {
            let removed = tokio::task::spawn_blocking(move || remove(&home, &shelf, &read, last)).await;
            for error in removed.unwrap_or_else(|error| vec![io::Error::other(error)]) {
                tracing::error!(sandbox = %self.sandbox.id, %error, "cannot remove what a sandbox left");
            }
        }
        self.sandbox.set_phase(Phase::Gone);
        self.inbox.close();
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Release { reply } = command {
                self.releases.push(reply);
            }
        }
        for reply in self.releases.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }
}

fn remove(home: &Home, shelf: &Shelf, read: &HashSet<ExecId>, last: Option<Last>) -> Vec<io::Error> {
    let dir = home.durable().then(|| home.give_back(shelf, read));
    let last = last.map(|last| (last.0)());
    let errors = dir.into_iter().chain(last).filter_map(Result::err);
    errors.filter(|error| error.kind() != io::ErrorKind::NotFound).collect()
}
