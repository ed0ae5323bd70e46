"""A bounded number of backends, each fresh for whoever gets it."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Callable, Generic, Optional, TypeVar

from ..errors import CloudSandboxError
from .cloud import CloudSandboxBackend

B = TypeVar("B", bound=CloudSandboxBackend)


class BackendPool(Generic[B]):
    """At most `size` backends at once, made by `make`. Who comes when all are in use waits.

    What is given back is released, and the next user gets another: no file, process or setting of one is there for the
    next. The server keeps sandboxes ready, so that this costs milliseconds.

        pool = BackendPool(DockerSandboxBackend, size=10)
        async with pool.ause() as backend:
            ...
    """

    def __init__(self, make: Callable[[], B], size: int = 10) -> None:
        if size < 1:
            raise ValueError("a pool has at least one place")
        self._make = make
        self._free = size
        self._waiting: collections.deque[Future[None]] = collections.deque()
        self._used: set[B] = set()
        self._lock = threading.Lock()
        self._closed = False

    def acquire(self, timeout: Optional[float] = None) -> B:
        """A fresh backend, started. Raises `TimeoutError` if none may be had for so many seconds."""
        place = self._ask()
        try:
            place.result(timeout)
        except BaseException:
            self._change_mind(place)
            raise
        return self._begin()

    async def aacquire(self) -> B:
        """A fresh backend, started."""
        place = self._ask()
        try:
            await asyncio.wrap_future(place)
        except asyncio.CancelledError:
            self._change_mind(place)
            raise
        return await asyncio.to_thread(self._begin)

    def release(self, backend: B) -> None:
        """Gives a backend back: its sandbox ends with all that is in it. A second time does nothing."""
        with self._lock:
            if backend not in self._used:
                return
            self._used.discard(backend)
        try:
            backend.cleanup()
        finally:
            self._give()

    async def arelease(self, backend: B) -> None:
        """As `release`."""
        await asyncio.to_thread(self.release, backend)

    @contextlib.contextmanager
    def use(self, timeout: Optional[float] = None) -> Iterator[B]:
        """A backend for the length of a `with` block."""
        backend = self.acquire(timeout)
        try:
            yield backend
        finally:
            self.release(backend)

    @contextlib.asynccontextmanager
    async def ause(self) -> AsyncIterator[B]:
        """A backend for the length of an `async with` block."""
        backend = await self.aacquire()
        try:
            yield backend
        finally:
            # Also when the block was cancelled.
            await asyncio.shield(self.arelease(backend))

    def cleanup(self) -> None:
        """Releases all backends, also those in use, and gives no more."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, collections.deque()
            used = list(self._used)
        for place in waiting:
            if place.set_running_or_notify_cancel():
                place.set_exception(_closed())
        for backend in used:
            self.release(backend)

    async def acleanup(self) -> None:
        """As `cleanup`."""
        await asyncio.to_thread(self.cleanup)

    # -- places -----------------------------------------------------------------------------------------------

    def _ask(self) -> Future[None]:
        place: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise _closed()
            if self._free:
                self._free -= 1
                place.set_result(None)
            else:
                self._waiting.append(place)
        return place

    def _change_mind(self, place: Future[None]) -> None:
        if not place.cancel() and not place.cancelled() and place.exception() is None:
            self._give()

    def _give(self) -> None:
        with self._lock:
            while self._waiting:
                place = self._waiting.popleft()
                if place.set_running_or_notify_cancel():
                    place.set_result(None)
                    return
            self._free += 1

    def _begin(self) -> B:
        try:
            backend = self._make()
            with self._lock:
                if self._closed:
                    raise _closed()
                self._used.add(backend)
        except BaseException:
            self._give()
            raise
        try:
            backend.start()
        except BaseException:
            self.release(backend)
            raise
        return backend


def _closed() -> CloudSandboxError:
    return CloudSandboxError("this pool was cleaned up", hint="make another one")
