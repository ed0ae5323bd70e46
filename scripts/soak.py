#!/usr/bin/env python3
"""Uses a real server for a given time as users and accidents do, and then looks for what is left over.

usage: soak.py --minutes M [--csb PROGRAM] [--seed N] [--users N]

Users create, run, write, pause, change and release sandboxes of every kind that is here at random, with terminals, streams that they
leave, files, archives and sessions. Meanwhile the server is killed and started again, inits and the warden are killed, the disk, the
server's descriptors and the processes of all sandboxes together run out. Every answer must be right or an error that docs/errors
describes; a connection may only break when the server was killed. Between rounds everything is released and counted: processes,
control groups, mounts, namespaces, loop devices, files, descriptors, memory. Needs root, listens on loopback, ends what it started.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import io
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tarfile
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
# Of the data directory: the database keeps closed sandboxes for a while, and a workspace is its user's.
FILES_MARGIN = 400
BYTES_MARGIN = 24 << 20
DISK = "384m"
# Processes, each in a group, that the warden keeps ready for sandboxes to come, at most; and those that fork them.
KEPT_READY = 128
FORKERS = 2
# Seconds until sandboxes are made again after an accident.
RECOVERY = 30
# What a sandbox is asked as, where the server says that it has it. A `hardened` one would copy the host's programs first, and has
# a small template.
KINDS: dict[str, dict[str, Any]] = {
    "process": {},
    "vfs": {"sandbox": {"kind": "vfs"}},
    "local": {"sandbox": {"kind": "local"}},
    "oci": {"sandbox": {"kind": "oci"}},
    "hardened": {"sandbox": {"kind": "hardened"}, "template": "small"},
}


# Accidents that server and warden live through, and those that they do not.
LASTING = ["inits_killed", "disk_filled", "descriptors_gone", "pids_gone", "server_stopped"]
ENDING = ["server_killed", "warden_killed", "both_killed"]


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
    """Bytes that are the process's own, those of its files in memory included."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    if not found:
        raise Wrong(f"process {pid} is not there")
    return (int(found[1]) << 10) + sum(
        os.stat(f"/proc/{pid}/fd/{number}").st_blocks * 512 for number, place in held(pid) if place.startswith("/memfd:")
    )


def held(pid: int) -> list[tuple[str, str]]:
    """Its descriptors, and what each is open on."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append((number, os.readlink(f"/proc/{pid}/fd/{number}")))
        except FileNotFoundError:
            pass
    return found


def opened(pid: int) -> Counter[str]:
    """What its descriptors are open on, numbers taken out."""
    return Counter(re.sub(r"sb-\w+|free-\w+", "SB", re.sub(r"\[\d+\]", "", place)) for _, place in held(pid))


def began(pid: int) -> str:
    """When a process began, or nothing: with its pid, which one it is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(pid: int) -> dict[int, str]:
    """All processes below one, and when each began."""
    found: dict[int, str] = {}
    for child in children(pid):
        found |= {child: began(child)} | descendants(child)
    return found


