"""Kind `remote` when servers die, wires break, and callers ask for what is not theirs to choose."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from elsewhere import REMOTE, Far, Wire
from harness import Server, events, free_port, program, refused, until

Start = Callable[..., Server]


@pytest.fixture
def far() -> Iterator[Far]:
    far = Far(POOL_MIN_SIZE="0")
    yield far
    far.stop()


@pytest.fixture
def wire(far: Far) -> Iterator[Wire]:
    wire = Wire(far.port)
    yield wire
    wire.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts our server with these others: name, address, key."""
    servers: list[Server] = []

    def start(*others: tuple[str, str, str], port: int = 0, **settings: str) -> Server:
        keys = {f"REMOTE_{name.upper()}_KEY": key for name, _, key in others}
        listed = ",".join(f"{name}={url}" for name, url, _ in others)
        servers.append(
            Server(
                port=port, REMOTE_SERVERS=listed, POOL_MIN_SIZE="0", CSB_RECONCILE_INTERVAL="500ms", **keys, **settings
            )
        )
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_our_restart_keeps_it_and_so_does_theirs(start: Start, far: Far) -> None:
    near = start(("edge", far.url, far.key))
    api = near.api()
    sandbox = api.create(sandbox=REMOTE)
    paused = api.create(sandbox=REMOTE)
    assert api("POST", f"/sandboxes/{paused}/pause").status_code == 200
    session = api("POST", "/sessions", json={"sandbox": REMOTE}).json()["session_id"]
    before = {s: api("GET", f"/sandboxes/{s}").json() for s in (sandbox, paused)}
    reader = api.start(sandbox, "read line; echo got $line", stdin=True)
    for server in (near, far, near):
        server.kill()
        server.start()
        for one, view in before.items():
            assert api("GET", f"/sandboxes/{one}").json() == view
    near.kill()
    far.kill()
    near.start()
    listed = {s["sandbox_id"]: s for s in api("GET", "/sandboxes").json()["items"]}
    assert {s: listed[s] for s in before} == before, "what is known of them needs no answer of their server"
    far.start()
    path = f"/sandboxes/{sandbox}/execs/{reader}"
    assert api("POST", f"{path}/stdin", content=b"it\n").status_code == 204
    assert api("GET", f"{path}/result?wait=30").json()["stdout"] == "got it\n"
    done = api("POST", f"/sessions/{session}/execute", json={"code": "print(1)"})
    assert done.json()["stdout"] == "1\n", done.text
    api.close()
    until(lambda: len(far.ids()) == 1)


def test_a_command_under_way_outlives_the_other_servers_death(start: Start, far: Far) -> None:
    """The same request is sent again under the key it had, and finds the command that it started."""
    api = start(("edge", far.url, far.key)).api()
    sandbox = api.create(sandbox=REMOTE)
    answers: list[dict[str, object]] = []
    thread = threading.Thread(
        target=lambda: answers.append(api.run(sandbox, "echo run >> /workspace/runs; sleep 4; echo done"))
    )
    thread.start()
    until(lambda: "run" in api("GET", f"/sandboxes/{sandbox}/files?path=/workspace/runs").text)
    # One that dies before it has written down what the key started cannot tell, and says so.
    time.sleep(1)
    far.kill()
    far.start()
    thread.join(60)
    assert answers and answers[0]["stdout"] == "done\n"
    assert api.run(sandbox, "cat /workspace/runs")["stdout"] == "run\n"
    api.close()


def test_no_command_runs_twice_when_answers_are_lost(start: Start, far: Far, wire: Wire) -> None:
    api = start(("edge", wire.url, far.key)).api()
    sandbox = api.create(sandbox=REMOTE)
    for number in range(1, 9):
        wire.cut()
        wire.deaf = number % 3
        done = api("POST", f"/sandboxes/{sandbox}/execs", json={"command": "echo run >> /workspace/runs"})
        assert done.status_code == 200, done.text
        wire.deaf = 0
        assert api.run(sandbox, "cat /workspace/runs | wc -l")["stdout"] == f"{number}\n"
    # What no key protects is sent once, and its caller is told what is not known.
    wire.cut()
    wire.deaf = 1
    path = f"/sandboxes/{sandbox}/files?path=/workspace/log&append=true"
    message = refused(api("PUT", path, content=b"x"), 503, "backend_unavailable")
    assert "not known" in message
    assert api("GET", f"/sandboxes/{sandbox}/files?path=/workspace/log").text == "x"
    wire.cut()
    wire.deaf = 1
    exec_id = "ex-" + "a" * 20
    answer = api("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/signal", json={"signal": "TERM"})
    refused(answer, 503, "backend_unavailable")
    api.close()


