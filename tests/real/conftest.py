"""What the suites of real programs share: a place to build in, someone harmless to compare with, a voice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cloud_sandbox import Sandbox

from compare import Outside
from harness import ROOT, Server


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints although pytest captures: the figures are a part of the result."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", end="", flush=True)

    return say


@pytest.fixture
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox with room for a compiler."""
    resources = {"cpu": 2, "memory": "3Gi", "disk": "2Gi", "pids": 1024}
    with Sandbox.create(server.url, user_id="real", resources=resources) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def build_dir() -> Path:
    """Where what is fetched and built stays for the next run."""
    path = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "python" / "real"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def outside() -> Iterator[Outside]:
    outside = Outside()
    yield outside
    shutil.rmtree(outside.dir, ignore_errors=True)
