"""Memory of the host runs short: first nothing is kept ready, then nothing new is made; what is there goes on."""

from __future__ import annotations

import time

import httpx

from harness import Api, Server, refused


def available() -> int:
    return next(int(line.split()[1]) << 10 for line in open("/proc/meminfo") if line.startswith("MemAvailable:"))


def figure(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")))


def ready(api: Api) -> int:
    return int(api("GET", "/sandbox/stats").json()["pool"]["ready"])


def settles(api: Api, expected: int) -> None:
    deadline = time.monotonic() + 30
    while ready(api) != expected:
        assert time.monotonic() < deadline, ready(api)
        time.sleep(0.05)


def test_with_little_memory_left_nothing_is_kept_ready_and_sandboxes_are_still_made() -> None:
    # What is available is more than the reserve, and less than twice the reserve.
    server = Server(POOL_MIN_SIZE="3", CSB_MEMORY_RESERVE=str(available() * 7 // 10))
    api = server.api()
    settles(api, 0)
    box = api.create()
    assert api("GET", f"/sandboxes/{box}").json()["started_by"] == "cold"
    assert api.run(box, "echo made")["stdout"] == "made\n"
    time.sleep(1)
    assert ready(api) == 0
    assert figure(server, "csb_memory_pressure") == 1
    assert figure(server, "csb_memory_refusals") == 0
    api.close()
    server.stop()


def test_with_less_than_the_reserve_new_ones_are_refused_and_those_that_are_there_go_on() -> None:
    server = Server(POOL_MIN_SIZE="2", CSB_LOCAL_IDLE="100ms")
    api = server.api()
    settles(api, 2)
    box, asleep = api.create(), api.create(sandbox={"kind": "local", "workDir": "w"})
    running = api.start(box, "while :; do echo on; sleep 0.1; done")
    assert figure(server, "csb_memory_pressure") == 0
    assert abs(figure(server, "csb_host_memory_available_bytes") - available()) < 8 << 30
    server.kill()
    server.env["CSB_MEMORY_RESERVE"] = "4t"
    server.start()
    settles(api, 0)
    refusal = api("POST", "/sandboxes", json={})
    said = refused(refusal, 503, "capacity")
    assert "memory of the host" in said and "4.0 TiB" in said
    assert int(refusal.headers["retry-after"]) >= 1
    refused(api("POST", f"/sandboxes/{asleep}/execs", json={"command": "true"}), 503, "capacity")
    # Those that are there are served as ever, and one that needs no memory is made.
    assert api("GET", f"/sandboxes/{box}/execs/{running}").json()["state"] == "running"
    assert api.run(box, "echo served")["stdout"] == "served\n"
    api.create(sandbox={"kind": "local", "workDir": "v"})
    assert figure(server, "csb_memory_pressure") == 2
    assert figure(server, "csb_memory_refusals") >= 2
    server.kill()
    del server.env["CSB_MEMORY_RESERVE"]
    server.start()
    assert api.run(asleep, "echo awake")["stdout"] == "awake\n"
    settles(api, 2)
    api.close()
    server.stop()
