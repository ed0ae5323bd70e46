"""Paths as agents write them. No I/O."""

from __future__ import annotations

import posixpath
from typing import Optional

HOME = "/workspace"
# What belongs to the system, not to whoever works in it. A search that begins at `/` leaves it out.
SYSTEM = frozenset(
    ["bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys", "usr", "var"]
)


def clean(path: str) -> Optional[str]:
    """The path without `.`, `..` and repeated slashes, or None where it is not absolute."""
    if not path.startswith("/") or "\0" in path:
        return None
    # POSIX gives two slashes at the beginning a meaning of their own.
    return "/" + posixpath.normpath(path).lstrip("/")


def top(path: str) -> str:
    """The first name of a clean absolute path."""
    return path[1:].partition("/")[0]


def below(path: str, directory: str) -> bool:
    """Whether a clean path is this directory or in it."""
    return directory == "/" or path == directory or path.startswith(directory + "/")


def relative(path: str, directory: str) -> str:
    """A clean path, as seen from a directory above it."""
    return path[len(directory.rstrip("/")) + 1 :]


def parent(path: str) -> str:
    """The directory of a clean path."""
    return posixpath.dirname(path)


# Directories at the top that a template has and that are not the sandbox's user's.
_TEMPLATES = SYSTEM | {"home", "media", "mnt", "opt", "srv"}
# Directories at the top that every sandbox has and that its user may write to.
GIVEN = frozenset([HOME, "/tmp"])
_JUNK = frozenset(["__pycache__"])


def is_systems(path: str) -> bool:
    """Whether a path belongs to the template, so that only its root may write there and nobody looks for changes."""
    return top(path) in _TEMPLATES


def is_junk(path: str) -> bool:
    """Whether it is a cache that a program makes anew for itself."""
    return not _JUNK.isdisjoint(path.split("/"))
