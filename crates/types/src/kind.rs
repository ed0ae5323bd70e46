//! How sandboxes are isolated, and the options that each way has.

use crate::SpecError;
use serde::{Deserialize, Serialize};

/// How a sandbox is isolated. One request shape serves every kind; a kind that this build lacks is refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// All namespaces, cgroup, overlay, seccomp allowlist, Landlock, a user namespace with its own ids.
    #[default]
    Process,
    /// A class of `Process` for code that is taken to be hostile to the kernel: a copy of the template's files that nothing else
    /// has in its page cache, and a shorter allowlist of system calls. Needs root.
    Hardened,
    /// A directory of the host; commands get a `Process` for as long as they run, and nothing else runs meanwhile.
    Local,
    /// `Process` with every file, and every byte of output, in memory.
    Vfs,
    /// A container of a Docker Engine on this host.
    Docker,
    /// A container of an OCI runtime: runc, crun, gVisor's runsc.
    Oci,
    /// A virtual machine with a kernel of its own.
    Microvm,
    /// A pod of a Kubernetes cluster.
    K8s,
    /// A sandbox of another server.
    Remote,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Process,
        Self::Hardened,
        Self::Local,
        Self::Vfs,
        Self::Docker,
        Self::Oci,
        Self::Microvm,
        Self::K8s,
        Self::Remote,
    ];

    /// As the API and the command line spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Hardened => "hardened",
            Self::Local => "local",
            Self::Vfs => "vfs",
            Self::Docker => "docker",
            Self::Oci => "oci",
            Self::Microvm => "microvm",
            Self::K8s => "k8s",
            Self::Remote => "remote",
        }
    }
}

/// Options of a kind; each belongs to the kinds that [`KindOptions::check`] names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KindOptions {
    /// `local`: the directory, below the server's directory of workspaces. `docker`, `oci`, `k8s`: where commands start
    /// inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<String>,
    /// `local`: always so; `false` is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce_boundary: Option<bool>,
    /// `local`: further directories that are shown, read-only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_paths: Vec<String>,
    /// `vfs`: always so; `false` is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_only: Option<bool>,
    /// `docker`: an image that the engine has, or may pull. `k8s`: one that its nodes get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// `docker`: the container's network; default `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<String>,
    /// `oci`: `runc`, `crun` or `runsc`; default: the first that is there. `hardened`: `runsc`, gVisor's kernel besides; default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// `k8s`: the pod's namespace, of those that the server allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `k8s`: which runtime class, of those that the server allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_class: Option<String>,
    /// `k8s`: JSON of fields that the pod shall have besides, of those that the server allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<String>,
    /// `k8s`: bytes of memory that a node keeps for it; default: its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_memory: Option<u64>,
    /// `k8s`: thousandths of a CPU that a node keeps for it; default: its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_cpu_milli: Option<u32>,
    /// `remote`: base addresses of servers, tried in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
}

/// gVisor's runtime.
const GVISOR: &str = "runsc";

/// Each option as the API spells it, and whose it is.
const OPTIONS: [(&str, &[Kind]); 12] = [
    ("workDir", &[Kind::Local, Kind::Docker, Kind::Oci, Kind::K8s]),
    ("enforceBoundary", &[Kind::Local]),
    ("allowPaths", &[Kind::Local]),
    ("memoryOnly", &[Kind::Vfs]),
    ("image", &[Kind::Docker, Kind::K8s]),
    ("networkMode", &[Kind::Docker]),
    ("runtime", &[Kind::Oci, Kind::Hardened]),
    ("namespace", &[Kind::K8s]),
    ("runtimeClassName", &[Kind::K8s]),
    ("podTemplate", &[Kind::K8s]),
    ("resources", &[Kind::K8s]),
    ("endpoint", &[Kind::Remote]),
];

impl Kind {
    /// Its options, as the API spells them.
    pub fn options(self) -> impl Iterator<Item = &'static str> {
        OPTIONS.into_iter().filter(move |(_, kinds)| kinds.contains(&self)).map(|(option, _)| option)
    }
}

impl KindOptions {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what this kind does not have, by name.
    pub fn check(&self, kind: Kind) -> Result<(), SpecError> {
        // In the order of the table.
        let given = [
            self.work_dir.is_some(),
            self.enforce_boundary.is_some(),
            !self.allow_paths.is_empty(),
            self.memory_only.is_some(),
            self.image.is_some(),
            self.network_mode.is_some(),
            self.runtime.is_some(),
            self.namespace.is_some(),
            self.runtime_class.is_some(),
            self.pod_template.is_some(),
            self.request_memory.is_some() || self.request_cpu_milli.is_some(),
            !self.endpoints.is_empty(),
        ];
        let foreign = OPTIONS.iter().zip(given).find(|((_, kinds), given)| *given && !kinds.contains(&kind));
        if let Some(((option, _), _)) = foreign {
            return Err(SpecError::Option { option, kind: kind.name() });
        }
        if self.enforce_boundary == Some(false) {
            return Err(SpecError::Weaker {
                what: "the boundary of a `local` sandbox is always enforced; `allowPaths` widens it",
            });
        }
        if self.memory_only == Some(false) {
            return Err(SpecError::Weaker { what: "a `vfs` sandbox is always in memory only; `process` has a disk" });
        }
        if kind == Kind::Hardened && self.runtime.as_deref().is_some_and(|runtime| runtime != GVISOR) {
            return Err(SpecError::Weaker {
                what: "the runtime of a `hardened` sandbox is `runsc` or none; `oci` has `runc` and `crun`",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_another_kind_is_refused_by_name() {
        let docker = KindOptions { image: Some("a".into()), work_dir: Some("/app".into()), ..Default::default() };
        assert_eq!(docker.check(Kind::Docker), Ok(()));
        assert_eq!(docker.check(Kind::Process), Err(SpecError::Option { option: "workDir", kind: "process" }));
        assert_eq!(docker.check(Kind::Oci), Err(SpecError::Option { option: "image", kind: "oci" }));
        assert_eq!(KindOptions::default().check(Kind::Remote), Ok(()));
        let weaker = KindOptions { runtime: Some("runc".into()), ..Default::default() };
        assert!(matches!(weaker.check(Kind::Hardened), Err(SpecError::Weaker { .. })));
        assert_eq!(weaker.check(Kind::Oci), Ok(()));
        let open = KindOptions { enforce_boundary: Some(false), ..Default::default() };
        assert!(matches!(open.check(Kind::Local), Err(SpecError::Weaker { .. })));
    }
}
