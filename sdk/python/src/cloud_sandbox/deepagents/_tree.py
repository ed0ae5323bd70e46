"""A directory of the host whose inside belongs to somebody who is not trusted.

Everything is reached from a descriptor of the root, name by name; no path is ever given to the kernel. So nothing that
a program inside does at the same time (a link put in the place of a directory, a directory moved) leads outside. Links
are followed as far as they stay inside. What is neither a file nor a directory is not read: a FIFO would make us wait.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterator
from typing import Optional

MOST_LINKS = 40
"""As the kernel has it (path_resolution(7))."""
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
TEMPORARY = ".csb-write-"


class Entry:
    """One file or directory: its path from the root, without a slash at the beginning, and what is known of it."""

    __slots__ = ("path", "status", "_directory", "_name")

    def __init__(self, path: str, status: os.stat_result, directory: int, name: str) -> None:
        self.path = path
        self.status = status
        self._directory = directory
        self._name = name

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory (a link to one is not)."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.status.st_mode)

    def read(self, most: int) -> bytes:
        """A regular file's first bytes. Only while the walk that gave this entry stands at it."""
        with os.fdopen(_regular(self._name, self._directory), "rb") as file:
            return file.read(most)


class Tree:
    """Files below `root`. Paths are relative to it; errors are those of the operating system."""

    def __init__(self, root: str, mount: str) -> None:
        self.root = root
        self._mount = mount
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Lets the root go."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- ways -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _place(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory that holds what this path leads to, and its name there; `.` for the root."""
        stack = [self._root()]
        todo = deque(path.split("/"))
        links = 0
        try:
            name = "."
            while todo:
                part = todo.popleft()
                if part in ("", "."):
                    continue
                if part == "..":
                    if len(stack) > 1:
                        os.close(stack.pop())
                    continue
                target = _link(part, stack[-1])
                if target is not None:
                    links += 1
                    if links > MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    if target.startswith("/"):
                        while len(stack) > 1:
                            os.close(stack.pop())
                        target = self._inside(target)
                    todo.extendleft(reversed(target.split("/")))
                elif any(rest not in ("", ".") for rest in todo):
                    stack.append(self._enter(part, stack[-1], make))
                else:
                    name = part
                    break
            yield stack[-1], name
        finally:
            for fd in stack:
                os.close(fd)

    def _root(self) -> int:
        if self._fd < 0:
            raise OSError(errno.EBADF, "this backend was cleaned up")
        return os.dup(self._fd)

    def _inside(self, target: str) -> str:
        """Where an absolute link leads for the programs that see the root at its mount point."""
        if target != self._mount and not target.startswith(self._mount + "/"):
            raise PermissionError(errno.EACCES, "it is a link that leads outside")
        return target[len(self._mount) :]

    def _enter(self, name: str, directory: int, make: bool) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=directory)
            made = os.open(name, _LISTED, dir_fd=directory)
            _give(made, directory)
            os.close(made)
        return os.open(name, _DIRECTORY, dir_fd=directory)

    # -- files ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[int]:
        """A descriptor of a regular file."""
        with self._place(path) as (directory, name):
            fd = _regular(name, directory)
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self, path: str, most: Optional[int] = None) -> bytes:
        """A file's bytes, at most so many."""
        with self.reading(path) as fd, os.fdopen(os.dup(fd), "rb") as file:
            return file.read() if most is None else file.read(most)

    def write(self, path: str, data: bytes, only_new: bool = False) -> None:
        """Replaces a file at once, keeping its mode; with `only_new`, `FileExistsError` where something is."""
        with self._place(path, make=True) as (directory, name):
            if name == ".":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            mode = 0o644
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                mode = stat.S_IMODE(status.st_mode) & 0o777
            temporary = TEMPORARY + secrets.token_hex(8)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=directory)
            try:
                _give(fd, directory)
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    os.fchmod(fd, mode)
                if only_new:
                    os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
                else:
                    os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)

    def remove(self, path: str) -> None:
        """Removes a file, or a directory and all in it; links are removed, not followed."""
        head, _, last = path.rstrip("/").rpartition("/")
        with self._place(head + "/x") as (directory, _):
            _remove(last, directory)

    # -- directories ------------------------------------------------------------------------------------------

    def walk(self, path: str) -> Iterator[Entry]:
        """Everything below a directory, not through links. What cannot be read is left out. A file is itself alone."""
        with self._place(path) as (directory, name):
            if name != ".":
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    yield Entry("", status, directory, name)
                    return
            fd = os.open(name, _LISTED, dir_fd=directory)
        yield from _walk(fd, "")

    def list(self, path: str) -> list[Entry]:
        """What is in a directory."""
        with self._place(path) as (directory, name):
            fd = os.open(name, _LISTED, dir_fd=directory)
        try:
            return sorted(_entries(fd, ""), key=lambda entry: entry.path)
        finally:
            os.close(fd)


def _link(name: str, directory: int) -> Optional[str]:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _regular(name: str, directory: int) -> int:
    fd = os.open(name, os.O_RDONLY | _FILE, dir_fd=directory)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "it is neither a file nor a directory")


def _give(fd: int, directory: int) -> None:
    """What root makes belongs to the owner of the directory, so that commands, who are that owner, may change it."""
    if os.geteuid() == 0:
        status = os.fstat(directory)
        os.fchown(fd, status.st_uid, status.st_gid)


def _entries(fd: int, above: str) -> Iterator[Entry]:
    with os.scandir(fd) as found:
        for item in found:
            with contextlib.suppress(FileNotFoundError):
                if not item.name.startswith(TEMPORARY):
                    yield Entry(above + item.name, item.stat(follow_symlinks=False), fd, item.name)


def _walk(fd: int, above: str) -> Iterator[Entry]:
    try:
        entries = sorted(_entries(fd, above), key=lambda entry: entry.path)
        for entry in entries:
            yield entry
            if entry.is_dir:
                try:
                    inner = os.open(entry.path[len(above) :], _LISTED, dir_fd=fd)
                except OSError:
                    continue
                yield from _walk(inner, entry.path + "/")
    finally:
        os.close(fd)


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
        return
    except (IsADirectoryError, PermissionError) as error:
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise error
    fd = os.open(name, _LISTED, dir_fd=directory)
    try:
        for inner in os.listdir(fd):
            _remove(inner, fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)
