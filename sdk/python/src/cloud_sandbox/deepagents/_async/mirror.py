"""A fresh sandbox with the files of an agent's state, for one command; what the command changes, goes back."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import AsyncIterator, Mapping
from typing import Any, Optional

from deepagents.backends.protocol import ExecuteResponse

from ..._async import shims
from ..._async.client import AsyncClient
from ..._async.sandbox import AsyncSandbox
from ...errors import CommandNotRunnable
from ...models import FileEntry
from .. import _paths
from .._files import Changes, Known, Stored
from .._shell import Habits
from .bench import AT_ONCE, MOST_ENTRIES, OF_FILES, AsyncBench, reason

TAR = {"Content-Type": "application/x-tar"}


class AsyncMirror:
    """Runs commands on files that live elsewhere."""

    def __init__(
        self, client: AsyncClient, request: Mapping[str, Any], habits: Habits, most_file: int, most_all: int
    ) -> None:
        self._client = client
        self._request = request
        self._habits = habits
        self._most_file = most_file
        self._most_all = most_all

    async def execute(
        self, command: str, timeout: Optional[int], files: Mapping[str, Stored]
    ) -> tuple[ExecuteResponse, Changes]:
        """Runs a line of a shell on these files; returns how it ended and what it did to them."""
        async with await AsyncSandbox.create(client=self._client, **self._request) as sandbox:
            known = await self._put(sandbox, files)
            result = await AsyncBench(sandbox, self._habits).execute(command, timeout)
            changes = await self._take(sandbox, known)
        if changes.notes:
            text = "".join(f"[{note}]\n" for note in changes.notes)
            gap = "" if not result.output or result.output.endswith("\n") else "\n"
            result.output += gap + text.rstrip("\n")
        return result, changes

    # -- there ------------------------------------------------------------------------------------------------

    async def _put(self, sandbox: AsyncSandbox, files: Mapping[str, Stored]) -> dict[str, Known]:
        """Unpacks the files where they say they are."""
        # A state's files may be anywhere. `/` is this sandbox's alone, so its user may have it.
        with contextlib.suppress(CommandNotRunnable):  # no root where the server itself has none
            await sandbox.run_command(["chmod", "777", "/"], user="root")
        await self._unpack(sandbox, {p: f for p, f in files.items() if not _paths.is_systems(p)}, self._habits.user)
        await self._unpack(sandbox, {p: f for p, f in files.items() if _paths.is_systems(p)}, "root")
        return {path: Known.of(file) for path, file in files.items()}

    async def _unpack(self, sandbox: AsyncSandbox, files: Mapping[str, Stored], user: Optional[str]) -> None:
        if not files:
            return
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, file in files.items():
                entry = tarfile.TarInfo(path[1:])
                entry.mode, entry.mtime, entry.size = file.mode, file.mtime, file.size
                if file.is_dir:
                    entry.type = tarfile.DIRTYPE
                tar.addfile(entry, io.BytesIO(file.data))
        await sandbox._transport.request(
            "PUT",
            f"{sandbox._path}/archive",
            params={"path": "/", "user": user},
            content=archive.getvalue(),
            headers=TAR,
        )

    # -- and back ---------------------------------------------------------------------------------------------

    async def _take(self, sandbox: AsyncSandbox, known: dict[str, Known]) -> Changes:
        """What differs from what was put there. Of a file that looks as it did, nothing is read."""
        there = {entry.path: entry async for entry in self._entries(sandbox, known)}
        changes = Changes(
            gone=[path for path in known if path not in there or there[path].is_dir != known[path].is_dir]
        )
        parents = {_paths.parent(path) for path in there}
        room = self._most_all - sum(entry.size for entry in there.values() if entry.path in known)
        wanted: list[FileEntry] = []
        for path, entry in there.items():
            before, now = known.get(path), Known.of_entry(entry)
            if before == now:
                continue
            if entry.is_dir:
                # The others are told by what is in them.
                if path not in parents and path not in _paths.GIVEN:
                    changes.directories.append(path)
                continue
            grown = max(0, entry.size - (before.size if before else 0))
            if entry.size > self._most_file or grown > room:
                changes.notes.append(f"{path} is not kept: its {entry.size} bytes are too many for the agent's state")
                continue
            room -= grown
            wanted.append(entry)

        async def one(entry: FileEntry) -> None:
            try:
                data = await sandbox.read_file(entry.path, length=self._most_file, user=self._habits.user)
            except OF_FILES as failed:
                changes.notes.append(f"{entry.path} is not kept: {reason(failed)}")
                return
            changes.written[entry.path] = Stored(data, int(entry.mode or "644", 8))

        await shims.each(one, wanted, AT_ONCE)
        return changes

    async def _entries(self, sandbox: AsyncSandbox, known: Mapping[str, Known]) -> AsyncIterator[FileEntry]:
        user = self._habits.user
        for entry in await sandbox.list_files("/", limit=MOST_ENTRIES, user=user):
            if _paths.is_systems(entry.path):
                continue
            if entry.is_file or entry.is_dir:
                yield entry
            if entry.is_dir:
                for below in await sandbox.list_files(entry.path, recursive=True, limit=MOST_ENTRIES, user=user):
                    if (below.is_file or below.is_dir) and not _paths.is_junk(below.path):
                        yield below
        for path in known:
            if _paths.is_systems(path):
                with contextlib.suppress(*OF_FILES):
                    yield await sandbox.stat(path, user=user)
