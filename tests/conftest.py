"""One server for all suites, and two users who must never meet; theirs is another where a suite or a module has one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Api, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def ann(server: Server) -> Iterator[Api]:
    api = server.api("ann")
    yield api
    api.close()


@pytest.fixture
def bob(server: Server) -> Iterator[Api]:
    api = server.api("bob")
    yield api
    api.close()


@pytest.fixture
def api(ann: Api) -> Api:
    """The user of a test that has but one."""
    return ann


@pytest.fixture(scope="module")
def home(server: Server) -> Iterator[tuple[Api, str]]:
    """A user with a sandbox that the tests of a module share."""
    api = server.api("ann")
    yield api, api.create()
    api.close()
