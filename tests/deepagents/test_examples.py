"""The FastAPI examples, run as they are, on a real server."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cloud_sandbox import Client
from fastapi.testclient import TestClient

from harness import ROOT, Server

EXAMPLES = ROOT / "examples" / "deepagents"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports an example as `uvicorn` would, from its directory."""
    monkeypatch.setenv("CSB_SERVER", server.url)
    monkeypatch.setenv("SANDBOX_KIND", "process")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(EXAMPLES):
            del sys.modules[name]


def chat(client: TestClient, *calls: tuple[str, dict[str, object]], user: str = "ann") -> str:
    """What the agent answers: what the last tool said."""
    message = "\n".join(f"{name} {json.dumps(arguments)}" for name, arguments in calls)
    answer = client.post("/chat", params={"message": message}, headers={"X-User": user})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["messages"][-1]["content"])


def run(command: str) -> tuple[str, dict[str, object]]:
    return "execute", {"command": command}


def sandboxes(server: Server) -> int:
    with Client(server.url) as client:
        return sum(1 for _ in client.iter_sandboxes(state="running"))


def test_a_backend_for_each_user(server: Server, load: Load) -> None:
    before = sandboxes(server)
    example = load("per_user")
    with TestClient(example.app) as client:
        write = ("write_file", {"file_path": "/workspace/a.py", "content": "print(6 * 7)"})
        assert "42" in chat(client, write, run("python3 a.py && echo hers > note"))
        assert "hers" in chat(client, run("cat note"))
        assert "No such file" in chat(client, run("cat note"), user="bob")
        assert len(example.user_backends) == 2 and sandboxes(server) == before + 2
    assert sandboxes(server) == before


def test_a_backend_for_each_request(server: Server, load: Load) -> None:
    before = sandboxes(server)
    with TestClient(load("per_request").app) as client:
        assert "here" in chat(client, run("echo here > note; cat note"))
        assert "No such file" in chat(client, run("cat note"))
    assert sandboxes(server) == before


@pytest.mark.parametrize("name", ["pooled", "pooled_short"])
def test_a_pool_with_clean_use_again(server: Server, load: Load, name: str) -> None:
    before = sandboxes(server)
    example = load(name)
    leave = "echo s > /workspace/.hidden; echo s > /tmp/secret; echo s > /dev/shm/secret; (sleep 1000 &); echo left"
    find = (
        "find / -xdev -name '*secret*' 2>/dev/null; ls -A /workspace /dev/shm; ps -eo comm= | grep -x sleep; echo end"
    )
    with TestClient(example.app) as client:
        for _ in range(12):  # more often than there are places
            said = chat(client, run(find), run(leave))
            assert "left" in said
            said = chat(client, run(find))
            assert "secret" not in said and ".hidden" not in said and "sleep" not in said and "end" in said
    example.pool.cleanup()
    assert sandboxes(server) == before


def test_the_model_of_the_examples_can_use_every_tool(load: Load) -> None:
    with TestClient(load("per_request").app) as client:
        said = chat(
            client,
            ("write_file", {"file_path": "/workspace/src/a.txt", "content": "one\ntwo\n"}),
            ("edit_file", {"file_path": "/workspace/src/a.txt", "old_string": "two", "new_string": "three"}),
            ("grep", {"pattern": "three", "path": "/workspace", "output_mode": "content"}),
        )
        assert "/workspace/src/a.txt" in said and "three" in said
        said = chat(
            client,
            ("write_file", {"file_path": "/workspace/b.py", "content": "x"}),
            ("glob", {"pattern": "*.py", "path": "/workspace"}),
        )
        assert "b.py" in said
        assert "workspace" in chat(client, ("ls", {"path": "/"}))
        said = chat(
            client,
            ("write_file", {"file_path": "/workspace/c", "content": "first\nsecond\n"}),
            ("read_file", {"file_path": "/workspace/c", "offset": 1, "limit": 1}),
        )
        assert "second" in said and "first" not in said
