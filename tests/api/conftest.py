"""Users of the server that a module calls `host`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import Api, Server


@pytest.fixture
def ann(host: Server) -> Iterator[Api]:
    api = host.api("ann")
    yield api
    api.close()


@pytest.fixture
def bob(host: Server) -> Iterator[Api]:
    api = host.api("bob")
    yield api
    api.close()
