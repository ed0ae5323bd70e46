"""Reads server-sent events (HTML standard, 9.2) from bytes as they arrive. Knows nothing of HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional, Union

from .errors import ProtocolError
from .models import ExecInfo, OutputChunk

MOST_EVENT_BYTES = 64 << 20
STREAMS = frozenset(("stdout", "stderr", "pty"))


@dataclass(frozen=True)
class Event:
    """One event as it was sent."""

    name: str
    data: str


class Parser:
    """`feed` bytes, get the events that are complete. What a broken connection cut off never becomes an event."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._scanned = 0
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Takes the next bytes and yields each event that they complete."""
        self._rest += piece
        start = 0
        while True:
            end = self._rest.find(b"\n", max(start, self._scanned))
            if end < 0:
                break
            line = bytes(self._rest[start:end])
            start = end + 1
            self._scanned = start
            event = self._line(line[:-1] if line.endswith(b"\r") else line)
            if event is not None:
                yield event
        del self._rest[:start]
        self._scanned = len(self._rest)
        if self._size + len(self._rest) > MOST_EVENT_BYTES:
            raise ProtocolError("an event of the output stream is larger than 64 MiB")

    def _line(self, line: bytes) -> Optional[Event]:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
            self._name, self._data, self._size = "", [], 0
            return event
        field, _, value = line.partition(b":")
        text = (value[1:] if value.startswith(b" ") else value).decode("utf-8", "replace")
        if field == b"event":
            self._name = text
        elif field == b"data":
            self._data.append(text)
            self._size += len(value)
        return None  # comments (`:` first) keep the connection alive; `id` repeats the data's `seq`


@dataclass(frozen=True)
class Started:
    """The exec runs; from here on its output can be attached to again."""

    info: ExecInfo


@dataclass(frozen=True)
class Ended:
    """The exec has ended and all its output was delivered."""

    info: ExecInfo


@dataclass(frozen=True)
class Running:
    """All output that was there is delivered, and the exec goes on."""

    info: ExecInfo


@dataclass(frozen=True)
class Failed:
    """The stream ends with an error instead of a result; `body` has the API's error shape."""

    body: Any


Signal = Union[OutputChunk, Started, Ended, Running, Failed]


def decode(event: Event) -> Optional[Signal]:
    """What an event of an exec's stream means; None for events that this client does not know."""
    if event.name in STREAMS:
        data = _json(event)
        try:
            text = data["data"]
            raw = base64.b64decode(text, validate=True) if data.get("encoding") == "base64" else text.encode()
            return OutputChunk(stream=event.name, data=raw, seq=int(data["seq"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"an output event cannot be read: {error!r}") from error
    if event.name == "start":
        return Started(ExecInfo.from_json(_json(event)))
    if event.name == "end":
        return Ended(ExecInfo.from_json(_json(event)))
    if event.name == "running":
        return Running(ExecInfo.from_json(_json(event)))
    if event.name == "error":
        return Failed(_json(event))
    return None


def _json(event: Event) -> Any:
    try:
        return json.loads(event.data)
    except ValueError as error:
        raise ProtocolError(f"event `{event.name}` is not JSON") from error


class Progress:
    """How far an exec's output was read: what to ask for after a lost connection, and what to skip when it overlaps."""

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq

    def accept(self, chunk: OutputChunk) -> Optional[OutputChunk]:
        """The part of `chunk` that is new, or None. A gap is an error: output would have been lost silently."""
        begin = chunk.seq - len(chunk.data)
        if chunk.seq <= self.seq:
            return None
        if begin > self.seq:
            raise ProtocolError(f"output jumped from byte {self.seq} to {begin}")
        fresh = chunk if begin == self.seq else OutputChunk(chunk.stream, chunk.data[self.seq - begin :], chunk.seq)
        self.seq = chunk.seq
        return fresh
