"""`DockerSandboxBackend` on a real Docker Engine of the tests' own; skipped where none can be started."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_sandbox import ResourceNotFound, Unsupported
from cloud_sandbox.deepagents import DockerSandboxBackend

sys.path.insert(0, str(Path(__file__).parent.parent / "kinds"))

import docker_engine

from harness import ROOT, Server

SCRIPT = ROOT / "scripts" / "docker.sh"


@pytest.fixture(scope="module")
def docker() -> Iterator[Server]:
    """A server with an engine that has one image."""
    directory = tempfile.mkdtemp(prefix="csb-agents-")
    started = subprocess.run([SCRIPT, "start", directory], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"there is no Docker engine: {started.stderr.strip()}")
    host = started.stdout.strip()
    docker_engine.add_image(host, "agents")
    server = Server(DOCKER_HOST=host, POOL_MIN_SIZE="0")
    yield server
    server.stop()
    subprocess.run([SCRIPT, "stop", directory], check=True)


def test_a_backend_is_a_container_of_its_image_with_its_limits(docker: Server) -> None:
    backend = DockerSandboxBackend(
        image="agents:latest", memory_limit="128m", cpu_quota=50000, network_mode="none", base_url=docker.url
    )
    with backend:
        info = backend.start()
        assert (info.kind, info.resources["memory"], info.resources["cpu"]) == ("docker", 128 << 20, 0.5)
        # Busybox, which the host's own programs are not.
        assert "BusyBox" in backend.execute("head --help 2>&1").output
        assert "lo" in backend.execute("cat /proc/net/dev").output
        assert backend.write("/workspace/a/note", "kept\n").error is None
        assert backend.execute("cat a/note; echo oops >&2; exit 3").output == "kept\noops\n"
        assert backend.download_files(["/workspace/a/note"])[0].content == b"kept\n"
        used = backend.execute("dd if=/dev/zero of=/dev/null bs=300M count=1")
        assert used.exit_code == 137 and "memory" in used.output


def test_an_image_or_a_network_that_is_not_there_is_told(docker: Server) -> None:
    with pytest.raises(ResourceNotFound), DockerSandboxBackend(image="no-such:image", base_url=docker.url):
        pass
    backend = DockerSandboxBackend(image="agents:latest", network_mode="host", base_url=docker.url)
    with pytest.raises(Unsupported, match="networkMode"), backend:
        pass
