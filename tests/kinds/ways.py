"""Where each kind of sandbox is to be had: servers, a Docker engine, and whether it is a fault that it is not here.

`CSB_KINDS=docker,oci` makes it an error where one of these is not available; otherwise it is skipped, with the server's
reason. `process`, `vfs`, `remote` and, for root, `hardened` are never skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import docker_engine
import kube_cluster
import pytest
from declared import KINDS

from elsewhere import Far
from harness import ROOT, Api, Server, program

# A template of busybox alone, of servers for which one of the host's `/usr` would take longer than their tests.
SMALL = "kinds-small"
SMALL_ONLY = {"SANDBOX_IMAGE": SMALL, "POOL_MIN_SIZE": "0"}
ALWAYS = {"process", "vfs", "remote", *(["hardened"] if os.geteuid() == 0 else [])}
MUST = ALWAYS | {name.strip() for name in os.environ.get("CSB_KINDS", "").split(",") if name.strip()}


class Host:
    """What all kinds need, each part started for the first that asks for it."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.engine = ""
        self.cluster: kube_cluster.Cluster | kube_cluster.Theirs | None = None
        self.gvisor = ""
        self.warmed: set[tuple[str, str]] = set()
        self.main: Server | None = None
        self.other: Far | None = None
        self.machine: dict[str, str] | None = None
        self.unavailable: dict[str, str] | None = None

    def settings(self, kind: str) -> dict[str, str]:
        """Of a server that shall have this kind. What a build does not know it ignores."""
        if kind == "docker":
            if not self.engine:
                directory = tempfile.mkdtemp(prefix="csb-kinds-engine-")
                started = subprocess.run(
                    [ROOT / "scripts" / "docker.sh", "start", directory], capture_output=True, text=True
                )
                if started.returncode:
                    os.rmdir(directory)
                    pytest.skip(f"there is no Docker engine: {started.stderr.strip()}")
                self.engine = started.stdout.strip()
                docker_engine.add_image(self.engine)
            return {"DOCKER_HOST": self.engine}
        if kind == "k8s":
            if self.cluster is None:
                theirs = os.environ.get("CSB_TEST_KUBECONFIG")
                if not theirs and (os.geteuid() != 0 or not kube_cluster.stand_in().exists()):
                    pytest.skip("the cluster that stands in for one needs root, and to be built (csb-testkit)")
                self.cluster = kube_cluster.start()
            return self.cluster.settings()
        if kind == "gvisor":
            if not self.gvisor:
                found = shutil.which("runsc") or unpacked("runsc")
                if not found:
                    pytest.skip("there is no runsc, and Debian's package of it cannot be had")
                self.gvisor = os.path.dirname(found)
            return {"PATH": f"{self.gvisor}:{os.environ['PATH']}"}
        if kind == "remote":
            if self.other is None:
                self.other = Far()
                self.servers.append(self.other)
            return {"REMOTE_SERVERS": f"other={self.other.url}", "REMOTE_OTHER_KEY": self.other.key}
        if kind == "microvm":
            if self.machine is None:
                place = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "microvm"
                place.mkdir(parents=True, exist_ok=True)
                got = subprocess.run([ROOT / "scripts" / "microvm.sh", place], capture_output=True, text=True)
                # What the host has installed may do as well; the server says if it does not.
                self.machine = dict(line.split("=", 1) for line in got.stdout.splitlines() if not got.returncode)
                self.machine |= SMALL_ONLY
            return self.machine
        return {}

    def start(self, **settings: str) -> Server:
        self.servers.append(Server(**settings))
        return self.servers[-1]

    def warm(self, server: Server, kind: str) -> Server:
        """Makes what is made once for the first sandbox: a copy of the template, on a host that may be busy."""
        if (server.url, kind) in self.warmed:
            return server
        self.warmed.add((server.url, kind))
        if server.env.get("SANDBOX_IMAGE") == SMALL:
            add = [program(), "template", "add", "--data-dir", server.data_dir, SMALL, "-"]
            subprocess.run(add, input=docker_engine.image(), check=True, capture_output=True)
        if kind == "hardened":
            api = server.api("first")
            made = api("POST", "/sandboxes", json={"sandbox": {"kind": kind}}, timeout=280)
            assert made.status_code == 201, made.text
            api("DELETE", f"/sandboxes/{made.json()['sandbox_id']}")
        return server

    def server(self, kind: str) -> Server:
        """One for all kinds that need nothing beside it; another for each of the rest."""
        needs = self.settings(kind)
        if needs:
            found = next((one for one in self.servers if needs.items() <= one.env.items()), None)
            return found or self.start(**needs)
        if self.main is None:
            self.main = self.start()
        return self.main

    def why_not(self, kind: str) -> str:
        """Why this build and host have none of a kind; empty where they have it. Starts no engine."""
        if self.unavailable is None:
            listed = self.server("process").api("kinds")("GET", "/kinds").json()["items"]
            self.unavailable = {one["name"]: one["why_not"] or "" for one in listed}
        return self.unavailable.get(kind, "the server does not know it")

    def stop(self) -> None:
        # The one that others lean on, last.
        for server in sorted(self.servers, key=lambda one: one is self.other):
            server.stop()
        if self.cluster:
            self.cluster.stop()
        if self.engine:
            directory = os.path.dirname(self.engine.removeprefix("unix://"))
            subprocess.run([ROOT / "scripts" / "docker.sh", "stop", directory], check=True)


