//! From a spec to the pod that the cluster is asked for. Pure.
//!
//! Three layers, the later over the earlier: what is usual, the operator's template (with what a user may add to it), and what a
//! sandbox is not safe or does not work without.

use super::{K8sSettings, merge::merge};
use crate::{
    guests::PLACES,
    program::{HOSTS, LOADER, NOTHING, RUN},
};
use csb_types::{SandboxId, SandboxSpec};
use csb_wire::{
    VERSION,
    guest::{BRIDGE, COUNTERS, FAILED, PROGRAM, PROGRAMS, SHARED, STREAM},
};
use serde_json::{Value, json};

/// Label with the node of ours that a pod belongs to. What has another, or none, is never touched.
pub(super) const NODE: &str = "csb.node";
/// Label with the sandbox that it is.
pub(super) const SANDBOX: &str = "csb.sandbox";
/// Label with what it can reach; [`POLICY`] chooses by it.
const NETWORK: &str = "csb.network";
/// Name of the network policy that lets nothing through, and value of the label for which it holds.
pub(super) const POLICY: &str = "csb-network-none";
/// Container of the sandbox.
pub(super) const CONTAINER: &str = "sandbox";
/// Container that brings our program.
pub(super) const BRINGER: &str = "csb-program";

/// As for kind `docker`.
const CAPABILITIES: [&str; 5] = ["DAC_OVERRIDE", "KILL", "SETGID", "SETPCAP", "SETUID"];
/// By these an image's environment would reach into the loader of our init; the rest tells of the cluster.
const EMPTIED: [&str; 12] = [
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_DEBUG",
    "LD_PROFILE",
    "GLIBC_TUNABLES",
    "KUBERNETES_PORT",
    "KUBERNETES_PORT_443_TCP",
    "KUBERNETES_PORT_443_TCP_ADDR",
    "KUBERNETES_PORT_443_TCP_PORT",
    "KUBERNETES_PORT_443_TCP_PROTO",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
];
/// More than any build of the program.
const PROGRAM_SIZE: &str = "512Mi";
/// Of a pod's containers' logs and of files that the node's runtime makes for it; a sandbox writes to none of them.
const NODE_DISK: &str = "1Gi";
/// A node that does not answer for so long has lost its sandboxes, seconds.
const NODE_PATIENCE: u32 = 60;

/// What every command of ours in the container starts with.
pub(super) fn entry(words: &[&str]) -> Vec<String> {
    let inside = |name: &str| format!("{PROGRAMS}/{name}");
    let mut entry = vec![inside(LOADER), "--library-path".into(), PROGRAMS.into(), inside(PROGRAM)];
    entry.extend(words.iter().map(|word| (*word).to_owned()));
    entry
}

/// Of the process that tells what a sandbox uses.
pub(super) fn counters() -> Vec<String> {
    entry(&[COUNTERS])
}

/// Of the process that joins the init with us.
pub(super) fn bridge() -> Vec<String> {
    entry(&[BRIDGE])
}

/// Name of a sandbox's pod.
pub(super) fn name(id: &SandboxId) -> String {
    format!("csb-{id}")
}

/// What a node keeps for the container and what it gives at most. A pod of which both are the same everywhere is of another
/// class of service, and stays of its class for life.
pub(super) fn resources(spec: &SandboxSpec, memory: u64, cpu_milli: u32) -> Value {
    let cpu = |milli: u32| format!("{milli}m");
    let requests = json!({
        "memory": spec.options.request_memory.map_or(memory, |asked| asked.min(memory)).to_string(),
        "cpu": cpu(spec.options.request_cpu_milli.map_or(cpu_milli, |asked| asked.min(cpu_milli))),
    });
    json!({ "limits": { "memory": memory.to_string(), "cpu": cpu(cpu_milli) }, "requests": requests })
}

fn mount(volume: &str, at: &str, below: Option<&str>, read_only: bool) -> Value {
    let mut mount = json!({ "name": volume, "mountPath": at, "readOnly": read_only });
    if let Some(below) = below {
        mount["subPath"] = below.into();
    }
    mount
}

