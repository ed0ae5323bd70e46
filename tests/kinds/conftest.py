"""The same tests for every kind of sandbox, and a table of what passed at their end. See ways.py and declared.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from declared import CORE, KINDS, NEIGHBOURS, SLOW
from ways import ALWAYS, MUST, Host, Way, available

from harness import Api, Server

FULL = bool(os.environ.get("CSB_FULL"))


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.stop()


@pytest.fixture(params=KINDS)
def way(request: pytest.FixtureRequest, host: Host) -> Way:
    core = request.node.originalname in CORE
    if request.param in SLOW and not core and not FULL and request.param not in MUST:
        pytest.skip(f"all of `{request.param}` runs with CSB_FULL=1")
    example = request.node.originalname == "test_a_hostile_neighbour_is_not_noticed"
    if example and request.param not in NEIGHBOURS and not FULL and request.param not in MUST - ALWAYS:
        pytest.skip(f"the example runs on `{request.param}` with CSB_FULL=1")
    available(host, request.param)
    return Way(host, request.param)


@pytest.fixture
def server(way: Way) -> Server:
    """One that has the kind."""
    return way.server


@pytest.fixture
def box(way: Way, ann: Api) -> str:
    """A sandbox of the kind."""
    return way.create(ann)


# -- the matrix -----------------------------------------------------------------------------------------------------

MARKS = {"passed": "yes", "failed": "FAILED", "skipped": "-", "lacks": "no"}
seen: dict[str, dict[str, str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name, _, kind = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
    if kind not in KINDS or "kinds/test_kind" not in report.nodeid:
        return
    row = seen.setdefault(name.removeprefix("test_").replace("_", " "), {})
    if report.skipped:
        row[kind] = "lacks" if "declares that it has no" in str(report.longrepr) else "skipped"
    elif report.failed or report.when == "call":
        row[kind] = report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not seen:
        return
    write = terminalreporter.write_line
    kinds = [kind for kind in KINDS if any(row.get(kind) not in (None, "skipped") for row in seen.values())]
    width = max(map(len, seen))
    terminalreporter.section("every kind of sandbox: yes; no: it says so with 501")
    write(" " * width + "".join(f"  {kind:>8}" for kind in kinds))
    for name, row in seen.items():
        write(f"{name:<{width}}" + "".join(f"  {MARKS.get(row.get(kind, ''), ''):>8}" for kind in kinds))
    for kind in KINDS:
        if kind not in kinds and any(kind in row for row in seen.values()):
            write(f"{kind}: not here")
