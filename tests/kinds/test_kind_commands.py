"""Commands in every kind of sandbox: streams, ends, environments, users, terminals."""

from __future__ import annotations

import hashlib
import os
import time

from cloud_sandbox import Sandbox
from ways import Way

from harness import Api, events, refused

MIB = 1 << 20


def test_a_sandbox_is_what_was_asked_for(way: Way, ann: Api) -> None:
    asked = way.request(
        resources=way.limits(memory="200Mi", cpu=0.5, pids=77, disk="20Mi"),
        env={"GREETING": "hello"},
        metadata={"run": "7"},
        hostname="named",
    )
    made = ann("POST", "/sandboxes", json=asked)
    assert made.status_code == 201, made.text
    view = made.json()
    ann.made.append(view["sandbox_id"])
    resources = view["resources"]
    assert (view["kind"], view["metadata"], view["hostname"]) == (way.kind, {"run": "7"}, "named")
    assert (resources["memory"], resources["cpu"]) == (200 * MIB, 0.5)
    assert way.lacks("pids_limit") or resources["pids"] == 77
    assert way.lacks("disk_limit") or resources["disk"] == 20 * MIB
    assert (view["state"], view["user_id"]) == ("running", "ann")
    assert ann("GET", f"/sandboxes/{view['sandbox_id']}").json() == view
    assert ann.run(view["sandbox_id"], "echo $GREETING; hostname")["stdout"] == "hello\nnamed\n"


def test_streams_are_apart_in_order_and_whole(box: str, ann: Api) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo out $i; echo err $i >&2; done; exit 7"
    done = ann.run(box, script)
    assert done["stdout"] == "".join(f"out {i}\n" for i in range(1, 2001))
    assert done["stderr"] == "".join(f"err {i}\n" for i in range(1, 2001))
    assert (done["exit_code"], done["signal"], done["killed_by"], done["truncated"]) == (7, None, None, False)


def test_output_is_read_again_and_from_the_middle(box: str, ann: Api) -> None:
    exec_id = ann.start(box, "echo one; echo two; echo three")
    ann("GET", f"/sandboxes/{box}/execs/{exec_id}/result?wait=30")

    def said(start: int) -> str:
        path = f"/sandboxes/{box}/execs/{exec_id}/output?follow=false&from={start}"
        with ann.http.stream("GET", f"/api/v1{path}") as answer:
            return "".join(data["data"] for name, _, data in events(answer) if name == "stdout")

    assert said(0) == said(0) == "one\ntwo\nthree\n"
    assert said(4) == "two\nthree\n"


def test_a_signal_ends_a_command(box: str, ann: Api) -> None:
    exec_id = ann.start(box, ["sleep", "600"])
    assert ann("POST", f"/sandboxes/{box}/execs/{exec_id}/signal", json={"signal": "TERM"}).status_code == 204
    done = ann("GET", f"/sandboxes/{box}/execs/{exec_id}/result?wait=30").json()
    assert (done["exit_code"], done["signal"], done["killed_by"]) == (143, 15, "signal")


def test_a_timeout_ends_a_command_and_all_it_started(box: str, ann: Api) -> None:
    done = ann.run(box, "(while :; do sleep 0.1; done) & sleep 600", timeout=1)
    assert (done["exit_code"], done["killed_by"]) == (137, "timeout")
    assert int(ann.run(box, "ls -d /proc/[0-9]* | wc -l")["stdout"]) < 10


def test_variables_and_the_directory_of_a_command(box: str, ann: Api) -> None:
    assert ann.run(box, "pwd")["stdout"] == "/workspace\n"
    done = ann.run(box, "echo $A; pwd", env={"A": "1 2"}, cwd="/tmp")
    assert done["stdout"] == "1 2\n/tmp\n"


def test_a_command_is_as_long_as_the_api_lets_it_be(box: str, ann: Api) -> None:
    words, value = ["x" * (100 << 10)] * 9, "y" * (100 << 10)
    script = "echo $# ${#9} ${#LONG}"
    for some, env in (([], {"LONG": value}), (words, {"LONG": "z"}), (words, {"LONG": value})):
        done = ann.run(box, ["sh", "-c", script, "sh", *some], env=env)
        assert (done["stdout"], done["exit_code"]) == (
            f"{len(some)} {len(some[8]) if some else 0} {len(env['LONG'])}\n",
            0,
        )
    assert ann.run(box, "echo here")["stdout"] == "here\n"


