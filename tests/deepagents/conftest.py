"""A server for the backends that have one, and a graph for the one that lives in its state."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_sandbox.deepagents import _contract
from deepagents.middleware.filesystem import FilesystemState
from langgraph.graph import END, START, StateGraph

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import Server, program


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With a deepagents that promises other things than the standard tests ask for, the tests that say so must fail."""
    if not _contract.SINCE_0_7:
        return
    rules = tomllib.loads((Path(__file__).parent / "differences.toml").read_text())["rule"]
    reasons = {test: rule["because"] for rule in rules for test in rule["tests"]}
    for item in items:
        if item.path.name == "test_standard.py" and item.name in reasons:
            item.add_marker(pytest.mark.xfail(reason=reasons[item.name], raises=AssertionError, strict=True))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server(POOL_MIN_SIZE="4")
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def csb() -> Iterator[None]:
    """The program under test is also the one that runs commands without a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSB_BIN", program())
        for name in ("CSB_SERVER", "CSB_API_KEY", "CSB_TOKEN"):
            patch.delenv(name, raising=False)
        yield


class InGraph:
    """A backend inside the node of a running graph, used from outside: every call is made there, in order of arrival.

    What the calls do to the state is real: the node's reads and writes go through the graph's channels.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        graph = StateGraph(FilesystemState)
        graph.add_node("work", self._node)
        graph.add_edge(START, "work")
        graph.add_edge("work", END)
        self._graph = graph.compile()
        self.state: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self) -> None:
        async def invoke() -> None:
            self.state = await self._graph.ainvoke({"messages": [], "files": {}})

        asyncio.run(invoke())

    async def _node(self, state: Any) -> dict[str, Any]:
        self.backend = self._make()
        self._ready.set()
        running: set[asyncio.Task[None]] = set()
        while (call := await asyncio.to_thread(self._calls.get)) is not None:
            running.add(task := asyncio.ensure_future(call()))
            task.add_done_callback(running.discard)
        return {}

    def _ask(self, name: str, args: Any, options: Any) -> Any:
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        method = getattr(self.backend, name)

        async def call() -> None:
            try:
                if asyncio.iscoroutinefunction(method):
                    done.put((await method(*args, **options), None))
                else:
                    done.put((await asyncio.to_thread(method, *args, **options), None))
            except BaseException as error:
                done.put((None, error))

        self._calls.put(call)
        result, error = done.get()
        if error is not None:
            raise error
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self.backend, name)
        if not callable(method):
            return method
        if not asyncio.iscoroutinefunction(method):
            return lambda *args, **options: self._ask(name, args, options)

        async def afar(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(self._ask, name, args, options)

        return afar

    def close(self) -> dict[str, Any]:
        """Ends the graph; returns its last state."""
        self._calls.put(None)
        self._thread.join()
        return self.state


@pytest.fixture(scope="class")
def in_graph() -> Iterator[Callable[[Callable[[], Any]], InGraph]]:
    """Makes a backend in a graph of its own."""
    made: list[InGraph] = []

    def make(backend: Callable[[], Any]) -> InGraph:
        made.append(InGraph(backend))
        return made[-1]

    yield make
    for one in made:
        one.close()
