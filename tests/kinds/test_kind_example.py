"""The example for people, and the ways to choose a kind that the page about kinds shows."""

from __future__ import annotations

import json
import subprocess
import sys

from cloud_sandbox import Client, Sandbox
from ways import Way

from harness import ROOT, Api, program

NEIGHBOUR = ROOT / "examples" / "hostile-neighbour" / "neighbour.py"


def options_of(way: Way) -> list[str]:
    """As `--opt` takes them."""
    return [
        word
        for name, value in way.declared.options().items()
        for word in ("--opt", f"{name}={json.dumps(value).strip(chr(34))}")
    ]


def test_a_hostile_neighbour_is_not_noticed(way: Way) -> None:
    way.outlives_its_limits()
    command = [sys.executable, NEIGHBOUR, "--server", way.server.url, "--kind", way.kind, *options_of(way)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.endswith("the victim notices")
    assert len(rows) > 10
    for row in rows:
        assert row.endswith("nothing") or (way.lacks("disk_limit") and "not tried" in row and "the disk" in row), row


def test_a_kind_is_chosen_by_command_line_request_and_sdk(way: Way, ann: Api) -> None:
    def csb(*words: str) -> str:
        said = subprocess.run([program(), *words, "--server", way.server.url], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        return said.stdout.strip()

    by_line = csb("create", "--kind", way.kind, *options_of(way))
    assert by_line in csb("ps")
    assert csb("rm", by_line) is not None
    by_request = way.create(ann)
    assert ann("GET", f"/sandboxes/{by_request}").json()["kind"] == way.kind
    with Client(way.server.url) as client, Sandbox.create(client=client, **way.request()) as sandbox:
        assert sandbox.info.kind == way.kind and sandbox.run_command("echo x").stdout == "x\n"
        listed = {kind.name: kind for kind in client.kinds()}
        assert listed[way.kind].available and listed[way.kind].why_not is None
        assert listed[way.kind].capabilities["pause"] == ("pause" not in listed[way.kind].cannot)
    session = ann("POST", "/sessions", json=way.request())
    assert session.status_code == 201, session.text
    assert ann("DELETE", f"/sessions/{session.json()['session_id']}").status_code in (200, 204)
