"""A deepagents backend whose files are a directory of this host and whose commands run confined to it."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import re
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Optional, Union

from deepagents.backends.protocol import (
    EditResult,
    ExecuteResponse,
    FileDownloadResponse,
    FileInfo,
    FileUploadResponse,
    GlobResult,
    GrepMatch,
    GrepResult,
    LsResult,
    ReadResult,
    SandboxBackendProtocol,
    WriteResult,
)

from . import _contract, _csb, _paths, _text
from ._globs import BadPattern, Pattern
from ._quota import Quota
from ._shell import Habits
from ._tree import Entry, Tree

PIECE = 1 << 20
MOST_SEARCHED = 64 << 20
"""Bytes of a file that are searched."""
EXCEEDED = "workspace quota exceeded"


class FilesystemSandboxBackend(SandboxBackendProtocol):
    """Files of an agent in the directory `root_dir` of this host; commands in sandboxes that see nothing else of it.

    With `virtual_mode`, the agent's paths begin at `/workspace`, which is `root_dir` for files and commands alike; a
    file's path beside it, such as `/a.txt`, is taken for `/workspace/a.txt`. Without, paths are the host's own, and
    those outside of `root_dir` are refused.

    Each command has a sandbox of its own, made by the program `csb` (`CSB_BIN`, or in the `PATH`) without any server:
    `memory`, `cpus` and `pids` bound it, and `quota_bytes` and `quota_files` what `root_dir` may hold. `max_commands`
    run at once. Files outside of `root_dir`, such as those in `/tmp`, end with the command.
    """

    def __init__(
        self,
        root_dir: Union[str, os.PathLike[str]],
        virtual_mode: bool = True,
        *,
        memory: str = "512m",
        cpus: float = 1.0,
        pids: int = 256,
        disk: Optional[str] = None,
        quota_bytes: int = 1 << 30,
        quota_files: int = 200_000,
        max_commands: int = 4,
        command_timeout: int = 120,
        max_output_bytes: int = 1 << 20,
        env: Optional[Mapping[str, str]] = None,
        template: Optional[str] = None,
        csb: Optional[str] = None,
    ) -> None:
        os.makedirs(root_dir, mode=0o700, exist_ok=True)
        self.root_dir = os.path.realpath(root_dir)
        if self.root_dir == "/" or ":" in self.root_dir:
            raise ValueError(f"`{self.root_dir}` cannot be a workspace: it is `/`, or has a colon")
        self.virtual_mode = virtual_mode
        self._mount = _paths.HOME if virtual_mode else self.root_dir
        self._tree = Tree(self.root_dir, self._mount)
        self._finalizer = weakref.finalize(self, self._tree.close)
        self._quota = Quota(self._tree, quota_bytes, quota_files)
        self._habits = Habits(self._mount, None, env, command_timeout, max_output_bytes)
        self._limits = _csb.Limits(memory, cpus, pids, disk)
        self._csb, self._template = csb, template
        self._places = threading.BoundedSemaphore(max_commands)
        self._max_commands = max_commands
        self._async_places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
        self._async_places = weakref.WeakKeyDictionary()
        self._id = f"filesystem-{uuid.uuid4().hex}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root_dir!r}, virtual_mode={self.virtual_mode})"

    @property
    def id(self) -> str:
        """This object's own id."""
        return self._id

    def cleanup(self) -> None:
        """Ends its use; the directory stays as it is. A second time does nothing."""
        self._finalizer()

    async def acleanup(self) -> None:
        """As `cleanup`."""
        self.cleanup()

    def __enter__(self) -> FilesystemSandboxBackend:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.cleanup()

    async def __aenter__(self) -> FilesystemSandboxBackend:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.cleanup()

    # -- commands ---------------------------------------------------------------------------------------------

    def execute(self, command: str, *, timeout: Optional[int] = None) -> ExecuteResponse:
        """Runs a line of bash, or of sh where there is no bash, in `root_dir`, confined."""
        runner = self._runner()
        with self._places:
            return self._hinted(command, runner.run(command, timeout))

    async def aexecute(self, command: str, *, timeout: Optional[int] = None) -> ExecuteResponse:  # noqa: ASYNC109
        """As `execute`."""
        runner = self._runner()
        loop = asyncio.get_running_loop()
        places = self._async_places.get(loop)
        if places is None:
            places = self._async_places[loop] = asyncio.Semaphore(self._max_commands)
        async with places:
            return self._hinted(command, await runner.arun(command, timeout))

    def _runner(self) -> _csb.Runner:
        program = _csb.find(self._csb)
        return _csb.Runner(program, self.root_dir, self._mount, self._limits, self._template, self._habits, self._quota)

    def _hinted(self, command: str, result: ExecuteResponse) -> ExecuteResponse:
        """Where a command failed on a path that only the file tools take for one of the workspace, that is said."""
        if not self.virtual_mode or result.exit_code == 0:
            return result
        ours = {"/" + entry.path for entry in self._tree.list("")} - {_paths.HOME}
        for path in re.findall(r"(?<![\w./~-])/[\w.-]+", command):
            if path in ours and path in result.output:
                result.output += f"\n[commands find {path} as {_paths.HOME}{path}]"
                break
        return result

    # -- files ------------------------------------------------------------------------------------------------

    def ls(self, path: str) -> LsResult:
        """Lists a directory."""
        try:
            inside = self._inside(path)
            entries = self._tree.list(inside)
        except FileNotFoundError:
            return LsResult(error=f"Path '{path}': path_not_found")
        except NotADirectoryError:
            return LsResult(error=f"Path '{path}': not_a_directory")
        except OSError as error:
            return LsResult(error=f"Path '{path}': {_reason(error)}")
        return LsResult(entries=[_info(self._outside(inside, entry.path), entry) for entry in entries])

    def read(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Reads `limit` lines from line `offset` on, or a binary file of up to 500 KiB."""
        try:
            with self._tree.reading(self._inside(file_path)) as fd:
                return _read(fd, file_path, offset, limit)
        except IsADirectoryError:
            return ReadResult(error=f"File '{file_path}': not_a_file")
        except OSError as error:
            return ReadResult(error=f"File '{file_path}': {_reason(error)}")

    def write(self, file_path: str, content: str) -> WriteResult:
        """Writes a file. Whether it may exist is as the installed deepagents has it."""
        try:
            inside = self._inside(file_path)
            self._write(inside, content.encode("utf-8", "surrogateescape"), only_new=not _contract.SINCE_0_7)
        except FileExistsError:
            return WriteResult(error=_contract.exists(file_path))
        except OSError as error:
            return WriteResult(error=f"Failed to write file '{file_path}': {_reason(error)}")
        return WriteResult(path=self._outside(inside) if self.virtual_mode else file_path)

    def _write(self, inside: str, data: bytes, only_new: bool = False) -> None:
        if not self._quota.room(len(data)):
            raise OSError(errno.EDQUOT, EXCEEDED)
        self._tree.write(inside, data, only_new)

    def edit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Replaces a string in a text file."""
        try:
            inside = self._inside(file_path)
            data = self._tree.read(inside, _text.MOST_EDIT + 1)
            if len(data) > _text.MOST_EDIT:
                return EditResult(error=f"Error: File '{file_path}' is larger than {_text.MOST_EDIT >> 20} MiB")
            changed = _text.replace(data.decode(), old_string, new_string, replace_all)
            if isinstance(changed, str):
                return EditResult(error=changed)
            text, count = changed
            self._write(inside, text.encode())
        except UnicodeDecodeError:
            return EditResult(error=f"Error: File '{file_path}' is not a text file")
        except FileNotFoundError:
            return EditResult(error=f"Error: File '{file_path}' not found")
        except OSError as error:
            return EditResult(error=f"Error editing file '{file_path}': {_reason(error)}")
        return EditResult(path=self._outside(inside) if self.virtual_mode else file_path, occurrences=count)

    def delete(self, file_path: str) -> Any:
        """Removes a file, or a directory and all in it."""
        try:
            inside = self._inside(file_path)
            if not inside.strip("/"):
                return _contract.deleted(error=f"Error deleting file '{file_path}': it is the workspace itself")
            self._tree.remove(inside)
        except FileNotFoundError:
            return _contract.deleted(error=f"Error: '{file_path}' not found")
        except OSError as error:
            return _contract.deleted(error=f"Error deleting file '{file_path}': {_reason(error)}")
        return _contract.deleted(path=file_path)

    def glob(self, pattern: str, path: Optional[str] = None) -> GlobResult:
        """Finds files by name."""
        found: list[FileInfo] = []
        try:
            wanted = Pattern(pattern)
            root = self._inside(path or self._mount)
            for entry in self._tree.walk(root):
                if _contract.SINCE_0_7 and not entry.is_file:
                    continue
                if wanted.matches(_spelt(entry.path), entry.is_dir):
                    name = self._outside(root, entry.path) if _contract.SINCE_0_7 else _spelt(entry.path)
                    found.append(_info(name, entry))
        except BadPattern as bad:
            return GlobResult(error=f"Path '{path}': {bad}")
        except FileNotFoundError:
            return GlobResult(error=f"Path '{path}': path_not_found")
        except OSError as error:
            return GlobResult(error=f"Path '{path}': {_reason(error)}")
        return GlobResult(matches=found)

    def grep(
        self, pattern: str, path: Optional[str] = None, glob: Optional[str] = None, *, max_count: Optional[int] = None
    ) -> GrepResult:
        """Finds lines that hold a string, in files whose names match `glob`."""
        matches: list[GrepMatch] = []
        cut = False
        try:
            wanted = Pattern(glob, any_depth=True) if glob else None
            root = self._inside(path or self._mount)
            for inside, size, lines in self._search(root, pattern, wanted):
                cut = cut or size > MOST_SEARCHED
                matches += [GrepMatch(path=inside, line=number, text=line) for number, line in lines]
                if max_count is not None and len(matches) > max_count:
                    break
        except BadPattern as bad:
            return GrepResult(error=f"Path '{path}': {bad}")
        except FileNotFoundError:
            return GrepResult(error=f"Path '{path}': path_not_found")
        except OSError as error:
            return GrepResult(error=f"Path '{path}': {_reason(error)}")
        return _contract.grep_result(matches, max_count, cut)

    def _search(
        self, root: str, pattern: str, wanted: Optional[Pattern]
    ) -> Iterator[tuple[str, int, Iterator[tuple[int, str]]]]:
        for entry in self._tree.walk(root):
            name = _spelt(entry.path) or root.rpartition("/")[2]
            if not entry.is_file or (wanted is not None and not wanted.matches(name)):
                continue
            try:
                data = entry.read(MOST_SEARCHED)
            except OSError:
                continue  # it went away, or it is not for us to read
            yield self._outside(root, entry.path), entry.status.st_size, _text.lines_with(data, pattern)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, with the directories above them."""

        def one(path: str, data: bytes) -> FileUploadResponse:
            try:
                self._write(self._inside(path), data)
            except OSError as error:
                return FileUploadResponse(path=path, error=_reason(error))
            return FileUploadResponse(path=path)

        return [one(path, data) for path, data in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files."""

        def one(path: str) -> FileDownloadResponse:
            try:
                return FileDownloadResponse(path=path, content=self._tree.read(self._inside(path)))
            except OSError as error:
                return FileDownloadResponse(path=path, error=_reason(error))

        return [one(path) for path in paths]

    # -- the same for asyncio: a disk is waited for in a thread ---------------------------------------------------

    async def als(self, path: str) -> LsResult:
        """As `ls`."""
        return await asyncio.to_thread(self.ls, path)

    async def aread(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """As `read`."""
        return await asyncio.to_thread(self.read, file_path, offset, limit)

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """As `write`."""
        return await asyncio.to_thread(self.write, file_path, content)

    async def aedit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """As `edit`."""
        return await asyncio.to_thread(self.edit, file_path, old_string, new_string, replace_all)

    async def adelete(self, file_path: str) -> Any:
        """As `delete`."""
        return await asyncio.to_thread(self.delete, file_path)

    async def aglob(self, pattern: str, path: Optional[str] = None) -> GlobResult:
        """As `glob`."""
        return await asyncio.to_thread(self.glob, pattern, path)

    async def agrep(
        self, pattern: str, path: Optional[str] = None, glob: Optional[str] = None, *, max_count: Optional[int] = None
    ) -> GrepResult:
        """As `grep`."""
        return await asyncio.to_thread(self.grep, pattern, path, glob, max_count=max_count)

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """As `upload_files`."""
        return await asyncio.to_thread(self.upload_files, files)

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """As `download_files`."""
        return await asyncio.to_thread(self.download_files, paths)

    # -- paths ------------------------------------------------------------------------------------------------

    def _inside(self, path: str) -> str:
        """An agent's path as one from the root. Refused where it has `..`, is relative or lies outside."""
        if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise OSError(errno.EINVAL, "invalid_path")
        place = str(_paths.clean(path))
        if _paths.below(place, self._mount):
            return place[len(self._mount) :].lstrip("/")
        if self.virtual_mode:
            return place[1:]
        raise PermissionError(errno.EACCES, f"it is not in {self.root_dir}")

    def _outside(self, root: str, name: str = "") -> str:
        """What is in a directory, as agents and commands call it."""
        return _spelt("/".join(part for part in (self._mount, root.strip("/"), name) if part))


def _read(fd: int, path: str, offset: int, limit: int) -> ReadResult:
    data = os.pread(fd, PIECE, 0)
    if not data:
        return _contract.read_result(_text.Page(_contract.EMPTY, 0, 0, 0))
    if not _contract.is_text(path) or _text.is_binary(data):
        if len(data) > _text.MOST_BINARY:
            return ReadResult(error=_contract.too_large(path))
        return _contract.binary_result(base64.b64encode(data).decode())
    pager, at = _text.Pager(offset, limit), 0
    while pager.feed(data, len(data) < PIECE):
        at += len(data)
        data = os.pread(fd, PIECE, at)
    page = pager.page()
    return ReadResult(error=f"File '{path}': {page}") if isinstance(page, str) else _contract.read_result(page)


def _spelt(name: str) -> str:
    """A name with bytes that are no UTF-8 can be shown, not used."""
    return os.fsencode(name).decode("utf-8", "replace")


def _info(path: str, entry: Entry) -> FileInfo:
    modified = datetime.fromtimestamp(entry.status.st_mtime, timezone.utc).isoformat()
    return _contract.info(path, entry.is_dir, entry.status.st_size, modified)


def _reason(error: OSError) -> str:
    """An error as deepagents names it, else in the system's words, which never hold a path of the host."""
    if isinstance(error, FileNotFoundError):
        return "file_not_found"
    if isinstance(error, PermissionError):
        return "permission_denied"
    if isinstance(error, IsADirectoryError):
        return "is_directory"
    if isinstance(error, (NotADirectoryError, FileExistsError)) or error.errno in (errno.EINVAL, errno.ELOOP):
        return "invalid_path"
    return error.strerror or type(error).__name__
