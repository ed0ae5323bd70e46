//! The processor's own counter of time.

#[cfg(target_arch = "x86_64")]
use std::time::{Duration, Instant};

/// Long enough for an error of some millionths.
#[cfg(target_arch = "x86_64")]
const WHILE: Duration = Duration::from_millis(30);

/// Ticks in a millisecond of the time stamp counter (`rdtsc`); none where there is none. Takes as long as it measures.
#[cfg(target_arch = "x86_64")]
pub fn tsc_khz() -> Option<u64> {
    // SAFETY: every x86_64 processor has the instruction; it touches no memory.
    let now = || (Instant::now(), unsafe { std::arch::x86_64::_rdtsc() });
    let (from, first) = now();
    std::thread::sleep(WHILE);
    let (to, last) = now();
    let nanos = u64::try_from((to - from).as_nanos()).ok()?;
    last.checked_sub(first)?.checked_mul(1_000_000)?.checked_div(nanos).filter(|khz| *khz > 0)
}

/// As on x86_64, where there is such a counter.
#[cfg(not(target_arch = "x86_64"))]
pub fn tsc_khz() -> Option<u64> {
    None
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (a, b) = (tsc_khz().unwrap(), tsc_khz().unwrap());
        assert!(a.abs_diff(b) < a / 100, "{a} {b}");
    }
}
