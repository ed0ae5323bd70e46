"""The life of every kind of sandbox: paused, found again after the server's death, and gone without a trace."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import docker_engine
import pytest
from ways import Way

from harness import Api, refused

COUNT = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.01; done; exit 7"


def test_a_paused_sandbox_stands_still_and_goes_on(way: Way, ann: Api) -> None:
    way.needs("pause")
    box = way.create(ann)
    counter = ann.start(box, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    ann.until_said(box, counter, "5")
    assert ann("POST", f"/sandboxes/{box}/pause").json()["state"] == "paused"
    path = f"/sandboxes/{box}/execs/{counter}/output?follow=false"
    time.sleep(0.3)
    before = ann("GET", path).text
    time.sleep(0.5)
    assert ann("GET", path).text == before
    refused(ann("POST", f"/sandboxes/{box}/execs", json={"command": "true"}), 409, "sandbox_paused")
    refused(ann("GET", f"/sandboxes/{box}/files?path=/workspace/a"), 409, "sandbox_paused")
    assert ann("POST", f"/sandboxes/{box}/resume").json()["state"] == "running"
    deadline = time.monotonic() + 20
    while ann("GET", path).text == before:
        assert time.monotonic() < deadline, "it does not go on"
        time.sleep(0.05)
    assert ann.run(box, "echo awake")["stdout"] == "awake\n"


def test_another_warden_takes_nothing_along_that_other_programs_hold(way: Way) -> None:
    if way.kind not in ("docker", "oci", "k8s", "microvm"):
        pytest.skip("the warden holds it, or another server")
    server = way.own_server()
    ann = server.api("ann")
    box = way.create(ann)
    reader = ann.start(box, "echo begun; read line; echo got $line", stdin=True)
    ann.until_said(box, reader, "begun")
    warden = ann("GET", "/sandbox/stats").json()["warden"]["pid"]
    os.kill(warden, 9)
    deadline = time.monotonic() + 30
    while ann("GET", "/sandbox/stats").json()["warden"]["pid"] in (0, warden):
        assert time.monotonic() < deadline, "there is no other warden"
        time.sleep(0.1)
    assert ann("POST", f"/sandboxes/{box}/execs/{reader}/stdin", content=b"it\n").status_code == 204
    done = ann("GET", f"/sandboxes/{box}/execs/{reader}/result?wait=30").json()
    assert (done["stdout"], done["exit_code"]) == ("begun\ngot it\n", 0)
    assert ann.run(box, "echo here")["stdout"] == "here\n"
    ann("DELETE", f"/sandboxes/{box}")
    ann.close()


def test_it_outlives_the_server_with_every_byte_of_its_output(way: Way) -> None:
    way.needs("adopt")
    server = way.own_server()
    ann = server.api("ann")
    asked = {
        "resources": way.limits(memory="96Mi", pids=40),
        "env": {"E": "1"},
        "metadata": {"a": "b"},
        "hostname": "kept",
    }
    box = way.create(ann, **asked)
    idle = way.create(ann)
    ann("PUT", f"/sandboxes/{box}/files?path=/workspace/f", content=b"kept")
    views = {one: ann("GET", f"/sandboxes/{one}").json() for one in (box, idle)}
    if not way.lacks("pause"):
        views[idle] = ann("POST", f"/sandboxes/{idle}/pause").json()
    counter = ann.start(box, COUNT)
    reader = ann.start(box, "read line; echo got $line", stdin=True)
    ann.until_said(box, counter, "line 20")
    server.kill()
    time.sleep(0.5)
    server.start()
    for one, view in views.items():
        assert ann("GET", f"/sandboxes/{one}").json() == view
    done = ann("GET", f"/sandboxes/{box}/execs/{counter}/result?wait=60").json()
    assert done["stdout"] == "".join(f"line {i}\n" for i in range(1, 301))
    assert done["stderr"] == "".join(f"err {i}\n" for i in range(1, 301))
    assert (done["exit_code"], done["killed_by"]) == (7, None)
    ann("POST", f"/sandboxes/{box}/execs/{reader}/stdin", content=b"it\n")
    assert ann("GET", f"/sandboxes/{box}/execs/{reader}/result?wait=30").json()["stdout"] == "got it\n"
    assert ann.run(box, "echo $E; hostname; cat f")["stdout"] == "1\nkept\nkept"
    # Its limits are still there too.
    assert ann.run(box, "dd if=/dev/zero of=/dev/null bs=300M count=1")["killed_by"] in (
        ["released"] if way.declared.ends_at_limits else ["oom"]
    )
    for one in (idle,) if way.declared.ends_at_limits else (box, idle):
        assert ann("DELETE", f"/sandboxes/{one}").status_code == 204
    ann.close()


def traces(way: Way, box: str, mark: str) -> list[str]:
    """What of a sandbox is on the host: processes, control groups, mounts, files, containers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "cmdline").read_bytes():
                found.append(f"process {process.name}")
        except OSError:
            continue
    places = ["/sys/fs/cgroup", "/dev/shm", "/run", *(server.data_dir for server in way.host.servers)]
    listed = subprocess.run(["find", *places, "-name", f"*{box}*"], capture_output=True, text=True).stdout
    found += [path for path in listed.splitlines() if not path.endswith(".log")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if box in line]
    if way.kind == "docker" and box in docker_engine.containers(way.host.engine):
        found.append("a container")
    if way.host.cluster and any(box in pod["metadata"]["name"] for pod in way.host.cluster.objects()):
        found.append("a pod")
    return found


