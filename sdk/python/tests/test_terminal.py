"""The WebSocket to an exec, against a WebSocket server that says what a test wants."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from conftest import ENDED, SANDBOX, exec_view
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.sync.server import ServerConnection, serve

from cloud_sandbox import (
    AsyncClient,
    AsyncProcess,
    Client,
    ConnectionLost,
    ExecInfo,
    ExecNotFound,
    OutputChunk,
    Process,
    ProtocolError,
    TimedOut,
)

Script = Callable[[ServerConnection], None]


def frame(stream: int, seq: int, data: bytes) -> bytes:
    return bytes([stream]) + seq.to_bytes(8, "little") + data


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    servers = []

    def start(script: Script, refuse: Any = None) -> str:
        def handler(socket: ServerConnection) -> None:
            script(socket)

        server = serve(handler, "127.0.0.1", 0, process_request=refuse, compression=None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown()


def echo(socket: ServerConnection) -> None:
    """A terminal that answers in capitals until its input ends."""
    assert socket.request is not None
    assert socket.request.headers["Authorization"] == "Bearer t"
    socket.send(json.dumps({"type": "start", **exec_view()}))
    seq = 0
    for message in socket:
        if isinstance(message, bytes):
            seq += len(message)
            socket.send(frame(3, seq, message.upper()))
        else:
            said = json.loads(message)
            if said["type"] == "close_stdin":
                socket.send(json.dumps({"type": "end", **exec_view("ended", **ENDED)}))
                return
            seq += len(message)
            socket.send(frame(3, seq, message.encode()))


def process(url: str) -> Process:
    return Process(Client(url, token="t").transport, SANDBOX, ExecInfo.from_json(exec_view(pty=True)))


def test_keys_go_in_and_output_comes_out(scripted: Callable[..., str]) -> None:
    with process(scripted(echo)).attach() as terminal:
        terminal.send("ls é\n")
        assert terminal.recv() == OutputChunk("pty", "ls é\n".encode().upper(), 6)
        with pytest.raises(TimedOut):
            terminal.recv(timeout=0.05)
        terminal.resize(100, 40)
        chunk = terminal.recv()
        assert chunk is not None and json.loads(chunk.data) == {"type": "resize", "cols": 100, "rows": 40}
        terminal.close_stdin()
        assert list(terminal) == []
        assert terminal.info is not None and terminal.info.exit_code == 0
        assert terminal.recv() is None


def test_the_same_with_asyncio(scripted: Callable[..., str]) -> None:
    url = scripted(echo)

    async def main() -> None:
        async with AsyncClient(url, token="t") as client:
            exec_ = AsyncProcess(client.transport, SANDBOX, ExecInfo.from_json(exec_view(pty=True)))
            async with await exec_.attach() as terminal:
                with pytest.raises(TimedOut):
                    await terminal.recv(timeout=0.05)
                await terminal.send(b"hi")
                assert await terminal.recv() == OutputChunk("pty", b"HI", 2)
                await terminal.close_stdin()
                assert [chunk async for chunk in terminal] == []

    asyncio.run(main())


def test_a_broken_terminal_says_where_to_go_on(scripted: Callable[..., str]) -> None:
    def cut(socket: ServerConnection) -> None:
        socket.send(json.dumps({"type": "start", **exec_view()}))
        socket.send(frame(3, 42, b"x"))
        socket.socket.close()

    with process(scripted(cut)).attach(from_seq=41) as terminal:
        terminal.recv()
        with pytest.raises(ConnectionLost) as caught:
            terminal.recv()
    assert caught.value.seq == 42


def test_a_refused_upgrade_is_the_error_it_names(scripted: Callable[..., str]) -> None:
    def refuse(socket: ServerConnection, request: object) -> Response:
        body = json.dumps({"error": {"code": "exec_not_found", "message": "no such exec"}}).encode()
        headers = Headers({"Content-Length": str(len(body)), "Content-Type": "application/json"})
        return Response(404, "Not Found", headers, body)

    with pytest.raises(ExecNotFound, match="no such exec"):
        process(scripted(echo, refuse)).attach()


@pytest.mark.parametrize("message", [b"", b"\x03short", frame(9, 1, b"x"), "no json", "[]"])
def test_a_message_that_cannot_be_read_is_a_protocol_error(scripted: Callable[..., str], message: Any) -> None:
    with process(scripted(lambda socket: socket.send(message))).attach() as terminal, pytest.raises(ProtocolError):
        terminal.recv()
