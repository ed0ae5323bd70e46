"""Text of files as agents see it: pages of lines, replacements, lines that hold a string. No I/O."""

from __future__ import annotations

import codecs
import dataclasses
import io
from collections.abc import Iterator
from typing import Optional, Union

MOST_TEXT = 500 * 1024
"""Most bytes of one page; deepagents' own sandboxes have the same limit."""
MOST_BINARY = 500 * 1024
"""Most bytes of a file that is shown in base64."""
MOST_EDIT = 64 << 20
"""Largest file that is edited: it is held in memory."""
MOST_LINE = 2000
"""Most characters of a line that `grep` shows."""
CUT = (
    "\n\n[Output was truncated due to size limits. This paginated read result exceeded the sandbox stdout limit. "
    "Continue reading with a larger offset or smaller limit to inspect the rest of the file.]"
)
PREFIX = 8192


def is_binary(data: bytes) -> bool:
    """Whether the beginning of a file is not UTF-8. A character cut at its end is no reason."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data[:PREFIX], False)
    except UnicodeDecodeError:
        return True
    return False


@dataclasses.dataclass(frozen=True)
class Page:
    """Some lines of a file, joined, without the last line's end."""

    content: str
    first: int
    """Index of the first line."""
    count: int
    """How many lines, a cut one included where it is the only one."""
    total: Optional[int]
    """Lines of the file, where its end was seen."""


class Pager:
    """Cuts a page out of a file that comes piece by piece, without holding more than the page."""

    def __init__(self, offset: int, limit: int, most: int = MOST_TEXT) -> None:
        self._first = max(0, offset)
        self._limit = max(0, limit)
        self._most = most - len(CUT)
        self._decode = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), True)
        self._lines: list[str] = []
        self._whole = 0
        self._bytes = 0
        self._seen = 0
        self._open = False
        self._rest = ""
        self._cut = False
        self._ended = False

    def feed(self, data: bytes, last: bool) -> bool:
        """Takes the next piece; returns whether more is wanted."""
        text = self._decode.decode(data, last)
        at = 0
        while at < len(text) and not self._full():
            end = text.find("\n", at)
            if end < 0:
                self._part(text[at:])
                at = len(text)
            else:
                self._part(text[at:end])
                self._close()
                at = end + 1
        # The page is there: what follows is counted only.
        self._seen += text.count("\n", at)
        if at < len(text):
            self._open = not text.endswith("\n")
        if last:
            if self._open:
                self._close()
            self._ended = True
        return not last and not self._full()

    def _full(self) -> bool:
        return self._cut or len(self._lines) >= self._limit

    def _part(self, text: str) -> None:
        if text:
            self._open = True
        if self._seen >= self._first:
            self._rest += text
            if len(self._rest) > self._most:
                self._take()

    def _close(self) -> None:
        if self._seen >= self._first and not self._full():
            self._take()
        self._rest = ""
        self._open = False
        self._seen += 1

    def _take(self) -> None:
        line = self._rest
        size = len(line.encode()) + bool(self._lines)
        if self._bytes + size > self._most:
            self._cut = True
            room = self._most - self._bytes - bool(self._lines)
            line = line.encode()[: max(0, room)].decode("utf-8", "ignore")
            if line:
                self._lines.append(line)
            return
        self._lines.append(line)
        self._whole += 1
        self._bytes += size

    def page(self) -> Union[Page, str]:
        """The page, or why there is none."""
        if not self._lines and self._limit:
            return f"Line offset {self._first} exceeds file length ({self._seen} lines)"
        content = "\n".join(self._lines)
        # Reading goes on at the line that was cut; where nothing but it was read, behind it.
        count = max(1, self._whole) if self._cut else self._whole
        if self._cut:
            content += CUT
        total = self._seen if self._ended else None
        return Page(content, self._first, count, total)


def replace(text: str, old: str, new: str, replace_all: bool) -> Union[tuple[str, int], str]:
    """The new text and how many places changed, or why none did.

    Pages show `\\n` where a file has `\\r\\n`; so what is searched for may have either, and the file keeps its own.
    """
    if not old:
        return "Error: old_string cannot be empty. Provide the exact text to replace."
    lf = (old.replace("\r\n", "\n"), new.replace("\r\n", "\n"))
    crlf = (lf[0].replace("\n", "\r\n"), lf[1].replace("\n", "\r\n"))
    for wanted, put in ((old, new), crlf, lf):
        count = text.count(wanted)
        if count > 1 and not replace_all:
            return (
                f"Error: String '{old}' appears multiple times ({count}) in the file. Use replace_all=True to replace "
                "all occurrences, or give more of the text around it."
            )
        if count:
            return text.replace(wanted, put), count
    if old.endswith("\n") and len(old) > 1 and text.endswith(old[:-1]):
        return (
            "Error: String not found in file: old_string ends with a newline, but the file does not. Retry without it."
        )
    return f"Error: String not found in file: '{old}'"


def lines_with(data: bytes, pattern: str) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and texts of the lines of a file that hold a string. None where the file is binary."""
    wanted = pattern.encode("utf-8", "surrogateescape")
    if b"\n" in wanted or b"\0" in data[:PREFIX]:
        return
    number, counted, at = 1, 0, data.find(wanted)
    while 0 <= at < len(data):
        number += data.count(b"\n", counted, at)
        start = data.rfind(b"\n", 0, at) + 1
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        yield number, line_text(data[start:end])
        counted = at
        at = data.find(wanted, end + 1)


def line_text(line: bytes) -> str:
    """A line as `grep` shows it."""
    text = line.rstrip(b"\r").decode("utf-8", "replace")
    return text if len(text) <= MOST_LINE else text[:MOST_LINE] + " [line cut]"