fn mounts(spec: &SandboxSpec) -> Vec<Value> {
    let mut mounts = vec![
        mount("csb-program", PROGRAMS, None, true),
        mount("csb-run", SHARED, Some(RUN), false),
        mount("csb-program", "/etc/ld.so.preload", Some(NOTHING), true),
        // The kubelet's own would be a file on the node's disk that root inside may write to.
        mount("csb-program", "/etc/hosts", Some(HOSTS), true),
    ];
    mounts.extend(PLACES.iter().map(|(name, at, ..)| mount("csb-files", at, Some(name), false)));
    if let Some(work_dir) = &spec.options.work_dir
        && !PLACES.iter().any(|(_, at, ..)| at == work_dir)
    {
        mounts.push(mount("csb-files", work_dir, Some("workspace"), false));
    }
    mounts
}

/// What a pod has where nobody says otherwise.
fn usual(settings: &K8sSettings, spec: &SandboxSpec) -> Value {
    let tolerate = |taint: &str| {
        json!({
            "key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": NODE_PATIENCE,
        })
    };
    let mut spec_of_pod = json!({
        // Nothing is reached: a look-up fails at once.
        "dnsPolicy": "None",
        "dnsConfig": { "nameservers": ["127.0.0.1"] },
        "tolerations": [tolerate("not-ready"), tolerate("unreachable")],
        "containers": [{ "name": CONTAINER, "imagePullPolicy": "IfNotPresent" }],
        "initContainers": [{ "name": BRINGER, "imagePullPolicy": "IfNotPresent" }],
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
    });
    if let Some(class) = spec.options.runtime_class.as_ref().or(settings.runtime_class.as_ref()) {
        spec_of_pod["runtimeClassName"] = class.as_str().into();
    }
    json!({ "spec": spec_of_pod })
}

/// What every pod has.
fn fixed(settings: &K8sSettings, node: &str, id: &SandboxId, spec: &SandboxSpec, image: &str) -> Value {
    let limits = &spec.limits;
    let resources = |disk: &str| {
        let mut resources = resources(spec, limits.memory, limits.cpu_milli);
        resources["limits"]["ephemeral-storage"] = disk.into();
        resources["requests"]["ephemeral-storage"] = "0".into();
        resources
    };
    let confined = |more: &[&str]| {
        json!({
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "privileged": false,
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": more },
        })
    };
    let nofile = limits.nofile.to_string();
    let bring = ["/csb/program", "/csb/files", "/csb/run"];
    let env: Vec<Value> = EMPTIED.iter().map(|name| json!({ "name": name, "value": "" })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(id),
            "labels": {
                NODE: node, SANDBOX: id.as_str(), NETWORK: "none",
                "app.kubernetes.io/name": "csb-sandbox", "app.kubernetes.io/managed-by": "csb",
            },
            // A drain ends it like any other eviction; an autoscaler does not move it of itself.
            "annotations": { "cluster-autoscaler.kubernetes.io/safe-to-evict": "false" },
        },
        "spec": {
            "hostname": spec.hostname.as_deref().unwrap_or("sandbox"),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "hostNetwork": false, "hostPID": false, "hostIPC": false, "shareProcessNamespace": false,
            "initContainers": [{
                "name": BRINGER,
                "image": settings.program_image,
                "command": ["csb", "guest-files", "--protocol", VERSION.to_string(), bring[0], bring[1], bring[2]],
                "securityContext": confined(&["CHOWN"]),
                "resources": resources(NODE_DISK),
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    mount("csb-program", bring[0], None, false),
                    mount("csb-files", bring[1], None, false),
                    mount("csb-run", bring[2], None, false),
                ],
            }],
            "containers": [{
                "name": CONTAINER,
                "image": image,
                "command": entry(&[&nofile, STREAM]),
                "args": [],
                "workingDir": "/",
                "env": env,
                "securityContext": confined(&CAPABILITIES),
                "resources": resources(NODE_DISK),
                // So that the init's last words are the pod's, and the usual file, on the node's disk, is nobody's to fill.
                "terminationMessagePath": format!("{SHARED}/{FAILED}"),
                "volumeMounts": mounts(spec),
            }],
            "volumes": [
                { "name": "csb-program", "emptyDir": { "sizeLimit": PROGRAM_SIZE } },
                { "name": "csb-files", "emptyDir": { "medium": "Memory", "sizeLimit": limits.disk.to_string() } },
                { "name": "csb-run", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            ],
        },
    })
}

