"""Kind `remote`: sandboxes of another server, through ours. Two real servers, and listeners that play a bad one."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from collections.abc import Iterator

import httpx
import pytest

from elsewhere import REMOTE, Far
from harness import Api, Server, events, refused, until
from terminal import try_terminal


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    far = Far()
    yield far
    far.stop()


@pytest.fixture(scope="module")
def server(far: Far) -> Iterator[Server]:
    server = Server(REMOTE_SERVERS=f"edge={far.url}", REMOTE_EDGE_KEY=far.key)
    yield server
    server.stop()


def test_a_sandbox_elsewhere_looks_like_one_of_ours(ann: Api, far: Far) -> None:
    before = set(far.ids())
    made = ann("POST", "/sandboxes", json={"sandbox": REMOTE, "metadata": {"a": "b"}, "timeout": 3600})
    assert made.status_code == 201, made.text
    view = made.json()
    sandbox = view["sandbox_id"]
    (there,) = set(far.ids()) - before
    assert (view["kind"], view["user_id"], view["state"], view["metadata"]) == ("remote", "ann", "running", {"a": "b"})
    assert there not in made.text
    assert ann("GET", f"/sandboxes/{sandbox}").json() == view
    assert view in ann("GET", "/sandboxes").json()["items"]
    done = ann.run(sandbox, "echo out; echo err >&2; exit 7")
    assert (done["stdout"], done["stderr"], done["exit_code"]) == ("out\n", "err\n", 7)
    assert ann("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/f", content=b"kept").status_code == 200
    assert ann("GET", f"/sandboxes/{sandbox}/files?path=/workspace/f").content == b"kept"
    stats = ann("GET", f"/sandboxes/{sandbox}/stats").json()
    assert stats["sandbox_id"] == sandbox and stats["pids_limit"] == 512
    patched = ann("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"pids": 99}}).json()
    assert (patched["sandbox_id"], patched["resources"]["pids"]) == (sandbox, 99)
    assert ann("DELETE", f"/sandboxes/{sandbox}").status_code == 204
    assert there not in far.ids()
    refused(ann("GET", f"/sandboxes/{sandbox}"), 404, "sandbox_not_found")
    assert ann("POST", "/sandbox/release", json={"sandbox_id": sandbox}).json()["released"] is True


def test_output_streams_as_it_comes_and_attaches_again_by_position(ann: Api) -> None:
    sandbox = ann.create(sandbox=REMOTE)
    command = {"command": "for i in 1 2 3; do echo line $i; sleep 0.2; done; exit 3"}
    with ann.http.stream(
        "POST", f"/api/v1/sandboxes/{sandbox}/execs", json=command, headers={"Accept": "text/event-stream"}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        seen = events(response)
    assert [name for name, _, _ in seen] == ["start", "stdout", "stdout", "stdout", "end"]
    assert seen[-1][2]["exit_code"] == 3
    exec_id, second = seen[0][2]["exec_id"], seen[2][1]
    assert second is not None
    path = f"/sandboxes/{sandbox}/execs/{exec_id}"
    rest = ann("GET", f"{path}/output", headers={"Last-Event-ID": second})
    assert [name for name, _, _ in events(rest)] == ["stdout", "end"]
    assert ann("GET", f"{path}/result").json()["stdout"] == "line 1\nline 2\nline 3\n"
    assert [e["exec_id"] for e in ann("GET", f"/sandboxes/{sandbox}/execs").json()["items"]] == [exec_id]


def test_stdin_signals_limits_and_code(ann: Api) -> None:
    sandbox = ann.create(sandbox=REMOTE)
    reader = ann.start(sandbox, "cat", stdin=True)
    path = f"/sandboxes/{sandbox}/execs/{reader}"
    assert ann("POST", f"{path}/stdin?close=true", content=b"to there and back").status_code == 204
    assert ann("GET", f"{path}/result?wait=30").json()["stdout"] == "to there and back"
    sleeper = ann.start(sandbox, "sleep 600")
    assert ann("POST", f"/sandboxes/{sandbox}/execs/{sleeper}/signal", json={"signal": "TERM"}).status_code == 204
    assert ann("GET", f"/sandboxes/{sandbox}/execs/{sleeper}/result?wait=30").json()["signal"] == 15
    assert ann.run(sandbox, "sleep 600", timeout=0.3)["killed_by"] == "timeout"
    code = {"code": "print(6 * 7)", "language": "python"}
    assert ann("POST", f"/sandboxes/{sandbox}/run-code", json=code).json()["stdout"] == "42\n"
    assert ann("POST", "/execute", json={"sandbox_id": sandbox, **code}).json()["stdout"] == "42\n"
    streamed = events(ann("POST", "/execute", json={"sandbox_id": sandbox, "stream": True, **code}))
    assert [name for name, _, _ in streamed] == ["start", "stdout", "end"]


def test_files_of_every_route_and_hostile_paths(ann: Api) -> None:
    """What is refused here of our own sandboxes is refused there with the same words."""
    sandbox, own = ann.create(sandbox=REMOTE), ann.create()
    at = f"/sandboxes/{sandbox}"
    assert ann("PUT", f"/files?sandbox_id={sandbox}&path=/workspace/a%20b", content=b"1").status_code == 200
    assert ann("GET", f"/files?path=/workspace/a%20b&sandbox_id={sandbox}").content == b"1"
    assert ann("POST", f"{at}/files/mkdir", json={"path": "/workspace/d"}).status_code == 200
    assert ann("POST", f"{at}/files/move", json={"from": "/workspace/a b", "to": "/workspace/d/ü"}).status_code == 200
    listed = ann("GET", f"{at}/files/list?recursive=true").json()["items"]
    assert [entry["path"] for entry in listed] == ["/workspace/d", "/workspace/d/ü"]
    archive = ann("GET", f"{at}/archive?path=/workspace/d")
    assert archive.headers["content-type"] == "application/x-tar"
    unpacked = ann("PUT", f"{at}/archive?path=/workspace/e", content=archive.content)
    assert unpacked.status_code == 200, unpacked.text
    ann.run(sandbox, "ln -s /etc/passwd /workspace/link")
    ann.run(own, "ln -s /etc/passwd /workspace/link; mkdir /workspace/d; echo > /workspace/d/f")
    for method, path, body in [
        ("GET", "/files?path=relative", None),
        ("GET", "/files?path=/workspace/../../etc/shadow", None),
        ("GET", "/files?path=/workspace/%2e%2e/x", None),
        ("GET", "/files?path=/workspace/nowhere", None),
        ("GET", "/files?path=/workspace/d", None),
        ("GET", "/files?path=/etc/shadow", None),
        ("GET", "/files?path=" + "/a" * 3000, None),
        ("GET", "/files?path=/a%00b", None),
        ("PUT", "/files?path=/usr/x", b"x"),
        ("PUT", "/files?path=/proc/1/mem", b"x"),
        ("DELETE", "/files?path=/workspace/d", None),
        ("GET", "/files?path=/workspace/d&user=a/b", None),
        ("GET", "/files?path=/dev/null", None),
        ("GET", "/files/stat?path=/workspace/nowhere&path=/x", None),
        ("PUT", "/archive?path=/workspace", b"no archive" * 100),
        ("GET", "/execs/ex-aaaaaaaaaaaaaaaaaaaa", None),
        ("GET", "/execs/..", None),
        ("GET", "/execs/%2e%2e/result", None),
        ("GET", "/execs/../../keys", None),
        ("POST", "/execs", b"{"),
        ("POST", "/execs", b'{"command":"true","shell":1}'),
        ("POST", "/execs", b'{"command":["/nowhere"]}'),
        ("POST", "/execs", b'{"command":"true","cwd":"/nowhere"}'),
        ("POST", "/execs", b'{"command":"true","env":{"A":"1","A":"2"}}'),
        ("GET", "/files?path=/tmp&user=nosuch", None),
        ("PATCH", "", b'{"resources":{"pids":-1}}'),
    ]:
        headers = {"Content-Type": "application/json"} if method in ("POST", "PATCH") else {}
        answers = []
        for one in (sandbox, own):
            answers.append(raw(ann, method, f"/api/v1/sandboxes/{one}{path}", body, headers))
        there, here = answers
        assert here.status_code >= 400, (path, here.text[:200])
        code = here.json()["error"]["code"]
        refused(there, here.status_code, code)


def raw(api: Api, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> httpx.Response:
    """A request whose path nobody makes plain before it is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=60)
    connection.request(method, path, body, {"Authorization": f"Bearer {api.token}", **headers})
    answer = connection.getresponse()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def test_a_large_file_goes_both_ways_unchanged(ann: Api, server: Server) -> None:
    sandbox = ann.create(sandbox=REMOTE, storage="disk", resources={"disk": "1Gi"})
    size, piece = 120 << 20, os.urandom(1 << 20)
    hashed = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for number in range(size >> 20):
            part = number.to_bytes(8, "big") + piece[8:]
            hashed.update(part)
            yield part

    before = server.rss()
    sent = ann("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/big", content=pieces())
    assert sent.status_code == 200 and sent.json()["size"] == size, sent.text
    assert ann.run(sandbox, "sha256sum /workspace/big")["stdout"].split()[0] == hashed.hexdigest()
    back = hashlib.sha256()
    with ann.http.stream("GET", f"/api/v1/sandboxes/{sandbox}/files?path=/workspace/big") as response:
        for part in response.iter_bytes():
            back.update(part)
    assert back.hexdigest() == hashed.hexdigest()
    assert server.rss() - before < 32 << 20, "it passed through, it was not held"


