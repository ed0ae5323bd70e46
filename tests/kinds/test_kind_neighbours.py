"""What one user does in a sandbox of any kind, and another in the next one never notices (B3)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ways import Way

from harness import Api, refused

BOMB = "bomb() { bomb | bomb & }; bomb; sleep 600"
LIMITS: dict[str, Any] = {"memory": "96Mi", "pids": 64, "disk": "24Mi", "cpu": 1}  # as far as the kind has them


class Victim:
    """Bob's sandbox, in which something runs while Ann does what she wants in hers."""

    def __init__(self, api: Api, box: str) -> None:
        self.api, self.box = api, box
        api("PUT", f"/sandboxes/{box}/files?path=/workspace/bobs.txt", content=b"bob's own")
        api("PUT", f"/sandboxes/{box}/files?path=/tmp/bobs.txt", content=b"bob's own")
        self.running = api.start(box, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done")
        self.seen = self.ticks()

    def ticks(self) -> int:
        return len(self.api("GET", f"/sandboxes/{self.box}/execs/{self.running}/output?follow=false").text)

    def is_well(self) -> None:
        """His files are there, there is room for more, his command goes on, and a new one starts soon."""
        begun = time.monotonic()
        done = self.api.run(
            self.box, "cat /workspace/bobs.txt /tmp/bobs.txt; head -c 4000000 /dev/zero > m && rm m && echo fine"
        )
        assert (done["exit_code"], done["stdout"]) == (0, "bob's ownbob's ownfine\n"), done
        # An order of magnitude: two sandboxes and this test share the host.
        assert time.monotonic() - begun < 20
        deadline = time.monotonic() + 20
        while self.ticks() <= self.seen:
            assert time.monotonic() < deadline, "his command stands still"
            time.sleep(0.1)
        self.seen = self.ticks()
        stats = self.api("GET", f"/sandboxes/{self.box}/stats").json()
        assert (stats["oom_kills"], stats["pids_refused"]) == (0, 0)


@pytest.fixture
def victim(way: Way, bob: Api) -> Iterator[Victim]:
    victim = Victim(bob, way.create(bob, resources=way.limits(**LIMITS)))
    yield victim
    victim.is_well()


@pytest.fixture
def attacker(way: Way, ann: Api, victim: Victim) -> str:
    return way.create(ann, resources=way.limits(**LIMITS))


def test_removing_everything_removes_ones_own(ann: Api, attacker: str, victim: Victim, tmp_path: Path) -> None:
    mark = Path("/tmp") / f"{tmp_path.name}-of-the-host"
    mark.write_text("stays")
    try:
        for user in ("user", "root"):
            ann.run(attacker, "rm -rf /tmp/* /workspace/* /dev/shm/* /var/tmp/* ~/* 2>/dev/null", user=user)
        ann.run(attacker, "rm -rf --no-preserve-root /tmp / 2>/dev/null", timeout=60)
        assert mark.read_text() == "stays"
    finally:
        mark.unlink()
    victim.is_well()


def test_a_fork_bomb_is_ones_own(ann: Api, attacker: str, victim: Victim) -> None:
    exec_id = ann.start(attacker, BOMB, timeout=6)
    for _ in range(3):
        victim.is_well()
    done = ann("GET", f"/sandboxes/{attacker}/execs/{exec_id}/result?wait=60").json()
    assert done["exit_code"] != 0


def test_processes_of_others_are_not_seen(ann: Api, attacker: str, victim: Victim) -> None:
    victim.api.start(victim.box, ["sleep", "4711.5"])
    for user in ("user", "root"):
        seen = ann.run(attacker, "ps aux 2>/dev/null; cat /proc/[0-9]*/cmdline | tr '\\0' ' '", user=user)["stdout"]
        assert "4711.5" not in seen and "pytest" not in seen and "csb serve" not in seen and "dockerd" not in seen
        assert int(ann.run(attacker, "ls -d /proc/[0-9]* | wc -l", user=user)["stdout"]) < 10
    ann.run(attacker, "kill -9 -1 2>/dev/null", user="root")
    victim.is_well()


def test_files_of_the_host_and_of_others_are_not_seen(
    way: Way, ann: Api, attacker: str, victim: Victim, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    for user in ("user", "root"):
        look = f"cat {secret} /etc/shadow /root/.bashrc {way.server.data_dir}/jwt.secret 2>&1; cat /etc/passwd"
        said = ann.run(attacker, look, user=user)["stdout"]
        assert "of the host" not in said
        assert Path("/etc/passwd").read_text() not in said
        root = Path("/etc/shadow").read_text().splitlines()[0]
        assert root.split(":")[1] in ("", "*", "!") or root not in said
        found = ann.run(attacker, "find / -xdev -name 'bobs*' 2>/dev/null", user=user, timeout=120)["stdout"]
        assert found == ""


def test_the_other_users_sandbox_does_not_exist_for_one(ann: Api, attacker: str, victim: Victim) -> None:
    refused(ann("GET", f"/sandboxes/{victim.box}"), 404, "sandbox_not_found")
    refused(ann("POST", f"/sandboxes/{victim.box}/execs", json={"command": "true"}), 404, "sandbox_not_found")
    refused(ann("GET", f"/sandboxes/{victim.box}/files?path=/workspace/bobs.txt"), 404, "sandbox_not_found")
    refused(ann("DELETE", f"/sandboxes/{victim.box}"), 404, "sandbox_not_found")
    assert ann("GET", "/sandboxes").json()["items"][0]["sandbox_id"] == attacker


def test_filling_the_disk_fills_ones_own(way: Way, ann: Api, attacker: str, victim: Victim) -> None:
    way.needs("disk_limit")
    way.outlives_its_limits()
    for place in ("/workspace", "/tmp", "/dev/shm", "/var/tmp"):
        filled = ann.run(attacker, f"dd if=/dev/zero of={place}/fill bs=1M count=4000", timeout=60)
        assert filled["exit_code"] != 0, place
    many = "i=0; while head -c 100 /dev/zero > /workspace/f$i; do i=$((i+1)); [ $i -lt 3000 ] || exit 0; done"
    # However far it gets: a machine that is emulated is not fast.
    ann.run(attacker, many, timeout=30)
    victim.is_well()


def test_hogging_processors_and_memory_costs_oneself(way: Way, ann: Api, attacker: str, victim: Victim) -> None:
    way.outlives_its_limits()
    for _ in range(8):
        ann.start(attacker, "while :; do :; done")
    for _ in range(3):
        hog = ann.run(attacker, "dd if=/dev/zero of=/dev/null bs=400M count=1", timeout=60)
        assert hog["killed_by"] == "oom"
        victim.is_well()


def test_there_is_no_way_over_the_network(ann: Api, attacker: str, victim: Victim, way: Way) -> None:
    port = way.server.port
    tried = ann.run(
        attacker, f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>&1 || wget -q -T 3 -O - http://127.0.0.1:{port}/health"
    )
    assert "gateway" not in tried["stdout"]
    interfaces = ann.run(attacker, "cat /proc/net/dev")["stdout"]
    assert [line.split(":")[0].strip() for line in interfaces.splitlines() if ":" in line] == ["lo"]
