"""What the API returns, as frozen dataclasses that can also be read like dictionaries.

Those that are nothing but fields come from the contract, by tools/models.py.
"""

from __future__ import annotations

import base64
import dataclasses
from typing import Any, Generic, Optional, TypeVar

from ._record import Record
from ._records import (
    ExecRecord,
    FileRecord,
    IoRequest,
    KindInfo,
    Language,
    ResourceRequest,
    SandboxInfo,
    SandboxStats,
    SessionInfo,
    Template,
)
from .errors import ProtocolError

__all__ = [
    "CommandFailed",
    "CommandResult",
    "ExecInfo",
    "FileEntry",
    "IoRequest",
    "KindInfo",
    "Language",
    "OutputChunk",
    "Page",
    "Record",
    "ResourceRequest",
    "SandboxInfo",
    "SandboxStats",
    "SessionInfo",
    "Template",
]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=True)
class ExecInfo(ExecRecord):
    """One exec: running, or ended."""

    __hash__ = Record.__hash__

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self.state == "running"


@dataclasses.dataclass(frozen=True, eq=True)
class FileEntry(FileRecord):
    """One file or directory."""

    __hash__ = Record.__hash__

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory (a link to one is not)."""
        return self.kind == "directory"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind == "file"


@dataclasses.dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list; `next_cursor` is None on the last one."""

    items: list[T]
    next_cursor: Optional[str]


@dataclasses.dataclass(frozen=True)
class OutputChunk:
    """Some output. `seq` is the position after it: `output(from_seq=chunk.seq)` goes on right behind."""

    stream: str
    """`stdout`, `stderr` or `pty`."""
    data: bytes
    seq: int

    @property
    def text(self) -> str:
        """The bytes as UTF-8; a character cut at the chunk's edge shows as U+FFFD. `lines()` does not cut."""
        return self.data.decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class CommandResult:
    """How a command ended.

    A command that fails is a result, not an exception: look at `exit_code`, or call `check()`.
    """

    exec_id: str
    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_code: int
    duration_ms: float
    truncated: bool = False
    killed_by: Optional[str] = None
    """`timeout`, `oom`, `pids`, `disk`, `signal` or `released`, when something other than itself ended it."""
    signal: Optional[int] = None
    result: Any = None
    """What `handler` returned, when code in a session defines one."""
    note: Optional[str] = None
    """Something the caller should know, such as a session whose files were lost with its host."""

    @property
    def stdout(self) -> str:
        """Standard output (for a terminal: all output) as UTF-8; other bytes show as U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as UTF-8; other bytes show as U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.exit_code == 0

    def check(self) -> CommandResult:
        """Returns itself, or raises `CommandFailed` unless the exit code is 0."""
        if not self.ok:
            raise CommandFailed(self)
        return self

    @classmethod
    def from_json(cls, data: Any) -> CommandResult:
        """Reads an `ExecResultView`."""
        try:
            binary = data.get("encoding") == "base64"

            def raw(text: str) -> bytes:
                return base64.b64decode(text, validate=True) if binary else text.encode()

            return cls(
                exec_id=data["exec_id"],
                stdout_bytes=raw(data["stdout"]),
                stderr_bytes=raw(data["stderr"]),
                exit_code=data["exit_code"],
                duration_ms=data["duration_ms"],
                truncated=bool(data.get("truncated")),
                killed_by=data.get("killed_by"),
                signal=data.get("signal"),
                result=data.get("result"),
                note=data.get("note"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"an exec's result cannot be read: {error!r}") from error

    @classmethod
    def from_end(cls, info: ExecInfo, stdout: bytes, stderr: bytes) -> CommandResult:
        """The result of an exec whose output was collected from its stream."""
        if info.running or info.exit_code is None:
            raise ProtocolError(f"exec {info.exec_id} is said to have ended but has no exit code")
        return cls(
            exec_id=info.exec_id,
            stdout_bytes=stdout,
            stderr_bytes=stderr,
            exit_code=info.exit_code,
            duration_ms=info.duration_ms or 0.0,
            truncated=bool(info.truncated),
            killed_by=info.killed_by,
            signal=info.signal,
        )


class CommandFailed(Exception):
    """Raised by `CommandResult.check()`; `result` has everything."""

    def __init__(self, result: CommandResult) -> None:
        why = f" (ended by {result.killed_by})" if result.killed_by else ""
        tail = result.stderr.strip()[-2000:] or result.stdout.strip()[-2000:]
        super().__init__(f"command exited with {result.exit_code}{why}" + (f"\n{tail}" if tail else ""))
        self.result = result