class Way:
    """One kind, with a server that has it."""

    def __init__(self, host: Host, kind: str) -> None:
        self.host, self.name = host, kind
        self.declared = KINDS[kind]
        self.kind = self.declared.kind or kind
        self.server = host.warm(host.server(kind), kind)

    def lacks(self, capability: str) -> bool:
        return capability in self.declared.cannot

    def needs(self, capability: str) -> None:
        """Ends a test of what this kind cannot do; that it says so, `test_kind_declared.py` looks at."""
        if self.lacks(capability):
            pytest.skip(f"`{self.kind}` declares that it has no {capability}")

    def outlives_its_limits(self) -> None:
        """Ends a test of what comes after."""
        if self.declared.ends_at_limits:
            pytest.skip(f"`{self.name}` declares that it has no life past its limits")

    def limits(self, **limits: Any) -> dict[str, Any]:
        """`resources` of a request, without what this kind cannot limit."""
        needs = {"disk": "disk_limit", "pids": "pids_limit"}
        return {name: limit for name, limit in limits.items() if name not in needs or not self.lacks(needs[name])}

    def own_server(self) -> Server:
        """A server of a test's own, which it may kill."""
        settings = self.host.settings(self.name) | (SMALL_ONLY if self.kind == "hardened" else {})
        return self.host.warm(self.host.start(**settings), self.name)

    def request(self, **body: Any) -> dict[str, Any]:
        """A request for a sandbox of the kind."""
        return {"sandbox": {"kind": self.kind, **self.declared.options()}, **body}

    def create(self, api: Api, **body: Any) -> str:
        return api.create(**self.request(**body))


def unpacked(package: str) -> str | None:
    """A program of a newer Debian's package, which is not installed."""
    place = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "unpacked"
    place.mkdir(parents=True, exist_ok=True)
    script = ROOT / "scripts" / "unpacked.sh"
    done = subprocess.run([script, place, "trixie", package], capture_output=True, text=True)
    return shutil.which(package, path=Path(done.stdout.strip()) / "usr" / "bin") if done.returncode == 0 else None


def available(host: Host, kind: str) -> None:
    """Skips, or fails, where there is no such kind here."""
    why = host.why_not(KINDS[kind].kind or kind)
    # A kind that another program makes is switched on by where that program is.
    if why and kind in ("docker", "k8s", "microvm", "remote"):
        listed = host.server(kind).api("kinds")("GET", "/kinds").json()["items"]
        why = next(one["why_not"] or "" for one in listed if one["name"] == kind)
    if why and kind in MUST:
        pytest.fail(f"kind `{kind}` has to be here: {why}")
    if why:
        pytest.skip(f"kind `{kind}` is not here: {why}")