def test_a_flood_waits_for_a_slow_reader(ann: Api, server: Server) -> None:
    sandbox = ann.create(sandbox=REMOTE)
    flood = {"command": "head -c 50000000 /dev/zero | tr '\\0' x", "max_output_bytes": "64m"}
    before = server.rss()
    events = {"Accept": "text/event-stream"}
    with ann.http.stream("POST", f"/api/v1/sandboxes/{sandbox}/execs", json=flood, headers=events) as response:
        time.sleep(3)
        assert server.rss() - before < 32 << 20, "what nobody takes stays where it is"
        said = sum(line.count("x") for line in response.iter_lines() if line.startswith("data:"))
    assert said >= 50_000_000


def test_pause_and_resume(ann: Api) -> None:
    sandbox = ann.create(sandbox=REMOTE)
    paused = ann("POST", f"/sandboxes/{sandbox}/pause").json()
    assert (paused["sandbox_id"], paused["state"], paused["kind"]) == (sandbox, "paused", "remote")
    assert sandbox in [s["sandbox_id"] for s in ann("GET", "/sandboxes?state=paused").json()["items"]]
    message = refused(ann("POST", f"/sandboxes/{sandbox}/execs", json={"command": "true"}), 409, "sandbox_paused")
    assert "sb-" not in message or sandbox in message
    assert ann("POST", f"/sandboxes/{sandbox}/resume").json()["state"] == "running"
    assert ann.run(sandbox, "echo on")["stdout"] == "on\n"


