//! From a pod's container to what runc is told (OCI runtime specification 1.0), as a node's runtime does it. Pure.

use super::{
    Config, Image,
    objects::{bytes, milli},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What containerd gives to a container that drops none.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where a pod's files are.
pub(super) struct Places<'a> {
    /// Of this container: `rootfs` and what the kubelet keeps for it.
    pub(super) container: &'a Path,
    /// Of each volume.
    pub(super) volumes: &'a Path,
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(Into::into)).collect()
}

fn capabilities(context: &Value) -> Vec<String> {
    let long = |name: &String| format!("CAP_{}", name.trim_start_matches("CAP_"));
    let dropped: Vec<String> = strings(&context["capabilities"]["drop"]);
    let mut kept: Vec<String> = match dropped.iter().any(|name| name == "ALL") {
        true => vec![],
        false => DEFAULT_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
    };
    kept.retain(|name| !dropped.iter().any(|one| long(one) == *name));
    kept.extend(strings(&context["capabilities"]["add"]).iter().map(long));
    kept
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

fn bind(target: &str, source: &Path, read_only: bool) -> Value {
    mount(target, "none", &source.to_string_lossy(), &["bind", if read_only { "ro" } else { "rw" }, "nosuid", "nodev"])
}

/// Host paths of a container's volume mounts.
pub(super) fn volume_mounts<'a>(container: &'a Value, volumes: &'a Path) -> impl Iterator<Item = (PathBuf, &'a Value)> {
    container["volumeMounts"].as_array().into_iter().flatten().map(|one| {
        let volume = volumes.join(one["name"].as_str().unwrap_or_default());
        (volume.join(one["subPath"].as_str().unwrap_or_default()), one)
    })
}

/// `linux.resources`.
pub(super) fn resources(container: &Value, pids: u32) -> Value {
    let limits = &container["resources"]["limits"];
    let mut resources = json!({ "pids": { "limit": pids }, "devices": [{ "allow": false, "access": "rwm" }] });
    if let Some(memory) = bytes(&limits["memory"]) {
        resources["memory"] = json!({ "limit": memory, "swap": memory });
    }
    if let Some(milli) = milli(&limits["cpu"]) {
        resources["cpu"] = json!({ "quota": u64::from(milli) * 100, "period": 100_000 });
    }
    resources
}

/// `config.json`.
pub(super) fn config(config: &Config, pod: &Value, container: &Value, image: &Image, places: &Places<'_>) -> Value {
    let context = &container["securityContext"];
    let capabilities = capabilities(context);
    let user = context["runAsUser"].as_u64().unwrap_or(0);
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    env.extend(image.env.iter().cloned());
    // Those of the API server's service are always there, links or not.
    env.extend(["KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(), "KUBERNETES_SERVICE_PORT=443".to_owned()]);
    for one in container["env"].as_array().into_iter().flatten() {
        let (name, value) = (one["name"].as_str().unwrap_or_default(), one["value"].as_str().unwrap_or_default());
        env.retain(|known| !known.starts_with(&format!("{name}=")));
        env.push(format!("{name}={value}"));
    }
    let mut args = strings(&container["command"]);
    args.extend(strings(&container["args"]));
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ];
    for (from, at) in &image.binds {
        mounts.push(bind(&at.to_string_lossy(), from, true));
    }
    let mut volumes: Vec<(PathBuf, &Value)> = volume_mounts(container, places.volumes).collect();
    // What is mounted below comes after it.
    volumes.sort_by_key(|(_, one)| one["mountPath"].as_str().unwrap_or_default().len());
    let has = |path: &str| volumes.iter().any(|(_, one)| one["mountPath"] == path);
    if !has("/etc/hosts") {
        mounts.push(bind("/etc/hosts", &places.container.join("hosts"), false));
    }
    let read_only = context["readOnlyRootFilesystem"] == true;
    mounts.push(bind("/etc/resolv.conf", &places.container.join("resolv.conf"), read_only));
    mounts.push(bind("/etc/hostname", &places.container.join("hostname"), read_only));
    for (from, one) in &volumes {
        mounts.push(bind(one["mountPath"].as_str().unwrap_or_default(), from, one["readOnly"] == true));
    }
    let message = container["terminationMessagePath"].as_str().unwrap_or("/dev/termination-log");
    mounts.push(bind(message, &places.container.join("message"), false));
    let namespaces = ["pid", "ipc", "uts", "mount", "network", "cgroup"].map(|kind| json!({ "type": kind }));
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": user, "gid": context["runAsGroup"].as_u64().unwrap_or(0) },
            "args": args,
            "env": env,
            "cwd": container["workingDir"].as_str().unwrap_or("/"),
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": context["allowPrivilegeEscalation"] == false,
            "oomScoreAdj": 0,
        },
        "root": { "path": places.container.join("rootfs"), "readonly": read_only },
        "hostname": pod["spec"]["hostname"].as_str().unwrap_or(name),
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/csb-test-cluster/{name}-{}", container["name"].as_str().unwrap_or_default()),
            "namespaces": namespaces,
            "resources": resources(container, config.pids),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}
