"""Kind `remote`: sandboxes of another server, through ours. Two real servers, and listeners that play a bad one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import Api, Server, events, refused

REMOTE = {"kind": "remote"}


class Far(Server):
    """The other server: it gives nobody a token, and its administrator made a key for ours."""

    def __init__(self, **settings: str) -> None:
        super().__init__(dev=False, **settings)
        admin = Path(self.data_dir, "admin.key").read_text().strip()
        self.admin = httpx.Client(base_url=f"{self.url}/api/v1", headers={"X-API-Key": admin}, timeout=60)
        made = self.admin.post("/keys", json={"user_id": "front", "role": "user", "name": "front"})
        assert made.status_code == 201, made.text
        self.key = made.json()["api_key"]

    def ids(self) -> list[str]:
        """What it has."""
        return [s["sandbox_id"] for s in self.admin.get("/sandboxes?limit=1000").json()["items"]]


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    far = Far()
    yield far
    far.stop()


@pytest.fixture(scope="module")
def near(far: Far) -> Iterator[Server]:
    near = Server(REMOTE_SERVERS=f"edge={far.url}", REMOTE_EDGE_KEY=far.key)
    yield near
    near.stop()


@pytest.fixture
def ann(near: Server) -> Iterator[Api]:
    api = near.api("ann")
    yield api
    api.close()


@pytest.fixture
def bob(near: Server) -> Iterator[Api]:
    api = near.api("bob")
    yield api
    api.close()


def test_a_sandbox_elsewhere_looks_like_one_of_ours(ann: Api, far: Far) -> None:
    before = set(far.ids())
    made = ann("POST", "/sandboxes", json={"sandbox": REMOTE, "metadata": {"a": "b"}, "timeout": 3600})
    assert made.status_code == 201, made.text
    view = made.json()
    sandbox = view["sandbox_id"]
    (there,) = set(far.ids()) - before
    assert (view["kind"], view["user_id"], view["state"], view["metadata"]) == ("remote", "ann", "running", {"a": "b"})
    assert there not in made.text
    assert ann("GET", f"/sandboxes/{sandbox}").json() == view
    assert view in ann("GET", "/sandboxes").json()["items"]
    done = ann.run(sandbox, "echo out; echo err >&2; exit 7")
    assert (done["stdout"], done["stderr"], done["exit_code"]) == ("out\n", "err\n", 7)
    assert ann("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/f", content=b"kept").status_code == 200
    assert ann("GET", f"/sandboxes/{sandbox}/files?path=/workspace/f").content == b"kept"
    stats = ann("GET", f"/sandboxes/{sandbox}/stats").json()
    assert stats["sandbox_id"] == sandbox and stats["pids_limit"] == 512
    patched = ann("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"pids": 99}}).json()
    assert (patched["sandbox_id"], patched["resources"]["pids"]) == (sandbox, 99)
    assert ann("DELETE", f"/sandboxes/{sandbox}").status_code == 204
    assert there not in far.ids()
    refused(ann("GET", f"/sandboxes/{sandbox}"), 404, "sandbox_not_found")
    assert ann("POST", "/sandbox/release", json={"sandbox_id": sandbox}).json()["released"] is True
