"""Requests that cannot be meant: each one a clear error in the one shape, and the server goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Api, Server, refused

YEAR = 365 * 86400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"command": "true"',
        b'{"command": "true",}',
        b'{"command": NaN}',
        b"\xff\xfe{}",
        b'{"command": "\xff"}',
        b'{"command": "true"} trailing',
    ],
)
def test_malformed_json_is_named_as_such(home: tuple[Api, str], body: bytes) -> None:
    api, sandbox = home
    answer = api("POST", f"/sandboxes/{sandbox}/execs", content=body, headers={"Content-Type": "application/json"})
    refused(answer, 400, "malformed_json")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ([], "object"),
        (["true"], "object"),
        ([["true"], None, None, None, None, None, None, None, None], "object"),
        ("true", "object"),
        (1, ""),
        ({}, "command"),
        ({"command": 1}, "command"),
        ({"command": []}, "command"),
        ({"command": ""}, "command"),
        ({"command": ["a", 1]}, ""),
        ({"command": ["a", None]}, ""),
        ({"command": "a\0b"}, "NUL"),
        ({"command": ["x" * (128 << 10)]}, "128 KiB"),
        ({"command": ["x" * 100_000] * 20}, "1 MiB"),
        ({"command": "true", "comand": "x"}, "comand"),
        ({"command": "true", "env": {"A": 1}}, ""),
        ({"command": "true", "env": {"A=B": "c"}}, "env"),
        ({"command": "true", "env": {"": "c"}}, "env"),
        ({"command": "true", "env": {"A": "c\0"}}, "NUL"),
        ({"command": "true", "env": {"A": "x" * 200_000}}, "128 KiB"),
        ({"command": "true", "env": ["A"]}, ""),
        ({"command": "true", "cwd": "relative"}, "cwd"),
        ({"command": "true", "cwd": "/a\0"}, "cwd"),
        ({"command": "true", "cwd": "/" + "x" * 5000}, "cwd"),
        ({"command": "true", "user": ""}, "user"),
        ({"command": "true", "user": "a:b"}, "user"),
        ({"command": "true", "timeout": 0}, "timeout"),
        ({"command": "true", "timeout": -1}, "timeout"),
        ({"command": "true", "timeout": YEAR}, "timeout"),
        ({"command": "true", "timeout": 1e300}, "timeout"),
        ({"command": "true", "timeout": "soon"}, ""),
        ({"command": "true", "max_output_bytes": 0}, "max_output_bytes"),
        ({"command": "true", "max_output_bytes": -1}, ""),
        ({"command": "true", "max_output_bytes": 1 << 62}, "max_output_bytes"),
        ({"command": "true", "pty": {"cols": 0, "rows": 1}}, "pty"),
        ({"command": "true", "pty": {"cols": 1 << 20, "rows": 1}}, ""),
        ({"command": "true", "pty": True}, ""),
        ({"command": "true", "stdin": 7}, "stdin"),
        ({"command": "true", "wait": "yes"}, "wait"),
    ],
)
def test_execs_that_cannot_be_meant_are_refused_by_field(home: tuple[Api, str], body: object, word: str) -> None:
    api, sandbox = home
    message = refused(api("POST", f"/sandboxes/{sandbox}/execs", json=body), 400, "invalid_request")
    assert word in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"tempalte": "host"}, 400, "invalid_request"),
        ({"template": "no-such-template"}, 404, "template_not_found"),
        ({"template": "../../etc"}, 400, "invalid_request"),
        ({"template": "x" * 200}, 400, "invalid_request"),
        ({"template": 7}, 400, "invalid_request"),
        ({"sandbox": {"kind": "k8s"}}, 501, "unsupported"),
        ({"sandbox": {"kind": "magic"}}, 400, "invalid_request"),
        ({"sandbox": {"kind": "process", "privileged": True}}, 400, "invalid_request"),
        ({"sandbox": "process"}, 400, "invalid_request"),
        ({"volumes": ["/:/host"]}, 400, "invalid_request"),
        ({"network": "full"}, 501, "unsupported"),
        ({"network": "host"}, 400, "invalid_request"),
        ({"storage": "tape"}, 400, "invalid_request"),
        ({"resources": {"memory": 0}}, 400, "invalid_request"),
        ({"resources": {"memory": "1k"}}, 400, "invalid_request"),
        ({"resources": {"memory": "a lot"}}, 400, "invalid_request"),
        ({"resources": {"memory": -1}}, 400, "invalid_request"),
        ({"resources": {"memory": "9999999Ti"}}, 400, "invalid_request"),
        ({"resources": {"cpu": 0}}, 400, "invalid_request"),
        ({"resources": {"cpu": -1}}, 400, "invalid_request"),
        ({"resources": {"cpu": 1e12}}, 400, "invalid_request"),
        ({"resources": {"cpu": "two"}}, 400, "invalid_request"),
        ({"resources": {"pids": 1}}, 400, "invalid_request"),
        ({"resources": {"pids": 1.5}}, 400, "invalid_request"),
        ({"resources": {"disk": 1}}, 400, "invalid_request"),
        ({"resources": {"inodes": 1}}, 400, "invalid_request"),
        ({"resources": {"nofile": 1}}, 400, "invalid_request"),
        ({"resources": {"gpu": 1}}, 400, "invalid_request"),
        ({"timeout": 0}, 400, "invalid_request"),
        ({"timeout": -5}, 400, "invalid_request"),
        ({"timeout": YEAR}, 400, "invalid_request"),
        ({"metadata": {str(i): "x" for i in range(100)}}, 400, "invalid_request"),
        ({"metadata": {"a": "x" * 5000}}, 400, "invalid_request"),
        ({"hostname": "-bad-"}, 400, "invalid_request"),
        ({"hostname": "a b"}, 400, "invalid_request"),
        ({"env": {"A": "\0"}}, 400, "invalid_request"),
    ],
)
def test_sandboxes_that_cannot_be_are_refused_and_leave_nothing(api: Api, body: object, status: int, code: str) -> None:
    before = api("GET", "/sandboxes").json()["items"]
    refused(api("POST", "/sandboxes", json=body), status, code)
    assert api("GET", "/sandboxes").json()["items"] == before


def test_what_is_there_twice_is_refused(home: tuple[Api, str]) -> None:
    api, sandbox = home
    at = f"/sandboxes/{sandbox}/execs"
    for path, body in (
        (at, b'{"command": "true", "command": "false"}'),
        (at, b'{"command": "true", "env": {"A": "1", "A": "2"}}'),
        (f"/sandboxes/{sandbox}/run-code", b'{"language": "bash", "code": "true", "env": {"A": "1", "A": "2"}}'),
        ("/sandboxes", b'{"env": {"A": "1", "A": "2"}}'),
        ("/sandboxes", b'{"metadata": {"A": "1", "A": "2"}}'),
        ("/sessions", b'{"env": {"A": "1", "A": "2"}}'),
    ):
        answer = api("POST", path, content=body, headers={"Content-Type": "application/json"})
        assert "duplicate" in refused(answer, 400, "invalid_request")
    for path, ask in ((at, {"command": "true"}), ("/sandboxes", {}), ("/sessions", {})):
        answer = api("POST", path, json=ask, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
        assert "twice" in refused(answer, 400, "invalid_request")


def test_a_body_of_another_type_is_refused(home: tuple[Api, str]) -> None:
    api, sandbox = home
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
        answer = api("POST", f"/sandboxes/{sandbox}/execs", content=b"command=true", headers={"Content-Type": kind})
        refused(answer, 415, "unsupported_media_type")


def test_unknown_routes_and_methods_are_errors_in_the_same_shape(api: Api) -> None:
    refused(api("GET", "/nonsense"), 404, "not_found")
    refused(api.http.get("/"), 404, "not_found")
    refused(api("PUT", "/sandboxes"), 405, "method_not_allowed")
    refused(api("DELETE", "/execute"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    "sandbox",
    [
        "sb-" + "a" * 20,
        "SB-" + "A" * 20,
        "x",
        "%2e%2e%2f",
        "sb-%00",
        "a" * 5000,
        "ex-" + "a" * 20,
        "%F0%9F%8E%88",
        "sb-aaaaaaaaaaaaaaaaaaa'",
    ],
)
def test_an_id_that_is_not_ours_is_not_found_whatever_it_looks_like(api: Api, sandbox: str) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/pause"),
        ("GET", "/stats"),
        ("GET", "/files?path=/workspace"),
        ("GET", "/execs/ex-" + "a" * 20),
    ):
        answer = api.http.request(method, f"{api.server.url}/api/v1/sandboxes/{sandbox}{path}")
        assert answer.status_code == 404, (method, path, answer.text)
        assert answer.json()["error"]["code"] in ("sandbox_not_found", "not_found")


def test_paths_of_any_length_stay_neither_in_memory_nor_in_the_log() -> None:
    server = Server(POOL_MIN_SIZE="0")
    try:
        api = server.api("ann")

        def ask(number: int) -> None:
            long = f"{number:06}" + "x" * 60_000
            calls = (("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"))
            for method, path in calls:
                refused(api(method, f"/sessions/{long}{path}"), 404, "session_not_found")
            refused(api("GET", f"/{long}"), 404, "not_found")

        for number in range(10):
            ask(number)
        before = server.rss()
        for number in range(10, 510):
            ask(number)
        assert server.rss() - before < 10 << 20
        assert max(map(len, Path(server.log).read_text().splitlines())) < 1000
        api.close()
    finally:
        server.stop()


def test_an_exec_id_that_does_not_exist_is_not_found(home: tuple[Api, str]) -> None:
    api, sandbox = home
    for exec_id in ("ex-" + "a" * 20, "nonsense", "%00"):
        for method, path in (("GET", ""), ("GET", "/output"), ("GET", "/result"), ("POST", "/stdin")):
            refused(api(method, f"/sandboxes/{sandbox}/execs/{exec_id}{path}"), 404, "exec_not_found")


@pytest.fixture
def raw(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        yield sock


def answer_of(sock: socket.socket) -> tuple[int, bytes]:
    raw = b""
    while piece := sock.recv(65536):
        raw += piece
        head, mark, body = raw.partition(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if mark and length and len(body) >= int(length[0].split(b":")[1]):
            break
    return int(raw.split(b" ")[1]) if raw else 0, raw


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(api: Api, raw: socket.socket) -> None:
    before = api.server.rss()
    head = (
        f"POST /api/v1/sandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {1 << 30}\r\n\r\n"
    )
    raw.sendall(head.encode() + b'{"metadata": {"a": "')
    status, said = answer_of(raw)
    assert status == 413 and b"payload_too_large" in said
    assert api.server.rss() - before < 32 << 20


def test_a_body_without_a_length_is_refused_and_not_kept(api: Api, raw: socket.socket) -> None:
    before = api.server.rss()
    head = (
        f"POST /api/v1/sandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    raw.sendall(head.encode())
    piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    sent = 0
    try:
        while sent < 1 << 10:  # a gigabyte in pieces of 1 MiB
            raw.sendall(piece)
            sent += 1
    except OSError:
        pass  # closed on us
    status, said = answer_of(raw)
    assert status == 413 and b"payload_too_large" in said
    assert api.server.rss() - before < 32 << 20


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /api/v1/auth/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
    ],
)
def test_what_is_not_http_ends_its_connection_and_nothing_else(api: Api, raw: socket.socket, request_: bytes) -> None:
    try:
        raw.sendall(request_)
        raw.shutdown(socket.SHUT_WR)
        status, _ = answer_of(raw)
        assert status == 0 or 400 <= status < 600
    except OSError:
        pass  # the connection was closed on us
    assert api("GET", "/health").status_code == 200


def test_odd_request_ids_are_not_echoed_raw(api: Api) -> None:
    for mark in ("a" * 5000, 'x"y', "<script>"):
        echoed = api("GET", "/health", headers={"X-Request-Id": mark}).headers["x-request-id"]
        assert len(echoed) <= 128 and not set(echoed) & set('"<>')


def test_numbers_in_queries_are_checked(home: tuple[Api, str]) -> None:
    api, sandbox = home
    for query in ("limit=0", "limit=-1", "limit=x", "limit=99999999999999999999", "cursor=garbage", "state=odd"):
        refused(api("GET", f"/sandboxes?{query}"), 400, "invalid_request")
    for query in ("offset=-1", "offset=x", f"offset={1 << 64}", "length=-1"):
        refused(api("GET", f"/sandboxes/{sandbox}/files?path=/etc/passwd&{query}"), 400, "invalid_request")
    api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/short", content=b"x")
    for offset in (1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        for path in ("/etc/passwd", "/workspace/short"):
            answer = api("GET", f"/sandboxes/{sandbox}/files?path={path}&offset={offset}")
            assert (answer.status_code, answer.content) == (200, b""), offset
    for query in ("mode=999", "mode=rwx", "mode=77777"):
        answer = api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/m&{query}", content=b"")
        refused(answer, 400, "invalid_request")
    for query in ("depth=x", "limit=-1"):
        refused(api("GET", f"/sandboxes/{sandbox}/files/list?path=/&{query}"), 400, "invalid_request")


def test_signals_are_checked(home: tuple[Api, str]) -> None:
    api, sandbox = home
    exec_id = api.start(sandbox, "sleep 60")
    path = f"/sandboxes/{sandbox}/execs/{exec_id}"
    for value in ("NOPE", 0, -9, 65, 1 << 40, "", None, [9]):
        refused(api("POST", f"{path}/signal", json={"signal": value}), 400, "invalid_request")
    for size in ({"cols": 0, "rows": 1}, {"cols": 1}, {"cols": "a", "rows": 1}, {"cols": 1, "rows": 99999}):
        refused(api("POST", f"{path}/resize", json=size), 400, "invalid_request")
    refused(api("POST", f"{path}/resize", json={"cols": 80, "rows": 24}), 409, "exec_not_interactive")
    refused(api("POST", f"{path}/stdin", content=b"x"), 409, "exec_not_interactive")
    assert api("POST", f"{path}/signal", json={"signal": "KILL"}).status_code == 204
    done = api("GET", f"{path}/result?wait=30").json()
    assert (done["exit_code"], done["signal"], done["killed_by"]) == (137, 9, "signal")
    refused(api("POST", f"{path}/signal", json={"signal": "TERM"}), 409, "exec_ended")


def test_deeply_nested_and_very_wide_json_does_not_bring_the_server_down(api: Api) -> None:
    deep = '{"metadata":' * 50_000 + "1" + "}" * 50_000
    answer = api("POST", "/sandboxes", content=deep, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    wide = json.dumps({f"k{i}": i for i in range(100_000)})
    answer = api("POST", "/sandboxes", content=wide, headers={"Content-Type": "application/json"})
    refused(answer, 400, "invalid_request")
