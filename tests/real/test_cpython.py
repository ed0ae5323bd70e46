"""CPython's own regression tests, inside a sandbox and outside; every difference follows from a rule.

By default a set of modules that call the kernel a lot; with CSB_FULL=1 all of them. `cpython_rules.toml` says which
tests end otherwise inside, and why.
"""

from __future__ import annotations

import fnmatch
import json
import sysconfig
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cloud_sandbox import Sandbox

from compare import FULL, Clock, Outside, overhead

HERE = Path(__file__).parent
MODULES = """
    builtin codecs collections contextlib ctypes dict epoll fcntl file_eintr fileio float functools gc generators
    genericpath glob grp hashlib import int ioctl itertools json list locale math memoryview mmap openpty os pathlib
    platform posix posixpath pty pwd queue re resource sched select shutil socketserver stat string struct
    tempfile thread threadsignals threading time tuple unicode uuid weakref xml_etree zlib
""".split()
# Modules that test CPython's own build, display or network and say nothing of a sandbox.
USELESS = {"test_tk", "test_ttk_guionly", "test_ttk_textonly", "test_idle", "test_urllibnet", "test_urllib2net"}


def modules() -> list[str]:
    folder = Path(sysconfig.get_paths(vars={"installed_base": "/usr"})["stdlib"])
    folder = next(Path("/usr/lib").glob("python3.[0-9]*/test"), folder / "test")
    present = {path.stem for path in folder.glob("test_*") if path.suffix in ("", ".py")}
    wanted = present - USELESS if FULL else {f"test_{name}" for name in MODULES} & present
    if len(wanted) < 50:
        pytest.fail(f"only {len(wanted)} test modules in {folder}: install libpython3.11-testsuite")
    return sorted(wanted)


def commands(names: list[str], place: str) -> dict[str, list[str]]:
    python = ["/usr/bin/python3", "-W", "ignore", "-m", "test", "--junit-xml"]
    return {name: [*python, f"{place}/{name}.xml", name] for name in names}


def outcomes(raw: bytes) -> dict[str, str]:
    """`pass`, `skip` or `fail` of each test case in a JUnit report."""
    found = {}
    for case in ET.fromstring(raw).iter("testcase"):
        name = f"{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            found[name] = "fail"
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            found[name] = "skip"
        else:
            found[name] = "pass"
    return found


def alone(sandbox: Sandbox, module: str, name: str) -> str:
    """How one test ends when nothing runs beside it: some measure time, and a busy machine fails them."""
    match = [f"*{name.rsplit('.', 1)[-1]}"]
    command = commands([module], "/workspace/xml")[module]
    sandbox.run_command([*command, "-m", *match], timeout=300)
    return outcomes(sandbox.read_file(f"/workspace/xml/{module}.xml")).get(name, "absent")


def test_cpythons_own_tests_end_as_they_do_outside(
    sandbox: Sandbox, outside: Outside, tell: Callable[[str], None]
) -> None:
    names = modules()
    runner = (HERE / "runner.py").read_text()
    limit = "600" if FULL else "120"

    (outside.home / "xml").mkdir()
    (outside.home / "list.json").write_text(json.dumps(commands(names, str(outside.home / "xml"))))
    (outside.home / "runner.py").write_text(runner)
    outside.give(outside.home)
    with Clock() as bare:
        done = outside.run(["/usr/bin/python3", "runner.py", "list.json", "ended.json", "2", limit], timeout=7200)
        assert done.returncode == 0, done.stderr
    bare_ends = json.loads((outside.home / "ended.json").read_text())

    sandbox.mkdir("/workspace/xml")
    sandbox.write_file("/workspace/list.json", json.dumps(commands(names, "/workspace/xml")))
    sandbox.write_file("/workspace/runner.py", runner)
    env = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp"}
    with Clock() as inside:
        sandbox.run_command(
            ["python3", "runner.py", "list.json", "ended.json", "2", limit], env=env, timeout=7200
        ).check()
    ends = json.loads(sandbox.read_file("/workspace/ended.json"))

    compared = same = 0
    unexplained: list[str] = []
    by_rule: Counter[str] = Counter()
    table = tomllib.loads((HERE / "cpython_rules.toml").read_text())["rule"]
    for module in names:
        report = outside.home / "xml" / f"{module}.xml"
        expected = outcomes(report.read_bytes()) if report.exists() else {}
        try:
            got = outcomes(sandbox.read_file(f"/workspace/xml/{module}.xml"))
        except Exception as error:  # the module did not live to report
            got = {}
            if expected:
                unexplained.append(f"{module}: no report inside: {ends.get(module)} {error}")
        if not expected:
            assert bare_ends[module][0] != 0 or not got, module
            continue
        for name in sorted(set(expected) | set(got)):
            before, after = expected.get(name, "absent"), got.get(name, "absent")
            compared += 1
            if before == after:
                same += 1
                continue
            found = next((r for r in table if fnmatch.fnmatch(name, r["test"]) and after in r["inside"]), None)
            if found is not None:
                by_rule[found["because"]] += 1
            elif alone(sandbox, module, name) != before:
                unexplained.append(f"{name}: {before} outside, {after} inside")
    tell(
        overhead(f"CPython: {len(names)} modules, {compared} tests, {same} end the same", inside.seconds, bare.seconds)
    )
    for rule, count in by_rule.items():
        tell(f"  {count} otherwise: {rule}")
    assert compared > 2000
    assert not unexplained, "\n".join(unexplained)