def test_two_users_reach_neither_each_others_nor_by_the_far_id(ann: Api, bob: Api, far: Far) -> None:
    before = set(far.ids())
    sandbox = ann.create(sandbox=REMOTE)
    (there,) = set(far.ids()) - before
    exec_id = ann.start(sandbox, "sleep 60")
    for who, ident in [(bob, sandbox), (ann, there), (bob, there)]:
        for method, path in [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/pause"),
            ("GET", "/stats"),
            ("GET", "/execs"),
            ("GET", f"/execs/{exec_id}/output"),
            ("GET", "/files?path=/etc/passwd"),
        ]:
            refused(who(method, f"/sandboxes/{ident}{path}"), 404, "sandbox_not_found")
        refused(who("POST", "/execute", json={"sandbox_id": ident, "code": "1"}), 404, "sandbox_not_found")
        refused(who("GET", f"/files?sandbox_id={ident}&path=/etc/passwd"), 404, "sandbox_not_found")
        refused(who("POST", "/sandbox/release", json={"sandbox_id": ident}), 404, "sandbox_not_found")
    assert bob("GET", "/sandboxes").json()["items"] == []
    # One key of two users is two keys, though the far server sees one user.
    mine, his = ann.create(sandbox=REMOTE), bob.create(sandbox=REMOTE)
    for who, ident in [(ann, mine), (bob, his)]:
        done = who(
            "POST",
            f"/sandboxes/{ident}/execs",
            json={"command": f"echo {who.user}"},
            headers={"Idempotency-Key": "same"},
        )
        assert done.json()["stdout"] == f"{who.user}\n", done.text


def test_a_key_starts_one_command_and_says_so_in_the_callers_words(ann: Api) -> None:
    sandbox = ann.create(sandbox=REMOTE)
    key = {"Idempotency-Key": "my-key"}
    command = {"command": "echo $RANDOM | tee -a /workspace/runs"}
    answers = [ann("POST", f"/sandboxes/{sandbox}/execs", json=command, headers=key) for _ in range(3)]
    assert len({a.json()["exec_id"] for a in answers}) == 1
    assert answers[1].headers["idempotency-replayed"] == "true"
    other = ann("POST", f"/sandboxes/{sandbox}/execs", json={"command": "true"}, headers=key)
    assert "`my-key`" in refused(other, 409, "idempotency_conflict")
    create = {"sandbox": REMOTE, "metadata": {"once": "1"}}
    made = [ann("POST", "/sandboxes", json=create, headers={"Idempotency-Key": "make"}) for _ in range(2)]
    assert made[0].json() == made[1].json()
    ann.made.append(made[0].json()["sandbox_id"])


