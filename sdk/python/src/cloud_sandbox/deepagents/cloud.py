"""A deepagents backend that is one sandbox of a server, of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Awaitable, Mapping
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar, Union

from deepagents.backends.protocol import (
    EditResult,
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
    GlobResult,
    GrepResult,
    LsResult,
    ReadResult,
    SandboxBackendProtocol,
    WriteResult,
)

from .._async.client import AsyncClient
from .._async.sandbox import AsyncSandbox
from .._config import Config
from .._sync.client import Client
from .._sync.sandbox import Sandbox
from ..errors import CloudSandboxError, SandboxGone, SandboxNotFound, SandboxReleasing
from ..models import ResourceRequest, SandboxInfo
from . import _contract, _reaper
from ._async.bench import AsyncBench
from ._shell import NOT_RUN, Habits
from ._sync.bench import Bench

T = TypeVar("T")
DAY = 86_400.0
GONE = (SandboxGone, SandboxNotFound, SandboxReleasing)


class CloudSandboxBackend(SandboxBackendProtocol):
    """Files and commands of an agent in a sandbox of its own, made with the first use and released by `cleanup`.

    `kind` is how it is isolated, and `sandbox` the same with options of the kind (`{"kind": …}`); a kind that the
    server does not have is an error. `sandbox` may also be a sandbox that exists, or its id: it is then used and never
    released.
    `lifetime` in seconds is when the server releases it where nobody did. `command_timeout` in seconds (0 for none),
    `max_output_bytes`, `cwd`, `env` and `user` are for each command. Further keywords go to `Client`.

    Safe to use from any threads and event loops at once. As a context manager it is cleaned up at the end.
    """

    def __init__(
        self,
        kind: Optional[str] = None,
        *,
        sandbox: Union[Sandbox, AsyncSandbox, str, Mapping[str, Any], None] = None,
        template: Optional[str] = None,
        resources: Optional[ResourceRequest] = None,
        network: Optional[str] = None,
        storage: Optional[str] = None,
        metadata: Optional[Mapping[str, str]] = None,
        lifetime: Optional[float] = DAY,
        command_timeout: int = 120,
        max_output_bytes: int = 1 << 20,
        cwd: str = "/workspace",
        env: Optional[Mapping[str, str]] = None,
        user: Optional[str] = None,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        **connection: Any,
    ) -> None:
        options = dict(sandbox) if isinstance(sandbox, Mapping) else {}
        if kind is not None:
            options = {"kind": kind, **options}
            if options["kind"] != kind:
                raise ValueError(f"kind={kind!r} and sandbox={sandbox!r} do not agree")
        self._habits = Habits(cwd, user, env, command_timeout, max_output_bytes)
        self._request: dict[str, Any] = {
            "template": template,
            "resources": resources,
            "network": network,
            "storage": storage,
            "metadata": metadata,
            "sandbox": options or None,
            "timeout": lifetime,
        }
        self._lock = threading.Lock()
        self._info: Optional[SandboxInfo] = None
        self._theirs = isinstance(sandbox, (Sandbox, AsyncSandbox, str))
        if isinstance(sandbox, (Sandbox, AsyncSandbox)):
            self._config: Config = sandbox._transport.config
            self._info = sandbox.info
        else:
            self._config = Client(base_url, user_id=user_id, api_key=api_key, **connection).transport.config
            if isinstance(sandbox, str):
                self._info = SandboxInfo(sandbox_id=sandbox, state="running")
        self._client = Client._of(self._config)
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()
        self._finalizer: Optional[weakref.finalize[..., Any]] = None
        self._closed = False

    def __repr__(self) -> str:
        where = self._info.sandbox_id if self._info else "not started"
        return f"{type(self).__name__}({where})"

    # -- the sandbox ------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The sandbox's id. Asking for it makes the sandbox."""
        return self.start().sandbox_id

    def start(self) -> SandboxInfo:
        """Makes the sandbox, unless it is there."""
        with self._lock:
            if self._closed:
                raise CloudSandboxError("this backend was cleaned up", hint="make another one")
            if self._info is None:
                self._info = self._create(self._client)
                self._finalizer = _reaper.watch(self, self._config, self._info.sandbox_id)
            return self._info

    async def astart(self) -> SandboxInfo:
        """Makes the sandbox, unless it is there."""
        if self._info is not None and not self._closed:
            return self._info
        return await asyncio.to_thread(self.start)

    def _create(self, client: Client) -> SandboxInfo:
        return Sandbox.create(client=client, **self._request).info

    def reset(self) -> None:
        """Releases the sandbox; what comes next has a fresh one. So a backend may serve another user."""
        if self._theirs:
            raise CloudSandboxError("a sandbox that was given to this backend is not its own to release")
        with self._lock:
            info, self._info = self._info, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if info is not None:
            self._release(info)

    async def areset(self) -> None:
        """As `reset`."""
        await asyncio.to_thread(self.reset)

    def cleanup(self) -> None:
        """Releases the sandbox with its files and processes. A second time does nothing."""
        info = self._close()
        for loop, client in list(self._clients.items()):
            # A connection can be closed only by the event loop that it belongs to.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_close_there, loop, client)
        try:
            if info is not None:
                self._release(info)
        finally:
            self._client.close()

    async def acleanup(self) -> None:
        """Releases the sandbox with its files and processes. A second time does nothing."""
        await asyncio.to_thread(self.cleanup)

    def _release(self, info: SandboxInfo) -> None:
        with contextlib.suppress(*GONE):
            self._client.transport.request("DELETE", f"/api/v1/sandboxes/{info.sandbox_id}")
        _reaper.let_go(info.sandbox_id)

    def _close(self) -> Optional[SandboxInfo]:
        """Ends its use; returns the sandbox if it is to be released."""
        with self._lock:
            if self._closed:
                return None
            self._closed = True
            if self._finalizer is not None:
                self._finalizer.detach()
            return None if self._theirs else self._info

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.cleanup()

    async def __aenter__(self) -> Any:
        await self.astart()
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.acleanup()

    def _lost(self, info: SandboxInfo) -> str:
        """Forgets a sandbox that has ended, so that the next call makes another; returns what an agent is told."""
        if self._theirs:
            return f"the sandbox {info.sandbox_id} has ended"
        with self._lock:
            if self._info is info:
                self._info = None
                if self._finalizer is not None:
                    self._finalizer.detach()
                _reaper.let_go(info.sandbox_id)
        return f"the sandbox {info.sandbox_id} has ended, and its files are gone; what comes next has a new one"

    def _call(self, work: Callable[[Bench], T], refuse: Callable[[str], T]) -> T:
        info = self.start()
        sandbox = Sandbox(self._client, info, owns_client=False, release=False)
        try:
            return work(Bench(sandbox, self._habits))
        except GONE:
            return refuse(self._lost(info))

    async def _acall(self, work: Callable[[AsyncBench], Awaitable[T]], refuse: Callable[[str], T]) -> T:
        info = await self.astart()
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._clients.get(loop)
            if client is None:
                client = self._clients[loop] = AsyncClient._of(self._config)
        sandbox = AsyncSandbox(client, info, owns_client=False, release=False)
        try:
            return await work(AsyncBench(sandbox, self._habits))
        except GONE:
            return refuse(self._lost(info))

    # -- commands ---------------------------------------------------------------------------------------------

    def execute(self, command: str, *, timeout: Optional[int] = None) -> ExecuteResponse:
        """Runs a line of bash, or of sh where there is no bash; both streams in the order they were written."""
        return self._call(lambda bench: bench.execute(command, timeout), _not_run)

    async def aexecute(self, command: str, *, timeout: Optional[int] = None) -> ExecuteResponse:  # noqa: ASYNC109
        """As `execute`."""
        return await self._acall(lambda bench: bench.execute(command, timeout), _not_run)

    # -- files ------------------------------------------------------------------------------------------------

    def ls(self, path: str) -> LsResult:
        """Lists a directory."""
        return self._call(lambda bench: bench.ls(path), lambda why: LsResult(error=why))

    async def als(self, path: str) -> LsResult:
        """As `ls`."""
        return await self._acall(lambda bench: bench.ls(path), lambda why: LsResult(error=why))

    def read(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Reads `limit` lines from line `offset` on, or a binary file of up to 500 KiB."""
        return self._call(lambda bench: bench.read(file_path, offset, limit), lambda why: ReadResult(error=why))

    async def aread(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """As `read`."""
        return await self._acall(lambda bench: bench.read(file_path, offset, limit), lambda why: ReadResult(error=why))

    def write(self, file_path: str, content: str) -> WriteResult:
        """Writes a file. Whether it may exist is as the installed deepagents has it."""
        return self._call(lambda bench: bench.write(file_path, content), lambda why: WriteResult(error=why))

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """As `write`."""
        return await self._acall(lambda bench: bench.write(file_path, content), lambda why: WriteResult(error=why))

    def edit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Replaces a string in a text file."""
        return self._call(
            lambda bench: bench.edit(file_path, old_string, new_string, replace_all),
            lambda why: EditResult(error=why),
        )

    async def aedit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """As `edit`."""
        return await self._acall(
            lambda bench: bench.edit(file_path, old_string, new_string, replace_all),
            lambda why: EditResult(error=why),
        )

    def delete(self, file_path: str) -> Any:
        """Removes a file, or a directory and all in it."""
        return self._call(lambda bench: bench.delete(file_path), lambda why: _contract.deleted(error=why))

    async def adelete(self, file_path: str) -> Any:
        """As `delete`."""
        return await self._acall(lambda bench: bench.delete(file_path), lambda why: _contract.deleted(error=why))

    def grep(
        self, pattern: str, path: Optional[str] = None, glob: Optional[str] = None, *, max_count: Optional[int] = None
    ) -> GrepResult:
        """Finds lines that hold a string, in files whose names match `glob`."""
        return self._call(lambda bench: bench.grep(pattern, path, glob, max_count), lambda why: GrepResult(error=why))

    async def agrep(
        self, pattern: str, path: Optional[str] = None, glob: Optional[str] = None, *, max_count: Optional[int] = None
    ) -> GrepResult:
        """As `grep`."""
        return await self._acall(
            lambda bench: bench.grep(pattern, path, glob, max_count), lambda why: GrepResult(error=why)
        )

    def glob(self, pattern: str, path: Optional[str] = None) -> GlobResult:
        """Finds files by name. From `/`, directories of the system are left out."""
        return self._call(lambda bench: bench.glob(pattern, path), lambda why: GlobResult(error=why))

    async def aglob(self, pattern: str, path: Optional[str] = None) -> GlobResult:
        """As `glob`."""
        return await self._acall(lambda bench: bench.glob(pattern, path), lambda why: GlobResult(error=why))

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, with the directories above them."""
        return self._call(
            lambda bench: bench.upload(files), lambda why: [FileUploadResponse(path=f[0], error=why) for f in files]
        )

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """As `upload_files`."""
        return await self._acall(
            lambda bench: bench.upload(files), lambda why: [FileUploadResponse(path=f[0], error=why) for f in files]
        )

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files."""
        return self._call(
            lambda bench: bench.download(paths), lambda why: [FileDownloadResponse(path=p, error=why) for p in paths]
        )

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """As `download_files`."""
        return await self._acall(
            lambda bench: bench.download(paths), lambda why: [FileDownloadResponse(path=p, error=why) for p in paths]
        )


def _not_run(why: str) -> ExecuteResponse:
    return ExecuteResponse(output=f"[{why}]", exit_code=NOT_RUN)


def _close_there(loop: asyncio.AbstractEventLoop, client: AsyncClient) -> None:
    closing = loop.create_task(client.aclose())
    # The loop holds tasks weakly.
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
