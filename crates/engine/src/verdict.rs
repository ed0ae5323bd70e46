//! What ended an exec: policy as pure functions over wait status, counters and what we did to it.

use csb_types::{ExecId, ExecResult, KilledBy, SandboxSpec, Upper, Usage};

/// Counters of a sandbox that only grow, as they were at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    pub(crate) oom_kills: u64,
    pub(crate) pids_refused: u64,
}

impl From<&Usage> for Counters {
    fn from(usage: &Usage) -> Self {
        Self { oom_kills: usage.oom_kills, pids_refused: usage.pids_refused }
    }
}

/// What was known when the exec was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Baseline {
    pub(crate) counters: Counters,
    /// Another exec ended since the counters were read: what grew may be its doing.
    pub(crate) stale: bool,
}

/// What we did to the exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deeds {
    /// Its deadline passed and it was told to die.
    pub(crate) timed_out: bool,
    /// It was told to die for what it wrote.
    pub(crate) overran: bool,
    /// Signals sent on request, bit `n` for signal `n`.
    pub(crate) sent: u64,
}

/// How a process ended (waitpid(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
}

impl Status {
    pub(crate) fn from_wait(status: i32) -> Self {
        let signal = status & 0x7f;
        if signal == 0 {
            Self { exit_code: (status >> 8) & 0xff, signal: None }
        } else {
            Self { exit_code: 128 + signal, signal: Some(signal) }
        }
    }

    /// The signal that ended it or, as its shell reports it, what its shell ran.
    fn fatal(self) -> Option<i32> {
        self.signal.or_else(|| (129..=192).contains(&self.exit_code).then(|| self.exit_code - 128))
    }
}

const KILL: i32 = 9;
/// Less than this free, and a write of one page or a small buffer may have failed.
const NEARLY_FULL: u64 = 64 * 1024;

/// Bytes of a full file system that its counters still show as free: ext4 keeps 2 % of the whole image (inode tables, at
/// 256 bytes each, included), at most 4096 blocks, for itself (`reserved_clusters`, ext4(5)); a tmpfs keeps none.
pub(crate) fn withheld(spec: &SandboxSpec, disk_limit: u64) -> u64 {
    match spec.decided_upper() {
        Upper::Disk => ((disk_limit + spec.limits.inodes * 256) / 50).min(4096 * 4096),
        Upper::Memory | Upper::Auto => 0,
    }
}

/// Whether the sandbox's counters are needed to name the cause. A successful exec costs no question to the warden.
pub(crate) fn needs_usage(status: Status, deeds: Deeds) -> bool {
    status.exit_code != 0 && by_us(status, deeds).is_none()
}

fn by_us(status: Status, deeds: Deeds) -> Option<KilledBy> {
    // A shell whose command died of it first says so in its exit code.
    if deeds.timed_out && (status.signal.is_some() || status.fatal() == Some(KILL)) {
        return Some(KilledBy::Timeout);
    }
    if deeds.overran && status.fatal() == Some(KILL) {
        return Some(KilledBy::Disk);
    }
    let sent = status.fatal().is_some_and(|signal| deeds.sent & (1 << signal.clamp(0, 63)) != 0);
    sent.then_some(KilledBy::Signal)
}

/// What ended an exec, when not itself.
pub(crate) fn killed_by(
    status: Status,
    deeds: Deeds,
    baseline: Baseline,
    now: Option<&Usage>,
    spec: &SandboxSpec,
) -> Option<KilledBy> {
    if let Some(cause) = by_us(status, deeds) {
        return Some(cause);
    }
    let now = now.filter(|_| status.exit_code != 0)?;
    let oom = now.oom_kills > baseline.counters.oom_kills;
    if oom && (!baseline.stale || status.fatal() == Some(KILL)) {
        return Some(KilledBy::Oom);
    }
    if now.pids_refused > baseline.counters.pids_refused {
        return Some(KilledBy::Pids);
    }
    let free = now.disk_limit.saturating_sub(now.disk);
    let full = now.disk_limit > 0 && (free < NEARLY_FULL + withheld(spec, now.disk_limit) || now.inodes_free == 0);
    full.then_some(KilledBy::Disk)
}

