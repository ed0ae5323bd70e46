"""A backend whose files are the agent's state: commands see them, and what commands do to them stays."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cloud_sandbox import CloudSandboxError
from cloud_sandbox.deepagents import StateSandboxBackend, _contract
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from harness import ROOT, Server

sys.path.insert(0, str(ROOT / "examples" / "deepagents"))
from app.agents import FilesystemMiddleware, ScriptedModel, create_agent

InGraph = Callable[[Callable[[], Any]], Any]


def state_of(server: Server, in_graph: InGraph, **options: Any) -> Any:
    return in_graph(lambda: StateSandboxBackend(None, base_url=server.url, user_id="state", **options))


def agent_of(server: Server, **options: Any) -> Any:
    """An agent as the guide writes it; deepagents 0.7 takes no function any more."""

    def make(rt: object = None) -> StateSandboxBackend:
        return StateSandboxBackend(rt, base_url=server.url, user_id="state")

    backend: Any = make() if _contract.SINCE_0_7 else lambda rt: make(rt)
    return create_agent(ScriptedModel(), middleware=[FilesystemMiddleware(backend=backend)], **options)


def says(*calls: str) -> dict[str, Any]:
    return {"messages": [HumanMessage("\n".join(calls))]}


def test_what_commands_do_to_files_is_in_the_state(server: Server, in_graph: InGraph) -> None:
    backend = state_of(server, in_graph)
    backend.upload_files(
        [("/keep.txt", b"k"), ("/change.txt", b"c"), ("/gone.txt", b"g"), ("/workspace/tool", b"#!/bin/sh\necho ran\n")]
    )
    ran = backend.execute(
        "cat /keep.txt && echo more >> /change.txt && rm /gone.txt && chmod +x tool && mkdir -p /data/empty "
        "&& echo new > /data/new && printf '\\377\\000' > bin && sed -i s/k/K/ /keep.txt"
    )
    assert (ran.exit_code, ran.output) == (0, "k")
    assert backend.execute("./tool; ls /data; cat /keep.txt").output == "ran\nempty\nnew\nK"
    backend.edit("/workspace/tool", "ran", "ran again")
    assert backend.execute("./tool; rmdir /data/empty; touch -d 2001-01-01 /data/new").output == "ran again\n"
    files = backend.close()["files"]
    assert sorted(files) == ["/change.txt", "/data/new", "/keep.txt", "/workspace/bin", "/workspace/tool"]
    assert files["/change.txt"]["content"] == "cmore\n"
    assert files["/workspace/bin"]["encoding"] == "base64" and files["/workspace/tool"]["mode"] == "755"


def test_a_file_and_a_directory_may_take_each_others_place(server: Server, in_graph: InGraph) -> None:
    backend = state_of(server, in_graph)
    backend.upload_files([("/workspace/a", b"file"), ("/workspace/b/c", b"inner")])
    assert backend.upload_files([("/workspace/b", b"x"), ("/workspace/a/b", b"x")])[0].error == "is_directory"
    assert backend.execute("rm -r a b; mkdir a; echo x > a/y; echo z > b").exit_code == 0
    assert sorted(backend.close()["files"]) == ["/workspace/a/y", "/workspace/b"]


def test_what_is_too_large_for_a_state_is_left_and_said(server: Server, in_graph: InGraph) -> None:
    backend = state_of(server, in_graph, max_file_bytes=1000, max_state_bytes=2000)
    ran = backend.execute(
        "head -c 900 /dev/zero > a; head -c 1001 /dev/zero > b; truncate -s 3G c; mkfifo f; ln -s a l"
    )
    assert "/workspace/b is not kept" in ran.output and "/workspace/c is not kept" in ran.output
    ran = backend.execute("head -c 900 /dev/zero > d; head -c 900 /dev/zero > e")
    assert ran.output.count("is not kept") == 1
    assert len(backend.close()["files"]) == 2


def test_nothing_but_files_lives_from_one_command_to_the_next(server: Server, in_graph: InGraph) -> None:
    backend = state_of(server, in_graph)
    backend.execute("(sleep 1000 &); echo x > ~/home; export A=1; echo s > /dev/shm/s; echo t > /tmp/kept")
    assert backend.execute("ps -eo comm= | grep -x sleep; ls ~ /dev/shm; echo $A; cat /tmp/kept").output.split() == [
        "/dev/shm:",
        "/home/user:",
        "t",
    ]


def test_files_of_the_state_may_be_among_the_systems(server: Server, in_graph: InGraph) -> None:
    backend = state_of(server, in_graph)
    backend.write("/etc/app.conf", "setting")
    backend.write("/mnt/data.csv", "1,2")
    assert backend.execute("cat /etc/app.conf /mnt/data.csv").output == "setting1,2"
    assert sorted(backend.close()["files"]) == ["/etc/app.conf", "/mnt/data.csv"]


def test_an_agent_keeps_its_files_in_its_thread(server: Server) -> None:
    agent = agent_of(server, checkpointer=InMemorySaver())

    def ask(thread: str, *calls: str) -> dict[str, Any]:
        result: dict[str, Any] = agent.invoke(says(*calls), {"configurable": {"thread_id": thread}})
        return result

    result = ask(
        "ann-1",
        'write_file {"file_path": "/file.txt", "content": "A1"}',
        'execute {"command": "cat /file.txt; echo made > /out.txt"}',
        'read_file {"file_path": "/out.txt"}',
    )
    assert "made" in str(result["messages"][-1].content)
    assert {path: file["content"] for path, file in result["files"].items()} == {
        "/file.txt": "A1",
        "/out.txt": "made\n",
    }
    assert "No such file" in str(ask("bob-1", 'execute {"command": "cat /file.txt"}')["messages"][-1].content)
    assert "A1" in str(ask("ann-1", 'execute {"command": "cat /file.txt"}')["messages"][-1].content)


async def test_agents_at_the_same_time(server: Server) -> None:
    agent = agent_of(server)
    results = await asyncio.gather(
        *(agent.ainvoke(says(f'execute {{"command": "echo {n} > /n; sleep 0.2; cat /n"}}')) for n in range(4))
    )
    assert [result["files"]["/n"]["content"] for result in results] == [f"{n}\n" for n in range(4)]


def test_outside_of_a_graph_it_says_so(server: Server) -> None:
    with pytest.raises(RuntimeError, match="graph"):
        StateSandboxBackend(None, base_url=server.url).execute("true")


def test_a_server_that_is_away_is_an_error(in_graph: InGraph) -> None:
    backend = in_graph(lambda: StateSandboxBackend(None, base_url="http://127.0.0.1:9", max_retries=0))
    with pytest.raises(CloudSandboxError, match="cannot reach"):
        backend.execute("true")
