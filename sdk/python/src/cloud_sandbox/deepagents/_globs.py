"""Patterns of file names, under the promise that the installed deepagents makes to agents. No I/O."""

from __future__ import annotations

import fnmatch
import functools
import posixpath
import re
from typing import Union

from ._contract import SINCE_0_7

MOST_ALTERNATIVES = 1000


class BadPattern(ValueError):
    """A pattern that is not meant, or too broad to be tried."""


class Pattern:
    """A pattern, tried on paths relative to where the search began.

    `*`, `?`, `[abc]` and `{a,b}` within a name, `**` for any directories. A name that starts with a dot is matched only
    by a pattern that does. Up to deepagents 0.6 `*.py` is of one directory, from 0.7 on of any below it.
    """

    def __init__(self, pattern: str, any_depth: bool = SINCE_0_7) -> None:
        if ".." in pattern.split("/"):
            raise BadPattern("a pattern has no `..`")
        self._by_name = any_depth and "/" not in pattern
        self._alternatives = [
            # A slash at the end asks for directories.
            (one.endswith("/"), [_name(name) for name in one.split("/") if name])
            for one in _braces(pattern)
        ]

    def matches(self, path: str, is_dir: bool = False) -> bool:
        """Whether this relative path is meant."""
        names = [posixpath.basename(path)] if self._by_name else path.split("/")
        return any((is_dir or not only_dirs) and _matches(names, wanted) for only_dirs, wanted in self._alternatives)


_Name = Union[None, "tuple[bool, re.Pattern[str]]"]


def _name(pattern: str) -> _Name:
    if pattern == "**":
        return None
    return pattern.startswith("."), re.compile(fnmatch.translate(re.sub(r"\[\^", "[!", pattern)))


def _matches(names: list[str], wanted: list[_Name]) -> bool:
    @functools.cache
    def tail(at: int, of: int) -> bool:
        if of == len(wanted):
            return at == len(names)
        part = wanted[of]
        if part is None:
            if of + 1 == len(wanted):
                return at < len(names) and not any(name.startswith(".") for name in names[at:])
            return tail(at, of + 1) or (at < len(names) and not names[at].startswith(".") and tail(at + 1, of))
        if at == len(names) or (names[at].startswith(".") and not part[0]):
            return False
        return part[1].match(names[at]) is not None and tail(at + 1, of + 1)

    return tail(0, 0)


def _braces(pattern: str) -> list[str]:
    """Every way to read `{a,b}`, groups in groups included."""
    done: list[str] = []
    todo = [pattern]
    while todo:
        if len(todo) + len(done) > MOST_ALTERNATIVES:
            raise BadPattern("the pattern has too many alternatives")
        text = todo.pop()
        group = _group(text)
        if group is None:
            done.append(text)
        else:
            start, end, parts = group
            todo.extend(text[:start] + part + text[end + 1 :] for part in reversed(parts))
    return done


def _group(text: str) -> Union[None, tuple[int, int, list[str]]]:
    """The first group with alternatives: where it starts and ends, and they."""
    for start in (at for at, letter in enumerate(text) if letter == "{"):
        depth, parts = 0, [""]
        for end in range(start, len(text)):
            letter = text[end]
            depth += {"{": 1, "}": -1}.get(letter, 0)
            if depth == 0:
                if len(parts) > 1:
                    return start, end, parts
                break
            if letter == "," and depth == 1:
                parts.append("")
            elif end > start:
                parts[-1] += letter
    return None
