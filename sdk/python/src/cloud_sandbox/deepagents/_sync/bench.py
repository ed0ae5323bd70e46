# Generated from _async/bench.py by tools/unasync.py; edit that one.
"""Work in one sandbox of a server, as deepagents wants it: files through the file API, commands as execs.

Errors of files become results. Everything else (no server, no credential, no sandbox any more) is raised.
"""

from __future__ import annotations

import base64
from typing import Any, Optional

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
    WriteResult,
)

from ..._sync import shims
from ..._sync.sandbox import Sandbox
from ...errors import (
    CloudSandboxError,
    CommandNotFound,
    DiskFull,
    FileExists,
    FileFailed,
    FileInterrupted,
    FileNotFound,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotARegularFile,
    NotEmpty,
    PermissionDenied,
    SandboxLimit,
)
from ...models import FileEntry
from .. import _contract, _paths, _shell, _text
from .._globs import BadPattern, Pattern
from .._shell import Habits

PIECE = 1 << 20
MOST_ENTRIES = 100_000
"""The most that one list of the file API has."""
MOST_MATCHES = 8 << 20
"""Bytes of what `grep` prints that are read."""
SEARCH_SECONDS = 30.0
AT_ONCE = 8

# What says something about a file rather than about the way to the sandbox.
OF_FILES = (
    DiskFull,
    FileExists,
    FileFailed,
    FileInterrupted,
    FileNotFound,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotARegularFile,
    NotEmpty,
    PermissionDenied,
    # The helper that does the work is a process too.
    SandboxLimit,
)
FULL = "the sandbox's limit of processes or memory is reached by what earlier commands left running"


def reason(error: CloudSandboxError) -> str:
    """An error of a file as deepagents names it, else in the server's words."""
    names = (
        (FileNotFound, "file_not_found"),
        (PermissionDenied, "permission_denied"),
        (IsADirectory, "is_directory"),
        ((InvalidPath, NotADirectory, NotARegularFile, FileExists), "invalid_path"),
    )
    return next((name for kind, name in names if isinstance(error, kind)), error.message)


