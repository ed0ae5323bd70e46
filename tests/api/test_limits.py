"""Shares of a busy CPU, disk speed, and limits that this host or this sandbox cannot keep."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import Api, refused

# On one CPU both must share it, however many the host has.
SPIN = "import os, time; os.sched_setaffinity(0, {0}); print('spins', flush=True)\nwhile True: pass"
TOP = Path("/sys/fs/cgroup/blkio")


def shares(api: Api, sandboxes: list[str], seconds: float) -> list[float]:
    """CPU time of each in the same stretch of time."""

    def used() -> list[int]:
        return [api("GET", f"/sandboxes/{sandbox}/stats").json()["cpu_usec"] for sandbox in sandboxes]

    before = used()
    time.sleep(seconds)
    return [after - begun for begun, after in zip(before, used())]


def test_sandboxes_share_a_busy_cpu_by_their_weights(api: Api) -> None:
    light = api.create(resources={"cpu": 2})
    heavy = api.create(resources={"cpu": 2, "cpu_weight": 400})
    assert api("GET", f"/sandboxes/{light}").json()["resources"]["cpu_weight"] == 100
    for sandbox in (light, heavy):
        exec_id = api.start(sandbox, ["python3", "-c", SPIN])
        api.until_said(sandbox, exec_id, "spins")
    a, b = shares(api, [light, heavy], 4)
    assert 2.8 < b / a < 5.6
    changed = api("PATCH", f"/sandboxes/{light}", json={"resources": {"cpu_weight": 400}})
    assert changed.json()["resources"]["cpu_weight"] == 400
    a, b = shares(api, [light, heavy], 4)
    assert 0.7 < b / a < 1.4


@pytest.mark.parametrize("kind", ["process", "local"])
def test_changes_of_limits_at_the_same_time_are_all_kept(api: Api, kind: str) -> None:
    sandbox = api.create(sandbox={"kind": kind})

    def change(field: str, value: int) -> int:
        answer = api("PATCH", f"/sandboxes/{sandbox}", json={"resources": {field: value}})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["resources"][field])

    with ThreadPoolExecutor(3) as pool:
        for turn in range(40):
            # One that sleeps has no process; its limits are in a file.
            if turn == 20:
                api.run(sandbox, "true")
            wanted = {"memory": (200 + turn) << 20, "pids": 100 + turn, "cpu_weight": 100 + turn}
            assert list(pool.map(change, wanted, wanted.values())) == list(wanted.values())
            has = api("GET", f"/sandboxes/{sandbox}").json()["resources"]
            assert {field: has[field] for field in wanted} == wanted


def seconds_to_write(api: Api, sandbox: str, megabytes: int, flags: str = "conv=fsync") -> float:
    command = f"dd if=/dev/zero of=/workspace/f bs=1M count={megabytes} {flags}"
    done = api.run(sandbox, command, timeout=60)
    assert done["exit_code"] == 0, done
    return float(done["duration_ms"]) / 1000


def rules() -> set[str]:
    """What stands in the top group of v1, whatever for."""
    files = TOP.glob("blkio.throttle.*_device")
    return {f"{file.name} {line}" for file in files for line in file.read_text().splitlines()}


def test_the_speed_of_a_disk_is_limited_and_changed_while_it_runs(api: Api) -> None:
    before = rules()
    asked: dict[str, Any] = {"disk": "64Mi", "io": {"write_bps": "1Mi", "read_bps": "1Mi"}}
    made = api("POST", "/sandboxes", json={"storage": "disk", "resources": asked}).json()
    sandbox = made["sandbox_id"]
    shown = made["resources"]["io"]
    assert shown == {"read_bps": 1 << 20, "write_bps": 1 << 20, "read_iops": None, "write_iops": None}
    assert seconds_to_write(api, sandbox, 3) > 2
    assert seconds_to_write(api, sandbox, 3, "oflag=direct") > 2
    read = api.run(sandbox, "dd if=/workspace/f of=/dev/null bs=1M iflag=direct", timeout=60)
    assert read["exit_code"] == 0 and read["duration_ms"] > 2000

    lifted = api("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"io": {"write_bps": 0}}})
    assert lifted.json()["resources"]["io"]["write_bps"] is None
    assert lifted.json()["resources"]["io"]["read_bps"] == 1 << 20
    # At that speed it was 3 s; the machine's own disk may be busy with something else.
    assert min(seconds_to_write(api, sandbox, 3) for _ in range(5)) < 2

    by_count = api("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"io": {"write_iops": 10}}})
    assert by_count.status_code == 200
    done = api.run(sandbox, "dd if=/dev/zero of=/workspace/g bs=4k count=30 oflag=direct", timeout=60)
    assert done["duration_ms"] > 2000
    assert api("DELETE", f"/sandboxes/{sandbox}").status_code == 204
    assert rules() == before


def test_what_was_written_last_does_not_delay_the_end_of_a_slow_disk(api: Api) -> None:
    made = api.create(storage="disk", resources={"disk": "64Mi", "io": {"write_bps": "64Ki"}})
    api.run(made, "dd if=/dev/zero of=/workspace/f bs=1M count=20")  # at that speed, five minutes
    begun = time.monotonic()
    assert api("DELETE", f"/sandboxes/{made}").status_code == 204
    assert time.monotonic() - begun < 60


def test_a_limit_of_disk_speed_starts_with_a_running_sandbox_too(api: Api) -> None:
    sandbox = api.create(storage="disk", resources={"disk": "64Mi"})
    exec_id = api.start(sandbox, "while :; do dd if=/dev/zero of=/workspace/h bs=1M count=1 oflag=direct; done")
    answer = api("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"io": {"write_bps": "256Ki"}}})
    assert answer.status_code == 200, answer.text
    # What ran before, and what it starts now, are both held by it.
    time.sleep(3)
    before = api.run(sandbox, "stat -c %Y /workspace/h")["stdout"]
    assert before
    told = api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/output?follow=false").text
    count = told.count("copied")
    time.sleep(8)
    more = api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/output?follow=false").text.count("copied")
    assert more - count <= 4


def test_disk_speed_without_a_disk_is_refused_and_so_is_what_no_host_has(api: Api) -> None:
    io = {"resources": {"io": {"write_bps": "1Mi"}}}
    message = refused(api("POST", "/sandboxes", json=io), 501, "unsupported")
    assert "memory" in message
    sandbox = api.create()
    refused(api("PATCH", f"/sandboxes/{sandbox}", json=io), 501, "unsupported")
    for wrong in ({"write_bps": 1}, {"read_iops": 1}, {"write_bps": -1}, {"wbps": 1}, {"write_iops": "many"}, []):
        body = {"storage": "disk", "resources": {"io": wrong}}
        refused(api("POST", "/sandboxes", json=body), 400, "invalid_request")
    for weight in (0, -1, 10_001, "heavy", 1.5):
        refused(api("POST", "/sandboxes", json={"resources": {"cpu_weight": weight}}), 400, "invalid_request")
    # More processes than the kernel has ids for.
    many = {"resources": {"pids": 4_194_304}}
    for answer in (api("POST", "/sandboxes", json=many), api("PATCH", f"/sandboxes/{sandbox}", json=many)):
        assert "kernel.pid_max" in refused(answer, 501, "unsupported")


def test_of_a_change_that_is_refused_no_part_is_kept(api: Api) -> None:
    if not TOP.exists():
        pytest.skip("control groups of version 2 make room by killing; they refuse no limit")

    def speeds() -> set[str]:
        return {f"{file} {file.read_text()}" for file in TOP.rglob("blkio.throttle.write_bps_device")}

    resources = {"memory": "256Mi", "disk": "64Mi", "io": {"write_bps": "1Mi"}}
    sandbox = api.create(storage="disk", resources=resources)
    held = "held = b'x' * (100 << 20)\nprint('ho' + 'lds', flush=True)\ninput()"
    api.until_said(sandbox, api.start(sandbox, ["python3", "-c", held], stdin=True), "holds")
    before = speeds()
    less = {"memory": "48Mi", "io": {"write_bps": "2Mi"}}
    refused(api("PATCH", f"/sandboxes/{sandbox}", json={"resources": less}), 409, "sandbox_limit")
    assert speeds() == before
    has = api("GET", f"/sandboxes/{sandbox}").json()["resources"]
    assert (has["memory"], has["io"]["write_bps"]) == (256 << 20, 1 << 20)


def test_what_a_template_is_said_to_run_it_runs(api: Api) -> None:
    languages = {t["name"]: t["languages"] for t in api("GET", "/templates").json()["items"]}["host"]
    sandbox = api.create()
    code = {"language": "typescript", "code": "const a: number = 1"}
    typed = api("POST", f"/sandboxes/{sandbox}/run-code", json=code)
    assert (typed.status_code == 200) == ("typescript" in languages)
    assert {"python", "bash"} <= set(languages)
    # A sandbox that was made to find out is nobody's.
    assert [item["sandbox_id"] for item in api("GET", "/sandboxes").json()["items"]] == [sandbox]
