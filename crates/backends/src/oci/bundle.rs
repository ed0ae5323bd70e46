//! What an OCI runtime is told: `config.json` of a bundle (OCI runtime specification 1.0). Pure.

use crate::{
    Guests,
    guests::{Place, arguments, pids, quota},
    program::Program,
};
use csb_types::{SandboxId, SandboxSpec};
use csb_wire::guest::{PROGRAMS, SHARED, STREAM};
use serde_json::{Value, json};

/// As for kind `docker`.
const CAPABILITIES: [&str; 5] = ["CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"];
/// They tell of other processes and of the hardware, or have been ways out.
const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/driver",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Of gVisor's own, whatever runs inside.
const GVISOR_THREADS: i64 = 256;
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

/// The bundle's `config.json`. `group` is where the runtime makes the container's control groups.
pub(super) fn config(
    id: &SandboxId,
    spec: &SandboxSpec,
    place: &Place,
    guests: &Guests,
    program: &Program,
    relayed: bool,
    group: &str,
) -> Value {
    let limits = &spec.limits;
    let shm = format!("size={}", limits.memory / 2);
    let mut args = program.entrypoint.clone();
    args.extend(arguments(guests, spec));
    args.extend(relayed.then(|| STREAM.to_owned()));
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0600", "max=64"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "nodev", "mode=1777", &shm, "nr_inodes=16384"]),
        mount("/sys", "tmpfs", "sys", &["nosuid", "noexec", "nodev", "ro", "mode=555", "size=4k"]),
        mount(PROGRAMS, "none", &program.directory.to_string_lossy(), &["bind", "ro", "nosuid", "nodev"]),
        mount(SHARED, "none", &place.run().to_string_lossy(), &["bind", "rw", "nosuid", "nodev", "noexec"]),
        mount(
            "/etc/ld.so.preload",
            "none",
            &program.nothing.to_string_lossy(),
            &["bind", "ro", "nosuid", "nodev", "noexec"],
        ),
    ];
    for volume in &spec.volumes {
        let (host, guest) = (volume.host.to_string_lossy(), volume.guest.to_string_lossy());
        let access = if volume.read_only { "ro" } else { "rw" };
        mounts.push(mount(&guest, "none", &host, &["bind", access, "nosuid", "nodev"]));
    }
    let mut resources = resources(limits, relayed);
    resources["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    let namespaces = ["pid", "ipc", "uts", "mount", "network", "cgroup"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": true,
        },
        "root": { "path": place.path.join("rootfs"), "readonly": false },
        "hostname": spec.hostname.as_deref().unwrap_or("sandbox"),
        "mounts": mounts,
        "annotations": { "csb.sandbox": id.as_str() },
        "linux": {
            "cgroupsPath": format!("/{group}/{id}"),
            "namespaces": namespaces,
            "resources": resources,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "rootfsPropagation": "private",
        },
    })
}

/// As [`config`], where the runtime writes limits of a container that lives. Of gVisor the host's kernel sees threads, of which
/// each process inside has a few.
pub(super) fn resources(limits: &csb_types::Limits, gvisor: bool) -> Value {
    let (quota, period) = quota(limits);
    let mut cpu = json!({ "quota": quota, "period": period });
    if let Some(weight) = limits.cpu_weight {
        cpu["shares"] = json!((u64::from(weight) * 1024 / 100).max(2));
    }
    json!({
        "memory": { "limit": limits.memory, "swap": limits.memory },
        "cpu": cpu,
        "pids": { "limit": if gvisor { 4 * pids(limits) + GVISOR_THREADS } else { pids(limits) } },
    })
}
