//! Sandboxes: what is asked, and how they look.

use crate::{Bytes, Cpus, ErrorCode, Invalid, Seconds};
use csb_types::{
    Capability, IoLimits, Kind, KindOptions, Limits, Net, Phase, SandboxSpec, SpecError, StartedBy, Upper, Usage,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Every kind of isolation the API has a name for. What this build lacks is answered with `unsupported`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum KindName {
    #[default]
    Process,
    Local,
    Hardened,
    Microvm,
    Docker,
    K8s,
    Oci,
    Vfs,
    Remote,
}

impl From<Kind> for KindName {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Process => Self::Process,
            Kind::Hardened => Self::Hardened,
            Kind::Local => Self::Local,
            Kind::Vfs => Self::Vfs,
            Kind::Docker => Self::Docker,
            Kind::Oci => Self::Oci,
            Kind::Microvm => Self::Microvm,
            Kind::K8s => Self::K8s,
            Kind::Remote => Self::Remote,
        }
    }
}

impl KindName {
    /// The engine's name; none where this build has no such kind.
    pub fn known(self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| Self::from(*kind) == self)
    }
}

/// What a sandbox can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkName {
    /// Only its own loopback.
    #[default]
    None,
    /// Named destinations.
    Allowlist,
    /// Everything.
    Full,
}

/// Where a sandbox's writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageName {
    /// Memory; counts as the sandbox's memory.
    Memory,
    /// A file system image on the host's disk.
    Disk,
}

/// How a sandbox is isolated, and what its kind alone has. An option of another kind is refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxKindRequest {
    /// Kind; default: the server's, `process` where it has no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindName>,
    /// `local`: the directory, below the server's directory of workspaces. `docker`, `oci`, `k8s`: where commands start.
    #[serde(default, rename = "workDir", alias = "work_dir", skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<String>,
    /// `local`: always true.
    #[serde(default, rename = "enforceBoundary", alias = "enforce_boundary", skip_serializing_if = "Option::is_none")]
    pub enforce_boundary: Option<bool>,
    /// `local`: further directories, read-only.
    #[serde(default, rename = "allowPaths", alias = "allow_paths", skip_serializing_if = "Vec::is_empty")]
    pub allow_paths: Vec<String>,
    /// `vfs`: always true.
    #[serde(default, rename = "memoryOnly", alias = "memory_only", skip_serializing_if = "Option::is_none")]
    pub memory_only: Option<bool>,
    /// `docker`, `k8s`: an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// `docker`: the container's network; default `none`.
    #[serde(default, rename = "networkMode", alias = "network_mode", skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<String>,
    /// `oci`: `runc`, `crun` or `runsc`. `hardened`: `runsc`, gVisor's kernel besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// `remote`: base address of a server, or several, tried in this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoints>,
    /// As `resources.memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// As `resources.cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpus>,
    /// `k8s`: the pod's namespace, of those that the server allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `k8s`: a runtime class, of those that the server allows.
    #[serde(
        default,
        rename = "runtimeClassName",
        alias = "runtime_class_name",
        skip_serializing_if = "Option::is_none"
    )]
    pub runtime_class_name: Option<String>,
    /// `k8s`: fields that the pod shall have besides (`metadata`, `spec`), of those that the server allows.
    #[serde(default, rename = "podTemplate", alias = "pod_template", skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<serde_json::Value>,
    /// `k8s`: `limits` and `requests`, each with `memory` and `cpu`. `limits` are as `resources.memory` and `resources.cpu`,
    /// which are stronger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<serde_json::Value>,
}

/// Where other servers are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Endpoints {
    /// One.
    One(String),
    /// Several, the first that answers is taken.
    Many(Vec<String>),
}

