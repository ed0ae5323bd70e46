//! Memory of the host: how much is left, and what the node gives up when that is little. First what waits to be used, then new
//! sandboxes are refused; those that are there go on.

use crate::{CreateError, local, node::Inner};
use csb_types::format_bytes;
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

const LOOK: Duration = Duration::from_millis(500);
/// With more than so many reserves available, whoever waits for memory waits for a limit of its own.
const SCARCE: u64 = 16;
/// Hundredths of a percent; none where the kernel does not tell.
const UNKNOWN: u64 = u64::MAX;

/// When memory counts as short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PressureConfig {
    /// Bytes that are to stay available (`MemAvailable`, proc_meminfo(5)): with less no sandbox is made, with less than twice as
    /// much none is kept ready. 0: no matter how many.
    pub reserve: u64,
    /// Percent of the last ten seconds that all programs waited for memory (`full avg10`, Documentation/accounting/psi.rst) from
    /// which no sandbox is made; from half as much none is kept ready. It counts while less than 16 times `reserve` is available.
    /// 0: no matter how long.
    pub stalled: u32,
}

impl Default for PressureConfig {
    fn default() -> Self {
        Self { reserve: 256 << 20, stalled: 40 }
    }
}

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// Not at all.
    #[default]
    None,
    /// Nothing is kept ready.
    Shedding,
    /// Nothing new is made.
    Refusing,
}

/// Memory of the host now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryStats {
    /// Bytes available.
    pub available: u64,
    /// Hundredths of a percent of the last ten seconds that all programs waited for memory; none where the kernel does not tell.
    pub stalled: Option<u64>,
    /// How short it is.
    pub pressure: Pressure,
    /// Sandboxes, or their waking, refused for it so far.
    pub refused: u64,
}

/// What was seen last.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) config: PressureConfig,
    available: AtomicU64,
    stalled: AtomicU64,
    level: AtomicU64,
    refused: AtomicU64,
}

/// How short memory is. It must be clearly less short than what led to a level before that is left. Pure.
fn level(config: PressureConfig, available: u64, stalled: Option<u64>, before: Pressure) -> Pressure {
    let over = |pressure: Pressure, factor: u64| {
        // A quarter more is asked for on the way back.
        let back = u64::from(before >= pressure);
        let least = config.reserve * factor * (4 + back) / 4;
        let most = u64::from(config.stalled) * 100 / factor * (4 - back) / 4;
        // Also a sandbox that is at its own limit waits for memory, and shall keep nobody else out.
        let scarce = available < config.reserve.saturating_mul(SCARCE);
        available < least || (scarce && config.stalled > 0 && stalled.is_some_and(|stalled| stalled >= most))
    };
    match (over(Pressure::Refusing, 1), over(Pressure::Shedding, 2)) {
        (true, _) => Pressure::Refusing,
        (false, true) => Pressure::Shedding,
        (false, false) => Pressure::None,
    }
}

/// `MemAvailable` of `/proc/meminfo`, bytes. Pure.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// `full avg10` of `/proc/pressure/memory`, hundredths of a percent. Pure.
fn stalled(pressure: &str) -> Option<u64> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("full "))?;
    let text = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    text.parse::<f64>().ok().map(|percent| (percent * 100.0) as u64)
}

impl Watch {
    pub(crate) fn new(config: PressureConfig) -> Self {
        let watch = Self {
            config,
            available: AtomicU64::new(0),
            stalled: AtomicU64::new(UNKNOWN),
            level: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        watch.look();
        watch
    }

    /// Looks; the level and the one before.
    fn look(&self) -> (Pressure, Pressure) {
        let before = self.level();
        // Unreadable, nothing is known to be short.
        let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text)).unwrap_or(u64::MAX);
        let stalled = fs::read_to_string("/proc/pressure/memory").ok().and_then(|text| stalled(&text));
        let now = level(self.config, available, stalled, before);
        self.available.store(available, Ordering::Relaxed);
        self.stalled.store(stalled.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.level.store(now as u64, Ordering::Relaxed);
        (now, before)
    }

    pub(crate) fn level(&self) -> Pressure {
        match self.level.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Shedding,
            _ => Pressure::Refusing,
        }
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        let stalled = self.stalled.load(Ordering::Relaxed);
        MemoryStats {
            available: self.available.load(Ordering::Relaxed),
            stalled: (stalled != UNKNOWN).then_some(stalled),
            pressure: self.level(),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Refuses what would need more memory.
    pub(crate) fn admit(&self) -> Result<(), CreateError> {
        if self.level() != Pressure::Refusing {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let stats = self.stats();
        let (left, kept) = (format_bytes(stats.available), format_bytes(self.config.reserve));
        let stalled = stats.stalled.unwrap_or_default() as f64 / 100.0;
        Err(CreateError::Capacity {
            limit: format!(
                "memory of the host ({left} available, {kept} are kept free; programs wait {stalled} % of the time)"
            ),
            hint: "release sandboxes, or wait until others do".into(),
        })
    }
}

/// Watches until the node ends.
pub(crate) async fn watch(inner: Arc<Inner>) {
    loop {
        sleep(LOOK).await;
        let (now, before) = inner.memory_watch.look();
        if now != before {
            let stats = inner.memory_watch.stats();
            tracing::warn!(?before, ?now, available = stats.available, stalled = ?stats.stalled, "memory of the host");
            inner.kick_pools();
        }
        if now != Pressure::None
            && let Some(locals) = &inner.locals
        {
            local::rest_now(&inner, locals).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PressureConfig = PressureConfig { reserve: 100, stalled: 40 };

    fn check(available: u64, stalled: Option<u64>, before: Pressure, expected: Pressure) {
        assert_eq!(level(CONFIG, available, stalled, before), expected, "{available} {stalled:?} {before:?}");
    }

    #[test]
    fn first_nothing_is_kept_ready_then_nothing_is_made() {
        use Pressure::{None as Calm, Refusing, Shedding};
        check(200, None, Calm, Calm);
        check(199, None, Calm, Shedding);
        check(100, None, Shedding, Shedding);
        check(99, None, Shedding, Refusing);
        check(1000, Some(1999), Calm, Calm);
        check(1000, Some(2000), Calm, Shedding);
        check(1000, Some(4000), Calm, Refusing);
        // A sandbox at its own limit, on a host that has plenty.
        check(1600, Some(10_000), Calm, Calm);
        check(1599, Some(10_000), Calm, Refusing);
    }

    #[test]
    fn the_way_back_begins_when_it_is_clearly_better() {
        use Pressure::{None as Calm, Refusing, Shedding};
        check(124, None, Refusing, Refusing);
        check(125, None, Refusing, Shedding);
        check(249, None, Refusing, Shedding);
        check(249, None, Shedding, Shedding);
        check(250, None, Refusing, Calm);
        check(1000, Some(3000), Refusing, Refusing);
        check(1000, Some(2999), Refusing, Shedding);
        check(1000, Some(1499), Shedding, Calm);
    }

    #[test]
    fn what_is_turned_off_is_never_short() {
        let off = PressureConfig { reserve: 0, stalled: 0 };
        assert_eq!(level(off, 0, Some(10_000), Pressure::None), Pressure::None);
    }

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(available("MemTotal:  10 kB\nMemAvailable:      2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 10 kB\n"), None);
        let text = "some avg10=1.00 avg60=0.10 avg300=1.16 total=3\nfull avg10=12.34 avg60=0.04 avg300=0.58 total=1\n";
        assert_eq!(stalled(text), Some(1234));
        assert_eq!(stalled("some avg10=1.00\n"), None);
    }
}
