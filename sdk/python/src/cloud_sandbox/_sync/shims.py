"""What differs between asyncio and threads. Its twin in `_async` is written by hand, the others are generated."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Callable, Optional, TypeVar, Union, cast

from websockets.sync.client import ClientConnection

T = TypeVar("T")
A = TypeVar("A")
Lock = threading.Lock
TextSink = Callable[[str], None]
"""Takes output as it arrives."""


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def give(sink: Optional[TextSink], text: str) -> None:
    """Hands output to a callback."""
    if sink is not None and text:
        sink(text)


def each(call: Callable[[A], T], items: Sequence[A], at_once: int) -> list[T]:
    """Calls for every item, one after the other; results in the order of the items."""
    return [call(item) for item in items]


def in_thread(call: Callable[[], T]) -> T:
    """Runs what blocks on the local disk."""
    return call()


def pieces(source: Iterator[bytes]) -> Iterator[bytes]:
    """Draws from an iterator that reads the local disk."""
    return source


class _Reader:
    """A stream as a file."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._source, b"")
            if not piece:
                size = len(self._rest)
                break
            self._rest += piece
        out, self._rest = self._rest[:size], self._rest[size:]
        return out


def with_file(source: Iterator[bytes], use: Callable[[IO[bytes]], T]) -> T:
    """Runs `use` on the stream as a file."""
    return use(cast("IO[bytes]", _Reader(source)))


def receive(socket: ClientConnection, timeout: Optional[float]) -> Union[str, bytes]:
    """The next message."""
    return socket.recv(timeout)