impl SandboxKindRequest {
    /// The kind and its options for the engine; `usual` is taken where none is named.
    pub fn to_kind(&self, usual: Kind) -> Result<(Kind, KindOptions), Invalid> {
        let kind = match self.kind.map(|name| (name, name.known())) {
            None => usual,
            Some((_, Some(kind))) => kind,
            Some((name, None)) => {
                let name = format!("{name:?}").to_lowercase();
                let has = Kind::ALL.map(|kind| format!("`{}`", kind.name())).join(", ");
                let message = format!("sandbox kind `{name}` is not in this build; it has {has}");
                return Err(Invalid { code: ErrorCode::Unsupported, message });
            }
        };
        // Refused before it is read: it may be anything.
        if self.resources.is_some() && kind != Kind::K8s {
            return Err(SpecError::Option { option: "resources", kind: kind.name() }.into());
        }
        let requests = self.pod_resources()?.requests;
        let endpoints = match self.endpoint.clone() {
            None => vec![],
            Some(Endpoints::One(one)) => vec![one],
            Some(Endpoints::Many(many)) => many,
        };
        let options = KindOptions {
            work_dir: self.work_dir.clone(),
            enforce_boundary: self.enforce_boundary,
            allow_paths: self.allow_paths.clone(),
            memory_only: self.memory_only,
            image: self.image.clone(),
            network_mode: self.network_mode.clone(),
            runtime: self.runtime.clone(),
            namespace: self.namespace.clone(),
            runtime_class: self.runtime_class_name.clone(),
            pod_template: self.pod_template.as_ref().map(serde_json::Value::to_string),
            request_memory: requests.memory.map(|bytes| bytes.0),
            request_cpu_milli: requests.cpu.map(|cpus| cpus.milli),
            endpoints,
        };
        Ok((kind, options))
    }

    /// `resources` of a pod.
    fn pod_resources(&self) -> Result<PodResources, Invalid> {
        let Some(given) = &self.resources else { return Ok(PodResources::default()) };
        PodResources::deserialize(given).map_err(|error| Invalid::new(format!("sandbox.resources: {error}")))
    }
}

/// `resources` of a pod's container.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PodResources {
    limits: PodAmounts,
    requests: PodAmounts,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PodAmounts {
    memory: Option<Bytes>,
    cpu: Option<Cpus>,
}

/// Limits; what is absent keeps its default (in PATCH: its value).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesRequest {
    /// CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpus>,
    /// Memory, in-memory files included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Bytes the sandbox may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// Processes and threads at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Files and directories it may create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// Open descriptors of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u32>,
    /// Share of a busy CPU beside other sandboxes, 1 to 10000; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// How fast its disk may be used; only with `storage` `disk`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::object")]
    pub io: Option<IoRequest>,
}

/// How fast a disk may be used; 0 is no limit, and what is absent keeps its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IoRequest {
    /// Bytes read a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bps: Option<Bytes>,
    /// Bytes written a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bps: Option<Bytes>,
    /// Reads a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u64>,
    /// Writes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u64>,
}

impl IoRequest {
    fn over(self, base: IoLimits) -> IoLimits {
        let put = |given: Option<u64>, base| given.map_or(base, |given| Some(given).filter(|given| *given > 0));
        IoLimits {
            read_bps: put(self.read_bps.map(|b| b.0), base.read_bps),
            write_bps: put(self.write_bps.map(|b| b.0), base.write_bps),
            read_iops: put(self.read_iops, base.read_iops),
            write_iops: put(self.write_iops, base.write_iops),
        }
    }
}

impl ResourcesRequest {
    /// Whether it says how much may be written.
    pub fn limits_disk(&self) -> bool {
        self.disk.is_some() || self.inodes.is_some()
    }

    /// `base` with what is given put over it, checked.
    pub fn over(&self, base: &Limits) -> Result<Limits, Invalid> {
        let limits = Limits {
            memory: self.memory.map_or(base.memory, |b| b.0),
            cpu_milli: self.cpu.map_or(base.cpu_milli, |c| c.milli),
            pids: self.pids.unwrap_or(base.pids),
            disk: self.disk.map_or(base.disk, |b| b.0),
            inodes: self.inodes.unwrap_or(base.inodes),
            nofile: self.nofile.unwrap_or(base.nofile),
            cpu_weight: self.cpu_weight.or(base.cpu_weight),
            io: self.io.unwrap_or_default().over(base.io),
        };
        limits.check().map_err(|e| Invalid::new(format!("resources: {e}")))?;
        Ok(limits)
    }
}

/// Limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResourcesView {
    /// CPUs.
    pub cpu: f64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of disk.
    pub disk: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Files and directories.
    pub inodes: u64,
    /// Open descriptors of one process.
    pub nofile: u32,
    /// Share of a busy CPU beside other sandboxes.
    #[serde(default = "usual_weight")]
    pub cpu_weight: u32,
    /// How fast its disk may be used.
    #[serde(default)]
    pub io: IoView,
}

/// How fast a disk may be used; null is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct IoView {
    /// Bytes read a second.
    pub read_bps: Option<u64>,
    /// Bytes written a second.
    pub write_bps: Option<u64>,
    /// Reads a second.
    pub read_iops: Option<u64>,
    /// Writes a second.
    pub write_iops: Option<u64>,
}

/// The kernel's own.
fn usual_weight() -> u32 {
    100
}

impl From<&Limits> for ResourcesView {
    fn from(l: &Limits) -> Self {
        Self {
            cpu: f64::from(l.cpu_milli) / 1000.0,
            memory: l.memory,
            disk: l.disk,
            pids: l.pids,
            inodes: l.inodes,
            nofile: l.nofile,
            cpu_weight: l.cpu_weight.unwrap_or_else(usual_weight),
            io: IoView {
                read_bps: l.io.read_bps,
                write_bps: l.io.write_bps,
                read_iops: l.io.read_iops,
                write_iops: l.io.write_iops,
            },
        }
    }
}

/// Asks for a sandbox. Every field is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxRequest {
    /// Template or alias; default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Kind of isolation.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::object")]
    pub sandbox: Option<SandboxKindRequest>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::object")]
    pub resources: Option<ResourcesRequest>,
    /// Network; default `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// Storage; default `memory` where `resources.disk` fits in three quarters of `resources.memory`, else `disk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageName>,
    /// Environment of every exec.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub env: Option<BTreeMap<String, String>>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::scalar::distinct")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Host name inside; default `sandbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Seconds from creation to release; absent: as the server is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
}

impl SandboxRequest {
    /// The spec of the engine, checked; `usual` is the kind where none is named. `timeout` is the caller's business.
    pub fn to_spec(&self, usual: Kind) -> Result<SandboxSpec, Invalid> {
        let unsupported = |what: String| Invalid { code: ErrorCode::Unsupported, message: what };
        let asked = self.sandbox.clone().unwrap_or_default();
        let (kind, options) = asked.to_kind(usual)?;
        let net = match self.network.unwrap_or_default() {
            NetworkName::None => Net::None,
            NetworkName::Allowlist | NetworkName::Full => {
                return Err(unsupported("network access is not in this build; it has `network: \"none\"`".into()));
            }
        };
        let mut resources = self.resources.unwrap_or_default();
        let pod = asked.pod_resources()?.limits;
        resources.memory = resources.memory.or(asked.memory).or(pod.memory);
        resources.cpu = resources.cpu.or(asked.cpu).or(pod.cpu);
        if let (Some(_), Some(why)) = (resources.pids, kind.lacks(Capability::PidsLimit)) {
            return Err(unsupported(format!(
                "a sandbox of kind `{}` has no limit of its processes: {why}",
                kind.name()
            )));
        }
        if let (true, Some(why)) = (resources.limits_disk(), kind.lacks(Capability::DiskLimit)) {
            return Err(unsupported(format!("a sandbox of kind `{}` has no limit of its disk: {why}", kind.name())));
        }
        let mut limits = resources.over(&Limits::default())?;
        if resources.disk.is_none() && self.storage != Some(StorageName::Disk) {
            // Less memory alone is no wish for a file system on disk, which takes far longer to make.
            limits.disk = limits.disk.min(limits.memory / 4 * 3);
        }
        let spec = SandboxSpec {
            kind,
            options,
            template: check_name("template", self.template.as_deref())?,
            limits,
            net,
            upper: match self.storage {
                None => Upper::Auto,
                Some(StorageName::Memory) => Upper::Memory,
                Some(StorageName::Disk) => Upper::Disk,
            },
            env: self.env.clone().unwrap_or_default(),
            volumes: Vec::new(),
            metadata: self.metadata.clone().unwrap_or_default(),
            hostname: self.hostname.clone(),
        };
        spec.check()?;
        Ok(spec)
    }
}