/// The result of an exec whose first process ended by itself or by us.
pub(crate) fn result(
    id: ExecId,
    status: Status,
    duration_usec: u64,
    truncated: bool,
    killed_by: Option<KilledBy>,
) -> ExecResult {
    ExecResult {
        id,
        exit_code: status.exit_code,
        signal: status.signal,
        duration_ms: duration_usec as f64 / 1000.0,
        truncated,
        killed_by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Usage = Usage {
        cpu_usec: 0,
        memory: 0,
        memory_peak: 0,
        pids: 2,
        oom_kills: 3,
        pids_refused: 5,
        disk: 0,
        disk_limit: 1 << 20,
        inodes_free: 10,
    };

    fn spec(upper: Upper) -> SandboxSpec {
        SandboxSpec { upper, ..SandboxSpec::default() }
    }

    fn check(wait: i32, deeds: Deeds, stale: bool, now: Usage, expected: Option<KilledBy>) {
        let baseline = Baseline { counters: (&FINE).into(), stale };
        let cause = killed_by(Status::from_wait(wait), deeds, baseline, Some(&now), &spec(Upper::Memory));
        assert_eq!(cause, expected, "{wait:#x} {deeds:?}");
    }

    #[test]
    fn statuses_are_read_as_shells_report_them() {
        assert_eq!(Status::from_wait(0x0300), Status { exit_code: 3, signal: None });
        assert_eq!(Status::from_wait(9), Status { exit_code: 137, signal: Some(9) });
        // A core dump sets bit 7.
        assert_eq!(Status::from_wait(0x8b), Status { exit_code: 139, signal: Some(11) });
    }

    #[test]
    fn success_and_plain_failure_have_no_other_cause() {
        let none = Deeds::default();
        check(0, none, false, Usage { oom_kills: 9, pids_refused: 9, ..FINE }, None);
        check(0x0100, none, false, FINE, None);
        check(9, none, false, FINE, None);
    }

    #[test]
    fn each_limit_is_named() {
        let none = Deeds::default();
        check(9, none, false, Usage { oom_kills: 4, ..FINE }, Some(KilledBy::Oom));
        check(0x8900, none, true, Usage { oom_kills: 4, ..FINE }, Some(KilledBy::Oom));
        check(0x0100, none, false, Usage { oom_kills: 4, ..FINE }, Some(KilledBy::Oom));
        check(0x0200, none, false, Usage { pids_refused: 6, ..FINE }, Some(KilledBy::Pids));
        check(0x0100, none, false, Usage { disk: (1 << 20) - 4096, ..FINE }, Some(KilledBy::Disk));
        check(0x0100, none, false, Usage { inodes_free: 0, ..FINE }, Some(KilledBy::Disk));
    }

    #[test]
    fn what_ext4_keeps_for_itself_is_not_free() {
        let now = Usage { disk: 990 << 20, disk_limit: 1000 << 20, ..FINE };
        let baseline = Baseline { counters: (&FINE).into(), stale: false };
        let cause = |upper| killed_by(Status::from_wait(0x0100), Deeds::default(), baseline, Some(&now), &spec(upper));
        assert_eq!((cause(Upper::Disk), cause(Upper::Memory)), (Some(KilledBy::Disk), None));
    }

    #[test]
    fn what_an_earlier_exec_did_is_not_blamed_on_a_plain_failure() {
        check(0x0100, Deeds::default(), true, Usage { oom_kills: 4, ..FINE }, None);
    }

    #[test]
    fn our_own_deeds_come_first() {
        let timed_out = Deeds { timed_out: true, ..Deeds::default() };
        check(9, timed_out, false, Usage { oom_kills: 4, ..FINE }, Some(KilledBy::Timeout));
        check(0x8900, timed_out, false, FINE, Some(KilledBy::Timeout));
        check(0, timed_out, false, FINE, None);
        check(0x0100, timed_out, false, FINE, None);
        let overran = Deeds { overran: true, ..Deeds::default() };
        check(9, overran, false, FINE, Some(KilledBy::Disk));
        check(0, overran, false, FINE, None);
        let term = Deeds { sent: 1 << 15, ..Deeds::default() };
        check(15, term, false, FINE, Some(KilledBy::Signal));
        check(0x8f00, term, false, FINE, Some(KilledBy::Signal));
        check(0x0100, term, false, FINE, None);
        assert!(!needs_usage(Status::from_wait(9), timed_out));
        assert!(!needs_usage(Status::from_wait(0), Deeds::default()));
        assert!(needs_usage(Status::from_wait(9), Deeds::default()));
    }
}
