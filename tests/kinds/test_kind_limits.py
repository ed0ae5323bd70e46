"""Limits in every kind of sandbox: each is met, told, and survived."""

from __future__ import annotations

import time

from ways import Way

from harness import Api, refused

MIB = 1 << 20
BOMB = "bomb() { bomb | bomb & }; bomb; sleep 600"


def eat(mebibytes: int) -> list[str]:
    """Fills a buffer of this size."""
    return ["dd", "if=/dev/zero", "of=/dev/null", f"bs={mebibytes}M", "count=1"]


def works(ann: Api, box: str) -> bool:
    """Whether a sandbox runs commands; what a limit was met by may take a moment to be gone."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = ann("POST", f"/sandboxes/{box}/execs", json={"command": "echo works"})
        if answer.status_code == 200 and answer.json()["stdout"] == "works\n":
            return True
        time.sleep(0.2)
    return False


def test_memory_is_limited_and_it_is_told(way: Way, ann: Api) -> None:
    box = way.create(ann, resources={"memory": "96Mi"})
    quiet = ann.start(box, "read line; echo lived", stdin=True)
    done = ann.run(box, eat(300))
    killed_by = "released" if way.declared.ends_at_limits else "oom"
    assert (done["exit_code"], done["signal"], done["killed_by"]) == (137, 9, killed_by)
    way.outlives_its_limits()
    assert works(ann, box)
    ann("POST", f"/sandboxes/{box}/execs/{quiet}/stdin", content=b"\n")
    assert ann("GET", f"/sandboxes/{box}/execs/{quiet}/result?wait=30").json()["stdout"] == "lived\n"
    stats = ann("GET", f"/sandboxes/{box}/stats").json()
    assert stats["oom_kills"] >= 1 and stats["memory_limit"] == 96 * MIB
    assert stats["memory_peak"] <= 97 * MIB


def test_processes_are_limited_and_a_fork_bomb_stays_inside(way: Way, ann: Api) -> None:
    way.needs("pids_limit")
    way.outlives_its_limits()
    box = way.create(ann, resources={"pids": 32})
    done = ann.run(box, BOMB, timeout=3)
    assert done["exit_code"] != 0 and done["killed_by"] in ("timeout", "pids")
    assert works(ann, box)
    stats = ann("GET", f"/sandboxes/{box}/stats").json()
    assert stats["pids_refused"] >= 1 and stats["pids"] <= 32 and stats["pids_limit"] == 32


def test_a_full_disk_is_told_and_can_be_emptied(way: Way, ann: Api) -> None:
    way.needs("disk_limit")
    box = way.create(ann, resources={"disk": "16Mi"})
    done = ann.run(box, "dd if=/dev/zero of=/workspace/fill bs=1M count=100")
    assert done["exit_code"] != 0 and done["killed_by"] == "disk", done
    full = ann("PUT", f"/sandboxes/{box}/files?path=/workspace/more", content=b"x" * MIB)
    # A directory of the host has no end of its own: it is watched, and who passes its quota is ended.
    refused(full, *((403, "quota_exceeded") if way.kind == "local" else (507, "disk_full")))
    ann.run(box, "rm -f fill")
    assert ann.run(box, "echo again > small; cat small")["stdout"] == "again\n"


def test_limits_change_while_it_lives(way: Way, ann: Api) -> None:
    way.needs("live_limits")
    way.outlives_its_limits()
    box = way.create(ann, resources=way.limits(memory="96Mi", pids=32))
    assert ann.run(box, eat(200))["killed_by"] == "oom"
    raised = ann("PATCH", f"/sandboxes/{box}", json={"resources": way.limits(memory="400Mi", pids=100)})
    assert raised.status_code == 200, raised.text
    assert raised.json()["resources"]["memory"] == 400 * MIB
    assert ann.run(box, eat(200))["exit_code"] == 0
    assert ann("GET", f"/sandboxes/{box}/stats").json()["memory_limit"] == 400 * MIB
    if way.lacks("pids_limit"):
        return
    many = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); sleep 5 & done; echo started"
    assert ann.run(box, many, timeout=60)["stdout"] == "started\n"
    assert ann("GET", f"/sandboxes/{box}/stats").json()["pids_limit"] == 100


def test_a_limit_below_what_is_used_is_refused_with_the_reason(way: Way, ann: Api) -> None:
    """Control groups of version 2 take it, and kill."""
    way.needs("live_limits")
    way.outlives_its_limits()
    box = way.create(ann, resources={"memory": "400Mi"})
    # A buffer that is never quite full.
    holds = "(head -c 200000000 /dev/zero; echo held >&2; sleep 600) | dd of=/dev/null bs=200M count=1 iflag=fullblock"
    ann.until_said(box, ann.start(box, holds), "held")
    answer = ann("PATCH", f"/sandboxes/{box}", json={"resources": {"memory": "96Mi"}})
    if answer.status_code != 200:
        refused(answer, 409, "sandbox_limit")
        assert "memory" in answer.json()["error"]["message"]
        assert ann("GET", f"/sandboxes/{box}/stats").json()["memory_limit"] == 400 * MIB
    assert works(ann, box)


def test_a_processor_is_shared_out(way: Way, ann: Api) -> None:
    box = way.create(ann, resources={"cpu": 0.2})
    ann.start(box, "while :; do :; done")
    before = ann("GET", f"/sandboxes/{box}/stats").json()["cpu_usec"]
    begun = time.monotonic()
    time.sleep(4)
    used = ann("GET", f"/sandboxes/{box}/stats").json()["cpu_usec"] - before
    assert used / (time.monotonic() - begun) / 1e6 < 0.3


def test_what_it_uses_is_counted(way: Way, box: str, ann: Api) -> None:
    before = ann("GET", f"/sandboxes/{box}/stats").json()
    ann.run(box, "dd if=/dev/zero of=/workspace/f bs=1M count=8; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    ann.until_said(box, ann.start(box, "echo up; sleep 600"), "up")
    # The process that waits for the next command is not counted, and is not there for a moment.
    deadline = time.monotonic() + 20
    while (after := ann("GET", f"/sandboxes/{box}/stats").json())["pids"] < 1:
        assert time.monotonic() < deadline, after
    assert after["cpu_usec"] - before["cpu_usec"] > 50_000
    assert way.lacks("disk_limit") or 8 * MIB <= after["disk"] - before["disk"] < 16 * MIB
    assert after["memory"] > 0 and after["inodes_free"] > 0


def test_impossible_limits_are_refused(way: Way, ann: Api) -> None:
    for impossible in ({"memory": "1"}, {"pids": 1}, {"cpu": 0}, {"nofile": 1}):
        resources = way.limits(**impossible)
        if not resources:
            continue
        refused(ann("POST", "/sandboxes", json=way.request(resources=resources)), 400, "invalid_request")
