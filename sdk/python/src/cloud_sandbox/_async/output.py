"""Follows the output of an exec over lost connections: no byte twice, none left out.

Knows the transport and the stream's events; nothing of sandboxes.
"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Callable, Optional

import httpx

from .. import _sse
from .._retry import Safety, backoff
from ..errors import (
    ConnectionFailed,
    ConnectionLost,
    ProtocolError,
    ServerError,
    TimedOut,
    error_from,
)
from ..models import CommandResult, ExecInfo, OutputChunk
from . import shims
from .transport import AsyncTransport

EVENT_STREAM = {"Accept": "text/event-stream"}
# Servers send a comment line every few seconds; a stream this silent is dead, and is attached to again.
SILENCE = 60.0


def once() -> dict[str, str]:
    """A header of one request, however often it is sent: the server starts one exec for it."""
    return {"Idempotency-Key": uuid.uuid4().hex}


async def start(
    transport: AsyncTransport, path: str, body: Mapping[str, Any], find_sandbox: Callable[[], Awaitable[str]]
) -> AsyncIterator[_sse.Signal]:
    """Starts an exec and yields `Started`, its output, and `Ended`. Sent again, the start finds what it started before.

    `find_sandbox` is asked where the exec runs if its output has to be attached to again.
    """
    started: Optional[ExecInfo] = None
    ended = False
    attempt = 0
    progress = _sse.Progress()
    headers = {**EVENT_STREAM, **once()}
    while started is None:
        why = "the answer ended before the exec's id came"
        cause: Optional[Exception] = None
        try:
            async with transport.stream(
                "POST", path, safety=Safety.REPEATABLE, json=dict(body), headers=headers, timeout=SILENCE
            ) as response:
                async for signal in _signals(response):
                    if isinstance(signal, _sse.Started):
                        started = signal.info
                        yield signal
                    elif isinstance(signal, OutputChunk):
                        fresh = progress.accept(signal)
                        if fresh is not None:
                            yield fresh
                    elif isinstance(signal, _sse.Ended):
                        ended = True
                        yield signal
        except httpx.HTTPError as error:
            why, cause = f"the connection broke before the exec's id came: {error}", error
        if started is None:
            if attempt >= transport.config.max_retries:
                raise ConnectionLost(f"POST {path}: {why}") from cause
            await shims.sleep(backoff(attempt))
            attempt += 1
    if ended:
        return
    output_path = f"/api/v1/sandboxes/{await find_sandbox()}/execs/{started.exec_id}/output"
    async for signal in follow(transport, output_path, started.exec_id, progress):
        yield signal


async def follow(
    transport: AsyncTransport, path: str, exec_id: str, progress: _sse.Progress, to_the_end: bool = True
) -> AsyncIterator[_sse.Signal]:
    """Attaches to an exec's output behind `progress` and stays to the end, over as many connections as it takes.

    Without `to_the_end`, to what is there now.
    """
    params = {"from": progress.seq, "follow": to_the_end}
    ended = False
    attempt = 0
    last_success = time.monotonic()
    while True:
        cause: Exception
        try:
            async with transport.stream(
                "GET", path, params={**params, "from": progress.seq}, headers=EVENT_STREAM, timeout=SILENCE
            ) as response:
                attempt, last_success = 0, time.monotonic()
                async for signal in _signals(response):
                    last_success = time.monotonic()
                    if isinstance(signal, OutputChunk):
                        fresh = progress.accept(signal)
                        if fresh is not None:
                            yield fresh
                    elif isinstance(signal, (_sse.Ended, _sse.Running)):
                        ended = True
                        yield signal
            cause = ProtocolError("the stream ended before the exec did")
        except (httpx.HTTPError, ConnectionFailed, ConnectionLost, TimedOut) as error:
            cause = error
        except ServerError as error:
            if error.status not in (502, 503, 504):
                raise
            cause = error
        if ended:
            return
        if time.monotonic() - last_success > transport.config.reconnect_timeout:
            raise ConnectionLost(
                f"the output of {exec_id} could not be reached again: {cause}", exec_id=exec_id, seq=progress.seq
            ) from cause
        await shims.sleep(backoff(attempt))
        attempt += 1


async def _signals(response: httpx.Response) -> AsyncIterator[_sse.Signal]:
    kind = response.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise ProtocolError(f"expected an event stream, got `{kind}`")
    parser = _sse.Parser()
    # Reads past `end` to the end of the answer: a connection whose answer was read whole is used again.
    async for piece in response.aiter_bytes():
        for event in parser.feed(piece):
            signal = _sse.decode(event)
            if isinstance(signal, _sse.Failed):
                said = signal.body.get("error") if isinstance(signal.body, dict) else None
                status = 410 if isinstance(said, dict) and said.get("code") == "sandbox_gone" else 500
                raise error_from(status, signal.body, response.headers)
            if signal is not None:
                yield signal


class Collector:
    """Gathers an exec's output and hands it to callbacks as text, without cutting characters."""

    def __init__(self, on_stdout: Optional[shims.TextSink], on_stderr: Optional[shims.TextSink]) -> None:
        self._sinks = {"stdout": on_stdout, "stderr": on_stderr, "pty": on_stdout}
        self._pieces: dict[str, list[bytes]] = {"stdout": [], "stderr": [], "pty": []}
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder("replace") for name in self._pieces}

    async def take(self, chunk: OutputChunk) -> None:
        """Keeps a chunk and shows it."""
        self._pieces[chunk.stream].append(chunk.data)
        sink = self._sinks[chunk.stream]
        if sink is not None:
            await shims.give(sink, self._decoders[chunk.stream].decode(chunk.data))

    async def finish(self, info: ExecInfo) -> CommandResult:
        """The result, once the exec has ended."""
        for name, sink in self._sinks.items():
            if sink is not None:
                await shims.give(sink, self._decoders[name].decode(b"", True))
        out = b"".join(self._pieces["pty"] or self._pieces["stdout"])
        return CommandResult.from_end(info, out, b"".join(self._pieces["stderr"]))