/// The pod of a sandbox. `asked` is what the user may add to the template.
pub(super) fn pod(
    settings: &K8sSettings,
    node: &str,
    id: &SandboxId,
    spec: &SandboxSpec,
    image: &str,
    asked: Option<&Value>,
) -> Value {
    let mut pod = usual(settings, spec);
    for layer in settings.template.iter().chain(asked) {
        pod = merge(pod, layer);
    }
    merge(pod, &fixed(settings, node, id, spec, image))
}

/// What lets nothing in or out of pods without a network.
pub(super) fn policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": POLICY,
            "labels": { "app.kubernetes.io/name": "csb-sandbox", "app.kubernetes.io/managed-by": "csb" },
        },
        "spec": { "podSelector": { "matchLabels": { NETWORK: "none" } }, "policyTypes": ["Ingress", "Egress"] },
    })
}

/// What changes limits of a pod that lives (`pods/resize`).
pub(super) fn resize(spec: &SandboxSpec, memory: u64, cpu_milli: u32) -> Value {
    json!({ "spec": { "containers": [{ "name": CONTAINER, "resources": resources(spec, memory, cpu_milli) }] } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use csb_types::{Kind, KindOptions};

    fn settings(template: Option<Value>) -> K8sSettings {
        K8sSettings { program_image: Some("csb:1".into()), template, ..Default::default() }
    }

    fn render(template: Option<Value>, options: KindOptions) -> Value {
        let spec = SandboxSpec { kind: Kind::K8s, options, ..Default::default() };
        pod(&settings(template), "n", &SandboxId::random(), &spec, "alpine", None)
    }

    #[test]
    fn a_template_cannot_take_away_what_a_sandbox_is_safe_by() {
        let template = json!({
            "metadata": { "labels": { NODE: "other", "team": "a" }, "annotations": { "note": "b" } },
            "spec": {
                "hostNetwork": true, "hostPID": true, "automountServiceAccountToken": true, "shareProcessNamespace": true,
                "serviceAccountName": "sandboxes", "restartPolicy": "Always", "nodeSelector": { "pool": "sandboxes" },
                "containers": [
                    { "name": CONTAINER, "securityContext": { "privileged": true, "capabilities": { "add": ["SYS_ADMIN"] } } },
                    { "name": "beside", "image": "b" },
                ],
            },
        });
        let pod = render(Some(template), KindOptions::default());
        let spec = &pod["spec"];
        for off in ["hostNetwork", "hostPID", "automountServiceAccountToken", "shareProcessNamespace"] {
            assert_eq!(spec[off], false, "{off}");
        }
        assert_eq!(spec["restartPolicy"], "Never");
        let sandbox = &spec["containers"][0];
        assert_eq!(sandbox["securityContext"]["privileged"], false);
        assert_eq!(sandbox["securityContext"]["capabilities"], json!({ "drop": ["ALL"], "add": CAPABILITIES }));
        assert_eq!(pod["metadata"]["labels"][NODE], "n");
        // And gives all the rest.
        assert_eq!(pod["metadata"]["labels"]["team"], "a");
        assert_eq!(pod["metadata"]["annotations"]["note"], "b");
        assert_eq!(spec["serviceAccountName"], "sandboxes");
        assert_eq!(spec["nodeSelector"]["pool"], "sandboxes");
        assert_eq!(spec["containers"][1]["name"], "beside");
    }

    #[test]
    fn what_a_node_keeps_is_the_limit_unless_less_is_asked_for() {
        let resources = |options| render(None, options)["spec"]["containers"][0]["resources"].clone();
        let whole = resources(KindOptions::default());
        assert_eq!(whole["limits"]["memory"], whole["requests"]["memory"]);
        let less = resources(KindOptions {
            request_memory: Some(1 << 26),
            request_cpu_milli: Some(250),
            ..Default::default()
        });
        assert_eq!((&less["requests"]["memory"], &less["requests"]["cpu"]), (&json!("67108864"), &json!("250m")));
        assert_eq!(less["limits"]["cpu"], "1000m");
    }

    #[test]
    fn the_cluster_s_own_types_can_hold_what_is_rendered() {
        let pod = render(Some(json!({ "spec": { "hostUsers": false } })), KindOptions::default());
        let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(typed.spec.unwrap().host_users, Some(false));
        serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(policy()).unwrap();
    }
}
