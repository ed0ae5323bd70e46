"""What is sent, what is sent again, and what an error answer becomes."""

from __future__ import annotations

import asyncio
import io

import pytest
from conftest import ENDED, EXEC, SANDBOX, exec_view, give_token, sandbox_view
from peer import Connection, Peer, Request, Reset

from cloud_sandbox import (
    AsyncClient,
    BadRequest,
    Client,
    CloudSandboxError,
    CommandFailed,
    ConnectionFailed,
    ConnectionLost,
    FileNotFound,
    NotFound,
    ProtocolError,
    RateLimited,
    Sandbox,
    SandboxNotFound,
    ServerError,
    Session,
    TimedOut,
    TokenExpired,
    Unauthorized,
)

BASE = f"/api/v1/sandboxes/{SANDBOX}"
ENTRY = {"name": "f", "path": "/workspace/f", "kind": "file", "size": 3, "mode": "0644", "uid": 1000, "gid": 1000}


def reset(c: Connection, r: Request) -> None:
    raise Reset


# -- sending again ------------------------------------------------------------------------------------------------


def test_a_create_whose_answer_was_lost_is_sent_again_under_the_same_key(peer: Peer) -> None:
    peer.on("POST /api/v1/sandboxes", reset, reset, lambda c, r: c.json(201, sandbox_view()))
    with Sandbox.create(peer.url):
        pass
    keys = [r.headers["idempotency-key"] for r in peer.requests if r.path == "/api/v1/sandboxes"]
    assert len(keys) == 3 and len(set(keys)) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.move("/a", "/b"),
        lambda s: s.mkdir("/a"),
        lambda s: s.remove("/a"),
        lambda s: s.write_file("/a", "x", append=True),
        lambda s: s.write_file("/a", io.BytesIO(b"x")),
    ],
)
def test_what_must_not_happen_twice_is_sent_once(peer: Peer, call: object) -> None:
    for route in ("POST files/move", "POST files/mkdir", "DELETE files", "PUT files"):
        method, path = route.split(" ")
        peer.on(f"{method} {BASE}/{path}", reset)
    with Sandbox.create(peer.url) as sandbox:
        before = len(peer.requests)
        with pytest.raises(ConnectionLost):
            call(sandbox)  # type: ignore[operator]
        assert len(peer.requests) == before + 1


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda s: s.run_command("x"), "execs"),
        (lambda s: s.run_code("x"), "run-code"),
        (lambda s: s.start("x"), "execs"),
    ],
)
def test_a_start_whose_answer_was_lost_is_sent_again_under_the_same_key(peer: Peer, call: object, path: str) -> None:
    peer.on(f"POST {BASE}/{path}", reset)
    with Sandbox.create(peer.url, max_retries=2) as sandbox:
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                call(sandbox)  # type: ignore[operator]
    keys = [r.headers["idempotency-key"] for r in peer.requests if r.path == f"{BASE}/{path}"]
    assert [len(keys), *(keys.count(key) for key in dict.fromkeys(keys))] == [6, 3, 3]


def test_reads_and_whole_writes_are_sent_again(peer: Peer) -> None:
    peer.on(f"GET {BASE}/files", reset, lambda c, r: c.json(200, {"a": 1}))
    peer.on(f"PUT {BASE}/files", reset, lambda c, r: c.json(200, ENTRY))
    with Sandbox.create(peer.url) as sandbox:
        assert sandbox.read_text("/workspace/f") == '{"a": 1}'
        assert sandbox.write_file("/workspace/f", "abc").size == 3
    assert peer.count(f"GET {BASE}/files") == peer.count(f"PUT {BASE}/files") == 2


def test_an_exec_is_started_when_the_server_comes_up_late(peer: Peer) -> None:
    peer.on(f"POST {BASE}/execs", lambda c, r: c.json(202, exec_view()))
    sandbox = Sandbox.create(peer.url, max_retries=50)
    sandbox._transport._http.close()
    sandbox._transport = Client(peer.url, token="t", max_retries=200).transport
    peer.stop_listening()
    import threading

    timer = threading.Timer(0.1, peer.listen_again)
    timer.start()
    # Refused connections carry nothing: trying again cannot run anything twice.
    assert sandbox.start("x").exec_id == EXEC
    timer.join()
    assert peer.count(f"POST {BASE}/execs") == 1


def test_a_server_that_is_not_there_is_said_to_be_not_there() -> None:
    with pytest.raises(ConnectionFailed, match="cannot reach http://127.0.0.1:9"):
        Sandbox.create("http://127.0.0.1:9", max_retries=0)


def test_a_rate_limit_is_waited_for_also_by_execs_and_then_reported(peer: Peer) -> None:
    def limited(c: Connection, r: Request) -> None:
        c.error(429, "rate_limited", Retry_After="1")

    peer.on(f"POST {BASE}/execs", limited, limited, lambda c, r: c.json(202, exec_view()))
    with Sandbox.create(peer.url) as sandbox:
        assert sandbox.start("x").exec_id == EXEC
        peer.on(f"POST {BASE}/execs", limited)
        with pytest.raises(RateLimited) as caught:
            sandbox.start("x")
    assert caught.value.retry_after == 1
    assert peer.count(f"POST {BASE}/execs") == 3 + 4


