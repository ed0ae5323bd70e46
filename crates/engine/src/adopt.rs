//! How a driver takes over a sandbox that an earlier server started: the journal tells what was asked for, the spools
//! what came out, and init's report what became of it.

use crate::{
    driver::{Driver, now_ms},
    journal::Entry,
    pump::Exit,
    spool::Spool,
    watch::watch,
};
use csb_types::{ExecId, ExecSpec};
use std::{collections::HashMap, os::fd::OwnedFd, sync::atomic::Ordering, time::Duration};
use tokio::{io::Interest, time::Instant};

impl Driver {
    /// What an earlier server wrote down. How the execs are now comes with init's report; for that, how much of their output is kept.
    pub(crate) fn remember(&mut self, entries: Vec<Entry>) -> Vec<(ExecId, [u64; 2])> {
        let mut unreported = HashMap::new();
        let mut have = Vec::new();
        for entry in entries {
            let id = entry.start.id.clone();
            let spool = Spool::recover(self.sandbox.home.clone(), id.clone());
            let spool = spool.inspect_err(|error| {
                tracing::error!(exec = %id, %error, "cannot read an exec's kept output");
            });
            let exec = self.exec(id.clone(), entry.start.spec(), entry.start.started_ms, spool.ok());
            have.push((id.clone(), exec.spool.lens()));
            match entry.end {
                Some(end) => {
                    exec.publish(end);
                    self.ended.push_back(exec.clone());
                }
                None => drop(unreported.insert(id, exec.clone())),
            }
            self.sandbox.execs().push_back(exec);
        }
        self.unreported = Some(unreported);
        have
    }

    pub(crate) fn on_known(
        &mut self,
        id: ExecId,
        pid: i32,
        ended: Option<(i32, u64)>,
        age_usec: u64,
        stdin: bool,
        mut fds: Vec<OwnedFd>,
    ) {
        let known = self.sandbox.execs().iter().find(|exec| exec.id == id).cloned();
        if let Some(unreported) = &mut self.unreported {
            unreported.remove(&id);
        }
        let exec = known.unwrap_or_else(|| {
            // Its line could not be written, or the earlier server died between the two.
            tracing::warn!(exec = %id, "found an exec that no journal tells of");
            let started_ms = now_ms() - (age_usec / 1000) as i64;
            let exec = self.exec(id.clone(), ExecSpec::argv(["?"]), started_ms, None);
            self.sandbox.execs().push_back(exec.clone());
            exec
        });
        exec.pid.store(pid, Ordering::Relaxed);
        let stdin = if stdin { fds.pop() } else { None };
        if let Some(stdin) = stdin
            && let Ok(stdin) = watch(stdin, Interest::WRITABLE)
            && let Ok(mut place) = exec.stdin.try_lock()
        {
            *place = Some(stdin);
        }
        let mut fds = fds.into_iter();
        // Until its pipes come to their end, once more.
        self.ended.retain(|ended| ended.id != id);
        if let Err(error) = self.pump(&exec, [fds.next(), fds.next()]) {
            tracing::error!(exec = %id, %error, "cannot watch an exec's output");
        }
        if let Some(limit) = exec.spec.timeout {
            let age = Duration::from_micros(ended.map_or(age_usec, |(_, duration)| duration));
            if ended.is_some() {
                exec.deeds().timed_out = age >= limit;
            } else {
                self.deadlines.insert((Instant::now() + limit.saturating_sub(age), id.clone()));
            }
        }
        if let Some((status, duration_usec)) = ended
            && let Some(exit) = self.live.get_mut(&id).and_then(|live| live.exit.take())
        {
            let _ = exit.send(Exit::Ended { status, duration_usec });
        }
    }

    pub(crate) fn on_known_end(&mut self) {
        let Some(unreported) = self.unreported.take() else { return };
        for (id, exec) in unreported {
            // Written down, and never started: the server died in between.
            self.sandbox.execs().retain(|other| other.id != id);
            exec.spool.remove();
            if let Some(journal) = &mut self.journal
                && let Err(error) = journal.dropped(&id)
            {
                tracing::warn!(exec = %id, %error, "cannot write the exec journal");
            }
        }
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(()));
        }
    }
}
