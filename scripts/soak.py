#!/usr/bin/env python3
"""Uses a real server for a given time as users and accidents do, and then looks for what is left over.

usage: soak.py --minutes M [--csb PROGRAM] [--seed N] [--users N]

Users create, run, write, pause, change and release sandboxes at random. Meanwhile the server is killed and started again, inits and
the warden are killed, the disk and the server's descriptors run out. Every answer must be right or an error that docs/errors
describes; a connection may only break when the server was killed. Between rounds everything is released and counted: processes,
control groups, mounts, loop devices, directories, descriptors, memory. Needs root, listens on loopback, ends what it started.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = {page.stem for page in (ROOT / "docs/errors").glob("*.md")} - {"README"}
# What may grow between the first rounds and the last: allocators keep some of what a burst needed.
SERVER_MARGIN = 24 << 20
WARDEN_MARGIN = 2 << 20
DESCRIPTOR_MARGIN = 16
DISK = "384m"
# Processes, each in a group, that the warden keeps ready for sandboxes to come, at most; and those that fork them.
KEPT_READY = 64
FORKERS = 2
# Seconds until sandboxes are made again after an accident.
RECOVERY = 30


class Wrong(Exception):
    """The product did what it must not."""


class Cut(Exception):
    """A download that ended before its end."""


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def memory(pid: int) -> int:
    """Bytes that are the process's own."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise Wrong(f"process {pid} is not there")


class Host:
    """The server under test, and everything on this host that it is to blame for."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.data = Path(tempfile.mkdtemp(prefix="csb-soak-"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", self.data], check=True)
        self.log = Path(f"{self.data}.log")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        # Raised before each accident and after it: what is under way in between may be cut short.
        self.accidents = 0
        self.parent: str | None = None
        self.kills = 0
        self.mounts_before = self.mounts()

    def start(self) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CSB_", "POOL_", "JWT_", "CLOUD_SANDBOX_"))}
        settings = {"POOL_MIN_SIZE": "3", "POOL_MAX_SIZE": "8", "CSB_RATE_PER_SECOND": "100000", "CSB_RATE_BURST": "100000"}
        command = [self.program, "serve", "--dev", "--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.data)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**kept, **settings})
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.call("GET", "/health")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"the server does not start: {self.said()}")
            time.sleep(0.05)

    def said(self, requests: list[str] = []) -> str:
        """The last complaints of its log, and what it says of these requests."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if " WARN " in line or " ERROR " in line][-12:] + lines[-3:]
            + [line for line in lines if any(request in line for request in requests)])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def call(self, method: str, path: str, body: Any = None, token: str = "", raw: bytes | None = None) -> tuple[int, Any]:
        """Status and JSON (or bytes) of one request on a connection of its own."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            data = raw
            if body is not None:
                data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
            link.request(method, path, body=data, headers=headers)
            answer = link.getresponse()
            content = answer.read()
            kind = answer.headers.get("Content-Type", "")
            return answer.status, json.loads(content) if kind.startswith("application/json") and content else content
        except http.client.IncompleteRead as error:
            # The head was sent: only a cut stream can say that the sandbox's OOM killer took whoever read the file.
            if method == "GET" and "/files" in path:
                raise Cut(str(error)) from error
            raise ConnectionError(str(error)) from error
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            link.close()

    def token(self, user: str) -> str:
        return self.call("POST", "/api/v1/auth/token", {"user_id": user, "role": "user"})[1]["access_token"]

    def stats(self) -> dict[str, Any]:
        return self.call("GET", "/api/v1/sandbox/stats", token=self.token("counter"))[1]

    def warden(self) -> int:
        return self.stats()["warden"]["pid"]

    def groups(self) -> set[Path]:
        """Control groups of this server's sandboxes, in every hierarchy; their parent's name is known from a process in one."""
        for pid in children(self.warden()) if self.parent is None else []:
            found = re.search(r"/(csb-[0-9a-f]{16})/", Path(f"/proc/{pid}/cgroup").read_text())
            self.parent = found[1] if found else self.parent
        if self.parent is None:
            return set()
        command = ["find", "/sys/fs/cgroup", "-mindepth", "2", "-path", f"*/{self.parent}*", "-type", "d"]
        found_all = subprocess.run(command, capture_output=True, text=True).stdout.split()
        return {Path(path) for path in found_all}

    @staticmethod
    def mounts() -> int:
        return len(Path("/proc/self/mountinfo").read_text().splitlines())

    def loops(self) -> list[str]:
        # An image without a name shows as deleted, its path kept.
        found = [Path(f"/sys/block/{name}/loop/backing_file") for name in os.listdir("/sys/block") if name.startswith("loop")]
        return [text for path in found if path.exists() and (text := path.read_text()).startswith(str(self.data))]

    def end(self) -> None:
        """Ends everything; what is then left is a leak."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        subprocess.run([self.program, "warden", "stop", "--data-dir", self.data], capture_output=True)

    def remove(self) -> None:
        subprocess.run(["umount", "-l", self.data])
        self.data.rmdir()
        self.log.unlink(missing_ok=True)


