"""The Open POSIX test suite, inside a sandbox and outside; every difference follows from a rule.

The sources come from Debian's source package of `posixtestsuite` (GPL; never part of this repository), are built once
and kept in the target directory. By default the interfaces that a sandbox could break, without the programs that sleep;
with CSB_FULL=1 all of them.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cloud_sandbox import Sandbox

from compare import FULL, Clock, Outside, overhead

HERE = Path(__file__).parent
INTERFACES = """
    clock_getres clock_gettime clock_nanosleep clock_settime fork getpid kill killpg mlock mlockall mmap mq_close
    mq_getattr mq_open mq_receive mq_send mq_setattr mq_unlink munlock munlockall munmap nanosleep pthread_atfork
    pthread_attr_getstack pthread_attr_setschedparam pthread_attr_setschedpolicy pthread_attr_setstack
    pthread_barrier_init pthread_cond_init pthread_cond_signal pthread_create pthread_getschedparam pthread_kill
    pthread_mutex_init pthread_mutex_lock pthread_rwlock_init pthread_setschedparam pthread_setschedprio
    pthread_sigmask raise sched_get_priority_max sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setparam sched_setscheduler sched_yield sem_close sem_destroy sem_getvalue sem_init sem_open sem_post
    sem_unlink sem_wait shm_open shm_unlink sigaction sigaltstack signal sigpending sigprocmask sigqueue sigsuspend
    sigwaitinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
""".split()
VERDICT = {0: "pass", 1: "fail", 2: "unresolved", 4: "unsupported", 5: "untested"}


def fetch(into: Path) -> Path:
    """The patched sources, from the same mirrors that the machine's packages come from."""
    ready = into / "posixtestsuite" / ".ready"
    if ready.exists():
        return ready.parent
    with tempfile.TemporaryDirectory(prefix="csb-apt-") as scratch:
        parts = Path(scratch, "parts")
        (Path(scratch, "lists") / "partial").mkdir(parents=True)
        parts.mkdir()
        for source in Path("/etc/apt").glob("sources.list*"):
            for file in [source] if source.is_file() else sorted(source.glob("*")):
                text = file.read_text()
                if file.suffix == ".list":
                    wanted = "\n".join(f"deb-src{line[3:]}" for line in text.splitlines() if line.startswith("deb "))
                elif file.suffix == ".sources":
                    wanted = "\n".join(
                        "Types: deb-src" if line.startswith("Types:") else line for line in text.splitlines()
                    )
                else:
                    continue
                (parts / file.name).write_text(wanted + "\n")
        apt = [
            *("apt-get", "-qq", "-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={parts}"),
            *("-o", f"Dir::State::Lists={scratch}/lists", "-o", "APT::Sandbox::User="),
            *("-o", f"Dir::Cache::pkgcache={scratch}/p", "-o", f"Dir::Cache::srcpkgcache={scratch}/s"),
        ]
        subprocess.run([*apt, "update"], check=True, capture_output=True)
        subprocess.run([*apt, "source", "--download-only", "posixtestsuite"], cwd=scratch, check=True)
        for archive in Path(scratch).glob("posixtestsuite_*.tar.*"):
            subprocess.run(["tar", "-xf", str(archive), "-C", str(into)], check=True)
        for patch in (into / "debian" / "patches" / "series").read_text().split():
            with open(into / "debian" / "patches" / patch) as text:
                subprocess.run(["patch", "-s", "-p1"], cwd=into / "posixtestsuite", stdin=text, check=True)
    ready.touch()
    return ready.parent


