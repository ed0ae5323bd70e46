//! Options that several commands share, and how they become specs.

use crate::failure::{Failure, Outcome};
use clap::{Args, ValueEnum};
use csb_api::{Bytes, Cpus, IoRequest, NetworkName, ResourcesRequest, SandboxKindRequest, SandboxRequest, StorageName};
use csb_types::{IoLimits, Limits, parse_bytes, parse_cpus, parse_duration};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Where the server is and who asks.
#[derive(Debug, Clone, Args)]
pub struct RemoteArgs {
    /// Address of the server [default: http://127.0.0.1:8080]
    #[arg(long, env = "CSB_SERVER", value_name = "URL", help_heading = "Server")]
    pub server: Option<String>,
    /// API key; on this host the one in the data directory is found by itself
    #[arg(long, env = "CSB_API_KEY", value_name = "KEY", hide_env_values = true, help_heading = "Server")]
    pub api_key: Option<String>,
    /// Token, where there is no API key
    #[arg(long, env = "CSB_TOKEN", value_name = "TOKEN", hide_env_values = true, help_heading = "Server")]
    pub token: Option<String>,
    /// Data directory of a server on this host, where its key is looked for
    #[arg(long, env = "CSB_DATA_DIR", value_name = "DIR", help_heading = "Server")]
    pub data_dir: Option<PathBuf>,
}

/// How a sandbox is isolated, as `--kind` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// All namespaces, cgroup, overlay, seccomp, Landlock
    Process,
    /// The same with files that nothing else has in its page cache, and fewer system calls; needs root
    Hardened,
    /// A directory; commands are confined to it
    Local,
    /// Every file and all output in memory
    Vfs,
    /// A container of a Docker Engine
    Docker,
    /// A container of runc, crun or gVisor's runsc
    Oci,
    /// A virtual machine with a kernel of its own; needs root, and QEMU or Firecracker
    Microvm,
    /// A pod of a Kubernetes cluster
    K8s,
    /// A sandbox of another server
    Remote,
}

impl From<Kind> for csb_types::Kind {
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

/// What a sandbox can reach, as `--net` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// Only its own loopback
    None,
}

/// Where a sandbox's writes go, as `--storage` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    /// Memory; counts as the sandbox's
    Memory,
    /// A file system image on the host's disk
    Disk,
}

/// What a new sandbox is.
#[derive(Debug, Clone, Args)]
pub struct SandboxArgs {
    /// What it starts from; with `run` also a directory or tar file, as ./rootfs [default: host]
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    pub template: Option<String>,
    /// How it is isolated: process, hardened, local, vfs, docker, oci, microvm, k8s, remote; docs/concepts/kinds.md [default: process]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "KIND", help_heading = "Sandbox")]
    pub kind: Option<Kind>,
    /// What its kind alone has, as image=NAME or workDir=DIR; docs/concepts/kinds.md [repeatable]
    #[arg(long = "opt", value_name = "NAME=VALUE", help_heading = "Sandbox")]
    pub options: Vec<String>,
    /// What it can reach [default: none]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "NET", help_heading = "Sandbox")]
    pub net: Option<Net>,
    /// Memory of all its processes and files [default: 512m]
    #[arg(long, short = 'm', value_parser = bytes, value_name = "SIZE", help_heading = "Sandbox")]
    pub memory: Option<u64>,
    /// CPUs: 1, 0.5, 500m [default: 1]
    #[arg(long, value_parser = cpus, value_name = "N", help_heading = "Sandbox")]
    pub cpus: Option<u32>,
    /// Processes and threads at once [default: 512]
    #[arg(long, value_name = "N", help_heading = "Sandbox")]
    pub pids: Option<u32>,
    /// Bytes it may write [default: what fits in memory]
    #[arg(long, value_parser = bytes, value_name = "SIZE", help_heading = "Sandbox")]
    pub disk: Option<u64>,
    /// Where its writes go: memory or disk [default: by the size of --disk]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "WHERE", help_heading = "Sandbox")]
    pub storage: Option<Storage>,
    /// Share of a busy CPU beside other sandboxes, 1 to 10000 [default: 100]
    #[arg(long, value_name = "N", help_heading = "Sandbox")]
    pub cpu_weight: Option<u32>,
    /// Bytes it may read from disk a second; with --storage disk
    #[arg(long, value_parser = bytes, value_name = "SIZE", help_heading = "Sandbox")]
    pub read_bps: Option<u64>,
    /// Bytes it may write to disk a second; with --storage disk
    #[arg(long, value_parser = bytes, value_name = "SIZE", help_heading = "Sandbox")]
    pub write_bps: Option<u64>,
    /// Reads from disk a second; with --storage disk
    #[arg(long, value_name = "N", help_heading = "Sandbox")]
    pub read_iops: Option<u64>,
    /// Writes to disk a second; with --storage disk
    #[arg(long, value_name = "N", help_heading = "Sandbox")]
    pub write_iops: Option<u64>,
    /// Host name inside [default: its id]
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    pub hostname: Option<String>,
}

/// How a command runs.
#[derive(Debug, Clone, Args)]
pub struct CommandArgs {
    /// Kill it and all it started after this time: 30s, 500ms, 5m
    #[arg(long, value_parser = duration, value_name = "TIME", help_heading = "Command")]
    pub timeout: Option<Duration>,
    /// Set a variable; without a value, take it from here
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]", help_heading = "Command")]
    pub env: Vec<String>,
    /// User inside [default: user]
    #[arg(short = 'u', long, value_name = "USER", help_heading = "Command")]
    pub user: Option<String>,
    /// Output kept, both streams together; what follows is dropped [default: the server's; with `run` all is passed on]
    #[arg(long, value_parser = bytes, value_name = "SIZE", help_heading = "Command")]
    pub max_output: Option<u64>,
    /// Directory to start in [default: /workspace]
    #[arg(short = 'w', long = "workdir", value_name = "DIR", help_heading = "Command")]
    pub cwd: Option<String>,
}

