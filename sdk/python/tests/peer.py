"""An HTTP peer that does as a test says: answers, stalls, or breaks the connection at a chosen byte.

The real server cannot be made to fail at such points; the suites in /tests run against it.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from typing import Any, Callable
from urllib.parse import parse_qs, urlsplit


class Request:
    """One request as it came."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.method, self.path, self.headers, self.body = method, parts.path, headers, body
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Reset(Exception):
    """Raised by a handler: break the connection now, with a TCP reset."""


class Cut(Exception):
    """Raised by a handler: close the connection now, in the middle of whatever was being said."""


class Connection:
    """What a handler answers on."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def json(self, status: int, body: Any, **headers: str) -> None:
        raw = json.dumps(body).encode()
        extra = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n{extra}\r\n"
        self.send(head.encode() + raw)

    def error(self, status: int, code: str, **headers: str) -> None:
        said = {"code": code, "message": f"{code} happened", "hint": "a hint", "request_id": "rq-1"}
        self.json(status, {"error": said}, **headers)

    def empty(self, status: int = 204) -> None:
        self.send(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())

    def begin_events(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    def chunk(self, raw: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(raw), raw))

    def event(self, name: str, data: Any, seq: int | None = None) -> None:
        mark = f"id: {seq}\n" if seq is not None else ""
        self.chunk(f"event: {name}\n{mark}data: {json.dumps(data)}\n\n".encode())

    def output(self, stream: str, before: int, raw: bytes) -> int:
        seq = before + len(raw)
        try:
            data = {"seq": seq, "data": raw.decode(), "encoding": "utf-8"}
        except UnicodeDecodeError:
            data = {"seq": seq, "data": base64.b64encode(raw).decode(), "encoding": "base64"}
        self.event(stream, data, seq)
        return seq

    def end_events(self) -> None:
        self.send(b"0\r\n\r\n")


Handler = Callable[[Connection, Request], None]


class Peer:
    """Listens on a free port of 127.0.0.1; `handlers` maps `METHOD path` to what is done, request by request."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler | list[Handler]] = {}
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def on(self, route: str, *handlers: Handler) -> None:
        """The first request to `route` meets the first handler, and so on; the last stays."""
        self.handlers[route] = list(handlers)

    def count(self, route: str) -> int:
        method, path = route.split(" ")
        return sum(1 for r in self.requests if (r.method, r.path) == (method, path))

    def close(self) -> None:
        self._listener.close()

    def stop_listening(self) -> None:
        """New connections are refused from now on."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def listen_again(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        file = sock.makefile("rb")
        try:
            while True:
                line = file.readline()
                if not line:
                    return
                method, target, _ = line.decode().split(" ")
                headers = {}
                while (line := file.readline().strip()) != b"":
                    key, _, value = line.decode().partition(":")
                    headers[key.lower()] = value.strip()
                body = self._body(file, headers)
                request = Request(method, target, headers, body)
                self.requests.append(request)
                self._handler(request)(Connection(sock), request)
        except Reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (Cut, OSError):
            pass
        finally:
            file.close()
            sock.close()

    def _handler(self, request: Request) -> Handler:
        found = self.handlers.get(f"{request.method} {request.path}")
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found or (lambda c, r: c.error(404, "not_found"))

    @staticmethod
    def _body(file: Any, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(file.readline(), 16):
                body += file.read(size)
                file.readline()
            file.readline()
            return body
        return file.read(int(headers.get("content-length", 0)))
