"""The server dies at any moment: what runs goes on, is found again, and no byte of its output is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from cloud_sandbox import Client, Sandbox

from harness import Server, refused


@pytest.fixture
def own() -> Iterator[Server]:
    """A server of the test's own, which it may kill."""
    server = Server()
    yield server
    server.stop()


COUNT = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.01; done; exit 7"
OUT = "".join(f"line {i}\n" for i in range(1, 301))
ERR = "".join(f"err {i}\n" for i in range(1, 301))


def test_a_command_goes_on_while_the_server_is_killed_and_started_twice(own: Server) -> None:
    heard: list[str] = []
    enough = [threading.Event(), threading.Event()]

    def listen(text: str) -> None:
        heard.append(text)
        seen = sum(text.count("\n") for text in heard)
        for event, mark in zip(enough, (30, 120)):
            if seen >= mark:
                event.set()

    def restart() -> None:
        for event in enough:
            assert event.wait(60)
            own.kill()
            own.start()

    killer = threading.Thread(target=restart)
    with Sandbox.create(own.url, user_id="ann") as sandbox:
        killer.start()
        result = sandbox.run_command(COUNT, on_stdout=listen)
        killer.join()
        assert "".join(heard) == OUT
        assert (result.stdout, result.stderr, result.exit_code) == (OUT, ERR, 7)
        assert sandbox.run_command("echo same sandbox").stdout == "same sandbox\n"


def test_everything_is_found_again_after_a_crash(own: Server) -> None:
    api = own.api()
    sandbox = api.create(metadata={"a": "b"}, resources={"pids": 99}, env={"E": "1"}, hostname="kept")
    paused = api.create()
    api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/f", content=b"kept")
    over = api("POST", f"/sandboxes/{sandbox}/execs", json={"command": "echo over; exit 3"}).json()["exec_id"]
    reader = api.start(sandbox, "read line; echo got $line; sleep 600", stdin=True)
    api("POST", f"/sandboxes/{paused}/pause")
    session = api("POST", "/sessions", json={"template_id": "python-basic"}).json()
    before = {s: api("GET", f"/sandboxes/{s}").json() for s in (sandbox, paused)}
    own.kill()
    own.start()
    for one, view in before.items():
        assert api("GET", f"/sandboxes/{one}").json() == view
    assert api("GET", f"/sandboxes/{sandbox}/files?path=/workspace/f").content == b"kept"
    # Ended execs keep their result, running ones take input and signals.
    result = api("GET", f"/sandboxes/{sandbox}/execs/{over}/result").json()
    assert (result["stdout"], result["exit_code"]) == ("over\n", 3)
    path = f"/sandboxes/{sandbox}/execs/{reader}"
    assert api("GET", path).json()["state"] == "running"
    assert api("POST", f"{path}/stdin", content=b"hello\n").status_code == 204
    assert api("POST", f"{path}/signal", json={"signal": "KILL", "tree": True}).status_code == 204
    result = api("GET", f"{path}/result?wait=30").json()
    assert (result["signal"], result["killed_by"]) == (9, "signal")
    assert api.run(sandbox, "echo $E; hostname")["stdout"] == "1\nkept\n"
    # A paused sandbox is still paused, a session still has its sandbox.
    refused(api("POST", f"/sandboxes/{paused}/execs", json={"command": "true"}), 409, "sandbox_paused")
    assert api("POST", f"/sandboxes/{paused}/resume").json()["state"] == "running"
    done = api("POST", f"/sessions/{session['session_id']}/execute", json={"code": "print(1)"}).json()
    assert done["stdout"] == "1\n"
    api.close()


def test_a_create_that_was_answered_is_not_lost_and_its_key_still_holds(own: Server) -> None:
    api = own.api()
    key = {"Idempotency-Key": "before-the-crash"}
    made = api("POST", "/sandboxes", json={}, headers=key).json()["sandbox_id"]
    own.kill()
    own.start()
    assert api("POST", "/sandboxes", json={}, headers=key).json()["sandbox_id"] == made
    assert [s["sandbox_id"] for s in api("GET", "/sandboxes").json()["items"]] == [made]
    api.close()


def test_crashes_in_the_middle_of_creates_and_releases_leave_nothing_behind(own: Server) -> None:
    """Whatever was under way when the server died: afterwards the list and the host agree."""
    stop = threading.Event()

    def churn(user: str) -> None:
        with Client(own.url, user_id=user, max_retries=100) as client:
            while not stop.is_set():
                with Sandbox.create(client=client) as sandbox:
                    assert sandbox.run_command("echo hi").stdout == "hi\n"

    failures: list[BaseException] = []

    def guarded(user: str) -> None:
        from cloud_sandbox import CloudSandboxError

        while not stop.is_set():
            try:
                churn(user)
            except CloudSandboxError:
                pass  # a request that the crash cut: allowed to fail, not to leak
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=guarded, args=(f"u{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        stop.wait(0.7)
        own.kill()
        own.start()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    # What a cut request left is either listed (and can be released) or gone.
    for i in range(3):
        api = own.api(f"u{i}")
        for item in api("GET", "/sandboxes?limit=100").json()["items"]:
            assert api("DELETE", f"/sandboxes/{item['sandbox_id']}").status_code == 204
        api.http.close()
    import time

    deadline = time.monotonic() + 60
    while True:
        stats = own.api("x")("GET", "/sandbox/stats").json()
        if stats["sandboxes"] == {"running": 0, "paused": 0} and stats["pool"]["in_use"] == 0:
            break
        assert time.monotonic() < deadline, stats
        time.sleep(0.2)


def test_a_clean_stop_leaves_sandboxes_running_for_the_next_start(own: Server) -> None:
    api = own.api()
    sandbox = api.create()
    exec_id = api.start(sandbox, "sleep 600")
    assert own.process is not None
    own.process.terminate()
    assert own.process.wait(30) == 0
    own.start()
    assert api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}").json()["state"] == "running"
    api.close()
