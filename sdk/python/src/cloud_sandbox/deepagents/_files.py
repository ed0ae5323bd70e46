"""Files of an agent's state: between what deepagents keeps and what a sandbox holds. No I/O.

A directory with nothing in it has an entry of its own, with a slash at the end. A file that is not for everyone to read
and its owner to write (`chmod +x`) keeps its mode in `mode`. deepagents passes both on as they are.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Optional

from deepagents.backends.utils import create_file_data, file_data_to_string

from ..models import FileEntry
from . import _paths

PLAIN = 0o644
MARK = 0o755

State = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file's content, or a directory."""

    data: bytes
    mode: int = PLAIN
    mtime: int = 0
    is_dir: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)


@dataclasses.dataclass(frozen=True)
class Known:
    """By what it is seen that a file is not the one that was put there."""

    size: int
    mtime: float
    mode: int
    is_dir: bool

    @classmethod
    def of(cls, file: Stored) -> Known:
        """As it was put there."""
        return cls(0, 0, 0, True) if file.is_dir else cls(file.size, file.mtime, file.mode, False)

    @classmethod
    def of_entry(cls, entry: FileEntry) -> Known:
        """As it is there."""
        if entry.is_dir:
            return cls(0, 0, 0, True)
        modified = entry.modified_at.timestamp() if entry.modified_at else -1.0
        return cls(entry.size, modified, int(entry.mode or "0", 8), False)


@dataclasses.dataclass
class Changes:
    """What a command did to the files."""

    written: dict[str, Stored] = dataclasses.field(default_factory=dict)
    gone: list[str] = dataclasses.field(default_factory=list)
    directories: list[str] = dataclasses.field(default_factory=list)
    """Empty ones that were not there, or not empty."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What could not be kept, and why."""


def content(entry: Any) -> bytes:
    """The bytes of a file of the state."""
    text = file_data_to_string(entry)
    if entry.get("encoding") == "base64":
        return base64.b64decode(text)
    return text.encode("utf-8", "surrogateescape")


def entry(file: Stored, before: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """A file for the state. The time it was made is that of the one it replaces."""
    try:
        text, encoding = file.data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(file.data).decode(), "base64"
    made: dict[str, Any] = {**create_file_data(text, (before or {}).get("created_at"), encoding)}
    if file.mode != PLAIN:
        made["mode"] = format(file.mode, "o")
    return made


def mode(entry: Mapping[str, Any]) -> int:
    """The permission bits of a file of the state."""
    return int(entry.get("mode", format(PLAIN, "o")), 8)


def stored(state: State) -> dict[str, Stored]:
    """All files of a state whose paths can be in a sandbox."""
    files: dict[str, Stored] = {}
    for key, value in state.items():
        path = _paths.clean(key)
        if path is None or path == "/":
            continue
        if key.endswith("/"):
            if path in _paths.GIVEN:
                continue
            files[path] = Stored(b"", MARK, 0, True)
        else:
            files[path] = Stored(content(value), mode(value), _mtime(value))
    # A file that is also a directory can be only one of both: what is in it wins.
    above = {directory for path in files for directory in ancestors(path)}
    return {path: file for path, file in files.items() if file.is_dir or path not in above}


def ancestors(path: str) -> Iterator[str]:
    """The directories above a path, but for the root."""
    above = _paths.parent(path)
    while above not in ("/", ""):
        yield above
        above = _paths.parent(above)


def _mtime(entry: Mapping[str, Any]) -> int:
    """Whole seconds, and one less: so no write after it has the same time."""
    try:
        return max(0, int(datetime.fromisoformat(entry["modified_at"]).timestamp()) - 1)
    except (KeyError, TypeError, ValueError):
        return 0


def update(state: State, changes: Changes) -> dict[str, Any]:
    """What is to be sent to the state for these changes; `None` removes."""
    sent: dict[str, Any] = {}
    for path in changes.gone:
        sent[path + "/" if path + "/" in state else path] = None
    for path, file in changes.written.items():
        sent[path] = entry(file, state.get(path))
    for path in changes.directories:
        sent[path + "/"] = entry(Stored(b"", MARK))
    # A directory with something in it needs no entry of its own.
    for above in {above for path in (*changes.written, *changes.directories) for above in ancestors(path)}:
        if above + "/" in state:
            sent[above + "/"] = None
    return sent
