"""What the API returns, as frozen dataclasses that can also be read like dictionaries."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Generic, Optional, TypedDict, TypeVar, Union

from .errors import ProtocolError

T = TypeVar("T")
R = TypeVar("R", bound="Record")


class IoRequest(TypedDict, total=False):
    """How fast a disk may be used; 0 is no limit."""

    read_bps: Union[str, int]
    """Bytes a second, or a size such as `"10Mi"`."""
    write_bps: Union[str, int]
    read_iops: int
    write_iops: int


class ResourceRequest(TypedDict, total=False):
    """What a sandbox may use; whatever is left out has the server's default."""

    cpu: Union[str, int, float]
    """CPUs: `1`, `"0.5"`, `"500m"`."""
    memory: Union[str, int]
    """Bytes, or a size such as `"512Mi"`."""
    disk: Union[str, int]
    pids: int
    inodes: int
    nofile: int
    cpu_weight: int
    """Share of a busy CPU beside other sandboxes, 1 to 10000; 100 is usual."""
    io: IoRequest
    """Only of a sandbox with `storage="disk"`."""


class Record(Mapping[str, Any]):
    """A frozen dataclass whose fields can also be read as `record["field"]`."""

    def __getitem__(self, key: str) -> Any:
        if key in self._names():
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __hash__(self) -> int:
        return hash(tuple(repr(getattr(self, name)) for name in self._names()))

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls: type[R], data: Any) -> R:
        """Reads one object of the API. Fields that a newer server adds are ignored."""
        if not isinstance(data, dict):
            raise ProtocolError(f"expected {cls.__name__}, got {type(data).__name__}")
        known = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name in data:
                value = data[field.name]
                known[field.name] = _time(value) if field.name.endswith("_at") else value
        try:
            return cls(**known)
        except TypeError as error:
            raise ProtocolError(f"an answer lacks fields of {cls.__name__}: {error}") from error


def _time(value: Any) -> Optional[datetime]:
    """RFC 3339 to a time with zone. `fromisoformat` takes no `Z` and no nanoseconds before Python 3.11."""
    if not isinstance(value, str):
        return None
    text = value[:-1] + "+00:00" if value.endswith(("Z", "z")) else value
    at = text.find(".")
    if at >= 0:
        end = at + 1
        while end < len(text) and text[end].isdigit():
            end += 1
        text = text[:at] + "." + (text[at + 1 : end] + "000000")[:6] + text[end:]
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ProtocolError(f"`{value}` is not a time") from error


@dataclasses.dataclass(frozen=True, eq=True)
class SandboxInfo(Record):
    """A sandbox as the server sees it."""

    sandbox_id: str
    state: str
    user_id: str = ""
    kind: str = "process"
    template: str = ""
    resources: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: str = "none"
    storage: str = "memory"
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hostname: str = ""
    started_by: str = ""
    """`claim` (taken ready from the pool) or `cold` (built on request)."""
    start_ms: float = 0.0
    created_at: Optional[datetime] = None
    expires_at: Optional[datetime] = None

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class SessionInfo(Record):
    """A session as the server sees it."""

    session_id: str
    state: str
    sandbox_id: Optional[str] = None
    user_id: str = ""
    template_id: Optional[str] = None
    timeout: Optional[float] = None
    resources: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    created_at: Optional[datetime] = None
    updated_at: Optional[datetime] = None
    expires_at: Optional[datetime] = None
    note: Optional[str] = None
    """Something the caller should know, such as files that were lost with their host."""

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class SandboxStats(Record):
    """What a sandbox uses now and has used. Sizes in bytes."""

    sandbox_id: str
    cpu_usec: int = 0
    memory: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    pids: int = 0
    pids_limit: int = 0
    oom_kills: int = 0
    pids_refused: int = 0
    disk: int = 0
    disk_limit: int = 0
    inodes_free: int = 0


@dataclasses.dataclass(frozen=True, eq=True)
class ExecInfo(Record):
    """One exec: running, or ended."""

    exec_id: str
    state: str
    command: Any = None
    pid: Optional[int] = None
    started_at: Optional[datetime] = None
    pty: bool = False
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    duration_ms: Optional[float] = None
    truncated: Optional[bool] = None
    killed_by: Optional[str] = None

    __hash__ = Record.__hash__

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self.state == "running"


@dataclasses.dataclass(frozen=True, eq=True)
class FileEntry(Record):
    """One file or directory."""

    name: str
    path: str
    kind: str
    """`file`, `directory`, `symlink` or `other`."""
    size: int
    mode: str = ""
    """Permission bits, octal: `0644`."""
    uid: int = 0
    gid: int = 0
    modified_at: Optional[datetime] = None
    target: Optional[str] = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory (a link to one is not)."""
        return self.kind == "directory"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind == "file"


@dataclasses.dataclass(frozen=True, eq=True)
class Template(Record):
    """What a sandbox can start from."""

    name: str
    source: str = ""
    aliases: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    bytes: int = 0
    created_at: Optional[datetime] = None


@dataclasses.dataclass(frozen=True, eq=True)
class Language(Record):
    """A language that `run_code` knows."""

    name: str
    aliases: tuple[str, ...] = ()
    extension: str = ""


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
