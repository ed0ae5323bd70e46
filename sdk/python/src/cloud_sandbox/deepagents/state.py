"""A deepagents backend whose files are the agent's state and whose commands run in sandboxes of a server."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
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
    SandboxBackendProtocol,
    WriteResult,
)
from deepagents.backends.state import StateBackend

from .._config import Config
from ..models import ResourceRequest
from . import _contract, _files, _paths, _shared, _text
from ._async.mirror import AsyncMirror
from ._files import Stored
from ._globs import BadPattern, Pattern
from ._shell import Habits
from ._sync.mirror import Mirror

HOUR = 3600.0


class StateSandboxBackend(StateBackend, SandboxBackendProtocol):
    """Files in the agent's state, as `StateBackend` has them; each command in a fresh sandbox with these files.

    After the command, the files that it made, changed or removed are so in the state too. What it does to directories
    of the template (`/usr`, `/etc`, `/home` …), and processes it leaves, end with it. Nothing needs to be cleaned up.

    To be used inside a graph (`FilesystemMiddleware(backend=lambda rt: StateSandboxBackend(rt))`, or an instance).
    `max_file_bytes` and `max_state_bytes` bound what a command may add to the state. Other keywords are as those of
    `CloudSandboxBackend`.
    """

    def __init__(
        self,
        runtime: object = None,
        *,
        kind: Optional[str] = None,
        sandbox: Optional[Mapping[str, Any]] = None,
        template: Optional[str] = None,
        resources: Optional[ResourceRequest] = None,
        network: Optional[str] = None,
        command_timeout: int = 120,
        max_output_bytes: int = 1 << 20,
        max_file_bytes: int = 16 << 20,
        max_state_bytes: int = 64 << 20,
        env: Optional[Mapping[str, str]] = None,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        token: Optional[str] = None,
        **connection: Any,
    ) -> None:
        super().__init__()
        self.runtime = runtime
        options = {**({"kind": kind} if kind else {}), **(sandbox or {})}
        self._config = Config.load(base_url, api_key, token, user_id, **connection)
        self._habits = Habits("/workspace", None, env, command_timeout, max_output_bytes)
        self._request = {
            "template": template,
            "resources": resources,
            "network": network,
            "sandbox": options or None,
            "timeout": HOUR,
        }
        self._most = (max_file_bytes, max_state_bytes)
        self._id = f"state-{uuid.uuid4().hex}"

    @property
    def id(self) -> str:
        """This object's own id: sandboxes come and go with commands."""
        return self._id

    def cleanup(self) -> None:
        """Does nothing: each command's sandbox was released at its end."""

    async def acleanup(self) -> None:
        """As `cleanup`."""

    # -- commands ---------------------------------------------------------------------------------------------

    def execute(self, command: str, *, timeout: Optional[int] = None) -> ExecuteResponse:
        """Runs a line of bash, or of sh where there is no bash, on the state's files."""
        state = self._read_files()
        mirror = Mirror(_shared.client(self._config), self._bounded(timeout), self._habits, *self._most)
        result, changes = mirror.execute(command, timeout, _files.stored(state))
        self._send(_files.update(state, changes))
        return result

    async def aexecute(self, command: str, *, timeout: Optional[int] = None) -> ExecuteResponse:  # noqa: ASYNC109
        """As `execute`."""
        state = self._read_files()
        mirror = AsyncMirror(_shared.async_client(self._config), self._bounded(timeout), self._habits, *self._most)
        result, changes = await mirror.execute(command, timeout, _files.stored(state))
        self._send(_files.update(state, changes))
        return result

    def _bounded(self, timeout: Optional[int]) -> dict[str, Any]:
        """The sandbox outlives the command by a minute, should this process not."""
        seconds = self._habits.seconds(timeout)
        return {**self._request, "timeout": seconds + 60 if seconds else None}

    def _send(self, update: dict[str, Any]) -> None:
        if update:
            self._send_files_update(update)

    # -- files ------------------------------------------------------------------------------------------------

    def ls(self, path: str) -> LsResult:
        """Lists a directory."""
        directory = _paths.clean(path)
        if directory is None:
            return LsResult(error=f"Path '{path}': invalid_path")
        files = self._read_files()
        found = {e["path"]: e for e in _entries(files) if _paths.parent(e["path"]) == directory}
        if not found and directory != "/":
            if directory in files:
                return LsResult(error=f"Path '{path}': not_a_directory")
            if directory + "/" not in files:
                return LsResult(error=f"Path '{path}': path_not_found")
        return LsResult(entries=[found[key] for key in sorted(found)])

    async def als(self, path: str) -> LsResult:
        """As `ls`."""
        return self.ls(path)

    def read(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Reads `limit` lines from line `offset` on, or a binary file of up to 500 KiB."""
        found = self._find(file_path)
        if found is None:
            return ReadResult(error=f"File '{file_path}': file_not_found")
        data = _files.content(found)
        if not data:
            return _contract.read_result(_text.Page(_contract.EMPTY, 0, 0, 0))
        if not _contract.is_text(file_path) or _text.is_binary(data):
            if len(data) > _text.MOST_BINARY:
                return ReadResult(error=_contract.too_large(file_path))
            return _contract.binary_result(base64.b64encode(data).decode())
        pager = _text.Pager(offset, limit)
        pager.feed(data, True)
        page = pager.page()
        return ReadResult(error=f"File '{file_path}': {page}") if isinstance(page, str) else _contract.read_result(page)

    async def aread(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """As `read`."""
        return self.read(file_path, offset, limit)

    def write(self, file_path: str, content: str) -> WriteResult:
        """Writes a file. Whether it may exist is as the installed deepagents has it."""
        path = _paths.clean(file_path)
        if path is None:
            return WriteResult(error=f"Failed to write file '{file_path}': invalid_path")
        files = self._read_files()
        if path in files and not _contract.SINCE_0_7:
            return WriteResult(error=_contract.exists(file_path))
        if why := _obstacle(files, path):
            return WriteResult(error=f"Failed to write file '{file_path}': {why}")
        self._put(files, path, content.encode("utf-8", "surrogateescape"))
        return WriteResult(path=file_path)

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """As `write`."""
        return self.write(file_path, content)

    def edit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Replaces a string in a text file."""
        found = self._find(file_path)
        if found is None:
            return EditResult(error=f"Error: File '{file_path}' not found")
        try:
            changed = _text.replace(_files.content(found).decode(), old_string, new_string, replace_all)
        except UnicodeDecodeError:
            return EditResult(error=f"Error: File '{file_path}' is not a text file")
        if isinstance(changed, str):
            return EditResult(error=changed)
        text, count = changed
        self._put(self._read_files(), str(_paths.clean(file_path)), text.encode())
        return EditResult(path=file_path, occurrences=count)

    async def aedit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """As `edit`."""
        return self.edit(file_path, old_string, new_string, replace_all)

    def delete(self, file_path: str) -> Any:
        """Removes a file, or a directory and all in it."""
        path = _paths.clean(file_path)
        gone = [key for key in self._read_files() if path is not None and (key == path or key.startswith(path + "/"))]
        if not gone:
            return _contract.deleted(error=f"Error: '{file_path}' not found")
        self._send(dict.fromkeys(gone))
        return _contract.deleted(path=file_path)

    async def adelete(self, file_path: str) -> Any:
        """As `delete`."""
        return self.delete(file_path)

    def grep(
        self, pattern: str, path: Optional[str] = None, glob: Optional[str] = None, *, max_count: Optional[int] = None
    ) -> GrepResult:
        """Finds lines that hold a string, in files whose names match `glob`."""
        root = _paths.clean(path or "/")
        if root is None:
            return GrepResult(error=f"Path '{path}': invalid_path")
        try:
            wanted = Pattern(glob, any_depth=True) if glob else None
        except BadPattern as bad:
            return GrepResult(error=f"Path '{path}': {bad}")
        matches: list[GrepMatch] = []
        for name, file in sorted(self._read_files().items()):
            if name.endswith("/") or not _paths.below(name, root):
                continue
            if wanted is not None and not wanted.matches(_paths.relative(name, root) or name):
                continue
            for number, line in _text.lines_with(_files.content(file), pattern):
                matches.append(GrepMatch(path=name, line=number, text=line))
        return _contract.grep_result(matches, max_count)

    async def agrep(
        self, pattern: str, path: Optional[str] = None, glob: Optional[str] = None, *, max_count: Optional[int] = None
    ) -> GrepResult:
        """As `grep`."""
        return self.grep(pattern, path, glob, max_count=max_count)

    def glob(self, pattern: str, path: Optional[str] = None) -> GlobResult:
        """Finds files by name."""
        root = _paths.clean(path or "/")
        if root is None:
            return GlobResult(error=f"Path '{path}': invalid_path")
        try:
            wanted = Pattern(pattern)
        except BadPattern as bad:
            return GlobResult(error=f"Path '{path}': {bad}")
        found: dict[str, FileInfo] = {}
        for item in _entries(self._read_files()):
            whole, is_dir = item["path"], item["is_dir"]
            name = _paths.relative(whole, root)
            if not name or not _paths.below(whole, root) or (_contract.SINCE_0_7 and is_dir):
                continue
            if wanted.matches(name, is_dir):
                found[whole] = item if _contract.SINCE_0_7 else FileInfo(**{**item, "path": name})
        return GlobResult(matches=[found[key] for key in sorted(found)])

    async def aglob(self, pattern: str, path: Optional[str] = None) -> GlobResult:
        """As `glob`."""
        return self.glob(pattern, path)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files."""
        state = self._read_files()
        responses = []
        for asked, data in files:
            path = _paths.clean(asked)
            error = "invalid_path" if path is None else _obstacle(state, path)
            if error is None and path is not None:
                self._put(state, path, data)
            responses.append(FileUploadResponse(path=asked, error=error))
        return responses

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """As `upload_files`."""
        return self.upload_files(files)

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files."""
        state = self._read_files()
        directories = {above for key in state for above in _files.ancestors(key)}
        return [_download(state, directories, path) for path in paths]

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """As `download_files`."""
        return self.download_files(paths)

    def _find(self, file_path: str) -> Optional[Mapping[str, Any]]:
        found: Optional[Mapping[str, Any]] = self._read_files().get(_paths.clean(file_path) or "")
        return found

    def _put(self, state: Mapping[str, Any], path: str, data: bytes) -> None:
        before = state.get(path)
        mode = _files.mode(before) if before else _files.PLAIN
        sent: dict[str, Any] = {path: _files.entry(Stored(data, mode), before)}
        sent.update({above + "/": None for above in _files.ancestors(path) if above + "/" in state})
        self._send(sent)


def _entries(state: Mapping[str, Any]) -> list[FileInfo]:
    """All files, and the directories above them."""
    directories = {key[:-1] for key in state if key.endswith("/")}
    found = []
    for key, file in state.items():
        directories.update(_files.ancestors(key.rstrip("/")))
        if not key.endswith("/"):
            found.append(_contract.info(key, False, len(_files.content(file)), file.get("modified_at", "")))
    return found + [_contract.info(path, True) for path in directories if path not in state]


def _obstacle(state: Mapping[str, Any], path: str) -> Optional[str]:
    """Why no file can be there."""
    if path == "/" or path + "/" in state or any(key.startswith(path + "/") for key in state):
        return "is_directory"
    return "invalid_path" if any(above in state for above in _files.ancestors(path)) else None


def _download(state: Mapping[str, Any], directories: set[str], asked: str) -> FileDownloadResponse:
    path = _paths.clean(asked)
    if path is None:
        return FileDownloadResponse(path=asked, error="invalid_path")
    if path in state:
        return FileDownloadResponse(path=asked, content=_files.content(state[path]))
    is_dir = path in directories or path + "/" in state or path == "/"
    return FileDownloadResponse(path=asked, error="is_directory" if is_dir else "file_not_found")
