//! The table of settings: name, variable, default, meaning and how the text is read.

use super::{Config, LogFormat, Secret};
use csb_backends::{Accelerator, Vmm};
use csb_types::{Kind, parse_bytes, parse_duration};
use std::{
    fmt::Display,
    net::SocketAddr,
    path::{Component, PathBuf},
    str::FromStr,
    time::Duration,
};

/// One setting.
pub(super) struct Setting {
    /// Name in the file and for `--set`.
    pub key: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Default as text; empty: none.
    pub default: &'static str,
    /// What happens without a default, for the reference.
    pub absent: &'static str,
    /// What it means, for the reference.
    pub about: &'static str,
    /// Reads the text.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
}

fn kind(text: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(|kind| format!("`{}`", kind.name())).join(", ");
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text.trim());
    found.ok_or_else(|| format!("`{text}` is none of {}", names()))
}

fn number<T: FromStr + PartialOrd + Display>(text: &str, least: T, most: T) -> Result<T, String> {
    let value: Option<T> = text.trim().parse().ok().filter(|v| *v >= least && *v <= most);
    value.ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}"))
}

fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

fn duration(text: &str, least: Duration) -> Result<Duration, String> {
    let value = parse_duration(text).map_err(|e| e.to_string())?;
    if value < least || value > Duration::from_secs(3650 * 86400) {
        return Err(format!("`{text}` is not between {least:?} and 3650d"));
    }
    Ok(value)
}

