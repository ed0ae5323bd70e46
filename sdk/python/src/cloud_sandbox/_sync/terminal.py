# Generated from _async/terminal.py by tools/unasync.py; edit that one.
"""A WebSocket to an exec: keystrokes in, output out, with little delay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from types import TracebackType
from typing import Optional, Union

from websockets.sync.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from .. import _frames
from ..errors import ConnectionFailed, ConnectionLost, ProtocolError, TimedOut, error_from
from ..models import ExecInfo, OutputChunk
from . import shims
from .transport import CONNECT_TIMEOUT, Transport


class Terminal:
    """An attached exec. Closing it detaches; the exec goes on."""

    def __init__(self, socket: ClientConnection, held: contextlib.ExitStack, from_seq: int) -> None:
        self._socket = socket
        self._held = held
        self.seq = from_seq
        """How far output was read; `process.attach(terminal.seq)` goes on from here."""
        self.info: Optional[ExecInfo] = None
        """How the exec is: known from the first message on, final once the output is over."""

    @classmethod
    def open(cls, transport: Transport, path: str, from_seq: int) -> Terminal:
        """Connects; `Process.attach` calls this."""
        url = transport.config.base_url + path
        url = "ws" + url[len("http") :] + f"?from={from_seq}"
        headers = transport.credential()
        held = contextlib.ExitStack()
        try:
            socket = held.enter_context(
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

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detaches."""
        self._held.close()

    # -- output -----------------------------------------------------------------------------------------------

    def recv(self, timeout: Optional[float] = None) -> Optional[OutputChunk]:
        """The next output, or None when the exec has ended and all was read. `TimedOut` loses nothing."""
        while self.info is None or self.info.running:
            try:
                message = shims.receive(self._socket, timeout)
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

    def __iter__(self) -> Iterator[OutputChunk]:
        while True:
            chunk = self.recv()
            if chunk is None:
                return
            yield chunk

    # -- input ------------------------------------------------------------------------------------------------

    def send(self, data: Union[str, bytes]) -> None:
        """Types."""
        self._write(data.encode() if isinstance(data, str) else bytes(data))

    def resize(self, cols: int, rows: int) -> None:
        """Changes the terminal's size."""
        self._write(json.dumps({"type": "resize", "cols": cols, "rows": rows}))

    def signal(self, signal: Union[str, int]) -> None:
        """Sends a signal to the exec's process."""
        self._write(json.dumps({"type": "signal", "signal": signal}))

    def close_stdin(self) -> None:
        """Ends its stdin."""
        self._write(json.dumps({"type": "close_stdin"}))

    def _write(self, message: Union[str, bytes]) -> None:
        try:
            self._socket.send(message)
        except ConnectionClosed as error:
            exec_id = self.info.exec_id if self.info else None
            raise ConnectionLost(f"the terminal is closed: {error}", exec_id=exec_id, seq=self.seq) from error
