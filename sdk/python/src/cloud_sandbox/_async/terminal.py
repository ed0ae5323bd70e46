"""A WebSocket to an exec: keystrokes in, output out, with little delay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Optional, Union

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from .. import _frames
from ..errors import ConnectionFailed, ConnectionLost, ProtocolError, TimedOut, error_from
from ..models import ExecInfo, OutputChunk
from . import shims
from .transport import CONNECT_TIMEOUT, AsyncTransport


class AsyncTerminal:
    """An attached exec. Closing it detaches; the exec goes on."""

    def __init__(self, socket: ClientConnection, held: contextlib.AsyncExitStack, from_seq: int) -> None:
        self._socket = socket
        self._held = held
        self.seq = from_seq
        """How far output was read; `process.attach(terminal.seq)` goes on from here."""
        self.info: Optional[ExecInfo] = None
        """How the exec is: known from the first message on, final once the output is over."""

    @classmethod
    async def open(cls, transport: AsyncTransport, path: str, from_seq: int) -> AsyncTerminal:
        """Connects; `Process.attach` calls this."""
        url = transport.config.base_url + path
        url = "ws" + url[len("http") :] + f"?from={from_seq}"
        headers = await transport.credential()
        held = contextlib.AsyncExitStack()
        try:
            socket = await held.enter_async_context(
                connect(
                    url,
                    additional_headers=headers,
                    open_timeout=CONNECT_TIMEOUT,
                    max_size=_frames.MOST_FRAME_BYTES,
                    compression=None,
                )
            )
        except InvalidStatus as error:
            body = _frames.body_of(error.response.body)
            raise error_from(error.response.status_code, body, error.response.headers) from error
        except OSError as error:
            raise ConnectionFailed(f"cannot reach {transport.config.base_url}: {error}") from error
        except WebSocketException as error:
            raise ProtocolError(f"{path} is no WebSocket here: {error}") from error
        return cls(socket, held, from_seq)

    async def __aenter__(self) -> AsyncTerminal:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Detaches."""
        await self._held.aclose()

    # -- output -----------------------------------------------------------------------------------------------

    async def recv(self, timeout: Optional[float] = None) -> Optional[OutputChunk]:
        """The next output, or None when the exec has ended and all was read. `TimedOut` loses nothing."""
        while self.info is None or self.info.running:
            try:
                message = await shims.receive(self._socket, timeout)
            except TimeoutError:
                raise TimedOut(f"no output within {timeout} s") from None
            except ConnectionClosed as error:
                raise ConnectionLost(
                    f"the terminal's connection broke: {error}",
                    exec_id=self.info.exec_id if self.info else None,
                    seq=self.seq,
                ) from error
            if isinstance(message, bytes):
                chunk = _frames.parse(message)
                self.seq = chunk.seq
                return chunk
            self.info = _frames.parse_text(message) or self.info
        return None

    async def __aiter__(self) -> AsyncIterator[OutputChunk]:
        while True:
            chunk = await self.recv()
            if chunk is None:
                return
            yield chunk

    # -- input ------------------------------------------------------------------------------------------------

    async def send(self, data: Union[str, bytes]) -> None:
        """Types."""
        await self._write(data.encode() if isinstance(data, str) else bytes(data))

    async def resize(self, cols: int, rows: int) -> None:
        """Changes the terminal's size."""
        await self._write(json.dumps({"type": "resize", "cols": cols, "rows": rows}))

    async def signal(self, signal: Union[str, int]) -> None:
        """Sends a signal to the exec's process."""
        await self._write(json.dumps({"type": "signal", "signal": signal}))

    async def close_stdin(self) -> None:
        """Ends its stdin."""
        await self._write(json.dumps({"type": "close_stdin"}))

    async def _write(self, message: Union[str, bytes]) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            exec_id = self.info.exec_id if self.info else None
            raise ConnectionLost(f"the terminal is closed: {error}", exec_id=exec_id, seq=self.seq) from error
