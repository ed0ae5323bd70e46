//! What a sandbox may use.

use serde::{Deserialize, Serialize};

/// Limits of one sandbox, all processes and files together. Each is enforced by the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of memory, page cache and in-memory files included. Swap is not allowed.
    pub memory: u64,
    /// Thousandths of a CPU (CFS quota).
    pub cpu_milli: u32,
    /// Processes and threads at once, the sandbox's own init included.
    pub pids: u32,
    /// Bytes the sandbox may write to its root, `/workspace` and `/tmp` together.
    pub disk: u64,
    /// Files and directories the sandbox may create.
    pub inodes: u64,
    /// Open descriptors of one process (`RLIMIT_NOFILE`).
    pub nofile: u32,
    /// Share of a busy CPU beside other sandboxes; none: 100.
    pub cpu_weight: Option<u32>,
    /// How fast its disk may be used. Only where its writes go to disk.
    pub io: IoLimits,
}

/// How fast a disk may be used; none: as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IoLimits {
    /// Bytes read a second.
    pub read_bps: Option<u64>,
    /// Bytes written a second.
    pub write_bps: Option<u64>,
    /// Reads a second.
    pub read_iops: Option<u64>,
    /// Writes a second.
    pub write_iops: Option<u64>,
}

impl IoLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            cpu_milli: 1000,
            pids: 512,
            disk: 256 << 20,
            inodes: 200_000,
            nofile: 1024,
            cpu_weight: None,
            io: IoLimits::default(),
        }
    }
}

/// A limit outside what can be enforced.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("{limit} = {given} is impossible: it must be between {least} and {most}")]
pub struct LimitError {
    /// Field name as in the API.
    pub limit: &'static str,
    /// What was asked for.
    pub given: u64,
    /// Smallest value accepted.
    pub least: u64,
    /// Largest value accepted.
    pub most: u64,
}

impl Limits {
    /// Refuses values under which nothing could start, and absurd ones.
    pub fn check(&self) -> Result<(), LimitError> {
        let rules: [(&'static str, u64, u64, u64); 6] = [
            ("memory", self.memory, 8 << 20, 1 << 44),
            ("cpu_milli", self.cpu_milli.into(), 10, 1_024_000),
            ("pids", self.pids.into(), 4, 4_194_304),
            ("disk", self.disk, 1 << 20, 1 << 44),
            ("inodes", self.inodes, 64, 1 << 32),
            ("nofile", self.nofile.into(), 16, 1_048_576),
        ];
        let io = &self.io;
        let asked = [
            ("cpu_weight", self.cpu_weight.map(u64::from), 1, 10_000),
            // Less than a block or an inode now and then would look like a sandbox that hangs.
            ("io.read_bps", io.read_bps, 64 << 10, 1 << 40),
            ("io.write_bps", io.write_bps, 64 << 10, 1 << 40),
            ("io.read_iops", io.read_iops, 10, 1 << 30),
            ("io.write_iops", io.write_iops, 10, 1 << 30),
        ];
        let asked = asked.into_iter().filter_map(|(limit, given, least, most)| Some((limit, given?, least, most)));
        for (limit, given, least, most) in rules.into_iter().chain(asked) {
            if !(least..=most).contains(&given) {
                return Err(LimitError { limit, given, least, most });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_possible_and_zero_is_not() {
        assert_eq!(Limits::default().check(), Ok(()));
        let error = Limits { memory: 0, ..Limits::default() }.check().unwrap_err();
        assert_eq!((error.limit, error.given), ("memory", 0));
        assert!(Limits { pids: 1, ..Limits::default() }.check().is_err());
        assert!(Limits { cpu_milli: 0, ..Limits::default() }.check().is_err());
        assert!(Limits { cpu_weight: Some(0), ..Limits::default() }.check().is_err());
        let io = IoLimits { write_bps: Some(1), ..IoLimits::default() };
        assert_eq!(Limits { io, ..Limits::default() }.check().unwrap_err().limit, "io.write_bps");
    }
}
