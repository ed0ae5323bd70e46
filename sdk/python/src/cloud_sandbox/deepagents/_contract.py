"""What the installed deepagents asks of a backend: the promises of 0.6 and of 0.7 differ.

| | 0.6 | 0.7 |
| --- | --- | --- |
| `write` on a file that exists | an error | replaces it |
| `glob` | as Python's: files and directories, relative to `path` | files only, absolute; without `/` at any depth |
| `read` | text | text, and which lines of how many it is |
| `grep` | all matches | at most `max_count`, and whether there were more |
| `delete` | none | a file, or a directory with all below it |
"""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from deepagents.backends import protocol, utils
from deepagents.backends.protocol import FileData, FileInfo, GrepMatch, GrepResult, ReadResult

from ._text import MOST_BINARY, Page

SINCE_0_7 = hasattr(protocol, "DeleteResult")

EMPTY = utils.EMPTY_CONTENT_WARNING

# How the middleware shows a file is decided by the same function, so ours must not be another.
_kind_of = getattr(utils, "_get_backend_read_file_type", None) or utils._get_file_type


def is_text(path: str) -> bool:
    """Whether deepagents shows files of this name as text rather than as an image, sound or document."""
    return bool(_kind_of(path) == "text")


@dataclasses.dataclass
class _Deleted:
    error: Optional[str] = None
    path: Optional[str] = None


def deleted(path: Optional[str] = None, error: Optional[str] = None) -> Any:
    """A `DeleteResult`, or its like where deepagents has none yet."""
    kind = getattr(protocol, "DeleteResult", _Deleted)
    return kind(path=path, error=error)


def read_result(page: Page) -> ReadResult:
    """A page of text, with its place in the file where that can be said."""
    data = FileData(content=page.content, encoding="utf-8")
    if not SINCE_0_7:
        return ReadResult(file_data=data)
    place: dict[str, Any] = {"no_lines_requested": True}
    if page.count:
        end = page.first + page.count
        place = {"start_line": page.first + 1, "end_line": end, "total_lines": page.total}
        place["next_offset"] = end if page.total is None or end < page.total else None
    return ReadResult(file_data=data, **place)


def binary_result(content: str) -> ReadResult:
    """A file that is not text, in base64."""
    return ReadResult(file_data=FileData(content=content, encoding="base64"))


def grep_result(matches: list[GrepMatch], max_count: Optional[int], cut: bool = False) -> GrepResult:
    """Matches, no more than asked for; `cut` says that the search did not see everything."""
    if max_count is not None and len(matches) > max_count:
        matches, cut = matches[:max_count], True
    if not cut:
        return GrepResult(matches=matches)
    if SINCE_0_7:
        more: Any = {"truncated": True}
        return GrepResult(matches=matches, **more)
    return GrepResult(matches=matches, error="the search was cut short: narrow the path or the pattern")


def exists(path: str) -> str:
    """Why `write` does not touch a file that is there."""
    return f"Cannot write to {path} because it already exists. Read and then make an edit, or write to a new path."


def too_large(path: str) -> str:
    """Why `read` does not show a binary file."""
    return f"File '{path}': Binary file exceeds maximum preview size of {MOST_BINARY} bytes"


def info(path: str, is_dir: bool, size: int = 0, modified_at: str = "") -> FileInfo:
    """One entry of `ls` or `glob`."""
    entry = FileInfo(path=path, is_dir=is_dir, size=size)
    if modified_at:
        entry["modified_at"] = modified_at
    return entry
