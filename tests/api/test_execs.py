"""Commands: what comes back, what ended them, and what cannot be started."""

from __future__ import annotations

import base64
import json
import socket
import time
from urllib.parse import urlsplit

import pytest

from harness import Api, events, refused


def test_output_streams_and_the_exit_code_are_kept_apart(home: tuple[Api, str]) -> None:
    api, sandbox = home
    done = api.run(sandbox, "echo out; echo err >&2; exit 3")
    assert (done["stdout"], done["stderr"], done["exit_code"]) == ("out\n", "err\n", 3)
    assert (done["killed_by"], done["signal"], done["truncated"], done["encoding"]) == (None, None, False, "utf-8")
    assert done["state"] == "ended" and done["duration_ms"] > 0


def test_argv_reaches_the_program_byte_for_byte(home: tuple[Api, str]) -> None:
    api, sandbox = home
    argv = ["", " ", "a b", "*", "$HOME", "é🎈", "'\"\\", "-n", "\n", "a" * 100_000]
    done = api.run(sandbox, ["python3", "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *argv])
    assert json.loads(done["stdout"]) == argv


def test_output_that_is_not_utf8_comes_in_base64(home: tuple[Api, str]) -> None:
    api, sandbox = home
    done = api.run(sandbox, r"printf '\377\000\001'; echo text >&2")
    assert done["encoding"] == "base64"
    assert base64.b64decode(done["stdout"]) == b"\xff\0\1"
    assert base64.b64decode(done["stderr"]) == b"text\n"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"command": ["no-such-program"]}, "command_not_found"),
        ({"command": ["/no/such/program"]}, "command_not_found"),
        ({"command": ["/etc/passwd"]}, "command_not_executable"),
        ({"command": ["/workspace"]}, "command_not_executable"),
        ({"command": ["true"], "cwd": "/no/such/place"}, "bad_cwd"),
        ({"command": ["true"], "cwd": "/etc/passwd"}, "bad_cwd"),
        ({"command": ["true"], "user": "nobody-of-that-name"}, "bad_user"),
    ],
)
def test_what_cannot_be_started_says_why(home: tuple[Api, str], body: dict[str, object], code: str) -> None:
    api, sandbox = home
    refused(api("POST", f"/sandboxes/{sandbox}/execs", json=body), 422, code)


def test_a_language_that_is_not_known_is_refused(home: tuple[Api, str]) -> None:
    api, sandbox = home
    for language in ("brainfuck", "", "../python"):
        answer = api("POST", f"/sandboxes/{sandbox}/run-code", json={"code": "1", "language": language})
        refused(answer, 422, "unknown_language")


def test_code_runs_in_each_language_of_the_template(home: tuple[Api, str]) -> None:
    api, sandbox = home
    code = {
        "python": "print(6 * 7)",
        "javascript": "console.log(6 * 7)",
        "bash": "echo $((6 * 7))",
        "go": 'package main\nimport "fmt"\nfunc main() { fmt.Println(6 * 7) }',
        "typescript": "const a: number = 6; console.log(a * 7)",
    }
    for language in api("GET", "/languages").json()["items"]:
        name = language["name"]
        done = api("POST", f"/sandboxes/{sandbox}/run-code", json={"code": code[name], "language": name})
        if done.status_code == 501 and name in ("go", "typescript"):
            # No toolchain, or a Node.js before 22.6: said by name instead of failing inside.
            assert name in refused(done, 501, "unsupported")
            continue
        for word in [name, *language["aliases"]]:
            done = api("POST", f"/sandboxes/{sandbox}/run-code", json={"code": code[name], "language": word})
            assert done.json()["stdout"] == "42\n", (word, done.text)


def test_a_timeout_ends_everything_that_was_started(home: tuple[Api, str]) -> None:
    api, sandbox = home
    line = "trap '' TERM; sh -c 'trap \"\" TERM; sleep 1000' & setsid sleep 1001 & echo started; sleep 1002"
    done = api.run(sandbox, line, timeout=0.5)
    assert (done["killed_by"], done["stdout"]) == ("timeout", "started\n")
    assert done["exit_code"] == 137
    left = api.run(sandbox, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])["stdout"]
    assert "sleep 100" not in left


def test_output_past_the_limit_is_dropped_and_marked(home: tuple[Api, str]) -> None:
    api, sandbox = home
    done = api.run(sandbox, "yes | head -c 1000000; echo over >&2", max_output_bytes=1000)
    assert done["truncated"] is True
    assert len(done["stdout"]) + len(done["stderr"]) == 1000
    assert done["exit_code"] == 0


def test_an_endless_flood_is_ended_by_its_timeout_and_hurts_nobody(api: Api) -> None:
    sandbox = api.create()
    before = api.server.rss()
    done = api.run(sandbox, "yes", timeout=1, max_output_bytes=1 << 20)
    assert (done["killed_by"], done["truncated"], len(done["stdout"])) == ("timeout", True, 1 << 20)
    assert api.server.rss() - before < 64 << 20
    assert api.run(sandbox, "echo alive")["stdout"] == "alive\n"


