"""A server whose disk is full, or that has no descriptor left: clear errors, nothing lost, all well afterwards."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness import Server


def refusal(answer: httpx.Response) -> str:
    """The code of an error in the one shape."""
    error = answer.json()["error"]
    assert error["message"] and error["hint"] and error["request_id"], error
    return str(error["code"])


@pytest.fixture
def small() -> Iterator[Server]:
    server = Server(disk="40m")
    yield server
    server.stop()


def fill(directory: Path) -> Path:
    """Takes the last byte."""
    filler = directory / "filler"
    with open(filler, "ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler


def test_a_full_disk_of_the_server_is_told_and_loses_nothing(small: Server) -> None:
    api = small.api()
    sandbox = api.create()
    api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/kept", content=b"kept")
    before = api.start(sandbox, "echo early; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo late")
    api.until_said(sandbox, before, "early")
    filler = fill(Path(small.data_dir))

    made = api("POST", "/sandboxes", json={})
    # A claim from the pool may need no more room; then it is a sandbox like any other.
    assert made.status_code == 201 or refusal(made) in ("capacity", "internal"), made.text
    started = api("POST", f"/sandboxes/{sandbox}/execs", json={"command": "head -c 100000 /dev/zero"})
    # Output that cannot be kept is marked as missing; it never looks whole.
    assert started.status_code == 503 or started.json()["truncated"], started.text[:300]
    # What goes into the sandbox goes to the sandbox's own memory.
    assert api("PUT", f"/sandboxes/{sandbox}/files?path=/tmp/go", content=b"").status_code == 200
    assert api("GET", f"/sandboxes/{sandbox}/files?path=/workspace/kept").content == b"kept"
    assert api("GET", "/health").status_code == 200

    filler.unlink()
    done = api("GET", f"/sandboxes/{sandbox}/execs/{before}/result?wait=20").json()
    assert done["exit_code"] == 0 and done["stdout"].startswith("early\n")
    assert done["truncated"] or done["stdout"] == "early\nlate\n"
    assert api.run(sandbox, "cat kept; head -c 100000 /dev/zero | wc -c")["stdout"] == "kept100000\n"
    assert api("POST", "/sandboxes", json={}, headers={"Idempotency-Key": "after"}).status_code == 201
    small.kill()
    small.start()
    assert api.run(sandbox, "cat kept")["stdout"] == "kept"
    api.close()


def test_a_full_disk_of_the_server_damages_no_sandbox_that_has_a_disk_of_its_own(small: Server) -> None:
    api = small.api()
    resources = {"disk": "12Mi", "inodes": 1000}
    sandbox = api.create(storage="disk", resources=resources)
    api.run(sandbox, "mkdir before && echo before > before/file")
    refused = api("POST", "/sandboxes", json={"storage": "disk", "resources": {"disk": "64Mi"}})
    assert (refused.status_code, refusal(refused)) == (503, "capacity"), refused.text

    filler = fill(Path(small.data_dir))
    fresh = api("POST", "/sandboxes", json={"storage": "disk", "resources": resources})
    assert (fresh.status_code, refusal(fresh)) == (503, "capacity"), fresh.text
    # All that was promised can be written, down to the disk; the status says so, for output needs room outside.
    write = (
        "head -c 11m /dev/urandom > big && for i in $(seq 300); do echo $i > before/$i; done"
        " && sync big before before/300; echo $? > status"
    )
    assert api("POST", f"/sandboxes/{sandbox}/execs", json={"command": write}).status_code in (200, 503)
    filler.unlink()
    # Past the page cache, which would have it in any case.
    check = "cat status before/file before/300; dd if=big iflag=direct bs=1M status=none | cmp - big && echo same"
    assert api.run(sandbox, check)["stdout"] == "0\nbefore\n300\nsame\n"
    api.close()


def test_a_server_without_descriptors_says_so_and_goes_on_when_it_has_some() -> None:
    server = Server(nofile=160)
    try:
        api = server.api()
        sandbox = api.create(resources={"pids": 300})
        path = f"/sandboxes/{sandbox}/execs"
        # Each that runs keeps the server's ends of its pipes.
        running: list[str] = []
        while len(running) < 200:
            answer = api("POST", path, json={"command": ["sleep", "600"], "stdin": True, "wait": False})
            if answer.status_code != 202:
                break
            running.append(answer.json()["exec_id"])
        assert (answer.status_code, refusal(answer)) == (503, "capacity"), answer.text
        assert "descriptors" in answer.json()["error"]["message"] and int(answer.headers["retry-after"]) > 0
        answer = api("POST", "/sandboxes", json={"hostname": "cold"})
        assert (answer.status_code, refusal(answer)) == (503, "capacity"), answer.text
        assert api("GET", f"/sandboxes/{sandbox}/files/list?path=/workspace").status_code == 200

        # More callers than it has descriptors for wait their turn; none is turned away.
        def ask(_: int) -> int:
            return httpx.get(f"{server.url}/health", timeout=60).status_code

        with ThreadPoolExecutor(48) as pool:
            assert set(pool.map(ask, range(144))) == {200}
        for exec_id in running[:20]:
            api("POST", f"{path}/{exec_id}/signal", json={"signal": "KILL"})
            api("GET", f"{path}/{exec_id}/result?wait=20")
        assert api.run(sandbox, "echo hi")["stdout"] == "hi\n"
        assert api("GET", f"{path}/{running[-1]}").json()["state"] == "running"
        api.close()
    finally:
        server.stop()
