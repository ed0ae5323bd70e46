//! What each kind is and what it cannot do: the one table from which the server decides and the API, the docs and the tests are told.

use crate::Kind;

/// What some kind of sandbox may lack. Everything else every kind can: commands, files, limits, stats, release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Freeze and thaw.
    Pause,
    /// Change limits of a living one.
    LiveLimits,
    /// Terminals.
    Pty,
    /// Go on when the server ends, and be found again by the next one.
    Adopt,
    /// Writes that go to the host's disk, so that it can hold more than its memory.
    Disk,
    /// A limit of the bytes and files that it may write, and a count of them.
    DiskLimit,
    /// A limit of its processes.
    PidsLimit,
}

impl Capability {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Pause, Self::LiveLimits, Self::Pty, Self::Adopt, Self::Disk, Self::DiskLimit, Self::PidsLimit];

    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::LiveLimits => "live_limits",
            Self::Pty => "pty",
            Self::Adopt => "adopt",
            Self::Disk => "disk",
            Self::DiskLimit => "disk_limit",
            Self::PidsLimit => "pids_limit",
        }
    }
}

/// What is said of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// What stands between a sandbox and the host, and between sandboxes; one sentence without its full stop.
    pub isolation: &'static str,
    /// What it lacks, each with the reason.
    pub cannot: &'static [(Capability, &'static str)],
}

impl Kind {
    /// The row of this kind.
    pub fn declaration(self) -> Declaration {
        let (isolation, cannot): (_, &'static [_]) = match self {
            Self::Process => (
                "all eight namespaces with user ids of its own, a control group, a copy-on-write root, an allowlist of system \
                 calls, Landlock, no capability",
                &[],
            ),
            Self::Hardened => {
                ("as `process`, with a copy of the template that shares no page cache, and fewer system calls", &[])
            }
            Self::Local => (
                "a directory of the host that file operations cannot leave; commands run as in `process` and see nothing \
                 else of the host's data",
                &[],
            ),
            Self::Vfs => (
                "as `process`, with every file and all output in memory",
                &[(Capability::Disk, "a `vfs` sandbox is in memory only; `process` has a disk")],
            ),
            Self::Docker => ("a container of a Docker Engine, with its namespaces, control group and filter", &[]),
            Self::Oci => (
                "a container of runc, crun or gVisor's runsc, without an engine, with namespaces, control group and our filter",
                &[],
            ),
            Self::K8s => (
                "a pod of a Kubernetes cluster: a container of its node's runtime, or what its runtime class says, with a network \
                 policy that lets nothing through and our filter",
                &[
                    (Capability::Pause, "Kubernetes stops no pod and lets it go on"),
                    (
                        Capability::Disk,
                        "a `k8s` sandbox's files are in its memory; what a pod writes to its node's disk is limited by its eviction alone",
                    ),
                    (
                        Capability::PidsLimit,
                        "a pod has no limit of processes of its own; the kubelet's `podPidsLimit` is one for all",
                    ),
                ],
            ),
            Self::Microvm => (
                "a virtual machine with a kernel of its own, whose VMM has a user, a control group, namespaces and a filter of \
                 its own and no network; inside, our filter and no capability",
                &[],
            ),
            Self::Remote => ("that of the server that it is forwarded to", &[]),
        };
        Declaration { isolation, cannot }
    }

    /// Why it lacks something; none where it does not.
    pub fn lacks(self, capability: Capability) -> Option<&'static str> {
        self.declaration().cannot.iter().find(|(lacking, _)| *lacking == capability).map(|(_, why)| *why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kind_lacks_has_a_reason() {
        assert!(Kind::Vfs.lacks(Capability::Disk).is_some_and(|why| why.contains("memory")));
        assert_eq!(Kind::Process.lacks(Capability::Disk), None);
        for kind in Kind::ALL {
            assert!(kind.declaration().cannot.iter().all(|(_, why)| !why.is_empty()));
            assert!(!kind.declaration().isolation.ends_with('.'));
        }
    }
}
