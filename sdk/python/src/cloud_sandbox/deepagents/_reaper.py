"""Releases sandboxes that nobody can use any more: their backend was forgotten, or the process ends.

A finalizer runs wherever the garbage collector happens to be, so it only hands the sandbox to a thread. A process that
is killed releases nothing: the sandbox's lifetime ends it then.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import queue
import threading
import time
import weakref

from .._config import Config
from .._sync.client import Client

# A server that does not answer must not keep a program from ending.
PATIENCE = 5.0

_Held = tuple[Config, str]
_lock = threading.Lock()
_held: dict[str, tuple[int, Config]] = {}
_forgotten: queue.SimpleQueue[_Held] = queue.SimpleQueue()
_at_work_in: int = 0


def watch(owner: object, config: Config, sandbox_id: str) -> weakref.finalize:  # type: ignore[type-arg]
    """Releases the sandbox when its owner is gone; calling what is returned does it now, `detach` never."""
    global _at_work_in
    with _lock:
        if _at_work_in != os.getpid():  # a fork has our memory, not our thread
            if _at_work_in == 0:
                atexit.register(_end)
            _at_work_in = os.getpid()
            threading.Thread(target=_work, name="cloud-sandbox-reaper", daemon=True).start()
        _held[sandbox_id] = (os.getpid(), config)
    finalizer = weakref.finalize(owner, _forget, os.getpid(), config, sandbox_id)
    finalizer.atexit = False  # `_end` does it, with patience for all together
    return finalizer


def let_go(sandbox_id: str) -> None:
    """The sandbox is released, or somebody else's."""
    with _lock:
        _held.pop(sandbox_id, None)


def _forget(pid: int, config: Config, sandbox_id: str) -> None:
    if pid == os.getpid():
        _forgotten.put((config, sandbox_id))


def _work() -> None:
    while True:
        config, sandbox_id = _forgotten.get()
        release(config, sandbox_id, PATIENCE)


def _end() -> None:
    deadline = time.monotonic() + PATIENCE
    for sandbox_id, (pid, config) in list(_held.items()):
        left = deadline - time.monotonic()
        if pid == os.getpid() and left > 0:
            release(config, sandbox_id, left)


def release(config: Config, sandbox_id: str, patience: float) -> None:
    """Releases a sandbox, or leaves it to its lifetime."""
    let_go(sandbox_id)
    client = Client._of(dataclasses.replace(config, max_retries=0, request_timeout=patience))
    with contextlib.suppress(Exception), client:
        client.transport.request("DELETE", f"/api/v1/sandboxes/{sandbox_id}")
