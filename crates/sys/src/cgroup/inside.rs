//! Owns reading the counters of the control group that this process is in, as a container shows them: read-only, with or without
//! a namespace of its own.

use super::{Controller, Host, Usage, Version, files};
use std::{fs, io, path::Path};

/// Counters of the group that this process is in; 0 where the container shows none.
pub fn inside() -> io::Result<Usage> {
    let mut usage = Usage::default();
    for hierarchy in Host::detect()?.hierarchies {
        let own: &Path = &hierarchy.own;
        let text = |file: &str| fs::read_to_string(own.join(file)).unwrap_or_default();
        let number = |file: &str| text(file).trim().parse::<u64>().ok();
        let has = |controller| hierarchy.controllers.contains(&controller);
        match hierarchy.version {
            // A file is there where its controller is on for this group.
            Version::V2 => {
                usage.cpu_usec = usage.cpu_usec.max(files::keyed(&text("cpu.stat"), "usage_usec"));
                if let Some(now) = number("memory.current") {
                    usage.memory = now;
                    // Since Linux 5.19.
                    usage.memory_peak = number("memory.peak").unwrap_or(now);
                    usage.oom_kills = files::keyed(&text("memory.events"), "oom_kill");
                }
                if let Some(now) = number("pids.current") {
                    usage.pids = now;
                    usage.pids_refused = files::keyed(&text("pids.events"), "max");
                }
            }
            Version::V1 => {
                if has(Controller::Cpuacct) {
                    usage.cpu_usec = number("cpuacct.usage").unwrap_or_default() / 1000;
                }
                if has(Controller::Memory) {
                    usage.memory = number("memory.usage_in_bytes").unwrap_or_default();
                    usage.memory_peak = number("memory.max_usage_in_bytes").unwrap_or_default();
                    usage.oom_kills = files::keyed(&text("memory.oom_control"), "oom_kill");
                }
                if has(Controller::Pids) {
                    usage.pids = number("pids.current").unwrap_or_default();
                    usage.pids_refused = files::keyed(&text("pids.events"), "max");
                }
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_finds_what_its_own_group_uses() {
        // What is counted depends on the host; where memory is, this process has some.
        let usage = super::inside().unwrap();
        assert!(usage.memory_peak >= usage.memory || usage.memory_peak == 0);
    }
}