/// A template's name: `host`, `python:3.11-slim`, `team/base`.
pub(crate) fn check_name(field: &str, name: Option<&str>) -> Result<String, Invalid> {
    let Some(name) = name else { return Ok(String::new()) };
    let good = (1..=128).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-:/@".contains(&c))
        && !name.contains("..");
    if !good {
        return Err(Invalid::new(format!(
            "{field} is not valid: it is 1 to 128 letters, digits, `.`, `_`, `-`, `:`, `/`, `@`, without `..`"
        )));
    }
    Ok(name.to_owned())
}

/// Changes a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSandboxRequest {
    /// Limits to change.
    pub resources: ResourcesRequest,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// Ready for execs.
    Running,
    /// Every process is frozen.
    Paused,
    /// Being taken apart.
    Releasing,
}

impl SandboxState {
    /// The state's only spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Releasing => "releasing",
        }
    }
}

impl From<Phase> for SandboxState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Running => Self::Running,
            Phase::Paused => Self::Paused,
            Phase::Releasing | Phase::Gone => Self::Releasing,
        }
    }
}

/// How a sandbox came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartedByName {
    /// Taken ready from the pool.
    Claim,
    /// Built on request.
    Cold,
}

impl From<StartedBy> for StartedByName {
    fn from(how: StartedBy) -> Self {
        match how {
            StartedBy::Claim => Self::Claim,
            StartedBy::Cold => Self::Cold,
        }
    }
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxView {
    /// Its id.
    #[schema(example = "sb-mfrggzdfmztwq2lkmfrg")]
    pub sandbox_id: String,
    /// Whose it is.
    pub user_id: String,
    /// State.
    pub state: SandboxState,
    /// Kind of isolation.
    pub kind: KindName,
    /// Template it started from.
    pub template: String,
    /// Limits in force.
    pub resources: ResourcesView,
    /// Network.
    pub network: NetworkName,
    /// Storage.
    pub storage: StorageName,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
    /// Host name inside.
    pub hostname: String,
    /// How it came to be.
    pub started_by: StartedByName,
    /// Milliseconds from the request until it was ready.
    pub start_ms: f64,
    /// When it was made.
    #[serde(with = "crate::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it will be released; null: not by itself.
    #[serde(with = "crate::rfc3339::option", default)]
    pub expires_at: Option<OffsetDateTime>,
}

/// Releases a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Which.
    pub sandbox_id: String,
}

/// A released sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// Which.
    pub sandbox_id: String,
    /// Always true.
    pub released: bool,
}

/// What a sandbox uses now and has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatsView {
    /// Which.
    pub sandbox_id: String,
    /// CPU time, µs.
    pub cpu_usec: u64,
    /// Bytes now.
    pub memory: u64,
    /// Highest so far, bytes.
    pub memory_peak: u64,
    /// Limit, bytes.
    pub memory_limit: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Limit.
    pub pids_limit: u64,
    /// OOM kills so far.
    pub oom_kills: u64,
    /// Forks refused so far.
    pub pids_refused: u64,
    /// Bytes written now.
    pub disk: u64,
    /// Limit, bytes.
    pub disk_limit: u64,
    /// Inodes free now.
    pub inodes_free: u64,
}

