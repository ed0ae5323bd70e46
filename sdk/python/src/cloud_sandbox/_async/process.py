"""A command that runs in a sandbox while the caller does something else."""

from __future__ import annotations

import codecs
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Optional, Union

from .. import _sse
from .._payload import STDIN_PIECE
from .._retry import Safety
from ..errors import ExecRunning, TimedOut
from ..models import CommandResult, ExecInfo, OutputChunk
from .output import Collector
from .output import follow as attach
from .transport import AsyncTransport

if TYPE_CHECKING:
    from . import shims
    from .terminal import AsyncTerminal

# One long poll of `wait`; short enough for any proxy's patience.
POLL = 20.0


class AsyncProcess:
    """An exec. It belongs to the sandbox: losing this object, or the connection, does not end it."""

    def __init__(self, transport: AsyncTransport, sandbox_id: str, info: ExecInfo) -> None:
        self._transport = transport
        self._path = f"/api/v1/sandboxes/{sandbox_id}/execs/{info.exec_id}"
        self.sandbox_id = sandbox_id
        self.info = info
        """What was last known of it; `poll()` asks again."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.exec_id!r}, state={self.info.state!r})"

    @property
    def exec_id(self) -> str:
        """Its id; `sandbox.process(exec_id)` finds it again, from any client."""
        return self.info.exec_id

    @property
    def pid(self) -> Optional[int]:
        """Its process id inside the sandbox."""
        return self.info.pid

    async def poll(self) -> ExecInfo:
        """Asks how it is."""
        self.info = ExecInfo.from_json(await self._transport.json("GET", self._path))
        return self.info

    async def wait(self, timeout: Optional[float] = None) -> CommandResult:
        """Waits for its end and returns all its output. `TimedOut` after `timeout` seconds leaves it running."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = POLL if deadline is None else max(0.0, min(POLL, deadline - time.monotonic()))
            try:
                data = await self._transport.json(
                    "GET",
                    f"{self._path}/result",
                    params={"wait": round(left, 3)},
                    timeout=left + self._transport.config.request_timeout,
                )
            except ExecRunning:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimedOut(f"{self.exec_id} is still running after {timeout} s") from None
                continue
            result = CommandResult.from_json(data)
            await self.poll()
            return result

    # -- output -----------------------------------------------------------------------------------------------

    async def output(self, from_seq: int = 0, follow: bool = True) -> AsyncIterator[OutputChunk]:
        """All output behind `from_seq`, as it comes, until the end; over lost connections too.

        Without `follow`, what is there now.
        """
        path, progress = f"{self._path}/output", _sse.Progress(from_seq)
        async for signal in attach(self._transport, path, self.exec_id, progress, follow):
            if isinstance(signal, OutputChunk):
                yield signal
            elif isinstance(signal, (_sse.Ended, _sse.Running)):
                self.info = signal.info

    async def __aiter__(self) -> AsyncIterator[OutputChunk]:
        async for chunk in self.output():
            yield chunk

    async def stdout(self) -> AsyncIterator[bytes]:
        """Standard output (a terminal's output, if it has one) as it comes."""
        async for chunk in self.output():
            if chunk.stream != "stderr":
                yield chunk.data

    async def stderr(self) -> AsyncIterator[bytes]:
        """Standard error as it comes."""
        async for chunk in self.output():
            if chunk.stream == "stderr":
                yield chunk.data

    async def lines(self) -> AsyncIterator[str]:
        """Lines of standard output as they are completed, without their line ends."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        async for data in self.stdout():
            rest += decoder.decode(data)
            *complete, rest = rest.split("\n")
            for line in complete:
                yield line[:-1] if line.endswith("\r") else line
        rest += decoder.decode(b"", True)
        if rest:
            yield rest

    async def stream(
        self,
        on_stdout: Optional[shims.TextSink] = None,
        on_stderr: Optional[shims.TextSink] = None,
    ) -> CommandResult:
        """Hands all output, from the beginning, to callbacks as it comes, and returns the result."""
        collector = Collector(on_stdout, on_stderr)
        async for chunk in self.output():
            await collector.take(chunk)
        return await collector.finish(self.info)

    # -- input ------------------------------------------------------------------------------------------------

    async def send_stdin(self, data: Union[str, bytes], close: bool = False) -> None:
        """Writes to its stdin, which must have been kept open (`start(..., stdin=True)`)."""
        raw = data.encode() if isinstance(data, str) else bytes(data)
        for at in range(0, max(1, len(raw)), STDIN_PIECE):
            last = at + STDIN_PIECE >= len(raw)
            await self._transport.request(
                "POST",
                f"{self._path}/stdin",
                safety=Safety.ONCE,
                params={"close": close and last},
                content=raw[at : at + STDIN_PIECE],
                headers={"Content-Type": "application/octet-stream"},
            )

    async def close_stdin(self) -> None:
        """Ends its stdin: it reads end of file."""
        await self.send_stdin(b"", close=True)

    async def signal(self, signal: Union[str, int], tree: bool = False) -> None:
        """Sends a signal (`"TERM"`, `15`) to its process, or with `tree` to everything it started."""
        await self._transport.request(
            "POST", f"{self._path}/signal", safety=Safety.ONCE, json={"signal": signal, "tree": tree}
        )

    async def kill(self) -> None:
        """Kills it and everything it started."""
        await self.signal("KILL", tree=True)

    async def resize(self, cols: int, rows: int) -> None:
        """Changes the size of its terminal."""
        await self._transport.request(
            "POST", f"{self._path}/resize", safety=Safety.REPEATABLE, json={"cols": cols, "rows": rows}
        )

    async def attach(self, from_seq: int = 0) -> AsyncTerminal:
        """A two-way connection for interactive use: output, keystrokes, resize, in one WebSocket."""
        from .terminal import AsyncTerminal

        return await AsyncTerminal.open(self._transport, f"{self._path}/ws", from_seq)