class User(threading.Thread):
    """Somebody with a few sandboxes who does this and that with them."""

    def __init__(self, host: Host, name: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.host, self.random = host, random.Random(seed)
        self.mine: dict[str, dict[str, Any]] = {}
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.go, self.idle, self.over = threading.Event(), threading.Event(), False
        self.bearer = ""

    def run(self) -> None:
        while not self.over:
            if not self.go.is_set():
                self.idle.set()
                self.go.wait(0.2)
                continue
            self.idle.clear()
            before, what = self.host.accidents, "?"
            try:
                what = self.random.choice(self.choices())
                getattr(self, what)()
                self.done[what] += 1
            except Wrong as error:
                # During an accident an answer may be cut; a wrong answer is wrong at any time.
                self.wrong.append(f"{self.name}: {what}: {error}")
            except Cut:
                self.errors["cut download"] += 1
            except (OSError, ConnectionError) as error:
                if self.host.accidents == before and before % 2 == 0:
                    self.wrong.append(f"{self.name}: {what}: the connection broke, and nobody broke it: {error!r}")
                self.errors["connection"] += 1
                time.sleep(0.1)

    def choices(self) -> list[str]:
        if not self.mine:
            return ["create"]
        return ["create"] * (4 - min(3, len(self.mine))) + ["echo"] * 5 + ["file"] * 3 + [
            "code", "pause", "limits", "pids", "hog", "flood", "full", "background", "odd", "release", "release"
        ]  # fmt: skip

    def ask(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> Any | None:
        """The answer, or none where it was a documented error."""
        if not self.bearer:
            self.bearer = self.host.token(self.name)
        before = self.host.accidents
        status, answer = self.host.call(method, f"/api/v1{path}", body, self.bearer, raw)
        if status < 300:
            return answer if answer != b"" else {}
        code = answer.get("error", {}).get("code") if isinstance(answer, dict) else None
        if code not in DOCUMENTED:
            raise Wrong(f"{method} {path}: {status} {str(answer)[:300]}")
        if code == "internal" and self.host.accidents == before and before % 2 == 0:
            raise Wrong(f"{method} {path}: an internal error without an accident: {answer}")
        self.errors[code] += 1
        if code in ("sandbox_not_found", "sandbox_gone"):
            for known in [known for known in self.mine if known in path]:
                del self.mine[known]
        return None

    def one(self) -> str:
        return self.random.choice(list(self.mine))

    def execute(self, sandbox: str, command: str, **more: Any) -> dict[str, Any] | None:
        return self.ask("POST", f"/sandboxes/{sandbox}/execs", {"command": command, "timeout": 20, **more})

    def create(self) -> None:
        body: dict[str, Any] = {}
        if self.random.random() < 0.5:
            body["resources"] = {"memory": "96Mi", "pids": 32, "cpu": "0.5"}
        if self.random.random() < 0.15:
            body = {"storage": "disk", "resources": {"disk": "16Mi"}}
        if made := self.ask("POST", "/sandboxes", body):
            self.mine[made["sandbox_id"]] = {}

    def echo(self) -> None:
        word = f"{self.random.getrandbits(64):x}"
        before = self.host.accidents
        result = self.execute(self.one(), f"echo {word}; echo {word} >&2; exit 3")
        # Output that a full disk could not hold is marked as cut.
        cut = result and result["truncated"] and (before % 2 == 1 or self.host.accidents != before)
        if result and not cut and result["killed_by"] is None and result["signal"] is None:
            if (result["stdout"], result["stderr"], result["exit_code"]) != (f"{word}\n", f"{word}\n", 3):
                raise Wrong(f"echo {word} answered {result}")

    def code(self) -> None:
        body = {"language": "python", "code": "print(6 * 7)", "timeout": 30}
        result = self.ask("POST", f"/sandboxes/{self.one()}/run-code", body)
        if result and result["exit_code"] == 0 and not result["truncated"] and result["stdout"] != "42\n":
            raise Wrong(f"print(6 * 7) answered {result}")

    def file(self) -> None:
        sandbox = self.one()
        content = self.random.randbytes(self.random.choice((10, 5000, 300_000)))
        path = f"/sandboxes/{sandbox}/files?path=/workspace/f{self.random.randrange(3)}"
        if self.ask("PUT", path, raw=content) is not None:
            found = self.ask("GET", path)
            if found is not None and found not in (content, {}):
                raise Wrong(f"a file of {len(content)} bytes came back as another of {len(found)}")

    def pause(self) -> None:
        sandbox = self.one()
        if self.ask("POST", f"/sandboxes/{sandbox}/pause") is not None:
            time.sleep(self.random.random() / 5)
            self.ask("POST", f"/sandboxes/{sandbox}/resume")

    def limits(self) -> None:
        self.ask("PATCH", f"/sandboxes/{self.one()}", {"resources": {"memory": self.random.choice(("80Mi", "200Mi")), "pids": 64}})

    def pids(self) -> None:
        self.execute(self.one(), "i=0; while [ $i -lt 600 ]; do i=$((i+1)); sleep 2 & done; wait", timeout=3)

    def hog(self) -> None:
        self.execute(self.one(), "python3 -c 'x = bytearray(1 << 30)'")

    def flood(self) -> None:
        self.execute(self.one(), "yes", timeout=1, max_output_bytes=1 << 20)

    def full(self) -> None:
        self.execute(self.one(), "head -c 400m /dev/zero > big; rm -f big")

    def background(self) -> None:
        self.execute(self.one(), "sleep 600", wait=False)

    def odd(self) -> None:
        sandbox = self.one()
        for method, path, body in (
            ("GET", f"/sandboxes/{sandbox}/files?path=/../etc/shadow", None),
            ("GET", "/sandboxes/sb-aaaaaaaaaaaaaaaaaaaa", None),
            ("POST", f"/sandboxes/{sandbox}/execs", {"command": ["no-such-program"]}),
            ("POST", "/sandboxes", {"resources": {"memory": "1k"}}),
        ):
            answer = self.ask(method, path, body)
            # A sandbox that dies meanwhile ends every command that was asked for.
            if answer is not None and answer.get("killed_by") != "released":
                raise Wrong(f"{method} {path} {body} succeeded: {answer}")

    def release(self) -> None:
        sandbox = self.one()
        if self.ask("DELETE", f"/sandboxes/{sandbox}") is not None:
            self.mine.pop(sandbox, None)


class Accidents:
    """What happens to the server while it is used."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host, self.random = host, random.Random(seed)
        self.counts: Counter[str] = Counter()

    def one(self, kinds: list[str]) -> None:
        kind = self.random.choice(kinds)
        self.counts[kind] += 1
        self.host.accidents += 1
        try:
            getattr(self, kind)()
            self.recovered(kind)
        finally:
            # Answers to what was begun during it may still come.
            time.sleep(0.5)
            self.host.accidents += 1

    def recovered(self, kind: str) -> None:
        """By itself, and soon: a sandbox is made and ended again."""
        deadline = time.monotonic() + RECOVERY
        found: Any = None
        while time.monotonic() < deadline:
            try:
                token = self.host.token("counter")
                status, found = self.host.call("POST", "/api/v1/sandboxes", {}, token)
                if status == 201:
                    self.host.call("DELETE", f"/api/v1/sandboxes/{found['sandbox_id']}", token=token)
                    return
            except (OSError, KeyError, TypeError) as error:
                found = error
            time.sleep(0.2)
        raise Wrong(f"no sandbox is made {RECOVERY} s after {kind}: {found}\n{self.host.said()}")

    def server_killed(self) -> None:
        self.host.kill()
        time.sleep(self.random.random())
        self.host.start()

    def warden_killed(self) -> None:
        os.kill(self.host.warden(), signal.SIGKILL)

    def inits_killed(self) -> None:
        inits = children(self.host.warden())
        for pid in self.random.sample(inits, min(2, len(inits))):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def disk_filled(self) -> None:
        ballast = self.host.data / "ballast"
        try:
            with open(ballast, "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 20))
                except OSError:
                    pass
            time.sleep(2 + self.random.random() * 3)
        finally:
            ballast.unlink()

    def descriptors_gone(self) -> None:
        pid = self.host.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + self.random.randrange(4), before[1]))
        try:
            time.sleep(2 + self.random.random() * 2)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    def server_stopped(self) -> None:
        os.kill(self.host.pid, signal.SIGSTOP)
        time.sleep(self.random.random() * 2)
        os.kill(self.host.pid, signal.SIGCONT)


def release_all(host: Host, users: list[User]) -> dict[str, Any]:
    """Releases what the users have and waits until nothing but the pool is left; answers the statistics."""
    names = [user.name for user in users] + ["counter"]
    deadline = time.monotonic() + 120
    while True:
        for name in names:
            token = host.token(name)
            status, found = host.call("GET", "/api/v1/sandboxes?limit=100", token=token)
            if status != 200:
                raise Wrong(f"a list answers {status} {found} after everything")
            for item in found["items"]:
                host.call("DELETE", f"/api/v1/sandboxes/{item['sandbox_id']}", token=token)
        stats = host.stats()
        pool = stats["pool"]
        quiet = stats["sandboxes"] == {"running": 0, "paused": 0} and pool["in_use"] == 0 and pool["ready"] >= pool["min"]
        if quiet and pool["ready"] <= len(children(stats["warden"]["pid"])) <= pool["ready"] + KEPT_READY + FORKERS:
            return stats
        if time.monotonic() > deadline:
            raise Wrong(f"sandboxes remain: {stats}, children of the warden {children(stats['warden']['pid'])}\n{host.said()}")
        time.sleep(0.3)


def count(host: Host, users: list[User], strict: bool = False) -> dict[str, Any]:
    """What exists while nobody does anything. Directories that could not be removed without descriptors are the next server's to
    remove: `strict` once there was one."""
    stats = release_all(host, users)
    # Connections end, allocators settle.
    time.sleep(1.5)
    warden = stats["warden"]["pid"]
    ready = stats["pool"]["ready"]
    places = [host.data / name for name in ("sandboxes", "spool", "disks")]
    below = {place.name: sorted(path.name for path in place.iterdir()) for place in places if place.exists()}
    # Emptied files wait for the next sandbox under another name.
    kept = [path for place in places if place.exists() for path in place.iterdir() if path.name.startswith("free-")]
    if len(kept) > 4 * KEPT_READY or any(path.stat().st_size for path in kept if path.is_file()):
        raise Wrong(f"files kept for sandboxes to come are not few and empty: {below}")
    # Removed by a later server when they are old: the warden may be about to mount what a killed server made.
    if len(below.pop("disks", [])) > host.kills:
        raise Wrong(f"disk images are left: {os.listdir(host.data / 'disks')}")
    below = {name: [one for one in names if not one.startswith("free-")] for name, names in below.items()}
    # Groups that are kept for the next sandbox are no leak as long as they are few.
    inner = {path.name for path in host.groups() if path.name != host.parent}
    busy = {path.name for path in host.groups() if path.name != host.parent and (path / "cgroup.procs").read_text()}
    found = {
        "server": host.pid,
        "warden": warden,
        "ready": ready,
        "server_memory": memory(host.pid),
        "warden_memory": memory(warden),
        "server_descriptors": len(os.listdir(f"/proc/{host.pid}/fd")),
        "warden_descriptors": len(os.listdir(f"/proc/{warden}/fd")),
        "warden_mounts": len(Path(f"/proc/{warden}/mountinfo").read_text().splitlines()),
        "groups": len(busy),
        "empty_groups": len(inner - busy),
        "directories": max(len(names) for names in below.values()),
        "loops": len(host.loops()),
    }
    if found["groups"] > ready + KEPT_READY or found["loops"] or found["empty_groups"] > 256:
        raise Wrong(f"more is left than the pool's {ready}: {found}, groups {sorted(busy)}, {below}\n{host.said()}")
    if found["directories"] > ready + (0 if strict else host.accidents):
        raise Wrong(f"more directories are left than the pool's {ready}: {below}\n{host.said()}")
    return found


def compare(counts: list[dict[str, Any]]) -> None:
    """Growth over the rounds of one server and one warden."""
    for who, margin in (("server", SERVER_MARGIN), ("warden", WARDEN_MARGIN)):
        for pid in {one[who] for one in counts}:
            own = [one for one in counts if one[who] == pid]
            # The first round may still be the one that warms up.
            first, last = own[min(1, len(own) - 1)], own[-1]
            grown = last[f"{who}_memory"] - first[f"{who}_memory"]
            if grown > margin:
                raise Wrong(f"the {who} grew by {grown >> 10} KiB over {len(own)} rounds: {own}")
            more = last[f"{who}_descriptors"] - first[f"{who}_descriptors"] - 4 * abs(last["ready"] - first["ready"])
            if more > DESCRIPTOR_MARGIN:
                raise Wrong(f"the {who} has {more} descriptors more: {own}")
            if who == "warden" and last["warden_mounts"] > first["warden_mounts"]:
                raise Wrong(f"mounts are left in the warden: {own}")


def soak(host: Host, minutes: float, seed: int, number: int) -> None:
    users = [User(host, f"user{i}", seed * 100 + i) for i in range(number)]
    accidents = Accidents(host, seed)
    started, end = time.monotonic(), time.monotonic() + minutes * 60
    length = max(15.0, min(60.0, minutes * 60 / 8))
    counts: list[dict[str, Any]] = []
    host.start()
    for user in users:
        user.start()
    while time.monotonic() < end:
        # In the second half the processes stay the same, so that growth would show.
        first_half = time.monotonic() < started + minutes * 30
        kinds = ["inits_killed", "disk_filled", "descriptors_gone", "server_stopped"]
        if first_half:
            kinds += ["server_killed"] * 4 + ["warden_killed"]
        for user in users:
            user.go.set()
        round_end = min(end, time.monotonic() + length)
        while time.monotonic() < round_end:
            time.sleep(accidents.random.uniform(0.5, 4))
            accidents.one(kinds)
        for user in users:
            user.go.clear()
        for user in users:
            if not user.idle.wait(120):
                raise Wrong(f"{user.name} waits for an answer for ever\n{host.said()}")
            if user.wrong:
                wrong = "; ".join(user.wrong[:5])
                raise Wrong(wrong + "\n" + host.said(re.findall(r"req-[0-9a-f]{16}", wrong)))
            user.mine.clear()
        counts.append(count(host, users))
        shown = counts[-1]
        done = sum((user.done for user in users), Counter())
        print(
            f"soak: {time.monotonic() - started:5.0f} s: {sum(done.values())} operations, {sum(accidents.counts.values())} accidents, "
            f"server {shown['server_memory'] >> 10} KiB and {shown['server_descriptors']} descriptors, "
            f"warden {shown['warden_memory'] >> 10} KiB and {shown['warden_descriptors']}",
            flush=True,
        )
    for user in users:
        user.over = True
        user.go.set()
    compare(counts)
    done = sum((user.done for user in users), Counter())
    errors = sum((user.errors for user in users), Counter())
    print(f"soak: operations {dict(done)}\nsoak: errors {dict(errors)}\nsoak: accidents {dict(accidents.counts)}")
    if not done["echo"] or not done["create"] or not done["file"]:
        raise Wrong("hardly anything was done")
    assert host.process
    host.process.terminate()
    host.process.wait(60)
    host.start()
    count(host, users, strict=True)
    warden = host.warden()
    host.end()
    remaining = lambda: sorted(str(path) for path in host.groups())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (Path(f"/proc/{warden}").exists() or remaining()):
        time.sleep(0.2)
    left = {
        "the warden": [warden] if Path(f"/proc/{warden}").exists() else [],
        "control groups": remaining(),
        "loop devices": host.loops(),
        "mounts": [host.mounts()] if host.mounts() > host.mounts_before else [],
    }
    if any(left.values()):
        raise Wrong(f"left after the end: { {what: found for what, found in left.items() if found} }")


def main() -> int:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--csb", default=os.environ.get("CSB_BIN", str(target / "debug" / "csb")))
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--users", type=int, default=4)
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("soak: error: it needs root", file=sys.stderr)
        return 2
    print(f"soak: {given.minutes} minutes, seed {given.seed}, {given.csb}", flush=True)
    host = Host(given.csb)
    # Counted from here on: the data directory is a mount itself.
    host.mounts_before = host.mounts()
    try:
        soak(host, given.minutes, given.seed, given.users)
    except Wrong as error:
        print(f"soak: FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        host.end()
        host.remove()
    print("soak: passed: nothing is left, nothing grew")
    return 0


sys.exit(main())