def test_an_oom_kill_is_named(api: Api) -> None:
    sandbox = api.create(resources={"memory": "64Mi"})
    done = api.run(sandbox, ["python3", "-c", "b = bytearray(1 << 30)"])
    assert done["killed_by"] == "oom", done
    assert done["exit_code"] == 137
    assert api("GET", f"/sandboxes/{sandbox}/stats").json()["oom_kills"] >= 1
    assert api.run(sandbox, "echo alive")["stdout"] == "alive\n"


def test_a_refused_fork_is_named(api: Api) -> None:
    sandbox = api.create(resources={"pids": 16})
    done = api.run(sandbox, "for i in $(seq 64); do sleep 5 & done; wait", timeout=20)
    assert done["killed_by"] == "pids", done
    assert api("GET", f"/sandboxes/{sandbox}/stats").json()["pids_refused"] >= 1
    assert api.run(sandbox, "echo alive")["stdout"] == "alive\n"


def test_a_full_disk_is_named_and_the_sandbox_goes_on(api: Api) -> None:
    sandbox = api.create(resources={"disk": "8Mi", "memory": "256Mi"})
    done = api.run(sandbox, "head -c 100000000 /dev/zero > /workspace/big")
    assert done["killed_by"] == "disk", done
    answer = api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/more", content=b"x" * (4 << 20))
    refused(answer, 507, "disk_full")
    # Nothing of the failed write is left, and with room made the next one works.
    refused(api("GET", f"/sandboxes/{sandbox}/files?path=/workspace/more"), 404, "file_not_found")
    assert api("DELETE", f"/sandboxes/{sandbox}/files?path=/workspace/big").status_code == 204
    assert api("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/more", content=b"x").status_code == 200


def test_a_program_without_descriptors_left_fails_inside_only(api: Api) -> None:
    sandbox = api.create(resources={"nofile": 32})
    code = """
import os
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
except OSError as error:
    print(error.errno)
"""
    done = api("POST", f"/sandboxes/{sandbox}/run-code", json={"code": code}).json()
    assert done["stdout"] == "24\n", done
    assert api.run(sandbox, "echo alive")["stdout"] == "alive\n"


def test_stdin_is_given_at_once_or_kept_open(home: tuple[Api, str]) -> None:
    api, sandbox = home
    assert api.run(sandbox, "cat", stdin="é\n")["stdout"] == "é\n"
    assert api.run(sandbox, "cat")["stdout"] == ""
    assert api.run(sandbox, "cat", stdin=False)["stdout"] == ""
    exec_id = api.start(sandbox, "cat", stdin=True)
    path = f"/sandboxes/{sandbox}/execs/{exec_id}"
    for piece in (b"one\n", b"\xff\0", b""):
        assert api("POST", f"{path}/stdin", content=piece).status_code == 204
    refused(api("GET", f"{path}/result"), 409, "exec_running")
    assert api("POST", f"{path}/stdin?close=true", content=b"end").status_code == 204
    done = api("GET", f"{path}/result?wait=30").json()
    assert base64.b64decode(done["stdout"]) == b"one\n\xff\0end"


def test_environment_user_and_directory_are_as_asked(api: Api) -> None:
    sandbox = api.create(env={"A": "sandbox", "B": "sandbox"}, hostname="box")
    done = api.run(sandbox, "echo $A $B $USER $HOME $LANG; id -u; pwd; hostname", env={"B": "exec"})
    assert done["stdout"] == "sandbox exec user /home/user C.UTF-8\n1000\n/workspace\nbox\n"
    done = api.run(sandbox, "id -u; pwd", user="root", cwd="/tmp")
    assert done["stdout"] == "0\n/tmp\n"
    # Nothing of the server's own environment is in there.
    assert "JWT_SECRET" not in api.run(sandbox, "env")["stdout"]