def test_a_create_whose_answers_are_lost_makes_one_and_leaves_none(start: Start, far: Far, wire: Wire) -> None:
    api = start(("edge", wire.url, far.key)).api()
    wire.deaf = 2
    sandbox = api.create(sandbox=REMOTE)
    assert api.run(sandbox, "echo one")["stdout"] == "one\n"
    assert len(far.ids()) == 1
    # Lost for good: the caller learns that it is not known, and what was made there does not stay.
    wire.cut()
    wire.deaf = 1000
    refused(api("POST", "/sandboxes", json={"sandbox": REMOTE}), 503, "backend_unavailable")
    assert len(far.ids()) == 2
    wire.deaf = 0
    until(lambda: len(far.ids()) == 1)
    assert [s["sandbox_id"] for s in api("GET", "/sandboxes").json()["items"]] == [sandbox]
    # Our server dies before it hears what it made.
    near = api.server
    wire.cut()
    wire.deaf = 1000

    def vain() -> None:
        with contextlib.suppress(httpx.TransportError):
            api("POST", "/sandboxes", json={"sandbox": REMOTE})

    thread = threading.Thread(target=vain)
    thread.start()
    until(lambda: len(far.ids()) == 2)
    near.kill()
    thread.join()
    wire.deaf = 0
    near.start()
    until(lambda: len(far.ids()) == 1)
    assert api.run(sandbox, "echo still")["stdout"] == "still\n"
    api.close()
    until(lambda: far.ids() == [])


