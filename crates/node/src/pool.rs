//! The ready pools, one for each kind that has one: how many to keep, and whom one of them fits. Pure: no clock, no I/O.

use csb_engine::Handle;
use csb_types::SandboxSpec;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// What the sandboxes of a pool are.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) spec: SandboxSpec,
    /// Wakes the task that fills it.
    pub(crate) kick: Notify,
}

/// The sandboxes of a pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) policy: Policy,
    /// Those that nobody has had, oldest first.
    pub(crate) ready: VecDeque<Handle>,
}

/// The pool whose sandboxes come nearest to what is wanted, by its place, and how near.
pub(crate) fn nearest(pools: &[Kept], wanted: &SandboxSpec) -> (usize, Fit) {
    let fits = pools.iter().enumerate().map(|(at, kept)| (at, fit(&kept.spec, wanted)));
    fits.max_by_key(|(_, fit)| *fit).unwrap_or((0, Fit::No))
}

/// How many are kept ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    min: u32,
    max: u32,
    target: u32,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Build one more.
    Build,
    /// Release one.
    Shed,
    /// Nothing.
    Rest,
}

impl Policy {
    pub(crate) fn new(min: u32, max: u32) -> Self {
        Self { min, max: max.max(min), target: min }
    }

    /// What the pool lacks or has too much of. A pool with `min` 0 is off.
    pub(crate) fn next(&self, ready: u32) -> Action {
        match ready {
            ready if ready > self.target => Action::Shed,
            ready if ready < self.target => Action::Build,
            _ => Action::Rest,
        }
    }

    /// A sandbox would have fitted and there was none: demand comes in larger bursts than the pool.
    pub(crate) fn missed(&mut self) {
        if self.min > 0 {
            self.target = (self.target + self.target.div_ceil(2)).clamp(self.min, self.max);
        }
    }

    /// Nobody wanted one for a while.
    pub(crate) fn calm(&mut self) {
        self.target = (self.target - (self.target - self.min).div_ceil(2)).max(self.min);
    }
}

/// Whether a ready sandbox of spec `ready` can become one of spec `wanted`; both name their template by its own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// No: it must be built.
    No,
    /// After its limits are changed.
    WithLimits,
    /// As it is.
    Yes,
}

/// Environment and labels are the server's business, so they never stand in the way.
pub(crate) fn fit(ready: &SandboxSpec, wanted: &SandboxSpec) -> Fit {
    let (a, b) = (&ready.limits, &wanted.limits);
    let same = ready.template == wanted.template
        && ready.kind == wanted.kind
        && ready.options == wanted.options
        && ready.net == wanted.net
        && ready.decided_upper() == wanted.decided_upper()
        // The size of a mounted file system and the rlimits of an init stay as they are.
        && (a.disk, a.inodes, a.nofile) == (b.disk, b.inodes, b.nofile)
        && wanted.volumes.is_empty()
        && wanted.hostname.is_none();
    match same {
        false => Fit::No,
        true if a == b => Fit::Yes,
        true => Fit::WithLimits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use csb_types::{Limits, Upper, Volume};

    #[test]
    fn the_pool_is_filled_to_its_minimum_and_no_further() {
        let policy = Policy::new(3, 8);
        assert_eq!([2, 3, 4].map(|ready| policy.next(ready)), [Action::Build, Action::Rest, Action::Shed]);
        assert_eq!(Policy::new(0, 8).next(0), Action::Rest);
    }

    #[test]
    fn misses_make_it_grow_up_to_its_maximum_and_calm_brings_it_back() {
        let mut policy = Policy::new(2, 7);
        let grown: Vec<u32> = (0..4)
            .map(|_| {
                policy.missed();
                policy.target
            })
            .collect();
        assert_eq!(grown, [3, 5, 7, 7]);
        let shrunk: Vec<u32> = (0..4)
            .map(|_| {
                policy.calm();
                policy.target
            })
            .collect();
        assert_eq!(shrunk, [4, 3, 2, 2]);
        let mut off = Policy::new(0, 7);
        off.missed();
        assert_eq!(off.next(0), Action::Rest);
    }

    fn check(change: impl FnOnce(&mut SandboxSpec), expected: Fit) {
        let ready = SandboxSpec { template: "host".into(), ..Default::default() };
        let mut wanted = ready.clone();
        change(&mut wanted);
        assert_eq!(fit(&ready, &wanted), expected, "{wanted:?}");
    }

    #[test]
    fn what_the_kernel_can_change_and_what_is_ours_fits() {
        check(|_| {}, Fit::Yes);
        check(|w| drop(w.env.insert("A".into(), "b".into())), Fit::Yes);
        check(|w| drop(w.metadata.insert("A".into(), "b".into())), Fit::Yes);
        check(|w| w.limits.memory *= 2, Fit::WithLimits);
        check(|w| w.limits.pids = 9, Fit::WithLimits);
        check(|w| w.upper = Upper::Memory, Fit::Yes);
    }

    #[test]
    fn what_is_fixed_when_a_sandbox_is_built_does_not() {
        check(|w| w.template = "other".into(), Fit::No);
        check(|w| w.hostname = Some("name".into()), Fit::No);
        check(|w| w.upper = Upper::Disk, Fit::No);
        check(|w| w.limits = Limits { disk: 1 << 21, ..Limits::default() }, Fit::No);
        check(|w| w.limits.nofile = 64, Fit::No);
        check(|w| w.limits.memory = 64 << 20, Fit::No); // `Auto` then means a disk.
        let volume = Volume { host: "/a".into(), below: None, guest: "/a".into(), read_only: true };
        check(|w| w.volumes.push(volume), Fit::No);
    }
}
