"""A Kubernetes cluster for tests: that of `CSB_TEST_KUBECONFIG`, or one that `crates/testkit` stands in for.

On a cluster of somebody's, `CSB_TEST_PROGRAM_IMAGE` names an image with `csb` that its nodes can pull, and
`CSB_TEST_IMAGE` one with a shell (default: busybox). `make test-k8s` sets all of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import docker_engine
import httpx

from harness import ROOT, program

IMAGE = "csb-kinds:latest"


def stand_in() -> Path:
    """The program that is a cluster."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "debug" / "csb-test-cluster"


class Cluster:
    """One of the tests' own."""

    def __init__(self, *words: str) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="csb-cluster-"))
        root = self.dir / "image"
        root.mkdir()
        subprocess.run(["tar", "-xf", "-", "-C", root], input=docker_engine.image(), check=True)
        command = [stand_in(), "--dir", self.dir, "--image", f"{IMAGE}={root}", "--program", program(), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.kubeconfig = self.process.stdout.readline().strip()
        assert self.kubeconfig, "the cluster did not start"
        fields = dict(
            line.strip().split(": ", 1) for line in Path(self.kubeconfig).read_text().splitlines() if ": " in line
        )
        self.url = fields["server"]
        self.http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {fields['token']}"}, timeout=60, trust_env=False
        )

    def settings(self) -> dict[str, str]:
        return {
            "KUBECONFIG": self.kubeconfig,
            "CSB_K8S_PROGRAM_IMAGE": "csb-program:test",
            "CSB_K8S_IMAGE": IMAGE,
        }

    def objects(self, resource: str = "pods", namespace: str = "default") -> list[dict[str, Any]]:
        api = "/apis/networking.k8s.io/v1" if resource == "networkpolicies" else "/api/v1"
        answer = self.http.get(f"{api}/namespaces/{namespace}/{resource}")
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def pod(self, box: str, namespace: str = "default") -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/namespaces/{namespace}/pods/csb-{box}")
        assert answer.status_code == 200, answer.text
        pod: dict[str, Any] = answer.json()
        return pod

    def disturb(self, *words: str) -> None:
        """What an administrator, an accident or another tenant would do; see `crates/testkit/src/cluster/api.rs`."""
        answer = self.http.post("/test/" + "/".join(words))
        assert answer.status_code == 204, answer.text

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        shutil.rmtree(self.dir)


class Theirs:
    """The cluster that the environment names."""

    def __init__(self) -> None:
        self.kubeconfig = os.environ["CSB_TEST_KUBECONFIG"]

    def settings(self) -> dict[str, str]:
        return {
            "KUBECONFIG": self.kubeconfig,
            "CSB_K8S_PROGRAM_IMAGE": os.environ["CSB_TEST_PROGRAM_IMAGE"],
            "CSB_K8S_IMAGE": os.environ.get("CSB_TEST_IMAGE", "busybox"),
            **{name: text for name, text in os.environ.items() if name.startswith("CSB_K8S_")},
        }

    def objects(self, resource: str = "pods") -> list[dict[str, Any]]:
        import json

        command = ["kubectl", "--kubeconfig", self.kubeconfig, "get", resource, "-o", "json"]
        namespace = os.environ.get("CSB_K8S_NAMESPACE")
        command += ["-n", namespace] if namespace else []
        items: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[
            "items"
        ]
        return items

    def stop(self) -> None:
        pass


def start() -> Cluster | Theirs:
    return Theirs() if os.environ.get("CSB_TEST_KUBECONFIG") else Cluster()
