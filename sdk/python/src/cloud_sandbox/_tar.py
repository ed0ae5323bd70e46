"""Directories as tar streams: packing yields bytes piece by piece, unpacking trusts nothing in the archive.

A downloaded archive was written by whatever ran in the sandbox. Entries are therefore created one by one, never
through a link, never outside the destination; links are made only when they stay inside it, and devices never.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from .errors import UnsafeArchive

PIECE = 1 << 20
BLOCK = 512


def pack(directory: str) -> Iterator[bytes]:
    """The tar archive of what is in `directory`, in pieces of at most about 1 MiB."""
    # `tarfile` makes the headers; what it writes of its own accord goes nowhere, as the pieces are yielded instead.
    with tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT) as shape:
        for root, directories, files in os.walk(directory):
            directories.sort()
            for name in sorted(directories + files):
                path = os.path.join(root, name)
                inside = os.path.relpath(path, directory).replace(os.sep, "/")
                info = shape.gettarinfo(path, inside)
                if info is None:  # a socket
                    continue
                if info.islnk():  # a second name of a file seen before: send it as a file of its own
                    info.type, info.linkname = tarfile.REGTYPE, ""
                    info.size = os.lstat(path).st_size
                if not (info.isreg() or info.isdir() or info.issym()):
                    continue
                # Who owns a file here means nothing in there.
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                if info.isreg():
                    yield from _content(path, info.size)
    yield bytes(2 * BLOCK)


def _content(path: str, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes, also when the file shrinks or grows meanwhile, and the padding behind them."""
    left = size
    with open(path, "rb") as file:
        while left:
            piece = file.read(min(left, PIECE))
            if not piece:
                raise OSError(f"{path} became shorter while it was sent")
            left -= len(piece)
            yield piece
    if size % BLOCK:
        yield bytes(BLOCK - size % BLOCK)


@dataclass
class Unpacked:
    """What a download brought."""

    files: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    """Entries that were not created: devices, FIFOs, and links that lead outside."""


def unpack(archive: IO[bytes], destination: str) -> Unpacked:
    """Writes an archive's entries under `destination`, which is made if it is missing."""
    result = Unpacked()
    os.makedirs(destination, exist_ok=True)
    with tarfile.open(fileobj=archive, mode="r|") as entries:
        for entry in entries:
            parts = _parts(entry.name)
            if not parts:
                continue
            target = _beneath(destination, parts)
            if entry.isdir():
                _make_directory(target)
            elif entry.isreg():
                _clear(target)
                source = entries.extractfile(entry)
                if source is None:
                    raise UnsafeArchive(f"`{entry.name}` has no content")
                _write(target, source, entry.mode)
                result.files += 1
                result.bytes += entry.size
            elif entry.issym() and _stays_inside(parts, entry.linkname):
                _clear(target)
                os.symlink(entry.linkname, target)
            elif entry.islnk() and _is_file(first := _beneath(destination, _parts(entry.linkname))):
                _clear(target)
                with open(first, "rb") as source:
                    _write(target, source, entry.mode)
                result.files += 1
            else:
                result.skipped.append(entry.name)
    return result


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    foreign = os.name == "nt" and any("\\" in part or ":" in part for part in parts)
    if name.startswith("/") or ".." in parts or "\0" in name or foreign:
        raise UnsafeArchive(f"the archive holds `{name}`, which leads outside the destination")
    return parts


def _beneath(destination: str, parts: list[str]) -> str:
    """The local path; its directories are made, and none of them may be a link."""
    path = destination
    for part in parts[:-1]:
        path = os.path.join(path, part)
        _make_directory(path)
    return os.path.join(path, parts[-1])


def _make_directory(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        os.mkdir(path)
        return
    if not stat.S_ISDIR(mode):
        raise UnsafeArchive(f"the archive writes through `{path}`, which is not a directory")


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _clear(path: str) -> None:
    """Removes a file or link that is in the way, so that nothing is written through it."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise UnsafeArchive(f"the archive replaces the directory `{path}` by something else")
    os.unlink(path)


def _write(path: str, source: IO[bytes], mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o600), "wb") as file:
        while True:
            piece = source.read(PIECE)
            if not piece:
                break
            file.write(piece)
    # Never set-uid, set-gid or sticky: the bits come from the sandbox.
    os.chmod(path, (mode & 0o755) | 0o600)


def _stays_inside(parts: list[str], link: str) -> bool:
    """Whether a relative link's text stays beneath the destination, also when it passes through other links.

    `..` may only lead the text: there it undoes real directories. Behind a name it could undo a link instead,
    and end elsewhere than it reads.
    """
    if link.startswith("/") or "\0" in link or (os.name == "nt" and ("\\" in link or ":" in link)):
        return False
    steps = [step for step in link.split("/") if step not in ("", ".")]
    up = 0
    while up < len(steps) and steps[up] == "..":
        up += 1
    return up < len(parts) and ".." not in steps[up:]
