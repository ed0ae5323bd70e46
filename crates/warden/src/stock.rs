//! Processes that wait to become sandboxes, and the places they take. Filled when nobody asks for anything.
//! Knows nothing of plans but their limits.

use crate::{
    blank::{Blank, Leavings},
    forker::{self, Forkers},
};
use csb_jail::Host;
use csb_sys::{
    cgroup::{Group, Root},
    load::is_crowded,
    process::{self, SIGKILL},
};
use csb_types::Limits;
use csb_wire::Failure;
use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Without a request for so long, the machine has time for what nobody waits for, if there is little left.
const QUIET: Duration = Duration::from_millis(2);
/// And if there is enough: sandboxes that end meanwhile leave what the next ones can be made of.
const IDLE: Duration = Duration::from_millis(20);
/// Processes that fork: the one that does, and the one behind it.
const FORKERS: usize = 2;
/// Until it is looked again whether the processors have time, and the longest that they are waited for.
const CROWDED: Duration = Duration::from_millis(5);
const POLITE: Duration = Duration::from_millis(200);
/// After one could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Stock {
    size: usize,
    waiting: VecDeque<Blank>,
    /// Told to die, or dead, and not reaped yet.
    spoiled: HashMap<i32, Blank>,
    /// Limits that were asked for last: the next request likely asks for the same.
    limits: Limits,
    /// Of the last request.
    asked: Instant,
    /// Not before then, as it could not be done.
    paused: Option<Instant>,
    /// Since when it waits for processors that have time.
    since: Option<Instant>,
    /// Places given back, each with its user namespace where that was kept, and the first place that was never taken.
    free: Vec<(u32, Option<OwnedFd>)>,
    fresh: u32,
    /// Network namespaces that are as good as new.
    nets: Vec<OwnedFd>,
    /// Groups made so far: their names.
    made: u64,
    /// Fork them; none in a warden for few, or for an ordinary user.
    forkers: Option<Forkers>,
}

/// How many are kept: enough for a burst, and at a quarter of a MiB each a thousandth of the host's memory, at two descriptors each a
/// quarter of the warden's.
pub(crate) fn size() -> usize {
    let info = rustix::system::sysinfo();
    let memory = info.totalram as u64 * u64::from(info.mem_unit);
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (memory / (256 << 20)).min(descriptors / 8).clamp(8, 128) as usize
}

impl Stock {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            waiting: VecDeque::with_capacity(size),
            spoiled: HashMap::new(),
            limits: Limits::default(),
            asked: Instant::now(),
            paused: None,
            since: None,
            free: Vec::new(),
            fresh: 0,
            nets: Vec::new(),
            made: 0,
            forkers: (size > 0).then(Forkers::default),
        }
    }

    /// Whether there are fewer than there should be.
    pub(crate) fn wants(&self) -> bool {
        self.waiting.len() < self.size
    }

    /// How long until the next is to be made, if one is wanted.
    pub(crate) fn due(&self) -> Option<Duration> {
        if !self.wants() {
            return None;
        }
        let pause = if self.waiting.len() * 2 < self.size { QUIET } else { IDLE };
        let next = (self.asked + pause).max(self.paused.unwrap_or(self.asked));
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Whether to leave the processors to who waits for them, a while longer; asked when the next one is due.
    pub(crate) fn gives_way(&mut self) -> bool {
        let now = Instant::now();
        if now.duration_since(*self.since.get_or_insert(now)) < POLITE && is_crowded() {
            self.paused = Some(now + CROWDED);
            return true;
        }
        self.since = None;
        false
    }

    /// A sandbox with these limits is asked for.
    pub(crate) fn taken(&mut self, limits: &Limits) {
        if self.limits != *limits {
            self.limits = limits.clone();
        }
        self.asked = Instant::now();
    }

    pub(crate) fn pop(&mut self) -> Option<Blank> {
        self.waiting.pop_front()
    }

    pub(crate) fn push(&mut self, blank: Blank) {
        self.waiting.push_back(blank);
        if !self.wants() {
            self.nets.clear();
            self.free.iter_mut().for_each(|(_, tenant)| *tenant = None);
        }
    }

    /// Makes one. A process that forks and dies over it is no reason why there should be none: the one that waits behind it is asked,
    /// and where that dies as well, a new one.
    pub(crate) fn make(&mut self, host: &Host, cgroups: &Root, life: &OwnedFd) -> Result<Blank, Failure> {
        for _ in 0..FORKERS {
            let made = self.try_make(host, cgroups, life);
            if !made.as_ref().is_err_and(|failure| failure.step == forker::DIED) {
                return made;
            }
        }
        self.try_make(host, cgroups, life)
    }

    fn try_make(&mut self, host: &Host, cgroups: &Root, life: &OwnedFd) -> Result<Blank, Failure> {
        let (slot, tenant) = self.free.pop().unwrap_or((self.fresh, None));
        self.fresh = self.fresh.max(slot + 1);
        self.made += 1;
        let leavings = Leavings { tenant, net: self.nets.pop() };
        let (name, forkers) = (format!("s{}", self.made), self.forkers.as_mut());
        let made = Blank::new((host, cgroups, life), &name, &self.limits, slot, leavings, forkers);
        if made.is_err() {
            self.give_back(slot, Leavings::default());
        }
        made
    }

    /// Nothing can be made now.
    pub(crate) fn pause(&mut self) {
        self.paused = Some(Instant::now() + PAUSE);
    }

    /// Ends one that is no good any more.
    pub(crate) fn spoil(&mut self, blank: Blank) {
        // Dead already or soon: it is reaped either way.
        let _ = process::kill(blank.pid, SIGKILL);
        self.spoiled.insert(blank.pid, blank);
    }

    /// Ends all, and makes no more.
    pub(crate) fn end(&mut self) {
        self.size = 0;
        self.forkers = None;
        while let Some(blank) = self.waiting.pop_front() {
            self.spoil(blank);
        }
    }

    /// Whether none is left, alive or dead.
    pub(crate) fn is_gone(&self) -> bool {
        self.waiting.is_empty() && self.spoiled.is_empty()
    }

    /// If the process that ended was one of these: its group, which is to be removed.
    pub(crate) fn reaped(&mut self, pid: i32) -> Option<Group> {
        let blank = match self.waiting.iter().position(|blank| blank.pid == pid) {
            Some(place) => self.waiting.remove(place),
            None => self.spoiled.remove(&pid),
        }?;
        self.give_back(blank.slot, Leavings::default());
        Some(blank.group)
    }

    /// A place is free again: nothing of the sandbox that had it is left but, checked, its leavings.
    pub(crate) fn give_back(&mut self, slot: u32, leavings: Leavings) {
        // What will be needed to fill the stock, and no more: descriptors are scarce where ten thousand sandboxes live.
        let missing = self.size.saturating_sub(self.waiting.len());
        let kept = self.free.iter().filter(|(_, tenant)| tenant.is_some()).count();
        self.free.push((slot, leavings.tenant.filter(|_| kept < missing)));
        if self.nets.len() < missing {
            self.nets.extend(leavings.net);
        }
    }
}