def test_the_python_sdk_and_its_terminal_work_through_it(server: Server) -> None:
    from cloud_sandbox import Sandbox

    with Sandbox.create(server.url, user_id="ann", sandbox=REMOTE) as sandbox:
        heard: list[str] = []
        result = sandbox.run_command("for i in 1 2 3; do echo $i; done", on_stdout=heard.append)
        assert (result.stdout, "".join(heard)) == ("1\n2\n3\n", "1\n2\n3\n")
        sandbox.write_file("/workspace/x", b"\0\xff")
        assert sandbox.read_file("/workspace/x") == b"\0\xff"
        try_terminal(sandbox)


def test_a_session_elsewhere_runs_handlers_and_ends_there(ann: Api, bob: Api, far: Far) -> None:
    made = ann("POST", "/sessions", json={"sandbox": REMOTE, "timeout": 600, "resources": {"pids": 77}})
    assert made.status_code == 201, made.text
    session = made.json()
    ident, sandbox = session["session_id"], session["sandbox_id"]
    (there,) = [s["session_id"] for s in far.admin.get("/sessions").json()["items"]]
    assert ident != there and session["resources"]["pids"] == 77
    code = {
        "code": "def handler(event):\n    print('x' * 100000)\n    return {'sum': event['a'] + 1}",
        "event": {"a": 1},
    }
    done = ann("POST", f"/sessions/{ident}/execute", json=code)
    assert done.status_code == 200, done.text
    assert (done.json()["result"], done.json()["session_id"]) == ({"sum": 2}, ident)
    assert there not in done.text
    again = ann("GET", f"/sessions/{ident}/executions/{done.json()['exec_id']}").json()
    assert (again["result"], again["session_id"]) == ({"sum": 2}, ident)
    streamed = events(ann("POST", f"/sessions/{ident}/execute", json={**code, "stream": True}))
    assert streamed[-1][0] == "end" and streamed[-1][2]["result"] == {"sum": 2}
    assert ann.run(sandbox, "echo in the same")["stdout"] == "in the same\n"
    assert ann("POST", f"/sessions/{ident}/pause").json()["state"] == "paused"
    refused(ann("POST", f"/sessions/{ident}/execute", json=code), 409, "sandbox_paused")
    assert ann("POST", f"/sessions/{ident}/resume").json()["state"] == "running"
    refused(bob("POST", f"/sessions/{ident}/execute", json=code), 404, "session_not_found")
    # Its sandbox ends: the next execution has a new one, and both sides agree on it.
    assert ann("DELETE", f"/sandboxes/{sandbox}").status_code == 204
    lost = ann("POST", f"/sessions/{ident}/execute", json=code).json()
    assert lost["result"] == {"sum": 2} and "new one was started" in lost["note"]
    until(lambda: ann("GET", f"/sessions/{ident}").json()["sandbox_id"] not in (None, sandbox))
    assert ann.run(ann("GET", f"/sessions/{ident}").json()["sandbox_id"], "echo new")["stdout"] == "new\n"
    assert ann("DELETE", f"/sessions/{ident}").status_code == 204
    assert far.admin.get("/sessions").json()["items"] == []
    refused(ann("GET", f"/sessions/{ident}"), 404, "session_not_found")


def test_what_is_released_there_is_gone_here(ann: Api, far: Far) -> None:
    before = set(far.ids())
    asked, listed = ann.create(sandbox=REMOTE), ann.create(sandbox=REMOTE)
    for there in set(far.ids()) - before:
        assert far.admin.delete(f"/sandboxes/{there}").status_code == 204
    message = refused(ann("POST", f"/sandboxes/{asked}/execs", json={"command": "true"}), 404, "sandbox_not_found")
    assert asked in message
    until(lambda: not {asked, listed} & {s["sandbox_id"] for s in ann("GET", "/sandboxes").json()["items"]})


def test_what_others_have_there_however_large_hides_no_end(ann: Api, bob: Api, far: Far) -> None:
    """A list of the other server is read in pieces that fit, whatever its items hold."""
    labels = {f"{i:02}" + "k" * 100: "v" * 2048 for i in range(64)}
    for _ in range(12):
        ann.create(sandbox=REMOTE, metadata=labels)
    before = set(far.ids())
    ended = bob.create(sandbox=REMOTE)
    lives = bob.create(sandbox=REMOTE)
    ids = set(far.ids()) - before
    listed = [one["sandbox_id"] for one in far.admin.get("/sandboxes?limit=100").json()["items"]]
    # Newest first: the older of the two is `ended`.
    there = [one for one in listed if one in ids][-1]
    assert far.admin.delete(f"/sandboxes/{there}").status_code == 204
    until(lambda: [one["sandbox_id"] for one in bob("GET", "/sandboxes").json()["items"]] == [lives])
    refused(bob("GET", f"/sandboxes/{ended}"), 404, "sandbox_not_found")