def test_a_release_leaves_nothing(way: Way, ann: Api) -> None:
    mark = f"98765.{os.getpid()}"
    for _ in range(2):
        box = way.create(ann)
        ann.start(box, ["sleep", mark])
        ann.run(box, "echo x > /workspace/f; (sleep 600 &) ; setsid sleep 600 & echo x > /dev/shm/y")
        assert traces(way, box, mark)
        assert ann("DELETE", f"/sandboxes/{box}").status_code == 204
        deadline = time.monotonic() + 10
        # Whoever cleans up behind a container may be a moment late.
        while (left := traces(way, box, mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left
        refused(ann("GET", f"/sandboxes/{box}"), 404, "sandbox_not_found")


def test_the_next_user_finds_nothing_of_the_last(way: Way, ann: Api, bob: Api) -> None:
    """B4: files, processes, mounts, sockets, variables, /dev/shm."""
    for _ in range(3):
        box = way.create(ann, env={"SECRET": "anns-secret"}, hostname="anns-secret")
        leave = (
            "for d in /workspace /tmp /dev/shm /var/tmp /home/user; do echo anns-secret > $d/anns-secret; done;"
            "mkfifo /tmp/anns-secret.fifo; (exec sleep 600 anns-secret &); export X=anns-secret;"
            "echo anns-secret > ~/.profile; ls -la /workspace"
        )
        ann.run(box, f"({leave}) 2>/dev/null", user="root")
        ann.run(box, f"({leave}) 2>/dev/null")
        assert ann("DELETE", f"/sandboxes/{box}").status_code == 204
        box = way.create(bob)
        # Not the word itself: it would find the line that looks for it.
        look = (
            'w=$(echo anns)-secret; find / -xdev -name "*$w*" 2>/dev/null;'
            "find /workspace /tmp /dev/shm /home /var/tmp -type f 2>/dev/null | xargs grep $w /dev/null; env; hostname;"
            "cat /proc/*/cmdline /proc/*/environ /proc/mounts /proc/net/unix 2>/dev/null | tr '\\0' '\\n'"
        )
        for user in ("user", "root"):
            assert "anns-secret" not in bob.run(box, look, user=user)["stdout"]
        assert bob.run(box, "ls -A /workspace /dev/shm")["stdout"].split() in (
            ["/workspace:", "/dev/shm:"],
            ["/dev/shm:", "/workspace:"],
        )
        assert int(bob.run(box, "ls -d /proc/[0-9]* | wc -l")["stdout"]) < 10
        assert bob("DELETE", f"/sandboxes/{box}").status_code == 204
