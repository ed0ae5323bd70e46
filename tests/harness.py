"""Starts the real program for a test, and ends it with everything it started.

Knows how `csb serve` is called and where its processes show in /proc; nothing of what is tested.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
SECRET = "a secret that only this test knows, 32 bytes or more"
# Not this program's settings: what a developer's shell may hold must not reach the server under test.
FOREIGN = ("CSB_", "POOL_", "JWT_", "SANDBOX_", "CLOUD_SANDBOX_", "REMOTE_")


def program() -> str:
    """The program under test: `CSB_BIN`, or what cargo built."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = os.environ.get("CSB_BIN") or str(target / "debug" / "csb")
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"{path} is not there: run scripts/test-python.sh, which builds it, or set CSB_BIN")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`csb serve` on a port and a data directory of its own; with `disk`, on a file system of that size,
    with `nofile`, with so many descriptors."""

    def __init__(
        self, *flags: str, dev: bool = True, port: int = 0, disk: str = "", nofile: int = 0, **settings: str
    ) -> None:
        self.data_dir = tempfile.mkdtemp(prefix="csb-test-")
        self.mounted = bool(disk)
        self.nofile = nofile
        if disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk}", "csb-test", self.data_dir], check=True)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.flags = [*(["--dev"] if dev else []), *flags]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.env = {**kept, "JWT_SECRET": SECRET, "POOL_MIN_SIZE": "1", **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it (again) and waits until it answers."""
        command = [program(), "serve", "--listen", f"127.0.0.1:{self.port}", "--data-dir", self.data_dir, *self.flags]
        if self.nofile:
            command = ["prlimit", f"--nofile={self.nofile}:{self.nofile}", *command]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.said()
                self.stop()
                raise RuntimeError(f"the server did not start:\n{said}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return self.data_dir + ".log"

    def said(self) -> str:
        """The end of its log."""
        return Path(self.log).read_text(errors="replace")[-4000:]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def rss(self) -> int:
        """Bytes of memory that are the server's own: not shared, not of files."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def kill(self) -> None:
        """`kill -9`, as the kernel does when memory is short."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ends the server, its sandboxes and its warden, and removes its data."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        ended = subprocess.run(
            [program(), "warden", "stop", "--data-dir", self.data_dir], env=self.env, capture_output=True, text=True
        )
        if ended.returncode:
            raise RuntimeError(f"csb warden stop: {ended.stderr}\n{self.said()}")
        if self.mounted:
            subprocess.run(["umount", self.data_dir], check=True)
        shutil.rmtree(self.data_dir)
        os.unlink(self.log)

    def api(self, user: str = "ann") -> Api:
        """The REST API as this user."""
        return Api(self, user)


def jwt(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
    """A token of our own making."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = part(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    body = part(json.dumps(claims).encode())
    mac = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{part(mac) if algorithm != 'none' else ''}"


class Api:
    """The REST API as one user, with plain HTTP: what the SDK would smooth over shows here."""

    def __init__(self, server: Server, user: str) -> None:
        self.server = server
        self.user = user
        given = httpx.post(f"{server.url}/api/v1/auth/token", json={"user_id": user, "role": "user"})
        assert given.status_code == 200, given.text
        self.token = given.json()["access_token"]
        self.http = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=httpx.Timeout(60)
        )
        self.made: list[str] = []

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, path if path.startswith("/health") else f"/api/v1{path}", **options)

    def create(self, **body: Any) -> str:
        """A new sandbox's id; it is released with the fixture."""
        made = self("POST", "/sandboxes", json=body)
        assert made.status_code == 201, made.text
        self.made.append(made.json()["sandbox_id"])
        return self.made[-1]

    def run(self, sandbox: str, command: str | list[str], **body: Any) -> dict[str, Any]:
        """A command's result."""
        done = self("POST", f"/sandboxes/{sandbox}/execs", json={"command": command, **body})
        assert done.status_code == 200, done.text
        return done.json()

    def start(self, sandbox: str, command: str | list[str], **body: Any) -> str:
        """A running command's id."""
        started = self("POST", f"/sandboxes/{sandbox}/execs", json={"command": command, "wait": False, **body})
        assert started.status_code == 202, started.text
        return started.json()["exec_id"]

    def until_said(self, sandbox: str, exec_id: str, text: str) -> None:
        """Waits until a running command has printed this."""
        deadline = time.monotonic() + 60
        while text not in self("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/output?follow=false").text:
            assert time.monotonic() < deadline, f"{text!r} was never printed"
            time.sleep(0.05)

    def close(self) -> None:
        for sandbox in self.made:
            self("DELETE", f"/sandboxes/{sandbox}")
        self.http.close()


class Admin(Api):
    """The administrator of a server that was started without `--dev`; makes users."""

    def __init__(self, server: Server) -> None:
        self.server, self.user, self.made = server, "admin", []
        self.key = (Path(server.data_dir) / "admin.key").read_text().strip()
        self.http = httpx.Client(base_url=server.url, headers={"X-API-Key": self.key}, timeout=60)

    def user_api(self, user: str) -> Api:
        key = self("POST", "/keys", json={"user_id": user}).json()["api_key"]
        api = Api.__new__(Api)
        api.server, api.user, api.made = self.server, user, []
        api.http = httpx.Client(base_url=self.server.url, headers={"X-API-Key": key}, timeout=60)
        return api


def workspaces(server: Server) -> Path:
    """Where a server keeps the directories of `local` sandboxes."""
    return Path(server.data_dir) / "workspaces"


def until(condition: Callable[[], bool], what: str = "it never came true") -> None:
    """Waits for something that comes true by itself."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def refused(response: httpx.Response, status: int, code: str) -> str:
    """Asserts the one error shape; returns its message."""
    assert response.status_code == status, f"{response.status_code} {response.text[:500]}"
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert error["code"] == code, error
    assert error["message"] and error["hint"]
    assert error["request_id"] == response.headers["x-request-id"]
    return str(error["message"])


def events(response: httpx.Response) -> list[tuple[str, str | None, Any]]:
    """All server-sent events of a response: name, id, data."""
    found = []
    name, mark, data = "", None, ""
    for line in response.iter_lines():
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("id:"):
            mark = line[3:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif not line and data:
            found.append((name, mark, json.loads(data)))
            name, mark, data = "", None, ""
    return found