def test_users_by_name_and_number(box: str, ann: Api) -> None:
    assert ann.run(box, "id -u; id -g")["stdout"] == "1000\n1000\n"
    assert ann.run(box, "id -u", user="root")["stdout"] == "0\n"
    assert ann.run(box, "id -u", user="1234")["stdout"] == "1234\n"
    refusal = ann("POST", f"/sandboxes/{box}/execs", json={"command": "true", "user": "nobody-of-that-name"})
    refused(refusal, 422, "bad_user")


def test_stdin_is_passed_on_and_closed(box: str, ann: Api) -> None:
    exec_id = ann.start(box, "cat; echo end", stdin=True)
    path = f"/sandboxes/{box}/execs/{exec_id}"
    block = os.urandom(300_000).hex()
    assert ann("POST", f"{path}/stdin", content=block.encode()).status_code == 204
    assert ann("POST", f"{path}/stdin?close=true", content=b"\n").status_code == 204
    done = ann("GET", f"{path}/result?wait=30").json()
    assert done["stdout"] == f"{block}\nend\n"


def test_large_output_is_whole_and_a_limit_of_it_is_told(box: str, ann: Api) -> None:
    size = 48 * MIB
    done = ann.run(box, f"head -c {size} /dev/zero | tr '\\0' x", max_output_bytes=64 * MIB)
    assert len(done["stdout"]) == size and not done["truncated"]
    cut = ann.run(box, "head -c 100000 /dev/zero | tr '\\0' x", max_output_bytes=1000)
    assert (len(cut["stdout"]), cut["truncated"], cut["exit_code"]) == (1000, True, 0)


def test_what_cannot_be_started_says_why(box: str, ann: Api) -> None:
    def start(command: str | list[str], **body: str) -> object:
        return ann("POST", f"/sandboxes/{box}/execs", json={"command": command, **body})

    ann("PUT", f"/sandboxes/{box}/files?path=/workspace/plain", content=b"text")
    refused(start(["no-such-program"]), 422, "command_not_found")
    refused(start(["/workspace/plain"]), 422, "command_not_executable")
    refused(start(["true"], cwd="/nowhere"), 422, "bad_cwd")
    refused(start([]), 400, "invalid_request")


def test_commands_run_beside_each_other(box: str, ann: Api) -> None:
    slow = ann.start(box, "read word; echo got $word", stdin=True)
    assert ann.run(box, "echo quick")["stdout"] == "quick\n"
    assert len(ann("GET", f"/sandboxes/{box}/execs").json()["items"]) == 2
    ann("POST", f"/sandboxes/{box}/execs/{slow}/stdin", content=b"it\n")
    assert ann("GET", f"/sandboxes/{box}/execs/{slow}/result?wait=30").json()["stdout"] == "got it\n"


def test_a_command_has_no_privilege_and_no_network(box: str, ann: Api) -> None:
    status = ann.run(box, "cat /proc/self/status; cat /proc/net/dev")["stdout"]
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapBnd"], 16) == 0
    # gVisor does not tell.
    assert fields.get("NoNewPrivs", "1").strip() == "1"
    links = {line.split(":")[0].strip() for line in status.splitlines() if line.count(":") == 1 and " 0 " in line}
    assert "lo" in links and not any(link.startswith(("eth", "veth", "en")) for link in links)


def test_a_terminal_echoes_resizes_and_is_interrupted(way: Way, ann: Api) -> None:
    way.needs("pty")
    with Sandbox.create(way.server.url, token=ann.token, **way.request()) as sandbox:
        process = sandbox.start("stty size; read line; stty size; echo line: $line; exec sleep 600", pty=(100, 30))
        with process.attach() as terminal:
            said = ""

            def until(text: str) -> None:
                nonlocal said
                deadline = time.monotonic() + 30
                while text not in said:
                    chunk = terminal.recv(timeout=deadline - time.monotonic())
                    assert chunk is not None, said
                    said += chunk.text

            until("30 100")
            terminal.resize(cols=132, rows=43)
            terminal.send("typed\n")
            until("43 132")
            until("line: typed")
            # Once as it was typed and echoed, once as it was read.
            assert said.count("typed") == 2
            terminal.send("\x03")
            for _ in terminal:
                pass
        assert process.wait().signal == 2


def test_a_command_that_writes_and_ends_at_once_loses_nothing(box: str, ann: Api) -> None:
    digest = hashlib.sha256(b"y\n" * 500_000).hexdigest()
    for _ in range(3):
        done = ann.run(box, "yes | head -n 500000")
        assert hashlib.sha256(done["stdout"].encode()).hexdigest() == digest
