"""How objects of the API are read, and how they can be looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Optional, TypeVar

from .errors import ProtocolError

R = TypeVar("R", bound="Record")


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