def test_events_tell_the_whole_story_in_order(home: tuple[Api, str]) -> None:
    api, sandbox = home
    body = {"command": "echo a; sleep 0.2; echo b >&2; sleep 0.2; printf '\\377'; exit 5"}
    with api.http.stream(
        "POST", f"/api/v1/sandboxes/{sandbox}/execs", json=body, headers={"Accept": "text/event-stream"}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        got = events(answer)
    assert [name for name, _, _ in got] == ["start", "stdout", "stderr", "stdout", "end"]
    assert [(mark, data["seq"], data["data"], data["encoding"]) for _, mark, data in got[1:-1]] == [
        ("2", 2, "a\n", "utf-8"),
        ("4", 4, "b\n", "utf-8"),
        ("5", 5, "/w==", "base64"),
    ]
    assert got[0][2]["state"] == "running" and got[0][2]["exit_code"] is None
    assert (got[-1][2]["state"], got[-1][2]["exit_code"]) == ("ended", 5)


@pytest.mark.parametrize("by_header", [True, False])
def test_a_stream_goes_on_behind_any_byte(home: tuple[Api, str], by_header: bool) -> None:
    api, sandbox = home
    exec_id = api.start(sandbox, "seq 1000; seq 1000 >&2")
    path = f"/sandboxes/{sandbox}/execs/{exec_id}"
    api("GET", f"{path}/result?wait=30")
    everything = b"".join(
        data["data"].encode() for name, _, data in events(api("GET", f"{path}/output")) if name in ("stdout", "stderr")
    )
    assert len(everything) == 2 * sum(len(f"{i}\n") for i in range(1, 1001))
    for at in (0, 1, 2, 1000, len(everything) - 1, len(everything)):
        options = {"headers": {"Last-Event-ID": str(at)}} if by_header else {"params": {"from": at}}
        rest = events(api("GET", f"{path}/output", **options))
        got = b"".join(data["data"].encode() for name, _, data in rest if name in ("stdout", "stderr"))
        assert got == everything[at:]
        assert rest[-1][0] == "end"
    answer = api("GET", f"{path}/output", params={"from": "x"})
    refused(answer, 400, "invalid_request")


def test_a_paused_sandbox_starts_nothing_and_goes_on_where_it_was(api: Api) -> None:
    sandbox = api.create()
    exec_id = api.start(sandbox, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done", timeout=60)
    assert api("POST", f"/sandboxes/{sandbox}/pause").json()["state"] == "paused"
    refused(api("POST", f"/sandboxes/{sandbox}/execs", json={"command": "true"}), 409, "sandbox_paused")
    assert api("POST", f"/sandboxes/{sandbox}/resume").json()["state"] == "running"
    assert api("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/signal", json={"signal": "KILL"}).status_code == 204
    lines = api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/result?wait=30").json()["stdout"].splitlines()
    assert lines == [str(i + 1) for i in range(len(lines))]


def test_a_sandbox_ends_at_the_end_of_its_lifetime(api: Api) -> None:
    sandbox = api.create(timeout=1)
    exec_id = api.start(sandbox, "sleep 600")
    import time

    deadline = time.monotonic() + 60
    while api("GET", f"/sandboxes/{sandbox}").status_code == 200:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.1)
    refused(api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}"), 404, "sandbox_not_found")


def test_limits_change_while_it_runs(api: Api) -> None:
    sandbox = api.create(resources={"pids": 16})
    changed = api("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"pids": 200, "memory": "300Mi"}})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["resources"]["pids"], changed.json()["resources"]["memory"]) == (200, 300 << 20)
    done = api.run(sandbox, "for i in $(seq 64); do sleep 0.5 & done; wait; echo ok", timeout=30)
    assert (done["stdout"], done["killed_by"]) == ("ok\n", None)
    refused(api("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"memory": 1}}), 400, "invalid_request")


def test_many_commands_at_once_do_not_mix(home: tuple[Api, str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    api, sandbox = home

    def one(i: int) -> bool:
        done = api.run(sandbox, f"for j in 1 2 3; do echo {i}; echo {i} >&2; done; exit {i}")
        return (done["stdout"], done["stderr"], done["exit_code"]) == (f"{i}\n" * 3, f"{i}\n" * 3, i)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(32)))


def test_a_socket_ends_with_a_goodbye_whatever_the_client_still_sends(home: tuple[Api, str]) -> None:
    """What was sent behind the end is read as well: a reset connection could take the end of the output with it."""
    api, sandbox = home
    done = api.start(sandbox, "echo over")
    assert api("GET", f"/sandboxes/{sandbox}/execs/{done}/result?wait=30").json()["exit_code"] == 0
    address = api.http.base_url
    path = f"/api/v1/sandboxes/{sandbox}/execs/{done}/ws"
    head = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\nAuthorization: Bearer {api.token}\r\n\r\n"
    ).encode()
    # Nothing under a mask of zeros is itself.
    typed = bytes([0x82, 0xFE]) + (60_000).to_bytes(2, "big") + bytes(4) + bytes(60_000)
    for _ in range(20):
        with socket.create_connection((address.host, address.port), timeout=30) as link:
            link.sendall(head + typed * 4)
            said = b""
            while not said.endswith(b"\x88\x00"):
                piece = link.recv(65536)
                assert piece, said
                said += piece
            assert b'"type":"end"' in said
            link.sendall(b"\x88\x80" + bytes(4))
            assert link.recv(1) == b""


def test_a_caller_that_hangs_up_at_once_leaves_nothing_that_waits_for_its_input(api: Api) -> None:
    sandbox = api.create()
    body = json.dumps({"command": "cat; echo end", "stdin": "hello "}).encode()
    head = (
        f"POST /api/v1/sandboxes/{sandbox}/execs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    address = urlsplit(api.server.url)
    for pause in range(40):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head + body)
            time.sleep(pause / 10_000)
    # Those that began end, each with all of its input.
    deadline = time.monotonic() + 20
    while any(one["state"] == "running" for one in api("GET", f"/sandboxes/{sandbox}/execs").json()["items"]):
        assert time.monotonic() < deadline, "a command waits for input that nobody sends"
        time.sleep(0.1)
    begun = api("GET", f"/sandboxes/{sandbox}/execs").json()["items"]
    assert begun
    for one in begun:
        result = api("GET", f"/sandboxes/{sandbox}/execs/{one['exec_id']}/result").json()
        assert result["stdout"] == "hello end\n", result
