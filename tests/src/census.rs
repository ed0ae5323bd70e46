//! What exists on the host on behalf of a warden, counted before and after.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Everything that could be left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Children of the warden.
    pub processes: Vec<i32>,
    /// Descriptors the warden has open.
    pub descriptors: usize,
    /// Mounts of its data directory in the warden's mount namespace, which others mount in as they like.
    pub mounts: usize,
    /// Network and mount namespaces that processes of this host are in.
    pub namespaces: BTreeSet<PathBuf>,
    /// Control groups below the warden's own.
    pub groups: Vec<PathBuf>,
    /// Loop devices in use.
    pub loops: usize,
    /// Files and directories below the data directory.
    pub files: Vec<PathBuf>,
}

impl Census {
    /// Counts for the warden `pid`.
    pub fn of(pid: i32, data_dir: &Path) -> Self {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let children = fs::read_to_string(proc.join(format!("task/{pid}/children"))).unwrap_or_default();
        let processes: Vec<i32> = children.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        let namespaces = processes
            .iter()
            .flat_map(|p| ["net", "mnt"].map(|kind| PathBuf::from(format!("/proc/{p}/ns/{kind}"))))
            .filter_map(|path| fs::read_link(path).ok())
            .collect();
        Self {
            processes,
            descriptors: fs::read_dir(proc.join("fd")).map_or(0, Iterator::count),
            mounts: fs::read_to_string(proc.join("mountinfo"))
                .unwrap_or_default()
                .lines()
                .filter(|line| line.contains(&*data_dir.to_string_lossy()))
                .count(),
            namespaces,
            groups: groups_of(pid),
            loops: loops_of(data_dir),
            files: below(data_dir),
        }
    }
}

/// Directories of control groups of a forked warden, in every hierarchy.
pub fn groups_of(pid: i32) -> Vec<PathBuf> {
    let name = format!("csb-run-{pid}");
    let mut found = Vec::new();
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = roots.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if directory.components().any(|c| c.as_os_str() == name.as_str()) || entry.file_name() == name.as_str() {
                found.push(entry.path());
            }
            roots.push(entry.path());
        }
    }
    found.sort();
    found
}

fn loops_of(data_dir: &Path) -> usize {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backed = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    backed.filter(|file| file.starts_with(&*data_dir.to_string_lossy())).count()
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}