def build(source: Path, into: Path) -> dict[str, Path]:
    """A program per assertion. What does not compile with today's libc is left out, on both sides alike."""
    into.mkdir(exist_ok=True)
    files = sorted(source.glob("conformance/interfaces/*/[0-9]*-[0-9]*.c"))
    if not FULL:
        files = [file for file in files if file.parent.name in INTERFACES and quick(file)]
    flags = ["-w", "-O1", "-std=gnu99", "-D_GNU_SOURCE", "-I", str(source / "include")]

    def one(file: Path) -> tuple[str, Path] | None:
        name = f"{file.parent.name}/{file.stem}"
        program = into / name.replace("/", "_")
        failed = program.with_suffix(".failed")
        if not program.exists() and not failed.exists():
            done = subprocess.run(
                ["gcc", *flags, "-o", str(program), str(file), "-lpthread", "-lrt", "-lm"], capture_output=True
            )
            if done.returncode:
                failed.touch()
        return (name, program) if program.exists() else None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(filter(None, pool.map(one, files)))


def quick(file: Path) -> bool:
    """Whether it does not sleep; and of `sigaction`, which has a copy of each program for each signal, the first."""
    if file.parent.name == "sigaction" and not file.stem.endswith("-1"):
        return False
    return not re.search(r"\b(nano)?sleep\s*\(", file.read_text(errors="replace"))


def verdict(how: object) -> str:
    return VERDICT.get(how, f"exit {how}") if isinstance(how, int) else str(how)


def test_posix_assertions_hold_as_they_do_outside(
    sandbox: Sandbox, outside: Outside, build_dir: Path, tell: Callable[[str], None]
) -> None:
    programs = build(fetch(build_dir), build_dir / "posix")
    assert len(programs) > (1500 if FULL else 350)
    runner = (HERE / "runner.py").read_text()
    limit = "60" if FULL else "20"

    there = outside.dir / "bin"
    there.mkdir()
    for program in programs.values():
        shutil.copy(program, there)
    sandbox.upload(there, "/workspace/bin")
    (outside.home / "runner.py").write_text(runner)
    sandbox.write_file("/workspace/runner.py", runner)
    outside.give(outside.home)

    def bare(names: list[str], workers: str) -> dict[str, str]:
        listed = {name: [str(there / programs[name].name)] for name in names}
        (outside.home / "list.json").write_text(json.dumps(listed))
        done = outside.run(["/usr/bin/python3", "runner.py", "list.json", "ended.json", workers, limit], timeout=3600)
        assert done.returncode == 0, done.stderr
        return {name: verdict(end[0]) for name, end in json.loads((outside.home / "ended.json").read_text()).items()}

    def inside(names: list[str], workers: str) -> dict[str, str]:
        listed = {name: [f"/workspace/bin/{programs[name].name}"] for name in names}
        sandbox.write_file("/workspace/list.json", json.dumps(listed))
        command = ["python3", "runner.py", "list.json", "ended.json", workers, limit]
        sandbox.run_command(command, timeout=3600).check()
        return {name: verdict(end[0]) for name, end in json.loads(sandbox.read_file("/workspace/ended.json")).items()}

    # Many of them wait for something: more at once than there are CPUs.
    with Clock() as bare_clock:
        expected = bare(list(programs), "8")
    with Clock() as inside_clock:
        got = inside(list(programs), "8")
    different = [name for name in programs if expected[name] != got[name]]
    table = tomllib.loads((HERE / "posix_rules.toml").read_text())["rule"]
    by_rule: Counter[str] = Counter()
    unexplained = []
    for name in different:
        found = next((r for r in table if fnmatch.fnmatch(name, r["test"]) and got[name] in r["inside"]), None)
        if found is not None:
            by_rule[found["because"]] += 1
            continue
        # Some measure time and fail on a busy machine, on either side: one by one they must agree.
        tries = [(expected[name], got[name])]
        while tries[-1][0] != tries[-1][1] and len(tries) <= 5:
            tries.append((bare([name], "1")[name], inside([name], "1")[name]))
        if tries[-1][0] != tries[-1][1]:
            unexplained.append(f"{name}: (outside, inside) {tries}")
    same = len(programs) - len(different)
    tell(overhead(f"POSIX: {len(programs)} programs, {same} end the same", inside_clock.seconds, bare_clock.seconds))
    for rule, count in by_rule.items():
        tell(f"  {count} otherwise: {rule}")
    assert not unexplained, "\n".join(unexplained)