def test_a_server_that_is_down_is_passed_over(start: Start, far: Far) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    near = start(("dead", dead, far.key), ("edge", far.url, far.key))
    api = near.api()
    sandbox = api.create(sandbox=REMOTE)
    assert api.run(sandbox, "echo there")["stdout"] == "there\n"
    assert api.create(sandbox={"kind": "remote", "endpoint": ["dead", far.url]})
    assert api.create(sandbox={"kind": "remote", "endpoint": "edge"})
    answer = api("POST", "/sandboxes", json={"sandbox": {"kind": "remote", "endpoint": dead}})
    assert "`dead`" in refused(answer, 503, "backend_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert "REMOTE_SERVERS" in answer.json()["error"]["hint"]
    assert len(far.ids()) == 3
    # It dies under them: what is known stays in sight, and each use says what is wrong.
    far.kill()
    answer = api("POST", f"/sandboxes/{sandbox}/execs", json={"command": "true"})
    assert "`edge` does not answer" in refused(answer, 503, "backend_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert len(api("GET", "/sandboxes").json()["items"]) == 3
    # A release that its server cannot hear is done when it can.
    refused(api("DELETE", f"/sandboxes/{sandbox}"), 503, "backend_unavailable")
    refused(api("POST", f"/sandboxes/{sandbox}/execs", json={"command": "true"}), 409, "sandbox_releasing")
    far.start()
    until(lambda: len(far.ids()) == 2)
    until(lambda: sandbox not in api("GET", "/sandboxes").text)
    api.close()


def test_only_configured_servers_are_ever_connected(start: Start, far: Far) -> None:
    near = start(("edge", far.url, far.key))
    bare = start()
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        port = trap.getsockname()[1]
        endpoints = [
            f"http://127.0.0.1:{port}",
            f"http://localhost:{port}/",
            f"{far.url}@127.0.0.1:{port}",
            ["edge", f"http://127.0.0.1:{port}"],
            "http://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "",
        ]
        for endpoint in endpoints:
            for path in ("/sandboxes", "/sessions", "/sandbox/acquire"):
                answer = near.api()("POST", path, json={"sandbox": {"kind": "remote", "endpoint": endpoint}})
                refused(answer, 400, "invalid_request")
                assert "REMOTE_SERVERS" in answer.json()["error"]["hint"]
        answer = bare.api()("POST", "/sandboxes", json={"sandbox": {"kind": "remote", "endpoint": endpoints[0]}})
        refused(answer, 501, "unsupported")
        assert "REMOTE_SERVERS" in answer.json()["error"]["hint"]
        with pytest.raises(TimeoutError):
            trap.accept()
    assert far.ids() == []


def test_callers_credentials_stay_here(start: Start, far: Far, wire: Wire) -> None:
    near = start(("edge", wire.url, far.key))
    api = near.api()
    sandbox = api.create(sandbox=REMOTE)
    private = {"Cookie": "session=private-cookie", "X-Forwarded-For": "private-address"}
    for method, path, body in [
        ("GET", "", None),
        ("POST", "/execs", b'{"command":"true"}'),
        ("PUT", "/files?path=/workspace/x", b"x"),
        ("GET", "/files?path=/workspace/x", None),
        ("POST", "/pause", None),
        ("POST", "/resume", None),
    ]:
        headers = {**private, "Content-Type": "application/json"}
        assert api(method, f"/sandboxes/{sandbox}{path}", content=body, headers=headers).status_code == 200, path
    from cloud_sandbox import Sandbox

    process = Sandbox.connect(sandbox, near.url, token=api.token).start("cat", pty=True)
    with process.attach() as terminal:
        terminal.send("x\n")
        assert terminal.recv(timeout=30) is not None
    asked = bytes(wire.asked)
    assert far.key.encode() in asked and sandbox.encode() in asked
    for secret in (api.token, "csb.bearer", "private-cookie", "private-address", "Bearer"):
        assert secret.encode() not in asked, secret
    api.close()


class Heard:
    """A response that does something once a text has come."""

    def __init__(self, response: httpx.Response, text: str, then: Callable[[], None]) -> None:
        self.response, self.text, self.then = response, text, then

    def iter_lines(self) -> Iterator[str]:
        for line in self.response.iter_lines():
            if self.text in line and line.startswith("data:") and "command" not in line:
                self.then()
            yield line


def test_a_stream_that_breaks_off_says_so(start: Start, far: Far, wire: Wire) -> None:
    near = start(("edge", wire.url, far.key))
    api = near.api()
    sandbox = api.create(sandbox=REMOTE)
    command = {"command": "echo begun; sleep 600"}
    with api.http.stream(
        "POST", f"/api/v1/sandboxes/{sandbox}/execs", json=command, headers={"Accept": "text/event-stream"}
    ) as response:
        seen = events(Heard(response, "begun", wire.cut))  # type: ignore[arg-type]
        request_id = response.headers["x-request-id"]
    assert [name for name, _, _ in seen] == ["start", "stdout", "error"]
    error = seen[-1][2]["error"]
    assert (error["code"], error["request_id"]) == ("backend_unavailable", request_id)
    # Attached again behind the last event, nothing is missing and nothing is there twice.
    exec_id = seen[0][2]["exec_id"]
    api("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/signal", json={"signal": "KILL", "tree": True})
    rest = api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/output", headers={"Last-Event-ID": str(seen[1][1])})
    assert [name for name, _, _ in events(rest)] == ["end"]

    from websockets.sync.client import connect

    reader = api.start(sandbox, "cat", stdin=True)
    url = f"ws{near.url[4:]}/api/v1/sandboxes/{sandbox}/execs/{reader}/ws"
    with connect(url, additional_headers={"Authorization": f"Bearer {api.token}"}) as ws:
        assert json.loads(ws.recv(30))["type"] == "start"
        ws.send(b"hello\n")
        frame = ws.recv(30)
        assert isinstance(frame, bytes) and frame[9:] == b"hello\n"
        wire.cut()
        last = json.loads(ws.recv(30))
        assert (last["type"], last["code"]) == ("error", "backend_unavailable")
    # A download that breaks off is not taken for a whole file.
    api.run(sandbox, "head -c 50000000 /dev/zero > /workspace/zeros")
    with pytest.raises(Exception) as broken:
        with api.http.stream("GET", f"/api/v1/sandboxes/{sandbox}/files?path=/workspace/zeros") as response:
            for number, _ in enumerate(response.iter_bytes()):
                if number == 2:
                    wire.cut()
    assert "peer closed" in str(broken.value) or "incomplete" in str(broken.value)
    api.close()


def test_csb_attaches_again_by_itself(start: Start, far: Far, wire: Wire) -> None:
    near = start(("edge", wire.url, far.key))
    api = near.api()
    sandbox = api.create(sandbox=REMOTE)
    count = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.03; done; exit 7"
    env = {**near.env, "CSB_SERVER": near.url, "CSB_TOKEN": api.token}
    command = [program(), "exec", "-n", sandbox, "--", "sh", "-c", count]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        for mark in (20, 50):
            while f"{mark}\n" not in said:
                said += process.stdout.readline()
            wire.cut()
        said += process.stdout.read()
    assert (said, process.returncode) == ("".join(f"{i}\n" for i in range(1, 101)), 7)
    api.close()


def test_a_server_that_is_none_or_refuses_us_is_told_apart_from_the_callers_mistakes(start: Start, far: Far) -> None:
    class Odd:
        """Answers every connection with the same bytes."""

        def __init__(self, answer: bytes) -> None:
            self.answer = answer
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
            threading.Thread(target=self.serve, daemon=True).start()

        def serve(self) -> None:
            while True:
                try:
                    near, _ = self.listener.accept()
                except OSError:
                    return
                near.recv(65536)
                near.sendall(self.answer)
                near.close()

    trap = socket.create_server(("127.0.0.1", 0))
    trap.settimeout(0.5)
    target = f"http://127.0.0.1:{trap.getsockname()[1]}/"
    page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<h1>"
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
    huge = b"HTTP/1.1 201 Created\r\n" + b"X-A: " + b"a" * (2 << 20) + b"\r\n\r\n{}"
    text = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello"
    odd = {name: Odd(answer) for name, answer in [("page", page), ("moved", moved), ("huge", huge), ("text", text)]}
    near = start(*[(name, one.url, "csb_x") for name, one in odd.items()], ("locked", far.url, "csb_wrong"))
    api = near.api()
    for name in [*odd, "locked"]:
        answer = api("POST", "/sandboxes", json={"sandbox": {"kind": "remote", "endpoint": name}})
        assert f"`{name}`" in refused(answer, 503, "backend_unavailable")
        assert "csb_x" not in answer.text and "csb_wrong" not in answer.text
    with pytest.raises(TimeoutError):
        trap.accept()
    trap.close()
    for one in odd.values():
        one.listener.close()
    api.close()


def test_the_usual_kind_is_a_setting(start: Start, far: Far) -> None:
    api = start(("edge", far.url, far.key), SANDBOX_KIND="remote").api()
    made = api("POST", "/sandbox/acquire").json()
    assert made["kind"] == "remote"
    assert len(far.ids()) == 1
    own = api("POST", "/sandboxes", json={"sandbox": {"kind": "process"}}).json()
    assert own["kind"] == "process"
    for sandbox in (made, own):
        assert api("DELETE", f"/sandboxes/{sandbox['sandbox_id']}").status_code == 204
    api.close()


def test_certificates_are_checked(start: Start, far: Far, tmp_path: Path) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-days", "2", "-subj", "/CN=edge", "-addext", "subjectAltName=IP:127.0.0.1"]
    make += ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    wire = Wire(far.port, context)
    others = ("edge", wire.url, far.key)
    stranger = start(others).api()
    answer = stranger("POST", "/sandboxes", json={"sandbox": REMOTE})
    refused(answer, 503, "backend_unavailable")
    assert not wire.asked, "nothing is said to one who cannot prove who it is"
    stranger.close()
    near = start(others, SSL_CERT_FILE=str(tmp_path / "cert.pem"))
    api = near.api()
    sandbox = api.create(sandbox=REMOTE)
    assert api.run(sandbox, "echo over tls")["stdout"] == "over tls\n"
    from cloud_sandbox import Sandbox

    process = Sandbox.connect(sandbox, near.url, token=api.token).start("cat", pty=True)
    with process.attach() as terminal:
        terminal.send("x\n")
        assert terminal.recv(timeout=30) is not None
    api.close()
    wire.close()


def test_servers_that_name_each_other_do_not_go_round(start: Start) -> None:
    port = free_port()
    near = start(("itself", f"http://127.0.0.1:{port}", "csb_x"), SANDBOX_KIND="remote", port=port)
    made = near.api()("POST", "/sandboxes", headers={"X-Csb-Forwarded": "1"})
    refused(made, 501, "unsupported")
    assert near.api()("POST", "/sandboxes", json={"sandbox": {"kind": "process"}}).status_code == 201


def test_what_is_idle_here_is_released_there(start: Start, far: Far) -> None:
    api = start(("edge", far.url, far.key), CSB_LIFETIME_IDLE="2s").api()
    busy, idle = api.create(sandbox=REMOTE), api.create(sandbox=REMOTE)
    api.start(busy, "sleep 600")
    until(lambda: idle not in api("GET", "/sandboxes").text)
    assert len(far.ids()) == 1
    assert [s["sandbox_id"] for s in api("GET", "/sandboxes").json()["items"]] == [busy]
    api.close()


def test_lifetimes_and_quotas_are_ours(start: Start, far: Far) -> None:
    api = start(("edge", far.url, far.key), CSB_SANDBOXES_PER_USER="2").api()
    api("POST", "/sandboxes", json={"sandbox": REMOTE, "timeout": 1})
    api.create(sandbox=REMOTE)
    refused(api("POST", "/sandboxes", json={"sandbox": REMOTE}), 403, "quota_exceeded")
    until(lambda: len(api("GET", "/sandboxes").json()["items"]) == 1)
    assert len(far.ids()) == 1
    api.create(sandbox=REMOTE)
    api.close()