def test_a_rate_limit_of_an_hour_is_reported_at_once(peer: Peer) -> None:
    peer.on(f"GET {BASE}/stats", lambda c, r: c.error(429, "rate_limited", Retry_After="3600"))
    with Sandbox.create(peer.url) as sandbox, pytest.raises(RateLimited) as caught:
        sandbox.stats()
    assert caught.value.retry_after == 3600
    assert peer.count(f"GET {BASE}/stats") == 1


def test_a_slow_answer_to_an_exec_is_a_timeout_and_no_other_exec(peer: Peer) -> None:
    import time

    peer.on(f"POST {BASE}/execs", lambda c, r: time.sleep(1))
    with Sandbox.create(peer.url, request_timeout=0.2, max_retries=1) as sandbox, pytest.raises(TimedOut):
        sandbox.start("x")
    keys = [r.headers["idempotency-key"] for r in peer.requests if r.path == f"{BASE}/execs"]
    assert len(keys) == 2 and len(set(keys)) == 1


def test_releasing_what_is_gone_is_not_an_error(peer: Peer) -> None:
    peer.on(f"DELETE {BASE}", lambda c, r: c.error(404, "sandbox_not_found"))
    with Sandbox.create(peer.url) as sandbox:
        sandbox.release()


# -- credentials --------------------------------------------------------------------------------------------------


def test_a_token_is_fetched_once_and_renewed_when_it_expires(peer: Peer) -> None:
    tokens = iter(["old", "new"])
    peer.on(
        "POST /api/v1/auth/token",
        lambda c, r: c.json(200, {"access_token": next(tokens), "token_type": "bearer", "expires_in": 1}),
    )

    def exec_(c: Connection, r: Request) -> None:
        if r.headers["authorization"] == "Bearer old":
            c.error(401, "token_expired")
        else:
            c.json(202, exec_view())

    peer.on(f"POST {BASE}/execs", exec_)
    with Sandbox.create(peer.url, user_id="ann") as sandbox:
        sandbox.start("x")
    asked = [r.json for r in peer.requests if r.path == "/api/v1/auth/token"]
    assert asked == [{"user_id": "ann"}] * 2


def test_a_given_token_that_expires_is_an_error(peer: Peer) -> None:
    peer.on("POST /api/v1/sandboxes", lambda c, r: c.error(401, "token_expired"))
    with pytest.raises(TokenExpired):
        Sandbox.create(peer.url, token="mine")
    assert peer.count("POST /api/v1/auth/token") == 0


def test_a_refused_renewal_does_not_loop(peer: Peer) -> None:
    peer.on("POST /api/v1/auth/token", give_token)
    peer.on("POST /api/v1/sandboxes", lambda c, r: c.error(401, "unauthorized"))
    with pytest.raises(Unauthorized):
        Sandbox.create(peer.url)
    assert peer.count("POST /api/v1/sandboxes") == 2


def test_an_api_key_is_sent_as_it_is_and_with_a_user_buys_a_token(peer: Peer) -> None:
    with Sandbox.create(peer.url, api_key="csb_1"):
        pass
    assert peer.count("POST /api/v1/auth/token") == 0
    assert {r.headers.get("x-api-key") for r in peer.requests} == {"csb_1"}
    with Sandbox.create(peer.url, api_key="csb_1", user_id="bob"):
        pass
    bought = next(r for r in peer.requests if r.path == "/api/v1/auth/token")
    assert (bought.headers["x-api-key"], bought.json) == ("csb_1", {"user_id": "bob"})


def test_the_environment_names_server_and_key(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSB_SERVER", peer.url + "/")
    monkeypatch.setenv("CSB_API_KEY", "csb_env")
    with Sandbox.create():
        pass
    assert {r.headers.get("x-api-key") for r in peer.requests} == {"csb_env"}
    monkeypatch.delenv("CSB_API_KEY")
    monkeypatch.setenv("CSB_TOKEN", "from-the-environment")
    with Sandbox.create():
        pass
    assert peer.requests[-1].headers["authorization"] == "Bearer from-the-environment"
    monkeypatch.setenv("CSB_SERVER", "ftp://nowhere")
    with pytest.raises(CloudSandboxError, match="`ftp://nowhere` is not the address of a server"):
        Sandbox.create()


def test_a_key_does_not_show_in_a_representation() -> None:
    assert "csb_secret" not in repr(Client("http://127.0.0.1:1", api_key="csb_secret").transport.config)


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "sandbox_not_found", SandboxNotFound),
        (404, "file_not_found", FileNotFound),
        (404, "something_new", NotFound),
        (400, "something_new", BadRequest),
        (500, "internal", ServerError),
        (418, "teapot", BadRequest),
    ],
)
def test_an_error_answer_becomes_the_class_of_its_code(
    peer: Peer, status: int, code: str, kind: type[CloudSandboxError]
) -> None:
    peer.on(f"GET {BASE}/stats", lambda c, r: c.error(status, code))
    with Sandbox.create(peer.url) as sandbox, pytest.raises(kind) as caught:
        sandbox.stats()
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.hint, error.request_id, error.status) == (code, "a hint", "rq-1", status)
    assert str(error) == f"{code} happened [{code}]\nhint: a hint\nrequest id: rq-1"


