//! A process beside a container's init that tells what the container uses, for a backend that cannot look from outside: for each
//! line that it reads it writes one, a `Usage` as JSON. It ends with its input.
//!
//! It is started as root of the container and becomes the owner of what is shared with the backend, an id that no command has:
//! none of the tenant's can signal or trace it.

use crate::guest::stand_apart;
use csb_sys::{cgroup, process, seccomp::Filter};
use csb_types::Usage;
use std::io::{self, BufRead, Write};

/// Processes of ours in the container: its init, the relay, the one that waits for the next command, the bridge and this one.
const OURS: u64 = 5;

/// Runs until its input ends.
pub(crate) fn run() -> io::Result<()> {
    process::set_name(c"csb-counters");
    stand_apart()?;
    Filter::counters().install()?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        line?;
        let mut text = serde_json::to_vec(&usage()?)?;
        text.push(b'\n');
        out.write_all(&text)?;
        out.flush()?;
    }
    Ok(())
}

fn usage() -> io::Result<Usage> {
    let counters = cgroup::inside()?;
    let stat = rustix::fs::statvfs(csb_types::WORKSPACE)?;
    Ok(Usage {
        cpu_usec: counters.cpu_usec,
        memory: counters.memory,
        memory_peak: counters.memory_peak,
        pids: counters.pids.saturating_sub(OURS),
        oom_kills: counters.oom_kills,
        pids_refused: counters.pids_refused,
        disk: (stat.f_blocks - stat.f_bfree.min(stat.f_blocks)) * stat.f_frsize,
        disk_limit: stat.f_blocks * stat.f_frsize,
        inodes_free: stat.f_ffree,
    })
}
