"""How much a directory of the host holds, watched while a stranger's program writes to it.

The kernel keeps any one file below the quota (`ulimit -f`). That all together stay below it is looked at here, some
times a second: what the whole file system lost says cheaply when it is worth counting.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator

from ._tree import Tree

INTERVAL = 0.02
"""Seconds between two looks."""
SLACK = 1 << 20
"""Bytes that may be written unseen, and that a command may add where the quota is used up: it has to clean up."""
TRUST = 60.0
"""Seconds for which a count is believed while the file system loses nothing."""


class Quota:
    """At most so many bytes and entries below a root."""

    def __init__(self, tree: Tree, most_bytes: int, most_entries: int) -> None:
        self._tree = tree
        self.most_bytes = most_bytes
        self.most_entries = most_entries
        self._lock = threading.Lock()
        self._bytes = 0
        self._entries = 0
        self._free = (0, 0)
        self._counted = -TRUST

    def begin(self) -> tuple[int, int]:
        """What a command that starts now may reach: the quota, or a little more than what is there already."""
        with self._lock:
            self._look(0)
            return max(self.most_bytes, self._bytes + SLACK), max(self.most_entries, self._entries + 64)

    def exceeded(self, most: tuple[int, int], leader: int) -> bool:
        """Whether more is there than may be; `leader` is the process whose descendants write."""
        with self._lock:
            return self._look(leader) and (self._bytes > most[0] or self._entries > most[1])

    def room(self, size: int) -> bool:
        """Whether a file of this size may be added; if so, it counts."""
        with self._lock:
            self._look(0)
            if not self._has_room(size):
                self._counted = -TRUST
                self._look(0)
            fits = self._has_room(size)
            if fits:
                self._bytes += size
                self._entries += 1
            return fits

    def _has_room(self, size: int) -> bool:
        return self._bytes + size <= self.most_bytes and self._entries < self.most_entries

    def _look(self, leader: int) -> bool:
        """Counts anew, if something was written since; returns whether it did."""
        now = os.statvfs(self._tree.root)
        free = (now.f_bavail * now.f_frsize, now.f_favail)
        lost = (self._free[0] - free[0], self._free[1] - free[1])
        near = max(SLACK, (self.most_bytes - self._bytes) // 2)
        fresh = time.monotonic() - self._counted < TRUST
        if fresh and lost[0] < near and lost[1] < max(64, (self.most_entries - self._entries) // 2):
            return False
        self._bytes = self._entries = 0
        for entry in self._tree.walk(""):
            self._bytes += entry.status.st_blocks * 512
            self._entries += 1
        if leader:
            self._bytes += sum(_unlinked(leader, os.stat(self._tree.root).st_dev))
        self._free, self._counted = free, time.monotonic()
        return True


def _unlinked(leader: int, device: int) -> Iterator[int]:
    """Sizes of files that have no name any more but are held open below a process."""
    seen = set()
    for pid in _descendants(leader):
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{name}")
                    nameless = status.st_nlink == 0 and status.st_dev == device and stat.S_ISREG(status.st_mode)
                    if nameless and status.st_ino not in seen:
                        seen.add(status.st_ino)
                        yield status.st_blocks * 512


def _descendants(leader: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name in brackets may hold anything, brackets and spaces included.
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    todo = [leader]
    while todo:
        pid = todo.pop()
        yield pid
        todo += children.get(pid, [])