impl StatsView {
    /// From the engine's figures.
    pub fn new(sandbox_id: impl Into<String>, usage: &Usage, limits: &Limits) -> Self {
        Self {
            sandbox_id: sandbox_id.into(),
            cpu_usec: usage.cpu_usec,
            memory: usage.memory,
            memory_peak: usage.memory_peak,
            memory_limit: limits.memory,
            pids: usage.pids,
            pids_limit: limits.pids.into(),
            oom_kills: usage.oom_kills,
            pids_refused: usage.pids_refused,
            disk: usage.disk,
            disk_limit: usage.disk_limit,
            inodes_free: usage.inodes_free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<SandboxSpec, String> {
        let request: SandboxRequest = serde_json::from_str(json).map_err(|e| e.to_string())?;
        request.to_spec(Kind::default()).map_err(|e| format!("{}: {}", e.code.as_str(), e.message))
    }

    #[test]
    fn an_empty_request_is_the_default_sandbox() {
        assert_eq!(spec("{}"), Ok(SandboxSpec::default()));
    }

    #[test]
    fn resources_are_read_as_the_seeds_write_them() {
        let spec = spec(r#"{"resources":{"cpu":"1","memory":"512Mi","disk":"1Gi"}}"#).unwrap();
        assert_eq!((spec.limits.cpu_milli, spec.limits.memory, spec.limits.disk), (1000, 512 << 20, 1 << 30));
    }

    #[test]
    fn disk_speed_is_set_and_lifted_field_by_field() {
        let io = |json: &str| serde_json::from_str::<IoRequest>(json).unwrap();
        let first = io(r#"{"write_bps":"10m","read_iops":100}"#).over(IoLimits::default());
        assert_eq!((first.write_bps, first.read_iops, first.read_bps), (Some(10 << 20), Some(100), None));
        let second = io(r#"{"write_bps":0}"#).over(first);
        assert_eq!(second, IoLimits { read_iops: Some(100), ..IoLimits::default() });
    }

    #[test]
    fn kinds_of_this_build_are_taken_and_shown_by_their_names() {
        for kind in Kind::ALL {
            let taken = spec(&format!(r#"{{"sandbox":{{"kind":"{}"}}}}"#, kind.name())).unwrap().kind;
            assert_eq!(taken, kind);
            assert_eq!(serde_json::to_value(KindName::from(kind)).unwrap(), kind.name());
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (json, part) in [
            (r#"{"tempalte":"host"}"#, "unknown field `tempalte`"),
            (r#"{"resources":{"memory":"1"}}"#, "invalid_request: resources: memory = 1 is impossible"),
            (r#"{"resources":{"cpu":0}}"#, "cpu_milli = 0 is impossible"),
            (r#"{"resources":{"pids":-1}}"#, "invalid value"),
            (
                r#"{"sandbox":{"kind":"process","namespace":"a"}}"#,
                "option `namespace` is none of sandbox kind `process`",
            ),
            (r#"{"sandbox":{"kind":"oci","resources":7}}"#, "option `resources` is none of sandbox kind `oci`"),
            (r#"{"sandbox":{"kind":"k8s","resources":{"limits":{"gpu":1}}}}"#, "unknown field `gpu`"),
            (
                r#"{"sandbox":{"kind":"k8s"},"resources":{"pids":9}}"#,
                "unsupported: a sandbox of kind `k8s` has no limit of its processes",
            ),
            (r#"{"sandbox":{"image":"a"}}"#, "invalid_request: option `image` is none of sandbox kind `process`"),
            (r#"{"sandbox":{"kind":"local","enforceBoundary":false}}"#, "unsupported: the boundary"),
            (r#"{"sandbox":{"kind":"chroot"}}"#, "unknown variant `chroot`"),
            (r#"{"network":"full"}"#, "unsupported: network"),
            (r#"{"template":"../etc"}"#, "invalid_request: template"),
            (r#"{"hostname":"a b"}"#, "hostname"),
            (r#"{"env":{"A=B":"c"}}"#, "env"),
            (r#"{"env":["A"]}"#, "invalid type"),
            (r#"{"resources":[1]}"#, "expected an object"),
            (r#"{"sandbox":"process"}"#, "expected an object"),
            (r#"{"resources":{"io":{"write_bps":"1m"}}}"#, "unsupported: limits of disk speed"),
            (r#"{"storage":"disk","resources":{"io":{"write_bps":1}}}"#, "io.write_bps = 1 is impossible"),
            (r#"{"resources":{"io":{"wbps":1}}}"#, "unknown field `wbps`"),
            (r#"{"resources":{"cpu_weight":10001}}"#, "cpu_weight = 10001 is impossible"),
        ] {
            let error = spec(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
