"""Starts that are sent twice, input that comes too late, output that is asked for once, and sockets of browsers."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from harness import Api, Server, events, refused


def test_a_start_under_the_same_key_runs_once_and_answers_in_each_way(home: tuple[Api, str]) -> None:
    api, sandbox = home
    path, key = f"/sandboxes/{sandbox}/execs", {"Idempotency-Key": "start-1"}
    body = {"command": "echo ran >> /tmp/starts; echo out; sleep 0.3; exit 3"}
    first = api("POST", path, json=body, headers=key)
    again = api("POST", path, json=body, headers=key)
    assert first.json() == again.json() and first.json()["exit_code"] == 3
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    with api.http.stream(
        "POST", f"/api/v1{path}", json=body, headers={**key, "Accept": "text/event-stream"}
    ) as response:
        told = events(response)
    assert [name for name, _, _ in told] == ["start", "stdout", "end"]
    assert {data["exec_id"] for name, _, data in told if name != "stdout"} == {first.json()["exec_id"]}
    refused(api("POST", path, json={**body, "wait": False}, headers=key), 409, "idempotency_conflict")
    assert api.run(sandbox, "cat /tmp/starts")["stdout"] == "ran\n"


def test_starts_under_one_key_at_once_run_once(home: tuple[Api, str]) -> None:
    api, sandbox = home
    body = {"command": "echo ran >> /tmp/at-once", "wait": False}

    def start(_: int) -> Any:
        answer = api("POST", f"/sandboxes/{sandbox}/execs", json=body, headers={"Idempotency-Key": "start-2"})
        assert answer.status_code == 202, answer.text
        return answer.json()["exec_id"]

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(start, range(16)))
    assert len(ids) == 1
    api("GET", f"/sandboxes/{sandbox}/execs/{ids.pop()}/result?wait=10")
    assert api.run(sandbox, "cat /tmp/at-once")["stdout"] == "ran\n"


def test_code_and_sessions_take_keys_too(api: Api) -> None:
    sandbox = api.create()
    key = {"Idempotency-Key": "start-3"}
    body = {"code": "open('/tmp/n', 'a').write('x')\nprint(open('/tmp/n').read())"}
    for path, more in ((f"/sandboxes/{sandbox}/run-code", {}), ("/execute", {"sandbox_id": sandbox})):
        own = {"Idempotency-Key": f"start-3-{path[-3:]}"}
        one, two = (api("POST", path, json={**body, **more}, headers=own).json() for _ in range(2))
        assert one == two
    assert api.run(sandbox, "cat /tmp/n")["stdout"] == "xx"
    session = api("POST", "/sessions", json={}).json()["session_id"]
    handler = {"code": "def handler(event):\n    return {'twice': event['n'] * 2}", "event": {"n": 21}}
    one, two = (api("POST", f"/sessions/{session}/execute", json=handler, headers=key).json() for _ in range(2))
    assert one == two and one["result"] == {"twice": 42}
    api("DELETE", f"/sessions/{session}")


def test_a_start_that_was_refused_leaves_its_key_free(home: tuple[Api, str]) -> None:
    api, sandbox = home
    path, key = f"/sandboxes/{sandbox}/execs", {"Idempotency-Key": "start-4"}
    refused(api("POST", path, json={"command": ["no-such"]}, headers=key), 422, "command_not_found")
    assert api("POST", path, json={"command": "true"}, headers=key).json()["exit_code"] == 0


def test_after_a_crash_no_key_starts_a_command_that_may_have_run() -> None:
    server = Server()
    try:
        api = server.api()
        sandbox = api.create()
        path, key = f"/sandboxes/{sandbox}/execs", {"Idempotency-Key": "start-5"}
        body = {"command": "echo ran >> /tmp/crash", "wait": False}
        first = api("POST", path, json=body, headers=key).json()
        server.kill()
        server.start()
        assert api("POST", path, json=body, headers=key).json()["exec_id"] == first["exec_id"]
        # What the server that dies between the start of a command and the note of it leaves behind.
        server.kill()
        with sqlite3.connect(f"{server.data_dir}/state.db") as state:
            changed = state.execute("UPDATE idempotency SET status = NULL, answer = NULL WHERE idem_key = 'start-5'")
            assert changed.rowcount == 1
        server.start()
        began = time.monotonic()
        message = refused(api("POST", path, json=body, headers=key), 409, "idempotency_conflict")
        assert "not known" in message and time.monotonic() - began < 30
        assert api.run(sandbox, "cat /tmp/crash")["stdout"] == "ran\n"
        api.close()
    finally:
        server.stop()


def test_input_that_cannot_be_taken_says_why(home: tuple[Api, str]) -> None:
    api, sandbox = home

    def write(exec_id: str, query: str = "") -> httpx.Response:
        return api("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/stdin{query}", content=b"x")

    without = api.start(sandbox, "sleep 60")
    refused(write(without), 409, "exec_not_interactive")
    closed = api.start(sandbox, "cat; sleep 60", stdin=True)
    assert write(closed, "?close=true").status_code == 204
    refused(write(closed), 409, "stdin_closed")
    refused(write(closed, "?close=true"), 409, "stdin_closed")
    # The command itself closes it.
    gone = api.start(sandbox, "exec <&-; echo closed; sleep 60", stdin=True)
    api.until_said(sandbox, gone, "closed")
    refused(write(gone), 409, "stdin_closed")
    for exec_id in (without, closed, gone):
        api("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/signal", json={"signal": "KILL", "tree": True})
    api("GET", f"/sandboxes/{sandbox}/execs/{gone}/result?wait=10")
    refused(write(gone), 409, "exec_ended")


def test_output_so_far_is_exact_and_does_not_wait(home: tuple[Api, str]) -> None:
    api, sandbox = home
    exec_id = api.start(sandbox, "printf abc; printf de >&2; sleep 60")
    path = f"/sandboxes/{sandbox}/execs/{exec_id}/output"
    deadline = time.monotonic() + 20
    while True:
        told = events(api("GET", f"{path}?follow=false"))
        if sum(len(data["data"]) for name, _, data in told[:-1]) == 5 or time.monotonic() > deadline:
            break
    assert [(name, data.get("data")) for name, _, data in told[:-1]] == [("stdout", "abc"), ("stderr", "de")]
    assert told[-1][0] == "running" and told[-1][2]["state"] == "running"
    assert [name for name, _, _ in events(api("GET", f"{path}?follow=false&from=5"))] == ["running"]
    api("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/signal", json={"signal": "KILL", "tree": True})
    api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/result?wait=10")
    assert events(api("GET", f"{path}?follow=false"))[-1][0] == "end"
    refused(api("GET", f"{path}?follow=maybe"), 400, "invalid_request")


def test_output_so_far_of_a_flood_has_an_end(api: Api) -> None:
    sandbox = api.create()
    exec_id = api.start(sandbox, "yes")
    time.sleep(0.2)
    told = events(api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/output?follow=false"))
    assert told[-1][0] == "running" and len(told) > 1


def test_a_paused_sandbox_refuses_files_and_one_that_ends_says_so(api: Api) -> None:
    sandbox = api.create()
    api("POST", f"/sandboxes/{sandbox}/pause")
    for method, leaf in (("GET", "files"), ("GET", "files/list"), ("GET", "archive"), ("DELETE", "files")):
        refused(api(method, f"/sandboxes/{sandbox}/{leaf}?path=/workspace"), 409, "sandbox_paused")
    refused(api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/a", content=b"a"), 409, "sandbox_paused")
    api("POST", f"/sandboxes/{sandbox}/resume")

    def endless() -> Any:
        yield b"x" * 100_000
        # The upload has begun; now its sandbox goes.
        other = api.server.api(api.user)
        assert other("DELETE", f"/sandboxes/{sandbox}").status_code == 204
        other.http.close()
        for _ in range(100):
            yield b"x" * 100_000

    answer = api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/a", content=endless())
    refused(answer, 410, "sandbox_gone")
    refused(api("GET", f"/sandboxes/{sandbox}/files?path=/workspace"), 404, "sandbox_not_found")


def test_a_stream_whose_sandbox_ends_says_how(api: Api) -> None:
    sandbox = api.create()
    exec_id = api.start(sandbox, "echo before; sleep 60")
    with api.http.stream("GET", f"/api/v1/sandboxes/{sandbox}/execs/{exec_id}/output") as response:
        other = api.server.api(api.user)
        other("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/result?wait=0.3")
        other("DELETE", f"/sandboxes/{sandbox}")
        other.http.close()
        told = events(response)
    assert told[-1][0] == "end" and told[-1][2]["killed_by"] == "released"


# -- WebSockets of browsers, which can set no header ----------------------------------------------------------------


def socket_url(api: Api, sandbox: str, exec_id: str) -> str:
    return f"ws://127.0.0.1:{api.server.port}/api/v1/sandboxes/{sandbox}/execs/{exec_id}/ws"


def test_a_signal_gets_past_input_that_a_command_does_not_take(home: tuple[Api, str]) -> None:
    api, sandbox = home
    deaf = "trap 'echo heard; exit 7' TERM; echo rea''dy; while :; do sleep 0.05; done"
    exec_id = api.start(sandbox, ["sh", "-c", deaf], stdin=True)
    api.until_said(sandbox, exec_id, "ready")
    with connect(
        socket_url(api, sandbox, exec_id), additional_headers={"Authorization": f"Bearer {api.token}"}, open_timeout=60
    ) as link:
        # More than a pipe holds.
        for _ in range(400):
            link.send(b"x" * 1024)
        link.send('{"type":"signal","signal":"TERM"}')
        said = list(link)
    assert any(b"heard" in one for one in said if isinstance(one, bytes))
    assert '"exit_code":7' in str(said[-1])


def test_input_larger_than_may_wait_arrives_whole(home: tuple[Api, str]) -> None:
    api, sandbox = home
    exec_id = api.start(sandbox, "sleep 1; sha256sum", stdin=True)
    url = f"ws{api.server.url.removeprefix('http')}/api/v1/sandboxes/{sandbox}/execs/{exec_id}/ws"
    pieces = [bytes([i % 251]) * (1 + i * 97 % 40_000) for i in range(300)]
    with connect(url, additional_headers={"Authorization": f"Bearer {api.token}"}, open_timeout=60) as link:
        for piece in pieces:
            link.send(piece)
        link.send('{"type":"close_stdin"}')
        said = b"".join(one for one in link if isinstance(one, bytes))
    assert hashlib.sha256(b"".join(pieces)).hexdigest().encode() in said


def test_a_browser_authenticates_by_a_subprotocol(home: tuple[Api, str]) -> None:
    api, sandbox = home
    url = socket_url(api, sandbox, api.start(sandbox, "echo hi"))
    with connect(url, subprotocols=["csb.v1", f"csb.bearer.{api.token}"]) as socket:  # type: ignore[list-item]
        # The one that carries the token is not repeated to whoever logs answers.
        assert socket.subprotocol == "csb.v1"
        assert '"type":"start"' in socket.recv(timeout=10)


def test_a_subprotocol_with_no_good_token_is_refused(home: tuple[Api, str], bob: Api) -> None:
    api, sandbox = home
    exec_id = api.start(sandbox, "sleep 1")
    url = socket_url(api, sandbox, exec_id)

    def status(*protocols: str) -> int:
        with pytest.raises(InvalidStatus) as caught:
            connect(url, subprotocols=list(protocols))  # type: ignore[arg-type]
        return caught.value.response.status_code

    assert status("csb.v1") == 401
    assert status("csb.v1", "csb.bearer.") == 401
    assert status("csb.v1", f"csb.bearer.{api.token[:-2]}") == 401
    assert status("csb.v1", f"csb.bearer.{bob.token}") == 404
    # Only there: it is no way to authenticate other requests, and a URL is none at all.
    plain = httpx.get(
        f"{api.server.url}/api/v1/sandboxes/{sandbox}", headers={"Sec-WebSocket-Protocol": f"csb.bearer.{api.token}"}
    )
    refused(plain, 401, "unauthorized")
    with pytest.raises(InvalidStatus) as caught:
        connect(f"{url}?token={api.token}")
    assert caught.value.response.status_code == 401
