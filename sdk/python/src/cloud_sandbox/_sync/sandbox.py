# Generated from _async/sandbox.py by tools/unasync.py; edit that one.
"""A sandbox: what runs in it, what it may use, how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Optional, Union, overload

from .. import _payload, _sse
from .._payload import Command, Input
from .._retry import Safety
from ..errors import ExecEnded, ProtocolError, SandboxGone, SandboxNotFound, StdinClosed
from ..models import CommandResult, ExecInfo, OutputChunk, ResourceRequest, SandboxInfo, SandboxStats
from . import shims
from .client import Client
from .files import Files
from .output import Collector, once, start
from .process import Process


class Sandbox(Files):
    """A confined process tree with its files.

    As a context manager, one that was made by `create` is released at the end; one found by `connect` is left running.
    """

    def __init__(self, client: Client, info: SandboxInfo, *, owns_client: bool, release: bool) -> None:
        self._client = client
        self._transport = client.transport
        self._path = f"/api/v1/sandboxes/{info.sandbox_id}"
        self._owns_client = owns_client
        self._release = release
        self.info = info
        """What was last known of it; `refresh()` asks again."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sandbox_id!r}, state={self.info.state!r})"

    @property
    def sandbox_id(self) -> str:
        """Its id; `Sandbox.connect(sandbox_id)` finds it again."""
        return self.info.sandbox_id

    @property
    def id(self) -> str:
        """The same as `sandbox_id`."""
        return self.info.sandbox_id

    # -- making and finding -----------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        template: Optional[str] = None,
        resources: Optional[ResourceRequest] = None,
        timeout: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        metadata: Optional[Mapping[str, str]] = None,
        sandbox: Optional[Mapping[str, Any]] = None,
        network: Optional[str] = None,
        storage: Optional[str] = None,
        hostname: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        client: Optional[Client] = None,
        **connection: Any,
    ) -> Sandbox:
        """Makes a sandbox.

        `timeout` is its lifetime in seconds; `sandbox={"kind": …}` chooses the isolation. Without `client`, the
        server is `base_url`, `CSB_SERVER` or http://127.0.0.1:8080, and further keywords (`token`,
        `request_timeout`, `max_retries`, …) go to `Client`.
        """
        owner = client or Client(base_url, user_id=user_id, api_key=api_key, **connection)
        body = _payload.sandbox_request(
            template, resources, timeout, env, metadata, sandbox, network, storage, hostname
        )
        try:
            info = owner.create_sandbox(body, idempotency_key=idempotency_key)
        except BaseException:
            if client is None:
                owner.close()
            raise
        return cls(owner, info, owns_client=client is None, release=True)

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        client: Optional[Client] = None,
        **connection: Any,
    ) -> Sandbox:
        """Finds a sandbox that exists."""
        owner = client or Client(base_url, user_id=user_id, api_key=api_key, **connection)
        try:
            info = owner.get_sandbox(sandbox_id)
        except BaseException:
            if client is None:
                owner.close()
            raise
        return cls(owner, info, owns_client=client is None, release=False)

    @classmethod
    def list(
        cls,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        state: Optional[str] = None,
        client: Optional[Client] = None,
        **connection: Any,
    ) -> list[SandboxInfo]:
        """All sandboxes of the user."""
        owner = client or Client(base_url, user_id=user_id, api_key=api_key, **connection)
        try:
            return [info for info in owner.iter_sandboxes(state=state)]
        finally:
            if client is None:
                owner.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            if self._release:
                self.release()
        finally:
            self.close()

    def release(self) -> None:
        """Ends the sandbox with all its processes and files. One that is gone already counts as released."""
        with contextlib.suppress(SandboxNotFound, SandboxGone):
            self._transport.request("DELETE", self._path, safety=Safety.REPEATABLE)
        self._release = False

    def close(self) -> None:
        """Closes the connections of this object; the sandbox lives on."""
        if self._owns_client:
            self._client.close()

    # -- commands ---------------------------------------------------------------------------------------------

    def run_code(
        self,
        code: str,
        language: str = "python",
        timeout: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: Input = None,
        on_stdout: Optional[shims.TextSink] = None,
        on_stderr: Optional[shims.TextSink] = None,
        max_output_bytes: Optional[int] = None,
    ) -> CommandResult:
        """Runs source code and returns its result; `on_stdout` and `on_stderr` get the output as it comes.

        `timeout` (seconds) kills it and everything it started.
        """
        inline, behind = _payload.split_stdin(stdin)
        body = _payload.code_request(code, language, env, cwd, inline, timeout, max_output_bytes)
        return self._run(f"{self._path}/run-code", body, behind, on_stdout, on_stderr)

    @overload
    def run_command(
        self,
        command: Command,
        timeout: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: Input = None,
        on_stdout: Optional[shims.TextSink] = None,
        on_stderr: Optional[shims.TextSink] = None,
        user: Optional[str] = None,
        max_output_bytes: Optional[int] = None,
        background: Literal[False] = False,
    ) -> CommandResult: ...

    @overload
    def run_command(
        self,
        command: Command,
        timeout: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: Input = None,
        on_stdout: Optional[shims.TextSink] = None,
        on_stderr: Optional[shims.TextSink] = None,
        user: Optional[str] = None,
        max_output_bytes: Optional[int] = None,
        *,
        background: Literal[True],
    ) -> Process: ...

    def run_command(
        self,
        command: Command,
        timeout: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        stdin: Input = None,
        on_stdout: Optional[shims.TextSink] = None,
        on_stderr: Optional[shims.TextSink] = None,
        user: Optional[str] = None,
        max_output_bytes: Optional[int] = None,
        background: bool = False,
    ) -> Union[CommandResult, Process]:
        """Runs a shell line, or a program with arguments (a list), and returns its result.

        With `background=True` it returns a `Process` at once; callbacks then go to `process.stream(…)`.
        """
        if background:
            if on_stdout is not None or on_stderr is not None:
                raise ValueError("with background=True, give callbacks to process.stream(on_stdout, on_stderr)")
            inline, behind = _payload.split_stdin(stdin)
            process = self.start(
                command,
                env=env,
                cwd=cwd,
                user=user,
                stdin=True if inline is None and behind is not None else inline,
                timeout=timeout,
                max_output_bytes=max_output_bytes,
            )
            if behind is not None:
                _feed(process, behind)
            return process
        inline, behind = _payload.split_stdin(stdin)
        body = _payload.exec_request(command, env, cwd, user, inline, timeout, max_output_bytes)
        return self._run(f"{self._path}/execs", body, behind, on_stdout, on_stderr)

    def start(
        self,
        command: Command,
        *,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        user: Optional[str] = None,
        stdin: Union[str, bool, None] = None,
        pty: Union[bool, tuple[int, int], None] = None,
        timeout: Optional[float] = None,
        max_output_bytes: Optional[int] = None,
    ) -> Process:
        """Starts a command and returns at once.

        `stdin=True` keeps its input open for `send_stdin`; `pty=True`, or `(cols, rows)`, gives it a terminal.
        """
        size = (80, 24) if pty is True else (pty or None)
        body = _payload.exec_request(command, env, cwd, user, stdin, timeout, max_output_bytes, size, wait=False)
        data = self._transport.json(
            "POST", f"{self._path}/execs", safety=Safety.REPEATABLE, json=body, headers=once()
        )
        return Process(self._transport, self.sandbox_id, ExecInfo.from_json(data))

    def processes(self) -> Sequence[Process]:
        """Commands that run, and those that ended lately."""
        data = self._transport.json("GET", f"{self._path}/execs")
        try:
            found = [ExecInfo.from_json(item) for item in data["items"]]
        except (KeyError, TypeError) as error:
            raise ProtocolError("a list of execs cannot be read") from error
        return [Process(self._transport, self.sandbox_id, info) for info in found]

    def process(self, exec_id: str) -> Process:
        """Finds a command by its id."""
        data = self._transport.json("GET", f"{self._path}/execs/{exec_id}")
        return Process(self._transport, self.sandbox_id, ExecInfo.from_json(data))

    def _run(
        self,
        path: str,
        body: Mapping[str, Any],
        behind: Optional[bytes],
        on_stdout: Optional[shims.TextSink],
        on_stderr: Optional[shims.TextSink],
    ) -> CommandResult:
        collector = Collector(on_stdout, on_stderr)
        ended: Optional[ExecInfo] = None
        for signal in start(self._transport, path, body, self._where):
            if isinstance(signal, OutputChunk):
                collector.take(signal)
            elif isinstance(signal, _sse.Ended):
                ended = signal.info
            elif isinstance(signal, _sse.Started) and behind is not None:
                _feed(Process(self._transport, self.sandbox_id, signal.info), behind)
        if ended is None:
            raise ProtocolError("the output ended without a result")
        return collector.finish(ended)

    def _where(self) -> str:
        return self.sandbox_id

    # -- the sandbox itself -----------------------------------------------------------------------------------

    def refresh(self) -> SandboxInfo:
        """Asks how it is."""
        self.info = self._client.get_sandbox(self.sandbox_id)
        return self.info

    def pause(self) -> SandboxInfo:
        """Freezes every process; memory and files stay."""
        return self._change("POST", "/pause")

    def resume(self) -> SandboxInfo:
        """Lets a paused sandbox go on."""
        return self._change("POST", "/resume")

    def set_resources(self, resources: ResourceRequest) -> SandboxInfo:
        """Changes what it may use while it runs."""
        return self._change("PATCH", "", {"resources": dict(resources)})

    def _change(self, method: str, action: str, body: Any = None) -> SandboxInfo:
        data = self._transport.json(method, self._path + action, json=body)
        self.info = SandboxInfo.from_json(data)
        return self.info

    def stats(self) -> SandboxStats:
        """What it uses now and has used."""
        return SandboxStats.from_json(self._transport.json("GET", f"{self._path}/stats"))


def _feed(process: Process, data: bytes) -> None:
    # It may close its stdin or end without reading everything, as `head` does; its result says the rest.
    with contextlib.suppress(ExecEnded, StdinClosed):
        process.send_stdin(data, close=True)
