"""Messages of an exec's WebSocket. Knows nothing of sockets."""

from __future__ import annotations

import json
from typing import Any, Optional, Union

from .errors import ProtocolError, error_from
from .models import ExecInfo, OutputChunk

MOST_FRAME_BYTES = 16 << 20
HEADER = 9
_STREAMS = {1: "stdout", 2: "stderr", 3: "pty"}


def parse(message: bytes) -> OutputChunk:
    """A binary message: the stream, 8 bytes of position behind it (little endian), the output."""
    if len(message) < HEADER or message[0] not in _STREAMS:
        raise ProtocolError("an output message cannot be read")
    return OutputChunk(_STREAMS[message[0]], message[HEADER:], int.from_bytes(message[1:HEADER], "little"))


def parse_text(message: str) -> Optional[ExecInfo]:
    """A text message: `start` and `end` carry the exec's state, `error` is raised, others are news to us."""
    try:
        data = json.loads(message)
        kind = data.get("type")
    except (AttributeError, ValueError) as error:
        raise ProtocolError("a terminal message is not a JSON object") from error
    if kind in ("start", "end"):
        return ExecInfo.from_json(data)
    if kind == "error":
        raise error_from(409, {"error": data}, {})
    return None


def body_of(raw: Union[bytes, bytearray, None]) -> Any:
    """The JSON of a refused upgrade, or None."""
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None