class Host:
    """The server under test, and everything on this host that it is to blame for."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.data = Path(tempfile.mkdtemp(prefix="csb-soak-"))
        # What `local` sandboxes write is limited by being looked at: a disk that they fill is another one than the server's.
        self.work = Path(tempfile.mkdtemp(prefix="csb-soak-work-"))
        for place in (self.data, self.work):
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", place], check=True)
        self.log = Path(f"{self.data}.log")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        # Raised before each accident and after it: what is under way in between may be cut short.
        self.accidents = 0
        self.parent: str | None = None
        self.kills = 0
        # What must be gone by the end of the round: processes of a warden that was killed.
        self.doomed: dict[int, str] = {}
        self.kinds = ["process"]

    def start(self) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CSB_", "POOL_", "JWT_", "CLOUD_SANDBOX_"))}
        settings = {"WORKSPACES_DIR": str(self.work), "POOL_MIN_SIZE": "3", "POOL_MAX_SIZE": "8", "CSB_RATE_PER_SECOND": "100000", "CSB_RATE_BURST": "100000"}
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

    def find_kinds(self) -> None:
        """Which kinds are here, with what they need."""
        busybox = Path("/bin/busybox")
        listed = self.call("GET", "/api/v1/kinds", token=self.token("counter"))[1]["items"]
        here = {one["name"] for one in listed if one["available"]}
        if "hardened" in here and busybox.exists():
            with tempfile.TemporaryDirectory() as root:
                for name in ("bin", "etc", "tmp"):
                    Path(root, name).mkdir()
                Path(root, "bin/busybox").write_bytes(busybox.read_bytes())
                Path(root, "bin/busybox").chmod(0o755)
                for name in ("sh", "echo", "sleep", "head", "rm", "yes", "cat", "stty"):
                    Path(root, "bin", name).symlink_to("busybox")
                command = [self.program, "template", "add", "small", root, "--data-dir", self.data]
                subprocess.run(command, check=True, capture_output=True)
        else:
            here.discard("hardened")
        self.kinds = [kind for kind in KINDS if kind in here]

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
        # Containers have a parent of their own, named after where their records are.
        containers = f"csb-oci-{hashlib.sha256(str(self.data / 'guests').encode()).digest()[:8].hex()}"
        command = ["find", "/sys/fs/cgroup", "-mindepth", "2", "-type", "d"]
        command += ["(", "-path", f"*/{self.parent}*", "-o", "-path", f"*/{containers}*", ")"]
        found_all = subprocess.run(command, capture_output=True, text=True).stdout.split()
        return {Path(path) for path in found_all}

    def processes(self) -> set[int]:
        """All in the control groups."""
        found: set[int] = set()
        for group in self.groups():
            try:
                found |= {int(word) for word in (group / "cgroup.procs").read_text().split()}
            except (FileNotFoundError, OSError):
                pass
        return found

    def mounts(self, pid: int | str = "self") -> list[str]:
        """Those of this data directory in a process's namespace. Others mount beside it as they like."""
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        own = (str(self.data), str(self.work))
        return [line for line in lines if any(place in line for place in own) and line.split()[4] not in own]

    def namespaces(self, pid: int) -> int:
        """Network namespaces that its sandboxes, those made ahead, and its descriptors keep."""
        found = {place for _, place in held(pid) if place.startswith("net:")}
        for child in self.processes():
            try:
                found.add(os.readlink(f"/proc/{child}/ns/net"))
            except OSError:
                pass
        return len(found)

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
        for place in (self.data, self.work):
            subprocess.run(["umount", "-l", place])
            place.rmdir()
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
            return ["create", "session", "simple"]
        return ["create"] * (4 - min(3, len(self.mine))) + ["echo"] * 5 + ["file"] * 3 + ["terminal", "archive"] * 2 + [
            "code", "pause", "freeze", "limits", "pids", "hog", "flood", "full", "background", "leave", "odd", "session", "simple",
            "release", "release"
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
        if code == "backend_unavailable" and self.host.accidents == before and before % 2 == 0:
            raise Wrong(f"{method} {path}: what makes sandboxes does not, without an accident: {answer}")
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
        kind = self.random.choice(["process"] * 3 + self.host.kinds)
        body: dict[str, Any] = dict(KINDS[kind])
        if self.random.random() < 0.5:
            body["resources"] = {"memory": "96Mi", "pids": 32, "cpu": "0.5"}
        if self.random.random() < 0.15 and kind in ("process", "oci", "hardened"):
            body |= {"storage": "disk", "resources": {"disk": "16Mi", "inodes": 4000}}
        if kind == "local":
            body["sandbox"] = {"kind": kind, "workDir": f"w{self.random.randrange(3)}"}
        if self.random.random() < 0.1:
            body["timeout"] = self.random.randint(1, 8)
        if made := self.ask("POST", "/sandboxes", body):
            self.mine[made["sandbox_id"]] = {"kind": kind}
            self.done[f"{kind}: {made['started_by']}"] += 1

    def echo(self) -> None:
        word = f"{self.random.getrandbits(64):x}"
        before = self.host.accidents
        sandbox = self.one()
        kind = self.mine[sandbox]["kind"]
        result = self.execute(sandbox, f"echo {word}; echo {word} >&2; exit 3")
        # Output that a full disk could not hold is marked as cut.
        cut = result and result["truncated"] and (before % 2 == 1 or self.host.accidents != before)
        if result and not cut and result["killed_by"] is None and result["signal"] is None:
            if (result["stdout"], result["stderr"], result["exit_code"]) != (f"{word}\n", f"{word}\n", 3):
                raise Wrong(f"echo {word} in {kind} answered {result}")
            self.done[f"{kind}: echo"] += 1

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

    def freeze(self) -> None:
        """Left standing still: whoever releases it, or kills it, finds it so."""
        self.ask("POST", f"/sandboxes/{self.one()}/pause")

    def terminal(self) -> None:
        sandbox, word = self.one(), f"{self.random.getrandbits(32):x}"
        before = self.host.accidents
        begun = self.execute(sandbox, "sh", pty={"cols": 80, "rows": 24}, wait=False)
        if not begun:
            return
        path = f"/sandboxes/{sandbox}/execs/{begun['exec_id']}"
        typed = f"stty -echo; echo $((6*7)){word}; exit 5\n".encode()
        if self.random.random() < 0.5:
            self.attach(path, typed)
            return
        self.ask("POST", f"{path}/resize", {"cols": 120, "rows": 40})
        if self.ask("POST", f"{path}/stdin", raw=typed) is None:
            return
        result = self.ask("GET", f"{path}/result?wait=10")
        whole = result and result["killed_by"] is None and result["signal"] is None and not result["truncated"]
        calm = before % 2 == 0 and self.host.accidents == before
        if whole and calm and (result["exit_code"] != 5 or f"42{word}" not in result["stdout"]):
            raise Wrong(f"a terminal answered {result}")

    def attach(self, path: str, typed: bytes) -> None:
        """Types into a terminal by WebSocket, looks for a moment, and leaves without a word."""
        with socket.create_connection(("127.0.0.1", self.host.port), timeout=20) as link:
            key = base64.b64encode(self.random.randbytes(16)).decode()
            link.sendall(
                f"GET /api/v1{path}/ws?from=0 HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nAuthorization: Bearer {self.bearer}\r\n\r\n".encode()
            )
            answer = link.recv(4096)
            if not answer.startswith(b"HTTP/1.1 101"):
                self.errors["terminal refused"] += 1
                return
            mask = self.random.randbytes(4)
            masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(typed))
            link.sendall(bytes([0x82, 0x80 | len(typed)]) + mask + masked)
            link.settimeout(self.random.random())
            try:
                while link.recv(4096):
                    pass
            except TimeoutError:
                pass

    def leave(self) -> None:
        """Follows a command's output and leaves in the middle of it."""
        sandbox = self.one()
        begun = self.execute(sandbox, "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.1; done", wait=False)
        if begun:
            with socket.create_connection(("127.0.0.1", self.host.port), timeout=20) as link:
                path = f"/api/v1/sandboxes/{sandbox}/execs/{begun['exec_id']}/output"
                head = f"GET {path} HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {self.bearer}\r\n\r\n"
                link.sendall(head.encode())
                link.recv(self.random.choice((1, 200, 4096)))

    def archive(self) -> None:
        sandbox, content = self.one(), self.random.randbytes(self.random.choice((1, 70_000)))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for number in range(3):
                entry = tarfile.TarInfo(f"a{number}/file")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        path = f"/workspace/{self.random.getrandbits(16):x}"
        if self.ask("PUT", f"/sandboxes/{sandbox}/archive?path={path}", raw=packed.getvalue()) is None:
            return
        found = self.ask("GET", f"/sandboxes/{sandbox}/archive?path={path}")
        if found:
            with tarfile.open(fileobj=io.BytesIO(found)) as tar:
                files = [one for one in tar.getmembers() if one.isfile()]
                if len(files) != 3 or any(tar.extractfile(one).read() != content for one in files):  # type: ignore[union-attr]
                    raise Wrong(f"an archive came back as {[(one.name, one.size) for one in files]}")
        self.ask("DELETE", f"/sandboxes/{sandbox}/files?path={path}&recursive=true")

    def session(self) -> None:
        body = dict(KINDS[self.random.choice(["process", "process", *self.host.kinds])])
        if "template" in body:
            body["template_id"] = body.pop("template")
        made = self.ask("POST", "/sessions", body)
        if not made:
            return
        path = f"/sessions/{made['session_id']}"
        if self.random.random() < 0.3:
            self.ask("POST", f"{path}/pause")
            self.ask("POST", f"{path}/resume")
        result = self.ask("POST", f"{path}/execute", {"language": "bash", "code": "echo $((6*7))", "timeout": 30})
        if result and result["exit_code"] == 0 and not result["truncated"] and result["stdout"] != "42\n":
            raise Wrong(f"a session answered {result}")
        self.ask("DELETE", path)

    def simple(self) -> None:
        made = self.ask("POST", "/sandbox/acquire")
        if made:
            sandbox = made["sandbox_id"]
            self.ask("POST", "/execute", {"sandbox_id": sandbox, "code": "print(1)", "language": "python", "timeout": 30})
            self.ask("POST", "/sandbox/release", {"sandbox_id": sandbox})

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
        self.deck: list[str] = []

    def one(self, kinds: list[str]) -> None:
        """The next of these, each as often as it is named before any comes again."""
        self.deck = [kind for kind in self.deck if kind in kinds]
        if not self.deck:
            self.deck = self.random.sample(kinds, len(kinds))
        kind = self.deck.pop()
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
        warden = self.host.warden()
        # It makes no further ones while it is looked at.
        os.kill(warden, signal.SIGSTOP)
        self.host.doomed |= {warden: began(warden)} | descendants(warden)
        os.kill(warden, signal.SIGKILL)

    def both_killed(self) -> None:
        """What remembers and what holds, at once."""
        warden = self.host.warden()
        os.kill(warden, signal.SIGSTOP)
        self.host.doomed |= {warden: began(warden)} | descendants(warden)
        self.host.kill()
        os.kill(warden, signal.SIGKILL)
        self.host.start()

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

    def pids_gone(self) -> None:
        """All sandboxes together may have few processes more than they have."""
        tops = [path / "pids.max" for path in self.host.groups() if path.name == self.host.parent]
        before = {path: path.read_text() for path in tops if path.exists()}
        try:
            for path in before:
                used = int((path.parent / "pids.current").read_text())
                path.write_text(str(used + self.random.randrange(6)))
            time.sleep(2 + self.random.random() * 2)
        finally:
            for path, text in before.items():
                path.write_text(text)

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
            sessions = host.call("GET", "/api/v1/sessions?limit=100", token=token)[1]
            for item in sessions["items"]:
                if item["state"] != "closed":
                    host.call("DELETE", f"/api/v1/sessions/{item['session_id']}", token=token)
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
    places = [host.data / name for name in ("sandboxes", "spool", "disks", "guests")]
    below = {place.name: sorted(path.name for path in place.iterdir()) for place in places if place.exists()}
    # Emptied files wait for the next sandbox under another name.
    kept = [path for place in places if place.exists() for path in place.iterdir() if path.name.startswith("free-")]
    if len(kept) > 4 * KEPT_READY or any(path.stat().st_size for path in kept if path.is_file()):
        raise Wrong(f"files kept for sandboxes to come are not few and empty: {below}")
    # Removed after ten minutes: the warden may be about to mount what a killed server made.
    images = [host.data / "disks" / name for name in below.pop("disks", [])]
    if len(images) > host.kills:
        raise Wrong(f"disk images are left: {images}")
    reserved = sum(path.stat().st_blocks * 512 for path in images if path.exists())
    below = {name: [one for one in names if not one.startswith(("free-", "."))] for name, names in below.items()}
    alive = {pid: start for pid, start in host.doomed.items() if start and began(pid) == start}
    if alive:
        raise Wrong(f"processes of a killed warden live on: {alive}\n{host.said()}")
    host.doomed.clear()
    # Groups that are kept for the next sandbox are no leak as long as they are few.
    inner = {path.name for path in host.groups() if path.name != host.parent}
    busy = {path.name for path in host.groups() if path.name != host.parent and (path / "cgroup.procs").read_text()}
    room = os.statvfs(host.data)
    found = {
        "server": host.pid,
        "warden": warden,
        "ready": ready,
        "server_memory": memory(host.pid),
        "warden_memory": memory(warden),
        "server_descriptors": len(held(host.pid)),
        "warden_descriptors": len(held(warden)),
        "opened": {"server": opened(host.pid), "warden": opened(warden)},
        "mounts": sorted({*host.mounts(), *host.mounts(warden), *host.mounts(host.pid)}),
        "processes": len(host.processes()),
        "namespaces": host.namespaces(warden),
        # Also what is deleted and still open.
        "files": room.f_files - room.f_ffree,
        "bytes": (room.f_blocks - room.f_bfree) * room.f_frsize - reserved,
        "groups": len(busy),
        "empty_groups": len(inner - busy),
        "directories": max(len(names) for names in below.values()),
        "loops": len(host.loops()),
    }
    # A sandbox of the pool has an init and the next command; what is ready to become one has a process.
    many = found["processes"] > 2 * ready + KEPT_READY or found["namespaces"] > ready + 2 * KEPT_READY
    if many or children(host.pid) or found["mounts"]:
        started = {pid: Path(f"/proc/{pid}/cmdline").read_bytes()[:200] for pid in children(host.pid)}
        raise Wrong(f"more is left than the pool's {ready}: {found}, the server's children {started}\n{host.said()}")
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
    # The first rounds fill what is kept for later.
    first, last = counts[min(1, len(counts) - 1)], counts[-1]
    for what, margin in (("files", FILES_MARGIN), ("bytes", BYTES_MARGIN)):
        if last[what] - first[what] > margin:
            raise Wrong(f"the data directory's {what} grew from {first[what]} to {last[what]} over {len(counts)} rounds")


