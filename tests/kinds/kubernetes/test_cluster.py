"""What is particular to pods: what the cluster is asked for, what it refuses, and what becomes of a sandbox when the
cluster ends its pod, loses its node or is away."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kube_cluster import IMAGE, Cluster

from harness import Api, Server, program, refused

MIB = 1 << 20


def ask(**options: Any) -> dict[str, Any]:
    """A request for a pod."""
    return {"sandbox": {"kind": "k8s", **options}}


def gone(ann: Api, box: str) -> None:
    """Waits until the server knows that a sandbox is no more."""
    deadline = time.monotonic() + 30
    while ann("GET", f"/sandboxes/{box}").status_code != 404:
        assert time.monotonic() < deadline, "the server still has it"
        time.sleep(0.05)


def no_pods(cluster: Cluster, namespace: str = "default") -> None:
    deadline = time.monotonic() + 15
    while cluster.objects(namespace=namespace):
        assert time.monotonic() < deadline, [pod["metadata"]["name"] for pod in cluster.objects(namespace=namespace)]
        time.sleep(0.05)


def test_the_seeds_request_makes_a_pod_of_it(cluster: Cluster, ann: Api) -> None:
    """K4, with the field names of its document."""
    box = ann.create(
        **ask(
            namespace="agents",
            podTemplate={"metadata": {"annotations": {"team": "a"}}, "spec": {"nodeSelector": {"pool": "sandboxes"}}},
            resources={"limits": {"memory": "256Mi", "cpu": "500m"}, "requests": {"memory": "128Mi", "cpu": "250m"}},
        )
    )
    pod = cluster.pod(box, "agents")
    container = pod["spec"]["containers"][0]
    assert container["resources"]["limits"] | {"ephemeral-storage": ""} == {
        "memory": str(256 * MIB),
        "cpu": "500m",
        "ephemeral-storage": "",
    }
    assert (container["resources"]["requests"]["memory"], container["resources"]["requests"]["cpu"]) == (
        str(128 * MIB),
        "250m",
    )
    assert pod["metadata"]["annotations"]["team"] == "a"
    assert pod["spec"]["nodeSelector"] == {"pool": "sandboxes"}
    view = ann("GET", f"/sandboxes/{box}").json()
    assert (view["kind"], view["resources"]["memory"], view["resources"]["cpu"]) == ("k8s", 256 * MIB, 0.5)
    assert ann.run(box, "echo hello")["stdout"] == "hello\n"
    assert ann("DELETE", f"/sandboxes/{box}").status_code == 204
    no_pods(cluster, "agents")


def test_a_pod_has_no_right_that_its_init_does_not_need(cluster: Cluster, ann: Api) -> None:
    box = ann.create(**ask())
    pod = cluster.pod(box)
    spec = pod["spec"]
    for off in (
        "automountServiceAccountToken",
        "enableServiceLinks",
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "shareProcessNamespace",
    ):
        assert spec[off] is False, off
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Never", 0)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (sandbox,) = spec["containers"]
    context = sandbox["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"]["add"]) == {"DAC_OVERRIDE", "KILL", "SETGID", "SETPCAP", "SETUID"}
    assert context["readOnlyRootFilesystem"] and not context["privileged"] and not context["allowPrivilegeEscalation"]
    for volume in spec["volumes"]:
        assert set(volume) == {"name", "emptyDir"} and "sizeLimit" in volume["emptyDir"]
    # It is shut off: the policy chooses it by a label that is the server's alone.
    (policy,) = cluster.objects("networkpolicies")
    assert policy["spec"] == {
        "podSelector": {"matchLabels": {"csb.network": "none"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert pod["metadata"]["labels"]["csb.network"] == "none"
    env = ann.run(box, "env; ls /var/run/secrets 2>&1")["stdout"]
    assert "10.96.0.1" not in env and "serviceaccount" not in env


def test_nothing_is_written_to_the_nodes_disk(cluster: Cluster, ann: Api) -> None:
    box = ann.create(**ask(), resources={"disk": "8Mi"})
    for user in ("user", "root"):
        for place in (
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/x",
            "/usr/x",
            "/.csb/x",
            "/.csb-run/x",
            "/.csb-run/failed",
            "/etc/ld.so.preload",
        ):
            done = ann.run(box, f"echo x > {place}", user=user)
            assert done["exit_code"] != 0, (user, place)
    writable = ann.run(box, "cat /proc/mounts")["stdout"]
    kinds = {
        line.split()[1]: line.split()[2] for line in writable.splitlines() if line.split()[3].split(",")[0] == "rw"
    }
    disks = {at for at, kind in kinds.items() if kind in ("ext4", "xfs", "overlay", "btrfs")}
    assert disks <= {"/.csb-run/failed"}, disks
    assert ann.run(box, "mount -o remount,rw / 2>&1", user="root")["exit_code"] != 0


def test_what_the_server_or_the_cluster_does_not_allow_is_refused_and_leaves_nothing(
    cluster: Cluster, ann: Api
) -> None:
    refusals = [
        (ask(namespace="kube-system"), 501, "unsupported", ("`kube-system`", "k8s.namespaces")),
        (ask(runtimeClassName="kata"), 501, "unsupported", ("`kata`", "k8s.runtime_classes")),
        (ask(runtimeClassName="missing"), 503, "backend_unavailable", ("missing",)),
        (ask(image="evil.example/miner"), 501, "unsupported", ("evil.example/miner", "k8s.images")),
        (ask(image="absent:1"), 404, "resource_not_found", ("absent:1",)),
        (ask(image="../x"), 404, "resource_not_found", ("../x",)),
        (ask(podTemplate={"spec": {"hostNetwork": True}}), 501, "unsupported", ("spec.hostNetwork",)),
        (ask(podTemplate={"spec": {"serviceAccountName": "admin"}}), 501, "unsupported", ("spec.serviceAccountName",)),
        (ask(podTemplate={"metadata": {"labels": {"csb.node": "x"}}}), 501, "unsupported", ("metadata.labels",)),
        (
            ask(podTemplate={"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}),
            501,
            "unsupported",
            ("spec.volumes",),
        ),
        (ask(podTemplate={"spec": {"nodeSelector": 7}}), 501, "unsupported", ("podTemplate",)),
        (ask(podTemplate="x"), 501, "unsupported", ("podTemplate",)),
        (ask(resources={"limits": {"gpu": 1}}), 400, "invalid_request", ("gpu",)),
        (ask(resources={"limits": "x"}), 400, "invalid_request", ("resources",)),
        (ask(serviceAccount="x"), 400, "invalid_request", ("serviceAccount",)),
        (ask(workDir="/etc"), 501, "unsupported", ("/etc",)),
        ({**ask(), "storage": "disk"}, 501, "unsupported", ("memory",)),
        ({**ask(), "resources": {"cpu_weight": 200}}, 501, "unsupported", ("cpu_weight",)),
    ]
    for body, status, code, words in refusals:
        message = refused(ann("POST", "/sandboxes", json=body), status, code)
        assert all(word in message for word in words), (message, words)
    assert cluster.objects() == [] and cluster.objects(namespace="agents") == []


def test_a_quota_and_a_full_cluster_are_named(cluster: Cluster, ann: Api) -> None:
    cluster.disturb("quota", "0")
    try:
        message = refused(ann("POST", "/sandboxes", json=ask()), 503, "capacity")
        assert "exceeded quota" in message
    finally:
        cluster.disturb("quota", "1000")
    # The node has 3 GiB.
    large = ask(resources={"limits": {"memory": "64Gi"}})
    impatient = Server(**cluster.settings(), CSB_K8S_START_TIMEOUT="3s")
    try:
        bob = impatient.api("bob")
        message = refused(bob("POST", "/sandboxes", json=large), 503, "capacity")
        assert "within 3 s" in message and "Insufficient memory" in message
        bob.close()
    finally:
        impatient.stop()
    no_pods(cluster)


@pytest.mark.parametrize("code", [401, 403, 503])
def test_a_cluster_that_refuses_is_named(cluster: Cluster, ann: Api, code: int) -> None:
    box = ann.create(**ask())
    cluster.disturb("refuse", str(code))
    try:
        answer = ann("POST", "/sandboxes", json=ask())
        message = refused(answer, 503, "backend_unavailable")
        assert "cluster" in message and answer.json()["error"]["hint"]
        # What runs is not bothered: its stream is there.
        assert ann.run(box, "echo still here")["stdout"] == "still here\n"
    finally:
        cluster.disturb("refuse", "0")
    assert ann.run(box, "echo here")["stdout"] == "here\n"


def test_a_cluster_that_is_away_is_named(cluster: Cluster) -> None:
    dead = Path(cluster.dir) / "dead.yaml"
    dead.write_text(Path(cluster.kubeconfig).read_text().replace(cluster.url, "http://127.0.0.1:1"))
    server = Server(**{**cluster.settings(), "KUBECONFIG": str(dead)})
    try:
        ann = server.api("ann")
        answer = ann("POST", "/sandboxes", json=ask())
        assert "http://127.0.0.1:1" in refused(answer, 503, "backend_unavailable")
        assert "kubectl" in answer.json()["error"]["hint"]
        listed = {kind["name"]: kind for kind in ann("GET", "/kinds").json()["items"]}
        assert "does not answer" in listed["k8s"]["why_not"]
        # Other kinds do not care.
        box = ann.create()
        assert ann.run(box, "echo x")["stdout"] == "x\n"
        ann.close()
    finally:
        server.stop()


def test_our_processes_in_a_pod_make_few_system_calls(cluster: Cluster, ann: Api) -> None:
    box = ann.create(**ask())
    assert ann("GET", f"/sandboxes/{box}/stats").json()["memory"] > 0
    ours: dict[str, list[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name in ("csb-relay", "csb-bridge", "csb-counters"):
                for thread in (process / "task").iterdir():
                    status = (thread / "status").read_text()
                    lines = [
                        line.split(":\t")[1]
                        for line in status.splitlines()
                        if line.startswith(("Seccomp:", "NoNewPrivs:"))
                    ]
                    ours.setdefault(name, []).append(" ".join(lines))
    # This cluster's runtime filters nothing, so the filter is ours; each thread has one.
    assert set(ours) == {"csb-relay", "csb-bridge", "csb-counters"}
    assert all(each == "1 2" for threads in ours.values() for each in threads), ours


def doctor(**settings: str) -> str:
    """What `csb doctor` says of this kind."""
    done = subprocess.run([program(), "doctor"], env={**os.environ, **settings}, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    at = next(place for place, line in enumerate(lines) if "k8s" in line.split()[:2])
    return "\n".join(lines[at : at + 3])


def test_the_doctor_says_what_a_cluster_lets_it_do(cluster: Cluster) -> None:
    assert "k8s.program_image" in doctor()
    said = doctor(**cluster.settings())
    assert cluster.url in said and "`default`" in said and "may not" not in said
    cluster.disturb("deny", "1")
    try:
        assert "may not create pods/exec" in doctor(**cluster.settings())
    finally:
        cluster.disturb("deny", "0")
    dead = Path(cluster.dir) / "nobody.yaml"
    dead.write_text(Path(cluster.kubeconfig).read_text().replace(cluster.url, "http://127.0.0.1:1"))
    assert "does not answer" in doctor(**{**cluster.settings(), "KUBECONFIG": str(dead)})
    assert "no Kubernetes cluster can be found" in doctor(**{**cluster.settings(), "KUBECONFIG": "/nowhere"})


@pytest.mark.parametrize("how", ["evict", "eviction", "delete"])
def test_the_end_of_a_pod_is_the_sandboxes_and_no_other(cluster: Cluster, ann: Api, server: Server, how: str) -> None:
    box, other = ann.create(**ask()), ann.create(**ask())
    running = ann.start(box, "echo begun; sleep 600")
    ann.until_said(box, running, "begun")
    path = f"/api/v1/namespaces/default/pods/csb-{box}"
    if how == "evict":
        cluster.disturb("evict", f"csb-{box}")
    elif how == "eviction":
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": f"csb-{box}"}}
        assert cluster.http.post(f"{path}/eviction", json=body).status_code == 201
    else:
        assert cluster.http.delete(path, params={"gracePeriodSeconds": 0}).status_code == 200
    gone(ann, box)
    words = {"evict": "low on resource", "eviction": "Eviction API", "delete": "deleted"}
    # Whoever had it hears why, and nobody else.
    said = refused(ann("GET", f"/sandboxes/{box}"), 404, "sandbox_not_found")
    assert "has ended: the cluster ended it" in said and words[how] in said
    bob = server.api("bob")
    assert "there is no sandbox" in refused(bob("GET", f"/sandboxes/{box}"), 404, "sandbox_not_found")
    bob.close()
    assert "the cluster ended a sandbox" in server.said() and words[how] in server.said()
    assert ann.run(other, "echo fine")["stdout"] == "fine\n"
    ann("DELETE", f"/sandboxes/{other}")
    no_pods(cluster)


def test_streams_that_break_and_versions_that_are_too_old_cost_nothing(cluster: Cluster, ann: Api) -> None:
    box = ann.create(**ask())
    counter = ann.start(box, "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 3")
    reader = ann.start(box, "read line; echo got $line", stdin=True)
    for _ in range(3):
        ann.until_said(box, counter, "line")
        cluster.disturb("cut")
        cluster.disturb("compact")
        time.sleep(0.3)
    done = ann("GET", f"/sandboxes/{box}/execs/{counter}/result?wait=60").json()
    assert done["stdout"] == "".join(f"line {i}\n" for i in range(1, 201)) and done["exit_code"] == 3
    assert ann("POST", f"/sandboxes/{box}/execs/{reader}/stdin", content=b"it\n").status_code == 204
    assert ann("GET", f"/sandboxes/{box}/execs/{reader}/result?wait=30").json()["stdout"] == "got it\n"
    assert ann("GET", f"/sandboxes/{box}/stats").json()["memory"] > 0
    # The watch goes on as well.
    cluster.disturb("evict", f"csb-{box}")
    gone(ann, box)


def test_pods_of_others_are_left_alone_and_forgotten_ones_are_removed(cluster: Cluster, server: Server) -> None:
    ours = Server(**cluster.settings())
    try:
        ann = ours.api("ann")
        box = ann.create(**ask())
        pod = cluster.pod(box)

        def put(name: str, **labels: str) -> None:
            metadata = {"name": name, "labels": labels}
            spec = {"containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "600"]}]}
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            assert cluster.http.post("/api/v1/namespaces/default/pods", json=body).status_code == 201

        put("somebody-elses")
        put("another-servers", **{"csb.node": "0123456789abcdef", "csb.sandbox": box})
        ours.kill()
        # Made by this server, which died before it wrote that down.
        forgotten = "csb-sb-" + "a" * 20
        put(forgotten, **{"csb.node": pod["metadata"]["labels"]["csb.node"], "csb.sandbox": "sb-" + "a" * 20})
        ours.start()
        deadline = time.monotonic() + 20
        while any(pod["metadata"]["name"] == forgotten for pod in cluster.objects()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        names = {pod["metadata"]["name"] for pod in cluster.objects()}
        assert {"somebody-elses", "another-servers", f"csb-{box}"} <= names
        assert ann.run(box, "echo found again")["stdout"] == "found again\n"
        ann("DELETE", f"/sandboxes/{box}")
        ann.close()
    finally:
        for name in ("somebody-elses", "another-servers"):
            cluster.http.delete(f"/api/v1/namespaces/default/pods/{name}", params={"gracePeriodSeconds": 0})
        ours.stop()


def test_a_creation_that_nobody_waits_for_leaves_no_pod(cluster: Cluster, server: Server) -> None:
    ann = server.api("ann")
    client = http.client.HTTPConnection(server.url.removeprefix("http://"))
    headers = {"Authorization": f"Bearer {ann.token}", "Content-Type": "application/json"}
    client.request("POST", "/api/v1/sandboxes", json.dumps(ask()), headers)
    deadline = time.monotonic() + 30
    while not cluster.objects():
        assert time.monotonic() < deadline, "no pod was made"
        time.sleep(0.01)
    client.close()
    # It is made all the same, and its owner finds it.
    while cluster.objects():
        assert time.monotonic() < deadline, ann("GET", "/sandboxes").text
        for box in ann("GET", "/sandboxes").json()["items"]:
            ann("DELETE", f"/sandboxes/{box['sandbox_id']}")
        time.sleep(0.05)
    ann.close()


def test_manifests_are_what_the_published_schemas_say(cluster: Cluster, ann: Api, tmp_path: Path) -> None:
    boxes = [
        ann.create(**ask()),
        ann.create(**ask(runtimeClassName="gvisor", workDir="/app"), hostname="named", resources={"nofile": 64}),
        ann.create(**ask(podTemplate={"spec": {"nodeSelector": {"a": "b"}}})),
    ]
    manifests = []
    for box in boxes:
        pod = cluster.pod(box)
        for server_made in ("uid", "resourceVersion", "creationTimestamp", "namespace"):
            pod["metadata"].pop(server_made, None)
        pod["spec"].pop("nodeName", None)
        pod.pop("status")
        manifests.append(pod)
    (policy,) = cluster.objects("networkpolicies")
    for server_made in ("uid", "resourceVersion", "creationTimestamp", "namespace"):
        policy["metadata"].pop(server_made, None)
    manifests.append(policy)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.33", strict=True)
    if shutil.which("kubectl"):
        file = tmp_path / "manifests.json"
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
        command = [
            "kubectl",
            "--kubeconfig",
            cluster.kubeconfig,
            "create",
            "--dry-run=client",
            "--validate=false",
            "-f",
            file,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.count("(dry run)") == len(manifests), done.stdout + done.stderr


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    cluster = Cluster("--memory", "2Gi")
    yield cluster
    cluster.stop()


def test_a_lost_node_loses_its_sandboxes_and_the_server_says_so(own_cluster: Cluster) -> None:
    server = Server(**own_cluster.settings())
    try:
        ann = server.api("ann")
        box = ann.create(**ask())
        running = ann.start(box, "sleep 600")
        assert running
        own_cluster.disturb("lose-node")
        gone(ann, box)
        assert "DeletionByTaintManager" in server.said()
        assert "DeletionByTaintManager" in refused(ann("GET", f"/sandboxes/{box}"), 404, "sandbox_not_found")
        # Not a word of its node, and its pod is gone all the same.
        no_pods(own_cluster)
        ann.close()
    finally:
        server.stop()


def test_an_operators_template_is_below_every_pod_and_a_bad_one_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text(
        "metadata:\n  labels: {team: sandboxes}\nspec:\n  priorityClassName: low\n  hostNetwork: true\n"
        "  tolerations:\n  - {key: dedicated, operator: Exists}\n"
    )
    server = Server(**cluster.settings(), CSB_K8S_POD_TEMPLATE=str(template))
    try:
        ann = server.api("ann")
        box = ann.create(**ask())
        pod = cluster.pod(box)
        assert pod["metadata"]["labels"]["team"] == "sandboxes"
        assert (pod["spec"]["priorityClassName"], pod["spec"]["hostNetwork"]) == ("low", False)
        assert {one["key"] for one in pod["spec"]["tolerations"]} >= {"dedicated", "node.kubernetes.io/unreachable"}
        ann.close()
    finally:
        server.stop()
    for bad in ("spec: [", "kind: Pod\nspek: {}", "spec: {hostNetwork: 3, containers: []}"):
        template.write_text(bad)
        with pytest.raises(RuntimeError, match=r"k8s\.pod_template|CSB_K8S_POD_TEMPLATE"):
            Server(**cluster.settings(), CSB_K8S_POD_TEMPLATE=str(template))


def test_pods_that_wait_are_handed_out_and_made_again(cluster: Cluster) -> None:
    server = Server(**cluster.settings(), SANDBOX_KIND="k8s", POOL_MIN_SIZE="2", POOL_MAX_SIZE="2")
    try:
        ann = server.api("ann")

        def ready(number: int) -> None:
            deadline = time.monotonic() + 30
            while ann("GET", "/sandbox/stats").json()["pool"]["ready"] != number:
                assert time.monotonic() < deadline, ann("GET", "/sandbox/stats").text
                time.sleep(0.05)

        ready(2)
        waiting = {pod["metadata"]["name"] for pod in cluster.objects()}
        made = ann("POST", "/sandboxes", json={}).json()
        assert (made["kind"], made["started_by"]) == ("k8s", "claim")
        assert f"csb-{made['sandbox_id']}" in waiting
        assert ann.run(made["sandbox_id"], "echo $HOME")["exit_code"] == 0
        ready(2)
        # The next server finds those that wait as well.
        server.kill()
        server.start()
        ready(2)
        assert len(cluster.objects()) == 3
        for pod in cluster.objects():
            ann("DELETE", f"/sandboxes/{pod['metadata']['name'].removeprefix('csb-')}")
        ann.close()
    finally:
        server.stop()
        # `csb warden stop` does not end pods.
        for pod in cluster.objects():
            path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}"
            cluster.http.delete(path, params={"gracePeriodSeconds": 0})
