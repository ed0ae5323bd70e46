"""What differs between asyncio and threads. Its twin in `_sync` is written by hand, the others are generated."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import IO, Callable, Optional, TypeVar, Union, cast

from websockets.asyncio.client import ClientConnection

T = TypeVar("T")
A = TypeVar("A")
TextSink = Callable[[str], Union[None, Awaitable[None]]]
"""Takes output as it arrives; may be a coroutine function."""


class Lock:
    """A lock that belongs to the loop it is first used in: Python 3.9 binds `asyncio.Lock` where it is made."""

    def __init__(self) -> None:
        self._lock: Optional[asyncio.Lock] = None

    async def __aenter__(self) -> None:
        if self._lock is None:
            self._lock = asyncio.Lock()
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


async def give(sink: Optional[TextSink], text: str) -> None:
    """Hands output to a callback."""
    if sink is not None and text:
        result = sink(text)
        if inspect.isawaitable(result):
            await result


async def each(call: Callable[[A], Awaitable[T]], items: Sequence[A], at_once: int) -> list[T]:
    """Calls for every item, some at once; results in the order of the items."""
    places = asyncio.Semaphore(at_once)

    async def one(item: A) -> T:
        async with places:
            return await call(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


async def in_thread(call: Callable[[], T]) -> T:
    """Runs what blocks on the local disk."""
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def pieces(source: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Draws from an iterator that reads the local disk."""
    nothing = b""
    while True:
        piece = await in_thread(lambda: next(source, nothing))
        if piece is nothing:
            return
        yield piece


class _Reader:
    """A file to a worker thread, filled by the event loop."""

    def __init__(self, source: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            if not piece:
                size = len(self._rest)
                break
            self._rest += piece
        out, self._rest = self._rest[:size], self._rest[size:]
        return out

    async def _next(self) -> bytes:
        async for piece in self._source:
            if piece:
                return piece
        return b""


async def with_file(source: AsyncIterator[bytes], use: Callable[[IO[bytes]], T]) -> T:
    """Runs `use` on the stream as a file, without blocking the event loop."""
    reader = cast("IO[bytes]", _Reader(source, asyncio.get_running_loop()))
    return await in_thread(lambda: use(reader))


async def receive(socket: ClientConnection, timeout: Optional[float]) -> Union[str, bytes]:
    """The next message. A cancelled `recv` loses none."""
    try:
        return await asyncio.wait_for(socket.recv(), timeout)
    except asyncio.TimeoutError:  # not yet the built-in one before Python 3.11
        raise TimeoutError from None