def soak(host: Host, minutes: float, seed: int, number: int) -> None:
    users = [User(host, f"user{i}", seed * 100 + i) for i in range(number)]
    accidents = Accidents(host, seed)
    started, end = time.monotonic(), time.monotonic() + minutes * 60
    length = max(15.0, min(60.0, minutes * 60 / 8))
    counts: list[dict[str, Any]] = []
    host.start()
    host.find_kinds()
    print(f"soak: kinds {', '.join(host.kinds)}", flush=True)
    for user in users:
        user.start()
    while time.monotonic() < end:
        # In the second half the processes stay the same, so that growth would show.
        first_half = time.monotonic() < started + minutes * 30
        kinds = LASTING + (ENDING + ["server_killed"] * 2 if first_half else [])
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
            f"warden {shown['warden_memory'] >> 10} KiB and {shown['warden_descriptors']}, "
            f"{shown['processes']} processes, {shown['files']} files of {shown['bytes'] >> 10} KiB",
            flush=True,
        )
    for user in users:
        user.over = True
        user.go.set()
    compare(counts)
    done = sum((user.done for user in users), Counter())
    errors = sum((user.errors for user in users), Counter())
    print(f"soak: operations {dict(done)}\nsoak: errors {dict(errors)}\nsoak: accidents {dict(accidents.counts)}")
    missing = [name for name in ("echo", "create", "file", "terminal", "archive", "session", "simple") if not done[name]]
    missing += [f"{kind}: echo" for kind in host.kinds if not done[f"{kind}: echo"]]
    missing += [name for name in LASTING + ENDING if not accidents.counts[name]]
    # Less than two minutes are for trying the script.
    if minutes >= 2 and missing:
        raise Wrong(f"not everything was tried: nothing of {missing}")
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
        "mounts": host.mounts(),
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
