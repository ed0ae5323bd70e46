"""The quick starts of the documents, to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cloud_sandbox import Sandbox

from harness import ROOT, Api, Server

HERE = Path(__file__).parent


def alone(port: int, script: Path) -> dict[str, str]:
    """What a script says, with a server of its own on that port, where nobody else can have it."""
    command = [sys.executable, str(HERE / "alone.py"), str(port), str(script)]
    if os.getuid() == 0:
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_cloud_sandboxs_curl_session_works_as_printed() -> None:
    ended = alone(8080, HERE / "cloud-sandbox.sh")
    execute, release = (json.loads(part) for part in re.split(r"(?<=\})(?=\{)", ended["said"].strip()))
    assert (execute["stdout"], execute["stderr"], execute["exit_code"]) == ("Hello!\n", "", 0)
    assert release["released"] is True
    assert ended["left"] == []


def test_cloud_sandboxs_python_quick_start_works_as_printed() -> None:
    ended = alone(8080, HERE / "cloud_sandbox_sdk.py")
    assert ended["said"] == "Hello, Cloud Sandbox!\n\n"


def test_the_control_planes_example_works_as_printed() -> None:
    ended = alone(8000, HERE / "control-plane.sh")
    session, execute = (json.loads(line) for line in ended["said"].splitlines())
    assert (session["state"], session["template_id"], session["timeout"]) == ("running", "python-basic", 300)
    assert session["resources"]["memory"] == 512 << 20 and session["resources"]["disk"] == 1 << 30
    assert execute["exit_code"] == 0, execute
    assert execute["session_id"] == session["session_id"]
    assert execute["result"] == {"result": "hello world"}


def test_health_is_as_printed(api: Api) -> None:
    assert api("GET", "/health").text == '{"service":"gateway","status":"ok"}'


def test_the_sdks_readme_does_what_it_says(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "sdk" / "python" / "README.md").read_text()
    first = re.findall(r"```python\n(.*?)```", text, re.S)[0].replace("http://localhost:8080", server.url)
    said: dict[str, object] = {}
    exec(first, said)
    assert capsys.readouterr().out == "Hello, Cloud Sandbox!\n\n"
    assert [entry["name"] for entry in said["files"]] == ["test.py"]  # type: ignore[attr-defined]


def test_the_context_manager_leaves_nothing(server: Server) -> None:
    with Sandbox.create(server.url, user_id="leaver") as sandbox:
        sandbox.start("sleep 1000")
    assert Sandbox.list(server.url, user_id="leaver") == []