/// What a command reads, and whether it has a terminal.
#[derive(Debug, Clone, Args)]
pub struct StdinArgs {
    /// Pass stdin on; this is the default and is here for the habit of `-it`
    #[arg(short = 'i', long, conflicts_with = "no_stdin", help_heading = "Command")]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short = 't', long, help_heading = "Command")]
    pub tty: bool,
    /// Give it an empty stdin
    #[arg(short = 'n', long, help_heading = "Command")]
    pub no_stdin: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|e| e.to_string())
}

fn cpus(text: &str) -> Result<u32, String> {
    parse_cpus(text).map_err(|e| e.to_string())
}

pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

impl SandboxArgs {
    /// The limits for a sandbox of this process's own.
    pub fn limits(&self) -> Limits {
        let base = Limits::default();
        let memory = self.memory.unwrap_or(base.memory);
        Limits {
            memory,
            cpu_milli: self.cpus.unwrap_or(base.cpu_milli),
            pids: self.pids.unwrap_or(base.pids),
            // In memory, unless more than that is asked for: a file system on disk takes tens of milliseconds to make.
            disk: self.disk.unwrap_or(memory / 4 * 3),
            cpu_weight: self.cpu_weight,
            io: IoLimits {
                read_bps: self.read_bps,
                write_bps: self.write_bps,
                read_iops: self.read_iops,
                write_iops: self.write_iops,
            },
            ..base
        }
    }

    /// `--kind` and `--opt` as the API has them, so that both take the same words.
    pub fn kind_request(&self) -> Outcome<Option<SandboxKindRequest>> {
        if self.kind.is_none() && self.options.is_empty() {
            return Ok(None);
        }
        let mut object = serde_json::Map::new();
        if let Some(kind) = self.kind {
            object.insert("kind".into(), csb_types::Kind::from(kind).name().into());
        }
        for option in &self.options {
            let Some((name, value)) = option.split_once('=') else {
                return Err(Failure::new(format!("--opt `{option}` has no `=`")).hint("write --opt NAME=VALUE"));
            };
            let value = match (name, value) {
                (_, "true") => true.into(),
                (_, "false") => false.into(),
                ("allowPaths" | "allow_paths", list) => list.split(',').collect::<serde_json::Value>(),
                ("endpoint", list) if list.contains(',') => list.split(',').collect(),
                (_, text) => text.into(),
            };
            object.insert(name.into(), value);
        }
        serde_json::from_value(object.into()).map(Some).map_err(|error| {
            Failure::new(format!("--opt: {error}")).hint("docs/concepts/kinds.md lists each kind's options")
        })
    }

    /// The request for a sandbox of a server.
    pub fn request(&self) -> Outcome<SandboxRequest> {
        let io = IoRequest {
            read_bps: self.read_bps.map(Bytes),
            write_bps: self.write_bps.map(Bytes),
            read_iops: self.read_iops,
            write_iops: self.write_iops,
        };
        let resources = ResourcesRequest {
            cpu: self.cpus.map(|milli| Cpus { milli }),
            memory: self.memory.map(Bytes),
            disk: self.disk.map(Bytes),
            pids: self.pids,
            inodes: None,
            nofile: None,
            cpu_weight: self.cpu_weight,
            io: (io != IoRequest::default()).then_some(io),
        };
        Ok(SandboxRequest {
            template: self.template.clone(),
            sandbox: self.kind_request()?,
            resources: (resources != ResourcesRequest::default()).then_some(resources),
            network: self.net.map(|Net::None| NetworkName::None),
            storage: self.storage.map(|s| match s {
                Storage::Memory => StorageName::Memory,
                Storage::Disk => StorageName::Disk,
            }),
            hostname: self.hostname.clone(),
            ..Default::default()
        })
    }
}

/// `NAME=VALUE` each; a bare `NAME` takes the value it has here, and is left out where it has none.
pub fn env(list: &[String]) -> Outcome<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for entry in list {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match std::env::var_os(entry) {
                Some(value) => (
                    entry.as_str(),
                    value.into_string().map_err(|_| Failure::usage(format!("variable `{entry}` is not UTF-8")))?,
                ),
                None => continue,
            },
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("`-e {entry}` has no name before the `=`")));
        }
        map.insert(name.to_owned(), value);
    }
    Ok(map)
}

/// Where a server keeps everything unless told otherwise; the same rule as the server's own.
pub fn data_dir(given: Option<&PathBuf>) -> PathBuf {
    if let Some(dir) = given {
        return dir.clone();
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
        (Some(data), _) => data.join("csb"),
        (None, Some(home)) => home.join(".local/share/csb"),
        (None, None) => PathBuf::from("/var/lib/csb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_taken_from_here() {
        let list = |v: &[&str]| env(&v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            list(&["A=1=2", "B="]).unwrap(),
            [("A", "1=2"), ("B", "")].map(|(k, v)| (k.into(), v.into())).into()
        );
        assert_eq!(list(&["CSB_TEST_SURELY_ABSENT"]).unwrap(), BTreeMap::new());
        assert!(list(&["=x"]).is_err());
    }
}
