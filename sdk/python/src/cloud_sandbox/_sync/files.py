# Generated from _async/files.py by tools/unasync.py; edit that one.
"""Files of a sandbox: read, write, list, move, whole directories. A part of `Sandbox`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import IO, Any, Optional, Union

import httpx

from .. import _tar
from .._payload import without_none
from .._retry import Safety
from ..errors import ConnectionLost, ProtocolError
from ..models import FileEntry
from . import shims
from .transport import Transport, Body

PIECE = 1 << 20
BINARY = {"Content-Type": "application/octet-stream"}
TAR = {"Content-Type": "application/x-tar"}

Content = Union[str, bytes, IO[bytes]]
"""What `write_file` takes: text (stored as UTF-8), bytes, or a file opened for reading bytes."""


class Files:
    """File operations. Paths are absolute paths inside the sandbox; `user` is who does it there."""

    _transport: Transport
    _path: str

    # -- content ----------------------------------------------------------------------------------------------

    def read_file(
        self, path: str, offset: Optional[int] = None, length: Optional[int] = None, user: Optional[str] = None
    ) -> bytes:
        """A file's bytes, or `length` of them from `offset` on."""
        params = {"path": path, "offset": offset, "length": length, "user": user}
        response = self._transport.request("GET", f"{self._path}/files", params=params)
        return response.content

    def read_text(self, path: str, encoding: str = "utf-8", user: Optional[str] = None) -> str:
        """A file's content as text. Raises `UnicodeDecodeError` where it is none."""
        return (self.read_file(path, user=user)).decode(encoding)

    def iter_file(self, path: str, user: Optional[str] = None) -> Iterator[bytes]:
        """A file's bytes piece by piece, without holding all of them."""
        for piece in self._download(f"{self._path}/files", path, user):
            yield piece

    def write_file(
        self,
        path: str,
        data: Content,
        mode: Optional[Union[int, str]] = None,
        append: bool = False,
        user: Optional[str] = None,
    ) -> FileEntry:
        """Replaces a file at once (readers see the old or the new content), or appends. Missing directories are made.

        `mode` is the permission bits: `0o755` or `"755"`.
        """
        body: Body
        if isinstance(data, str):
            body = data.encode()
        elif isinstance(data, (bytes, bytearray, memoryview)):
            body = bytes(data)
        else:
            source: IO[bytes] = data
            body = shims.pieces(iter(lambda: source.read(PIECE), b""))
        params = {
            "path": path,
            "mode": format(mode, "o") if isinstance(mode, int) else mode,
            "append": True if append else None,
            "user": user,
        }
        return FileEntry.from_json(
            self._transport.json(
                "PUT",
                f"{self._path}/files",
                safety=Safety.ONCE if append else Safety.REPEATABLE,
                params=params,
                content=body,
                headers=BINARY,
            )
        )

    # -- directories ------------------------------------------------------------------------------------------

    def list_files(
        self,
        path: str = "/workspace",
        depth: int = 1,
        recursive: bool = False,
        limit: Optional[int] = None,
        user: Optional[str] = None,
    ) -> list[FileEntry]:
        """What is in a directory, `depth` levels down, or with `recursive` all of it."""
        params: dict[str, Any] = {"path": path, "limit": limit, "user": user}
        params.update({"recursive": True} if recursive else {"depth": depth})
        data = self._transport.json("GET", f"{self._path}/files/list", params=params)
        try:
            return [FileEntry.from_json(item) for item in data["items"]]
        except (KeyError, TypeError) as error:
            raise ProtocolError("a directory's list cannot be read") from error

    def stat(self, path: str, user: Optional[str] = None) -> FileEntry:
        """What a path is; a link is not followed."""
        params = {"path": path, "user": user}
        return FileEntry.from_json(self._transport.json("GET", f"{self._path}/files/stat", params=params))

    def mkdir(self, path: str, user: Optional[str] = None) -> FileEntry:
        """Makes a directory, and those above it that are missing."""
        body = without_none({"path": path, "user": user})
        return FileEntry.from_json(self._transport.json("POST", f"{self._path}/files/mkdir", json=body))

    def move(self, source: str, destination: str, user: Optional[str] = None) -> FileEntry:
        """Renames a file or directory; a file at the destination is replaced."""
        body = without_none({"from": source, "to": destination, "user": user})
        return FileEntry.from_json(self._transport.json("POST", f"{self._path}/files/move", json=body))

    def remove(self, path: str, recursive: bool = False, user: Optional[str] = None) -> None:
        """Removes a file or an empty directory, or with `recursive` everything below as well."""
        params = {"path": path, "recursive": True if recursive else None, "user": user}
        self._transport.request("DELETE", f"{self._path}/files", params=params)

    # -- between here and there -------------------------------------------------------------------------------

    def upload(
        self, local: Union[str, os.PathLike[str]], remote: str = "/workspace", user: Optional[str] = None
    ) -> int:
        """Sends a local file, or what is in a local directory, streamed. Returns the bytes sent or unpacked.

        A file is stored *as* `remote`, or under its own name if `remote` ends with `/` or is the default.
        """
        source = os.fspath(local)
        if shims.in_thread(lambda: os.path.isdir(source)):
            data = self._transport.json(
                "PUT",
                f"{self._path}/archive",
                params={"path": remote, "user": user},
                content=shims.pieces(_tar.pack(source)),
                headers=TAR,
            )
            return int(data.get("bytes", 0))
        if remote.endswith("/") or remote == "/workspace":
            remote = f"{remote.rstrip('/')}/{os.path.basename(source)}"
        with open(source, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            return (self.write_file(remote, file, mode=mode, user=user)).size

    def download(
        self, remote: str, local: Union[str, os.PathLike[str]], user: Optional[str] = None
    ) -> _tar.Unpacked:
        """Fetches a file as `local`, or what is in a directory into the directory `local`, streamed.

        What comes is treated as hostile: see `Unpacked.skipped`. `UnsafeArchive` if it would leave `local`.
        """
        target = os.fspath(local)
        entry = self.stat(remote, user=user)
        if entry.is_dir:
            stream = self._download(f"{self._path}/archive", remote, user)
            return shims.with_file(stream, lambda archive: _tar.unpack(archive, target))
        size = 0
        with open(target, "wb") as file:
            for piece in self._download(f"{self._path}/files", remote, user):
                size += len(piece)
                shims.in_thread(functools.partial(file.write, piece))
        return _tar.Unpacked(files=1, bytes=size)

    def _download(self, url: str, path: str, user: Optional[str]) -> Iterator[bytes]:
        with self._transport.stream("GET", url, params={"path": path, "user": user}) as response:
            try:
                for piece in response.iter_bytes(PIECE):
                    yield piece
            except httpx.HTTPError as error:
                raise ConnectionLost(f"the download of {path} broke off: {error}") from error