class Bench:
    """The operations of deepagents' protocol in one sandbox."""

    def __init__(self, sandbox: Sandbox, habits: Habits) -> None:
        self.sandbox = sandbox
        self._habits = habits
        self._user = habits.user

    # -- commands ---------------------------------------------------------------------------------------------

    def execute(self, command: str, timeout: Optional[int] = None) -> ExecuteResponse:
        """Runs a line of a shell."""
        argv, stdin = _shell.program(command)
        seconds = self._habits.seconds(timeout)
        try:
            result = self.sandbox.run_command(
                argv,
                timeout=seconds,
                env=self._habits.env,
                cwd=self._habits.cwd,
                user=self._user,
                stdin=stdin,
                max_output_bytes=self._habits.most_output,
            )
        except SandboxLimit:
            # It is for the agent to know: its own commands did it.
            return _shell.response(b"", _shell.NOT_RUN, note=FULL)
        return _shell.response(
            result.stdout_bytes + result.stderr_bytes, result.exit_code, result.truncated, result.killed_by, seconds
        )

    # -- whole files ------------------------------------------------------------------------------------------

    def upload(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files; one that fails keeps no other from being written."""

        def one(file: tuple[str, bytes]) -> FileUploadResponse:
            path, error = _paths.clean(file[0]), None
            if path is None:
                return FileUploadResponse(path=file[0], error="invalid_path")
            try:
                self.sandbox.write_file(path, file[1], user=self._user)
            except OF_FILES as failed:
                error = reason(failed)
            return FileUploadResponse(path=file[0], error=error)

        return shims.each(one, files, AT_ONCE)

    def download(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files; one that fails keeps no other from being read."""

        def one(asked: str) -> FileDownloadResponse:
            path = _paths.clean(asked)
            if path is None:
                return FileDownloadResponse(path=asked, error="invalid_path")
            try:
                content = self.sandbox.read_file(path, user=self._user)
            except OF_FILES as failed:
                return FileDownloadResponse(path=asked, error=reason(failed))
            return FileDownloadResponse(path=asked, content=content)

        return shims.each(one, paths, AT_ONCE)

    # -- files as agents see them -----------------------------------------------------------------------------

    def ls(self, path: str) -> LsResult:
        """Lists a directory."""
        directory = _paths.clean(path)
        if directory is None:
            return LsResult(error=f"Path '{path}': invalid_path")
        try:
            entries = self.sandbox.list_files(directory, limit=MOST_ENTRIES, user=self._user)
        except NotADirectory:
            return LsResult(error=f"Path '{path}': not_a_directory")
        except FileNotFound:
            return LsResult(error=f"Path '{path}': path_not_found")
        except OF_FILES as failed:
            return LsResult(error=f"Path '{path}': {reason(failed)}")
        return LsResult(entries=[_info(entry.path, entry) for entry in entries])

    def read(self, path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Reads lines of a text, or all of a small binary file."""
        place = _paths.clean(path)
        if place is None:
            return ReadResult(error=f"File '{path}': invalid_path")
        try:
            data = self._piece(place, 0)
            if not data:
                return _contract.read_result(_text.Page(_contract.EMPTY, 0, 0, 0))
            if not _contract.is_text(path) or _text.is_binary(data):
                if len(data) > _text.MOST_BINARY:
                    return ReadResult(error=_contract.too_large(path))
                return _contract.binary_result(base64.b64encode(data).decode())
            pager, at = _text.Pager(offset, limit), 0
            while pager.feed(data, len(data) < PIECE):
                at += len(data)
                data = self._piece(place, at)
        except (IsADirectory, NotARegularFile):
            return ReadResult(error=f"File '{path}': not_a_file")
        except OF_FILES as failed:
            return ReadResult(error=f"File '{path}': {reason(failed)}")
        page = pager.page()
        return ReadResult(error=f"File '{path}': {page}") if isinstance(page, str) else _contract.read_result(page)

    def _piece(self, path: str, at: int) -> bytes:
        return self.sandbox.read_file(path, offset=at, length=PIECE, user=self._user)

    def write(self, path: str, content: str) -> WriteResult:
        """Writes a file; up to deepagents 0.6 only where there is none."""
        place = _paths.clean(path)
        if place is None:
            return WriteResult(error=f"Failed to write file '{path}': invalid_path")
        try:
            if not _contract.SINCE_0_7 and self._is_there(place):
                return WriteResult(error=_contract.exists(path))
            self.sandbox.write_file(place, content.encode("utf-8", "surrogateescape"), user=self._user)
        except OF_FILES as failed:
            return WriteResult(error=f"Failed to write file '{path}': {reason(failed)}")
        return WriteResult(path=path)

    def _is_there(self, path: str) -> bool:
        try:
            self.sandbox.stat(path, user=self._user)
        except FileNotFound:
            return False
        return True

    def edit(self, path: str, old: str, new: str, replace_all: bool = False) -> EditResult:
        """Replaces a string in a text file."""
        place = _paths.clean(path)
        if place is None:
            return EditResult(error=f"Error editing file '{path}': invalid_path")
        try:
            data = self.sandbox.read_file(place, length=_text.MOST_EDIT + 1, user=self._user)
            if len(data) > _text.MOST_EDIT:
                return EditResult(error=f"Error: File '{path}' is larger than {_text.MOST_EDIT >> 20} MiB")
            try:
                changed = _text.replace(data.decode(), old, new, replace_all)
            except UnicodeDecodeError:
                return EditResult(error=f"Error: File '{path}' is not a text file")
            if isinstance(changed, str):
                return EditResult(error=changed)
            text, count = changed
            self.sandbox.write_file(place, text, user=self._user)
        except FileNotFound:
            return EditResult(error=f"Error: File '{path}' not found")
        except (IsADirectory, NotARegularFile):
            return EditResult(error=f"Error: '{path}' is not a regular file")
        except OF_FILES as failed:
            return EditResult(error=f"Error editing file '{path}': {reason(failed)}")
        return EditResult(path=path, occurrences=count)

    def delete(self, path: str) -> Any:
        """Removes a file, or a directory and all in it."""
        place = _paths.clean(path)
        if place is None:
            return _contract.deleted(error=f"Error deleting file '{path}': invalid_path")
        try:
            self.sandbox.remove(place, recursive=True, user=self._user)
        except FileNotFound:
            return _contract.deleted(error=f"Error: '{path}' not found")
        except OF_FILES as failed:
            return _contract.deleted(error=f"Error deleting file '{path}': {reason(failed)}")
        return _contract.deleted(path=path)

    # -- searching --------------------------------------------------------------------------------------------

    def glob(self, pattern: str, path: Optional[str] = None) -> GlobResult:
        """Finds files by name. From `/`, the system's directories are left out."""
        root = _paths.clean(path or "/")
        if root is None:
            return GlobResult(error=f"Path '{path}': invalid_path")
        try:
            wanted = Pattern(pattern)
            entries, cut = self._below(root)
        except BadPattern as bad:
            return GlobResult(error=f"Path '{path}': {bad}")
        except FileNotFound:
            return GlobResult(error=f"Path '{path}': path_not_found")
        except OF_FILES as failed:
            return GlobResult(error=f"Path '{path}': {reason(failed)}")
        found: list[FileInfo] = []
        for entry in entries:
            name = _paths.relative(entry.path, root)
            if _contract.SINCE_0_7 and not entry.is_file:
                continue
            if wanted.matches(name, entry.is_dir):
                found.append(_info(entry.path if _contract.SINCE_0_7 else name, entry))
        if not cut:
            return GlobResult(matches=found)
        if _contract.SINCE_0_7:
            more: Any = {"truncated": True, "truncation_reason": "budget"}
            return GlobResult(matches=found, **more)
        return GlobResult(matches=found, error=f"Path '{path}' has too many files: narrow it")

    def _below(self, root: str) -> tuple[list[FileEntry], bool]:
        """All entries below a directory, and whether there are more."""
        if root != "/":
            entries = self.sandbox.list_files(root, recursive=True, limit=MOST_ENTRIES, user=self._user)
            return entries, len(entries) >= MOST_ENTRIES
        found: list[FileEntry] = []
        for entry in self.sandbox.list_files("/", limit=MOST_ENTRIES, user=self._user):
            if entry.name not in _paths.SYSTEM:
                found.append(entry)
                if entry.is_dir:
                    found += (self._below(entry.path))[0]
        return found, len(found) >= MOST_ENTRIES

    def grep(
        self, pattern: str, path: Optional[str] = None, glob: Optional[str] = None, max_count: Optional[int] = None
    ) -> GrepResult:
        """Finds lines that hold a string, by `grep` in the sandbox: no file is moved for it."""
        root = _paths.clean(path or self._habits.cwd)
        if root is None:
            return GrepResult(error=f"Path '{path}': invalid_path")
        if "\n" in pattern:
            return GrepResult(matches=[])  # no line has one
        try:
            wanted = Pattern(glob, any_depth=True) if glob else None
            roots = [root] if root != "/" else [entry.path for entry in (self._tops())]
            if not roots:
                return GrepResult(matches=[])
            result = self.sandbox.run_command(
                ["grep", "-rHnFIZs", "-D", "skip", "-e", pattern, "--", *roots],
                # Bytes are compared; what a character is does not matter for that.
                env={"LC_ALL": "C"},
                user=self._user,
                timeout=SEARCH_SECONDS,
                max_output_bytes=MOST_MATCHES,
            )
        except BadPattern as bad:
            return GrepResult(error=f"Path '{path}': {bad}")
        except CommandNotFound:
            return self._grep_here(pattern, root, wanted, max_count)
        except OF_FILES as failed:
            return GrepResult(error=f"Path '{path}': {reason(failed)}")
        if result.exit_code == 2 and not result.stdout_bytes and not self._is_there(root):
            return GrepResult(error=f"Path '{path}': path_not_found")
        cut = result.truncated or result.killed_by is not None
        matches = []
        for name, number, line in _matches(result.stdout_bytes):
            if wanted is None or wanted.matches(_paths.relative(name, root) or name):
                matches.append(GrepMatch(path=name, line=number, text=_text.line_text(line)))
        return _contract.grep_result(matches, max_count, cut)

    def _tops(self) -> list[FileEntry]:
        entries = self.sandbox.list_files("/", limit=MOST_ENTRIES, user=self._user)
        return [entry for entry in entries if entry.name not in _paths.SYSTEM]

    def _grep_here(
        self, pattern: str, root: str, wanted: Optional[Pattern], max_count: Optional[int]
    ) -> GrepResult:
        """The same where the template has no `grep`: files are read one after the other."""
        entries, cut = self._below(root)
        matches: list[GrepMatch] = []
        for entry in entries:
            name = _paths.relative(entry.path, root)
            if not entry.is_file or (wanted is not None and not wanted.matches(name)):
                continue
            try:
                data = self.sandbox.read_file(entry.path, length=_text.MOST_EDIT, user=self._user)
            except OF_FILES:
                continue  # as `grep -s`
            cut = cut or entry.size > len(data)
            for number, line in _text.lines_with(data, pattern):
                matches.append(GrepMatch(path=entry.path, line=number, text=line))
            if max_count is not None and len(matches) > max_count:
                break
        return _contract.grep_result(matches, max_count, cut)


def _info(path: str, entry: FileEntry) -> FileInfo:
    modified = entry.modified_at.isoformat() if entry.modified_at else ""
    return _contract.info(path, entry.is_dir, entry.size, modified)


def _matches(printed: bytes) -> list[tuple[str, int, bytes]]:
    """What `grep -nZ` printed: name, NUL, number, colon, line. A name may hold a line's end; a line no NUL."""
    found: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        name_end = printed.find(b"\0", at)
        number_end = printed.find(b":", name_end + 1)
        end = printed.find(b"\n", number_end + 1)
        if name_end < 0 or number_end < 0:
            return found
        line = printed[number_end + 1 : end if end >= 0 else len(printed)]
        number = printed[name_end + 1 : number_end]
        if number.isdigit():
            found.append((printed[at:name_end].decode("utf-8", "replace"), int(number), line))
        if end < 0:
            return found
        at = end + 1