def test_an_answer_of_another_program_is_named_as_such(peer: Peer) -> None:
    peer.on(
        "POST /api/v1/auth/token",
        lambda c, r: c.send(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/html\r\n\r\n<html></html>"),
    )
    with pytest.raises(ProtocolError, match="is it a Cloud Sandbox server"):
        Sandbox.create(peer.url)
    peer.on("POST /api/v1/auth/token", lambda c, r: c.send(b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno"))
    with pytest.raises(ServerError) as caught:
        Sandbox.create(peer.url)
    assert caught.value.code == "http_502"


def test_a_failed_command_is_a_result_until_it_is_checked(peer: Peer) -> None:
    def fail(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        c.output("stderr", 0, b"boom\n")
        c.event("end", exec_view("ended", **{**ENDED, "exit_code": 137, "killed_by": "oom"}))
        c.end_events()

    peer.on(f"POST {BASE}/execs", fail)
    with Sandbox.create(peer.url) as sandbox:
        result = sandbox.run_command("x")
    assert not result.ok and result.killed_by == "oom"
    with pytest.raises(CommandFailed, match=r"exited with 137 \(ended by oom\)\nboom"):
        result.check()


# -- what is sent -------------------------------------------------------------------------------------------------


def test_only_what_was_given_is_sent(peer: Peer) -> None:
    with Sandbox.create(peer.url, template="host", resources={"cpu": "1"}, sandbox={"kind": "process"}):
        pass
    created = next(r for r in peer.requests if r.path == "/api/v1/sandboxes")
    assert created.json == {"template": "host", "resources": {"cpu": "1"}, "sandbox": {"kind": "process"}}


def test_long_or_binary_stdin_is_written_behind_the_request(peer: Peer) -> None:
    got = bytearray()

    def run(c: Connection, r: Request) -> None:
        assert r.json["stdin"] is True
        c.begin_events()
        c.event("start", exec_view())
        done.wait(5)
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    import threading

    done = threading.Event()

    def stdin(c: Connection, r: Request) -> None:
        got.extend(r.body)
        c.empty()
        if r.query["close"] == "true":
            done.set()

    peer.on(f"POST {BASE}/execs", run)
    peer.on(f"POST {BASE}/execs/{EXEC}/stdin", stdin)
    sent = bytes(range(256)) * 4000
    with Sandbox.create(peer.url) as sandbox:
        sandbox.run_command("cat", stdin=sent)
    assert bytes(got) == sent
    assert peer.count(f"POST {BASE}/execs/{EXEC}/stdin") == 4


def test_connections_are_used_again(peer: Peer) -> None:
    def run(c: Connection, r: Request) -> None:
        ports.add(c.sock.getpeername())
        c.begin_events()
        c.event("start", exec_view())
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    ports: set[object] = set()
    peer.on(f"POST {BASE}/execs", run)
    with Sandbox.create(peer.url) as sandbox:
        for _ in range(5):
            sandbox.run_command("x")
    assert len(ports) == 1


def test_lists_follow_their_cursor(peer: Peer) -> None:
    def page(c: Connection, r: Request) -> None:
        at = int(r.query.get("cursor", 0))
        c.json(200, {"items": [sandbox_view(hostname=f"h{at}")], "next_cursor": str(at + 1) if at < 2 else None})

    peer.on("GET /api/v1/sandboxes", page)
    assert [info.hostname for info in Sandbox.list(peer.url)] == ["h0", "h1", "h2"]

    async def main() -> list[str]:
        async with AsyncClient(peer.url) as client:
            return [info.hostname async for info in client.iter_sandboxes()]

    assert asyncio.run(main()) == ["h0", "h1", "h2"]


def test_times_have_a_zone_and_records_read_like_dictionaries(peer: Peer) -> None:
    with Sandbox.create(peer.url) as sandbox:
        info = sandbox.info
    assert info.created_at is not None and info.created_at.isoformat() == "2026-01-02T03:04:05.678901+00:00"
    assert info["sandbox_id"] == info.sandbox_id == dict(info)["sandbox_id"]
    with pytest.raises(KeyError):
        info["from_json"]


def test_a_session_without_a_sandbox_says_so(peer: Peer) -> None:
    view = {"session_id": "se-1", "state": "closed", "sandbox_id": None}
    peer.on("POST /api/v1/sessions", lambda c, r: c.json(201, view))
    peer.on("GET /api/v1/sessions/se-1", lambda c, r: c.json(200, view))
    session = Session.create(peer.url)
    with pytest.raises(CloudSandboxError, match="has no sandbox: its state is `closed`"):
        session.sandbox()
