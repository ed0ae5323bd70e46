"""Objects of the API. Generated from openapi/openapi.json by tools/models.py; see models.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Optional, TypedDict, Union

from ._record import Record


class IoRequest(TypedDict, total=False):
    """How fast a disk may be used; 0 is no limit, and what is absent keeps its value."""

    read_bps: Union[str, int]
    """Bytes read a second."""
    read_iops: int
    """Reads a second."""
    write_bps: Union[str, int]
    """Bytes written a second."""
    write_iops: int
    """Writes a second."""


class ResourceRequest(TypedDict, total=False):
    """Limits; what is absent keeps its default (in PATCH: its value)."""

    cpu: Union[str, int, float]
    """CPUs."""
    cpu_weight: int
    """Share of a busy CPU beside other sandboxes, 1 to 10000; default 100."""
    disk: Union[str, int]
    """Bytes the sandbox may write."""
    inodes: int
    """Files and directories it may create."""
    io: IoRequest
    """How fast its disk may be used; only with `storage` `disk`."""
    memory: Union[str, int]
    """Memory, in-memory files included."""
    nofile: int
    """Open descriptors of one process."""
    pids: int
    """Processes and threads at once."""


@dataclasses.dataclass(frozen=True, eq=True)
class SandboxInfo(Record):
    """A sandbox."""

    sandbox_id: str
    """Its id."""
    state: str
    """State."""
    user_id: str = ""
    """Whose it is."""
    kind: str = "process"
    """Kind of isolation."""
    template: str = ""
    """Template it started from."""
    resources: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Limits in force."""
    network: str = "none"
    """Network."""
    storage: str = "memory"
    """Storage."""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels."""
    hostname: str = ""
    """Host name inside."""
    started_by: str = ""
    """How it came to be."""
    start_ms: float = 0.0
    """Milliseconds from the request until it was ready."""
    created_at: Optional[datetime] = None
    """When it was made."""
    expires_at: Optional[datetime] = None
    """When it will be released; null: not by itself."""

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class SessionInfo(Record):
    """A session."""

    session_id: str
    """Its id."""
    state: str
    """State."""
    sandbox_id: Optional[str] = None
    """Its sandbox now; null when it is closed, or when its sandbox is gone and no code has run since."""
    user_id: str = ""
    """Whose it is."""
    template_id: Optional[str] = None
    """Template its sandboxes start from."""
    timeout: Optional[float] = None
    """Seconds from creation until it closes; null: not by itself."""
    resources: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Limits of its sandbox."""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels."""
    created_at: Optional[datetime] = None
    """When it was made."""
    updated_at: Optional[datetime] = None
    """When it last changed or ran code."""
    expires_at: Optional[datetime] = None
    """When it closes; null: not by itself."""
    note: Optional[str] = None
    """Something the caller should know, such as files that were lost with its host."""

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class SandboxStats(Record):
    """What a sandbox uses now and has used."""

    sandbox_id: str
    """Which."""
    cpu_usec: int = 0
    """CPU time, µs."""
    memory: int = 0
    """Bytes now."""
    memory_peak: int = 0
    """Highest so far, bytes."""
    memory_limit: int = 0
    """Limit, bytes."""
    pids: int = 0
    """Processes and threads now."""
    pids_limit: int = 0
    """Limit."""
    oom_kills: int = 0
    """OOM kills so far."""
    pids_refused: int = 0
    """Forks refused so far."""
    disk: int = 0
    """Bytes written now."""
    disk_limit: int = 0
    """Limit, bytes."""
    inodes_free: int = 0
    """Inodes free now."""

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class ExecRecord(Record):
    """An exec."""

    exec_id: str
    """Its id."""
    state: str
    """State."""
    command: Any = None
    """What runs."""
    pid: Optional[int] = None
    """Process id inside the sandbox."""
    started_at: Optional[datetime] = None
    """When it started."""
    pty: bool = False
    """Whether it has a terminal."""
    exit_code: Optional[int] = None
    """Exit code; 128 + signal when a signal ended it. Null while it runs."""
    signal: Optional[int] = None
    """The signal that ended it."""
    duration_ms: Optional[float] = None
    """Wall-clock time, ms. Null while it runs."""
    truncated: Optional[bool] = None
    """Whether output past the limit was dropped. Null while it runs."""
    killed_by: Optional[str] = None
    """What ended it, when not itself: `timeout`, `oom`, `pids`, `disk`, `signal`, `released`."""
    note: Optional[str] = None
    """Something the caller should know about `result`."""
    result: Any = None
    """In the last event of a session's stream: what `handler` returned, when the code defines one."""

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class FileRecord(Record):
    """One file or directory."""

    name: str
    """Last component of `path`."""
    path: str
    """Absolute path in the sandbox."""
    kind: str
    """`file`, `directory`, `symlink` or `other`; a link is not followed."""
    size: int
    """Bytes."""
    mode: str = ""
    """Permission bits in octal."""
    uid: int = 0
    """Owner inside the sandbox."""
    gid: int = 0
    """Group inside the sandbox."""
    modified_at: Optional[datetime] = None
    """Last modification."""
    target: Optional[str] = None
    """Where a link points."""

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class Template(Record):
    """What sandboxes can start from."""

    name: str
    """Name for `template`."""
    source: str = ""
    """`host`, `directory` or `tar`."""
    aliases: tuple[str, ...] = ()
    """Other names of it."""
    languages: tuple[str, ...] = ()
    """Languages whose interpreter or compiler it has."""
    bytes: int = 0
    """Its size; 0 when it shares the host's files."""
    created_at: Optional[datetime] = None
    """When it was added; null for what is built in."""

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class KindInfo(Record):
    """A way to isolate sandboxes: what `sandbox.kind` of a request may be."""

    name: str
    """Name for `kind`."""
    available: bool
    """Whether this server can make such sandboxes."""
    why_not: Optional[str] = None
    """Why not; null where it can."""
    isolation: str = ""
    """What stands between a sandbox and the host, and between sandboxes."""
    capabilities: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What its sandboxes can do besides commands, files and limits."""
    cannot: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What they cannot, by the name of the capability, with the reason. It is answered with `unsupported`."""
    options: tuple[str, ...] = ()
    """Options that this kind has."""
    note: Optional[str] = None
    """What this host makes of it, where that differs: `microvm`, what machines run on. Null where there is
    nothing to say.
    """

    __hash__ = Record.__hash__


@dataclasses.dataclass(frozen=True, eq=True)
class Language(Record):
    """A language of `run-code` and `execute`."""

    name: str
    """Name for `language`."""
    aliases: tuple[str, ...] = ()
    """Other names of it."""
    extension: str = ""
    """Extension of its files."""

    __hash__ = Record.__hash__
