"""Another server that ours sends requests to, and a wire between the two that breaks when it is told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import httpx

from harness import Server

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


class Wire:
    """Passes bytes between our server and the other one, keeps what was asked, and breaks."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.target = port
        self.tls = tls
        self.asked = bytearray()
        self.connections = 0
        self.deaf = 0
        """So many next connections bring no answer: they break when its first byte comes back."""
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self.connections += 1
                if self.tls:
                    try:
                        near = self.tls.wrap_socket(near, server_side=True)
                    except OSError:
                        continue
                far = socket.create_connection(("127.0.0.1", self.target))
                self.pairs.append((near, far))
                deaf, self.deaf = self.deaf > 0, max(0, self.deaf - 1)
                threading.Thread(target=self.carry, args=(near, far, True, False), daemon=True).start()
                threading.Thread(target=self.carry, args=(far, near, False, deaf), daemon=True).start()

    def carry(self, source: socket.socket, sink: socket.socket, asks: bool, deaf: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if asks:
                    self.asked += data
                if deaf:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Breaks every connection there is."""
        for pair in self.pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
