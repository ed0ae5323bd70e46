"""What one user of a backend can do to another: nothing. Each backend that runs commands, two users at a time."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_sandbox.deepagents import (
    CloudSandboxBackend,
    DockerSandboxBackend,
    FilesystemSandboxBackend,
    StateSandboxBackend,
)

from harness import Server

MIB = 1 << 20


@pytest.fixture(params=["cloud", "docker", "state", "filesystem"])
def users(
    request: pytest.FixtureRequest, server: Server, in_graph: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> Iterator[tuple[Any, Any]]:
    """Backends of two users."""

    def backend(user: str) -> Any:
        limits: Any = {"memory": "128Mi", "pids": 64, "disk": "32Mi"}
        if request.param == "cloud":
            return CloudSandboxBackend(base_url=server.url, user_id=user, resources=limits)
        if request.param == "docker":
            return DockerSandboxBackend(
                memory_limit="128m",
                cpu_quota=50000,
                network_mode="none",
                kind="process",
                resources={"pids": 64, "disk": "32Mi"},
                base_url=server.url,
                user_id=user,
            )
        if request.param == "state":
            return in_graph(lambda: StateSandboxBackend(None, base_url=server.url, user_id=user, resources=limits))
        return FilesystemSandboxBackend(
            tmp_path / user, virtual_mode=True, memory="128m", pids=64, disk="32m", quota_bytes=32 * MIB
        )

    ann, bob = backend("ann"), backend("bob")
    bob.write("/workspace/bobs.txt", "bob's own")
    yield ann, bob
    ann.cleanup()
    bob.cleanup()


def is_well(bob: Any) -> None:
    """Bob's commands run, his files are there, and there is room for more."""
    result = bob.execute("cat /workspace/bobs.txt && head -c 4000000 /dev/zero > more && rm more && echo fine")
    assert (result.exit_code, result.output) == (0, "bob's ownfine\n")


def test_removing_everything_removes_ones_own(users: tuple[Any, Any]) -> None:
    ann, bob = users
    mark = Path(f"/tmp/of-the-host-{os.getpid()}")
    mark.write_text("stays")
    try:
        ann.execute("rm -rf /tmp/* /workspace/* ~/* / 2>/dev/null")
        assert mark.read_text() == "stays"
    finally:
        mark.unlink()
    is_well(bob)


def test_a_fork_bomb_is_ones_own(users: tuple[Any, Any]) -> None:
    ann, bob = users
    bomb = threading.Thread(target=ann.execute, args=(":(){ :|:& };: ; sleep 60",), kwargs={"timeout": 2})
    bomb.start()
    for _ in range(2):
        is_well(bob)
    bomb.join()
    is_well(bob)
    # Whoever did it is told, and is not an error of the program around it.
    assert ann.execute("true").exit_code in (0, 125, 126, 137, 254)


def test_processes_of_others_are_not_seen(users: tuple[Any, Any]) -> None:
    ann, bob = users
    sleeper = threading.Thread(target=ann.execute, args=("exec -a anns-secret sleep 2",))
    sleeper.start()
    seen = bob.execute("ps aux; cat /proc/[0-9]*/cmdline | tr '\\0' ' '").output
    sleeper.join()
    assert "sleep" not in seen and "anns" not in seen
    assert "pytest" not in seen and "csb serve" not in seen
    assert int(bob.execute("ls -d /proc/[0-9]* | wc -l").output) < 10


def test_files_of_the_host_and_of_others_are_not_seen(users: tuple[Any, Any], tmp_path: Path) -> None:
    ann, bob = users
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    secret.chmod(0o644)
    assert ann.execute(f"cat {secret}").exit_code != 0
    assert ann.execute("cat /etc/passwd").output != Path("/etc/passwd").read_text()
    assert ann.execute("cat /etc/shadow /root/.bashrc").exit_code != 0
    found = ann.execute("find / -xdev -name 'bobs*' 2>/dev/null").output
    assert found == ""
    assert ann.execute("ls /workspace").output == ""
    assert ann.download_files(["/workspace/bobs.txt"])[0].error == "file_not_found"
    assert ann.read(str(secret)).error and ann.read(str(tmp_path / "bob" / "bobs.txt")).error


def test_the_environment_of_the_host_is_not_seen(users: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key of the host")
    ann, _ = users
    assert "a key" not in ann.execute("env; cat /proc/self/environ").output


def test_filling_the_disk_fills_ones_own(users: tuple[Any, Any], tmp_path: Path) -> None:
    ann, bob = users
    free = shutil.disk_usage(tmp_path).free
    one = ann.execute("dd if=/dev/zero of=/workspace/fill bs=1M", timeout=60)
    assert one.exit_code != 0 and ("No space left" in one.output or "quota" in one.output), one
    many = ann.execute("i=0; while head -c 8000000 /dev/zero > /workspace/fill$i; do i=$((i+1)); done", timeout=60)
    assert many.exit_code == 137 or "No space left" in many.output or "quota" in many.output, many
    # Others use the same disk at the same time: this is an order of magnitude.
    assert free - shutil.disk_usage(tmp_path).free < 2000 * MIB
    is_well(bob)
    # Who filled it can empty it.
    assert ann.execute("rm -f /workspace/fill*; echo done > /workspace/after; cat /workspace/after").output == "done\n"


def test_taking_all_memory_takes_ones_own(users: tuple[Any, Any]) -> None:
    ann, bob = users
    hog = ann.execute("python3 -c 'x = bytearray(1 << 30)'")
    assert hog.exit_code == 137 and "out of memory" in hog.output
    is_well(bob)


def test_taking_all_of_the_processor_leaves_others_their_turn(users: tuple[Any, Any]) -> None:
    ann, bob = users
    hog = threading.Thread(
        target=ann.execute,
        args=("for i in 1 2 3 4; do (while :; do :; done) & done; wait",),
        kwargs={"timeout": 2},
    )
    hog.start()
    is_well(bob)
    hog.join()
    is_well(bob)


def test_there_is_no_network(users: tuple[Any, Any], server: Server) -> None:
    ann, _ = users
    line = f"import socket; socket.create_connection(('127.0.0.1', {server.port}), 2)"
    assert "Error" in ann.execute(f'python3 -c "{line}"').output