fn duration_or_off(text: &str, least: Duration) -> Result<Option<Duration>, String> {
    match text.trim() {
        "off" | "0" => Ok(None),
        text => duration(text, least).map(Some),
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A list, separated by commas.
fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 || text.contains(char::is_whitespace) {
        return Err(format!("`{text}` is not a name of 1 to 128 characters without spaces"));
    }
    Ok(text.to_owned())
}

const SECOND: Duration = Duration::from_secs(1);

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        env: "CSB_LISTEN",
        default: "127.0.0.1:8080",
        absent: "",
        about: "Addresses to serve on, separated by commas. Port 0 takes a free one",
        set: |c, text| {
            let list: Result<Vec<SocketAddr>, String> = text
                .split(',')
                .map(|a| {
                    let a = a.trim();
                    // `localhost` alone among names: resolving others at start would make the address a guess.
                    let a = a.strip_prefix("localhost:").map_or(a.to_owned(), |port| format!("127.0.0.1:{port}"));
                    a.parse().map_err(|_| format!("`{a}` is not an address such as `127.0.0.1:8080` or `[::1]:8080`"))
                })
                .collect();
            c.listen = list?;
            Ok(())
        },
    },
    Setting {
        key: "data_dir",
        env: "CSB_DATA_DIR",
        default: "",
        absent: "`$XDG_DATA_HOME/csb`, `~/.local/share/csb` or `/var/lib/csb`",
        about: "Directory of everything the server keeps; made with mode 0700",
        set: |c, text| {
            c.data_dir = PathBuf::from(text);
            Ok(())
        },
    },
    Setting {
        key: "dev",
        env: "CSB_DEV",
        default: "false",
        absent: "",
        about: "Development: loopback only, and a token of role `user` needs no credential",
        set: |c, text| {
            c.dev = flag(text)?;
            Ok(())
        },
    },
    Setting {
        key: "database.url",
        env: "CSB_DATABASE_URL",
        default: "",
        absent: "`state.db` in the data directory",
        about: "`sqlite:///path/to/file`",
        set: |c, text| match text.strip_prefix("sqlite://") {
            Some(path) if path.starts_with('/') => {
                c.database = PathBuf::from(path);
                Ok(())
            }
            _ => Err("this build keeps its state in SQLite: `sqlite:///absolute/path`".into()),
        },
    },
    Setting {
        key: "auth.jwt_secret",
        env: "JWT_SECRET",
        default: "",
        absent: "made at first start, kept in `jwt.secret` (0600)",
        about: "Key that signs tokens, at least 32 bytes. The known default `cloud-sandbox-secret` is refused outside `--dev`",
        set: |c, text| {
            if text.is_empty() {
                return Err("it is empty; leave it out to have one made".into());
            }
            c.jwt_secret = Some(Secret::new(text));
            Ok(())
        },
    },
    Setting {
        key: "auth.token_ttl",
        env: "CSB_TOKEN_TTL",
        default: "24h",
        absent: "",
        about: "How long a token is good",
        set: |c, text| {
            c.token_ttl = duration(text, SECOND)?;
            Ok(())
        },
    },
    Setting {
        key: "pool.min",
        env: "POOL_MIN_SIZE",
        default: "5",
        absent: "",
        about: "Sandboxes kept ready; 0 turns the pool off",
        set: |c, text| {
            c.pool_min = number(text, 0, 10_000)?;
            Ok(())
        },
    },
    Setting {
        key: "pool.max",
        env: "POOL_MAX_SIZE",
        default: "50",
        absent: "",
        about: "Most sandboxes kept ready when demand is high",
        set: |c, text| {
            c.pool_max = number(text, 0, 10_000)?;
            Ok(())
        },
    },
    Setting {
        key: "pool.kinds",
        env: "POOL_KINDS",
        default: "",
        absent: "`sandbox.kind`, or `process` where that has no pool",
        about: "Kinds of which sandboxes are kept ready, of each as many, separated by commas; all but `local`, which has no process until it is used, and `remote`, whose server has pools",
        set: |c, text| {
            c.pool_kinds.clear();
            for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                let kind = kind(word)?;
                if matches!(kind, Kind::Local | Kind::Remote) {
                    return Err(format!("sandboxes of kind `{word}` are not kept ready"));
                }
                if !c.pool_kinds.contains(&kind) {
                    c.pool_kinds.push(kind);
                }
            }
            Ok(())
        },
    },
    Setting {
        key: "templates.default",
        env: "SANDBOX_IMAGE",
        default: "host",
        absent: "",
        about: "Template (or alias) of requests that name none. `host` shares the host's programs read-only; `python:3.11-slim` is an alias of it",
        set: |c, text| {
            c.default_template = name(text)?;
            Ok(())
        },
    },
    Setting {
        key: "sandbox.kind",
        env: "SANDBOX_KIND",
        default: "process",
        absent: "",
        about: "Kind of sandbox where a request names none",
        set: |c, text| {
            c.kind = kind(text)?;
            Ok(())
        },
    },
    Setting {
        key: "remote.servers",
        env: "REMOTE_SERVERS",
        default: "",
        absent: "none; kind `remote` is off",
        about: "Servers that sandboxes of kind `remote` may be made at, in the order in which they are tried: \
                `name=url` or `url`, separated by commas",
        set: |c, text| {
            c.remote_list = super::remote::list(text)?;
            Ok(())
        },
    },
    Setting {
        key: "remote.servers_file",
        env: "REMOTE_SERVERS_FILE",
        default: "",
        absent: "none",
        about: "TOML file with such servers and their credentials",
        set: |c, text| {
            c.remote_file = Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
            Ok(())
        },
    },
    Setting {
        key: "remote.connect_timeout",
        env: "REMOTE_CONNECT_TIMEOUT",
        default: "5s",
        absent: "",
        about: "How long a connection to such a server may take to be made",
        set: |c, text| {
            c.remote_timeout = duration(text, Duration::from_millis(10))?;
            Ok(())
        },
    },
    Setting {
        key: "workspaces.dir",
        env: "WORKSPACES_DIR",
        default: "",
        absent: "`workspaces` in the data directory",
        about: "Directory of the directories of `local` sandboxes, each user's below one of the user's id; made with mode 0700",
        set: |c, text| {
            c.workspaces = PathBuf::from(text);
            Ok(())
        },
    },
    Setting {
        key: "local.allow_paths",
        env: "LOCAL_ALLOW_PATHS",
        default: "",
        absent: "none",
        about: "Absolute directories of the host, separated by commas, of which `local` sandboxes may ask to see something, read-only (`allowPaths`)",
        set: |c, text| {
            let list: Vec<PathBuf> =
                text.split(',').map(|p| PathBuf::from(p.trim())).filter(|p| !p.as_os_str().is_empty()).collect();
            let plain = |p: &PathBuf| {
                p.is_absolute()
                    && p.components().count() > 1
                    && !p.components().any(|part| part == Component::ParentDir)
            };
            match list.iter().find(|p| !plain(p)) {
                Some(bad) => {
                    Err(format!("`{}` is not an absolute directory other than `/`, without `..`", bad.display()))
                }
                None => {
                    c.local_allow = list;
                    Ok(())
                }
            }
        },
    },
    Setting {
        key: "workspaces.quota",
        env: "WORKSPACE_QUOTA",
        default: "",
        absent: "none",
        about: "Bytes that all workspaces of one user may hold together, such as `10g`; what one holds is limited by its sandbox's `resources.disk`",
        set: |c, text| {
            c.workspace_quota = Some(parse_bytes(text).map_err(|e| e.to_string())?).filter(|bytes| *bytes > 0);
            Ok(())
        },
    },
    Setting {
        key: "local.idle",
        env: "CSB_LOCAL_IDLE",
        default: "30s",
        absent: "",
        about: "A `local` sandbox that nobody has used for so long, and in which nothing runs, has no process until it is used again",
        set: |c, text| {
            c.local_idle = duration(text, Duration::from_millis(50))?;
            Ok(())
        },
    },
    Setting {
        key: "local.max_awake",
        env: "CSB_LOCAL_MAX_AWAKE",
        default: "0",
        absent: "",
        about: "When more `local` sandboxes than this have processes, those not in use lose them, the least recently used first; 0: no matter how many",
        set: |c, text| {
            c.local_max_awake = number(text, 0, 1_000_000)?;
            Ok(())
        },
    },
    Setting {
        key: "memory.reserve",
        env: "CSB_MEMORY_RESERVE",
        default: "256MiB",
        absent: "",
        about: "Memory of the host that stays available: with less than this no sandbox is made or woken (`capacity`), with less than twice this none is kept ready; 0: no matter how little",
        set: |c, text| {
            c.pressure.reserve = if text.trim() == "0" { 0 } else { parse_bytes(text).map_err(|e| e.to_string())? };
            Ok(())
        },
    },
    Setting {
        key: "memory.stalled",
        env: "CSB_MEMORY_STALLED",
        default: "40",
        absent: "",
        about: "Percent of the last ten seconds that all programs of the host waited for memory (PSI, where the kernel has it) from which no sandbox is made or woken; from half of it none is kept ready. It counts while less than 16 times `memory.reserve` is available. 0: no matter how long",
        set: |c, text| {
            c.pressure.stalled = number(text, 0, 100)?;
            Ok(())
        },
    },
    Setting {
        key: "cleanup.schedule",
        env: "CLEANUP_SCHEDULE",
        default: "",
        absent: "never",
        about: "When workspaces that nobody has used are removed: a cron expression in UTC, such as `0 2 * * *`",
        set: |c, text| {
            c.cleanup_schedule = Some(text.parse()?);
            Ok(())
        },
    },
    Setting {
        key: "cleanup.idle_days",
        env: "CLEANUP_IDLE_DAYS",
        default: "",
        absent: "none",
        about: "For how many days nobody must have used a workspace that is removed on schedule",
        set: |c, text| {
            c.cleanup_idle = Some(Duration::from_secs(number::<u64>(text, 1, 3650)? * 86400));
            Ok(())
        },
    },
    Setting {
        key: "docker.host",
        env: "DOCKER_HOST",
        default: "",
        absent: "`unix:///var/run/docker.sock`",
        about: "The Docker Engine of sandbox kind `docker`: `unix:///path`; one on another host cannot be used",
        set: |c, text| {
            c.docker.host = Some(text.to_owned()).filter(|text| !text.is_empty());
            Ok(())
        },
    },
    Setting {
        key: "docker.image",
        env: "DOCKER_IMAGE",
        default: "",
        absent: "this host's programs, as in kind `process`",
        about: "Image of `docker` sandboxes that name none",
        set: |c, text| {
            c.docker.image = Some(name(text)?);
            Ok(())
        },
    },
    Setting {
        key: "docker.pull",
        env: "CSB_DOCKER_PULL",
        default: "",
        absent: "none",
        about: "Beginnings of names of images that the engine may pull for whoever asks, separated by commas, such as `python:,registry.example/team/`; `*`: of all. The name of an image chooses which host the engine connects to",
        set: |c, text| {
            c.docker.pull =
                text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
            Ok(())
        },
    },
    Setting {
        key: "docker.networks",
        env: "CSB_DOCKER_NETWORKS",
        default: "",
        absent: "`none` alone",
        about: "Docker networks that `networkMode` may name, separated by commas. A sandbox in one of them reaches whatever that network reaches",
        set: |c, text| {
            c.docker.networks =
                text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
            let bad = |word: &&String| **word == "host" || word.starts_with("container:");
            match c.docker.networks.iter().find(bad) {
                Some(word) => Err(format!("`{word}` is no network of the sandbox's own")),
                None => Ok(()),
            }
        },
    },
    Setting {
        key: "microvm.vmm",
        env: "CSB_MICROVM_VMM",
        default: "qemu",
        absent: "",
        about: "What runs new `microvm` sandboxes: `qemu`, or `firecracker`, which needs KVM; those that there are stay with theirs",
        set: |c, text| {
            let named = Vmm::ALL.into_iter().find(|vmm| vmm.name() == text);
            c.microvm.vmm = named.ok_or("it is `qemu` or `firecracker`")?;
            Ok(())
        },
    },
    Setting {
        key: "microvm.firecracker",
        env: "CSB_MICROVM_FIRECRACKER",
        default: "",
        absent: "`firecracker` of `PATH`",
        about: "The Firecracker, 1.14 or later, that runs sandboxes of kind `microvm` with `microvm.vmm = \"firecracker\"`",
        set: |c, text| {
            c.microvm.firecracker = PathBuf::from(text);
            Ok(())
        },
    },
    Setting {
        key: "microvm.qemu",
        env: "CSB_MICROVM_QEMU",
        default: "",
        absent: "`qemu-system-x86_64` of `PATH`",
        about: "The QEMU that runs sandboxes of kind `microvm`",
        set: |c, text| {
            c.microvm.qemu = PathBuf::from(text);
            Ok(())
        },
    },
    Setting {
        key: "microvm.kernel",
        env: "CSB_MICROVM_KERNEL",
        default: "",
        absent: "the newest `/boot/vmlinuz-*`, those for clouds first",
        about: "Kernel of `microvm` sandboxes: a file `boot/vmlinuz-VERSION` with its modules in `lib/modules/VERSION` beside `boot`, as in Debian's `linux-image-cloud-amd64`, or any other image with its modules in `modules` beside it",
        set: |c, text| {
            c.microvm.kernel = Some(PathBuf::from(text));
            Ok(())
        },
    },
    Setting {
        key: "microvm.accelerator",
        env: "CSB_MICROVM_ACCELERATOR",
        default: "auto",
        absent: "",
        about: "What runs `microvm` sandboxes: `kvm`, `tcg` (software, several times slower), or `auto`: KVM where it runs a guest, else software, which the log and `csb doctor` say",
        set: |c, text| {
            c.microvm.accelerator = match text {
                "auto" => Accelerator::Auto,
                "kvm" => Accelerator::Kvm,
                "tcg" => Accelerator::Tcg,
                _ => return Err("it is `auto`, `kvm` or `tcg`".into()),
            };
            Ok(())
        },
    },
    Setting {
        key: "microvm.memory",
        env: "CSB_MICROVM_MEMORY",
        default: "1Gi",
        absent: "",
        about: "Up to where the memory limit of a `microvm` sandbox can be raised while it lives; what it does not touch is not taken from the host",
        set: |c, text| {
            c.microvm.memory = parse_bytes(text).map_err(|e| e.to_string())?;
            Ok(())
        },
    },
    Setting {
        key: "k8s.kubeconfig",
        env: "KUBECONFIG",
        default: "",
        absent: "the service account of the pod that the server runs in, else `~/.kube/config`",
        about: "File that says where the cluster of sandbox kind `k8s` is",
        set: |c, text| {
            c.k8s.kubeconfig = Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
            Ok(())
        },
    },
    Setting {
        key: "k8s.context",
        env: "CSB_K8S_CONTEXT",
        default: "",
        absent: "the current one",
        about: "Context of that file",
        set: |c, text| {
            c.k8s.context = some(text);
            Ok(())
        },
    },
    Setting {
        key: "k8s.namespace",
        env: "CSB_K8S_NAMESPACE",
        default: "",
        absent: "the context's or service account's",
        about: "Namespace of `k8s` sandboxes that name none",
        set: |c, text| {
            c.k8s.namespace = some(text);
            Ok(())
        },
    },
    Setting {
        key: "k8s.namespaces",
        env: "CSB_K8S_NAMESPACES",
        default: "",
        absent: "none",
        about: "Further namespaces that the option `namespace` may name, separated by commas. Pods of the server in all of them are found again when it starts",
        set: |c, text| {
            c.k8s.namespaces = words(text);
            Ok(())
        },
    },
    Setting {
        key: "k8s.program_image",
        env: "CSB_K8S_PROGRAM_IMAGE",
        default: "",
        absent: "none; kind `k8s` is off",
        about: "Image with the same version of `csb` in its PATH, which an init container copies into each pod",
        set: |c, text| {
            c.k8s.program_image = Some(name(text)?);
            Ok(())
        },
    },
    Setting {
        key: "k8s.image",
        env: "CSB_K8S_IMAGE",
        default: "",
        absent: "none: a request has to name one",
        about: "Image of `k8s` sandboxes that name none",
        set: |c, text| {
            c.k8s.image = Some(name(text)?);
            Ok(())
        },
    },
    Setting {
        key: "k8s.images",
        env: "CSB_K8S_IMAGES",
        default: "",
        absent: "`k8s.image` alone",
        about: "Beginnings of names of images that the option `image` may name, separated by commas; `*`: all. The name of an image chooses which host the cluster's nodes connect to",
        set: |c, text| {
            c.k8s.images = words(text);
            Ok(())
        },
    },
    Setting {
        key: "k8s.runtime_class",
        env: "CSB_K8S_RUNTIME_CLASS",
        default: "",
        absent: "the cluster's own",
        about: "`runtimeClassName` of `k8s` sandboxes that name none",
        set: |c, text| {
            c.k8s.runtime_class = some(text);
            Ok(())
        },
    },
    Setting {
        key: "k8s.runtime_classes",
        env: "CSB_K8S_RUNTIME_CLASSES",
        default: "",
        absent: "none",
        about: "Further ones that the option `runtimeClassName` may name, separated by commas",
        set: |c, text| {
            c.k8s.runtime_classes = words(text);
            Ok(())
        },
    },
    Setting {
        key: "k8s.pod_template",
        env: "CSB_K8S_POD_TEMPLATE",
        default: "",
        absent: "none",
        about: "YAML file of a pod, or of its `metadata` and `spec` alone, that each sandbox's is laid over: node selectors, pull secrets, sidecars, labels",
        set: |c, text| {
            c.k8s.template = match some(text) {
                None => None,
                Some(path) => {
                    let read = csb_backends::K8sSettings::read_template(std::path::Path::new(&path));
                    Some(read.map_err(|error| format!("`{path}`: {error}"))?)
                }
            };
            Ok(())
        },
    },
    Setting {
        key: "k8s.pod_template_fields",
        env: "CSB_K8S_POD_TEMPLATE_FIELDS",
        default: "",
        absent: "none",
        about: "Fields that the option `podTemplate` may have, separated by commas, such as `metadata.annotations,spec.nodeSelector`. Labels may open network policies and services of others to a pod, `spec.serviceAccountName` their rights",
        set: |c, text| {
            c.k8s.template_fields = words(text);
            let good = |word: &&String| matches!(word.split_once('.'), Some(("metadata" | "spec", field)) if !field.is_empty());
            match c.k8s.template_fields.iter().find(|word| !good(word)) {
                Some(word) => Err(format!("`{word}` is not `metadata.FIELD` or `spec.FIELD`")),
                None => Ok(()),
            }
        },
    },
    Setting {
        key: "k8s.start_timeout",
        env: "CSB_K8S_START_TIMEOUT",
        default: "2m",
        absent: "",
        about: "How long a pod may take to be placed on a node, to have its images and to run",
        set: |c, text| {
            c.k8s.patience = duration(text, SECOND)?;
            Ok(())
        },
    },
    Setting {
        key: "rate.per_second",
        env: "CSB_RATE_PER_SECOND",
        default: "1000",
        absent: "",
        about: "Requests per second and user that refill the token bucket; 0 turns rate limits off. Without a credential: per address",
        set: |c, text| {
            c.rate_per_second = number(text, 0, 1_000_000)?;
            Ok(())
        },
    },
    Setting {
        key: "rate.burst",
        env: "CSB_RATE_BURST",
        default: "2000",
        absent: "",
        about: "Size of the token bucket",
        set: |c, text| {
            c.rate_burst = number(text, 1, 1_000_000)?;
            Ok(())
        },
    },
    Setting {
        key: "quota.sandboxes_per_user",
        env: "CSB_SANDBOXES_PER_USER",
        default: "10000",
        absent: "",
        about: "Sandboxes a user may have at once",
        set: |c, text| {
            c.sandboxes_per_user = number(text, 1, 1_000_000)?;
            Ok(())
        },
    },
    Setting {
        key: "lifetime.default",
        env: "CSB_LIFETIME_DEFAULT",
        default: "off",
        absent: "",
        about: "Lifetime of sandboxes and sessions that ask for none (`timeout`), or `off`",
        set: |c, text| {
            c.lifetime_default = duration_or_off(text, SECOND)?;
            Ok(())
        },
    },
    Setting {
        key: "lifetime.max",
        env: "CSB_LIFETIME_MAX",
        default: "30d",
        absent: "",
        about: "Longest lifetime that may be asked for",
        set: |c, text| {
            c.lifetime_max = duration(text, SECOND)?;
            Ok(())
        },
    },
    Setting {
        key: "lifetime.idle",
        env: "CSB_LIFETIME_IDLE",
        default: "off",
        absent: "",
        about: "Release sandboxes and close sessions that ran nothing and were not used for this long, or `off`",
        set: |c, text| {
            c.idle_timeout = duration_or_off(text, SECOND)?;
            Ok(())
        },
    },
    Setting {
        key: "exec.max_output",
        env: "CSB_EXEC_MAX_OUTPUT",
        default: "64MiB",
        absent: "",
        about: "Largest `max_output_bytes` of an exec; a result is held in memory once when it is asked for",
        set: |c, text| {
            c.max_output = parse_bytes(text).map_err(|e| e.to_string())?;
            if !(1..=1 << 30).contains(&c.max_output) { Err("it is between 1 byte and 1 GiB".into()) } else { Ok(()) }
        },
    },
    Setting {
        key: "http.json_limit",
        env: "CSB_HTTP_JSON_LIMIT",
        default: "4MiB",
        absent: "",
        about: "Largest JSON body; uploads of files are not limited by it",
        set: |c, text| {
            c.json_limit = parse_bytes(text).map_err(|e| e.to_string())?;
            if !(1024..=1 << 30).contains(&c.json_limit) { Err("it is between 1 KiB and 1 GiB".into()) } else { Ok(()) }
        },
    },
    Setting {
        key: "http.header_timeout",
        env: "CSB_HTTP_HEADER_TIMEOUT",
        default: "15s",
        absent: "",
        about: "Time for the head of a request to arrive; also how long an idle connection is kept",
        set: |c, text| {
            c.header_timeout = duration(text, Duration::from_millis(100))?;
            Ok(())
        },
    },
    Setting {
        key: "http.body_timeout",
        env: "CSB_HTTP_BODY_TIMEOUT",
        default: "30s",
        absent: "",
        about: "Time for a JSON body to arrive, and longest pause inside an upload",
        set: |c, text| {
            c.body_timeout = duration(text, Duration::from_millis(100))?;
            Ok(())
        },
    },
    Setting {
        key: "http.connections",
        env: "CSB_HTTP_CONNECTIONS",
        default: "8192",
        absent: "",
        about: "Connections at once; never more than half of the descriptors the process may open",
        set: |c, text| {
            c.connections = number(text, 1, 1_000_000)?;
            Ok(())
        },
    },
    Setting {
        key: "http.user_requests",
        env: "CSB_HTTP_USER_REQUESTS",
        default: "4096",
        absent: "",
        about: "Requests of one user under way at once, streams included",
        set: |c, text| {
            c.user_requests = number(text, 1, 1_000_000)?;
            Ok(())
        },
    },
    Setting {
        key: "http.shutdown_grace",
        env: "CSB_HTTP_SHUTDOWN_GRACE",
        default: "10s",
        absent: "",
        about: "How long requests under way may take to end at shutdown",
        set: |c, text| {
            c.shutdown_grace = duration(text, Duration::ZERO)?;
            Ok(())
        },
    },
    Setting {
        key: "reconcile.interval",
        env: "CSB_RECONCILE_INTERVAL",
        default: "30s",
        absent: "",
        about: "How often the database is compared with what runs",
        set: |c, text| {
            c.reconcile_interval = duration(text, Duration::from_millis(100))?;
            Ok(())
        },
    },
    Setting {
        key: "log.format",
        env: "CSB_LOG_FORMAT",
        default: "text",
        absent: "",
        about: "`text` or `json`",
        set: |c, text| {
            c.log_format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => return Err(format!("`{other}` is neither `text` nor `json`")),
            };
            Ok(())
        },
    },
    Setting {
        key: "log.filter",
        env: "CSB_LOG",
        default: "info",
        absent: "",
        about: "What is logged: `warn`, `debug`, `info,csb_node=debug`",
        set: |c, text| {
            tracing_subscriber::EnvFilter::try_new(text).map_err(|e| format!("`{text}`: {e}"))?;
            c.log_filter = text.to_owned();
            Ok(())
        },
    },
];
