//! Whether the host's processors have more to do than they can.

use std::fs;

/// Whether more processes can run than there are processors, the caller not counted. False where the kernel does not say.
pub fn is_crowded() -> bool {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    fs::read_to_string("/proc/loadavg").ok().and_then(|text| runnable(&text)).is_some_and(|all| all > processors + 1)
}

/// The first of the numbers `3/240` of `/proc/loadavg` (proc_loadavg(5)): processes that run or could.
fn runnable(loadavg: &str) -> Option<usize> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::runnable;

    #[test]
    fn the_number_of_processes_that_run_is_read() {
        assert_eq!(runnable("0.20 0.18 0.12 13/8000 11206\n"), Some(13));
        assert_eq!((runnable("0.20 0.18 0.12"), runnable("")), (None, None));
    }
}
