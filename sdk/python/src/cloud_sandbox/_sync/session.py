# Generated from _async/session.py by tools/unasync.py; edit that one.
"""A session: what a user keeps, with a sandbox bound to it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Optional

from .. import _payload, _sse
from .._retry import Safety
from ..errors import Conflict, ProtocolError, SessionNotFound
from ..models import CommandResult, ExecInfo, OutputChunk, ResourceRequest, SessionInfo
from . import shims
from .client import Client
from .output import Collector, start
from .sandbox import Sandbox


class Session:
    """As a context manager, one that was made by `create` is closed at the end; one found by `connect` is kept."""

    def __init__(self, client: Client, info: SessionInfo, *, owns_client: bool, close: bool) -> None:
        self._client = client
        self._transport = client.transport
        self._path = f"/api/v1/sessions/{info.session_id}"
        self._owns_client = owns_client
        self._close = close
        self.info = info
        """What was last known of it; `refresh()` asks again."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r}, state={self.info.state!r})"

    @property
    def session_id(self) -> str:
        """Its id; `Session.connect(session_id)` finds it again."""
        return self.info.session_id

    @classmethod
    def create(
        cls,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        template_id: Optional[str] = None,
        timeout: Optional[float] = None,
        resources: Optional[ResourceRequest] = None,
        env: Optional[Mapping[str, str]] = None,
        metadata: Optional[Mapping[str, str]] = None,
        sandbox: Optional[Mapping[str, Any]] = None,
        idempotency_key: Optional[str] = None,
        client: Optional[Client] = None,
        **connection: Any,
    ) -> Session:
        """Makes a session; `timeout` is its lifetime in seconds. See `Sandbox.create` for where the server is."""
        owner = client or Client(base_url, user_id=user_id, api_key=api_key, **connection)
        body = _payload.without_none(
            {
                "template_id": template_id,
                "timeout": timeout,
                "resources": dict(resources) if resources is not None else None,
                "env": dict(env) if env is not None else None,
                "metadata": dict(metadata) if metadata is not None else None,
                "sandbox": dict(sandbox) if sandbox is not None else None,
            }
        )
        try:
            info = owner.create_session(body, idempotency_key=idempotency_key)
        except BaseException:
            if client is None:
                owner.close()
            raise
        return cls(owner, info, owns_client=client is None, close=True)

    @classmethod
    def connect(
        cls,
        session_id: str,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        client: Optional[Client] = None,
        **connection: Any,
    ) -> Session:
        """Finds a session that exists."""
        owner = client or Client(base_url, user_id=user_id, api_key=api_key, **connection)
        try:
            info = owner.get_session(session_id)
        except BaseException:
            if client is None:
                owner.close()
            raise
        return cls(owner, info, owns_client=client is None, close=False)

    @classmethod
    def list(
        cls,
        base_url: Optional[str] = None,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        *,
        client: Optional[Client] = None,
        **connection: Any,
    ) -> list[SessionInfo]:
        """All sessions of the user."""
        owner = client or Client(base_url, user_id=user_id, api_key=api_key, **connection)
        try:
            return [info for info in owner.iter_sessions()]
        finally:
            if client is None:
                owner.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            if self._close:
                self.delete()
        finally:
            self.close()

    def delete(self) -> None:
        """Ends the session and its sandbox. One that is gone already counts as ended."""
        with contextlib.suppress(SessionNotFound):
            self._transport.request("DELETE", self._path, safety=Safety.REPEATABLE)
        self._close = False

    def close(self) -> None:
        """Closes the connections of this object; the session lives on."""
        if self._owns_client:
            self._client.close()

    def refresh(self) -> SessionInfo:
        """Asks how it is."""
        self.info = self._client.get_session(self.session_id)
        return self.info

    def pause(self) -> SessionInfo:
        """Freezes its work."""
        self.info = SessionInfo.from_json(self._transport.json("POST", f"{self._path}/pause"))
        return self.info

    def resume(self) -> SessionInfo:
        """Goes on with its work."""
        self.info = SessionInfo.from_json(self._transport.json("POST", f"{self._path}/resume"))
        return self.info

    def sandbox(self) -> Sandbox:
        """The sandbox bound to it, for files and commands. It shares this session's connections."""
        return Sandbox.connect(self._where(), client=self._client)

    def execute(
        self,
        code: str,
        language: str = "python",
        timeout: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        stdin: Optional[str] = None,
        event: Any = None,
        on_stdout: Optional[shims.TextSink] = None,
        on_stderr: Optional[shims.TextSink] = None,
    ) -> CommandResult:
        """Runs source code and returns its result.

        Python or JavaScript that defines a top-level `handler` has it called with `event`; what it returns is in
        `.result`.
        """
        body = _payload.code_request(code, language, env, None, stdin, timeout, None)
        body["stream"] = True
        if event is not None:
            body["event"] = event
        collector = Collector(on_stdout, on_stderr)
        ended: Optional[ExecInfo] = None
        for signal in start(self._transport, f"{self._path}/execute", body, self._where):
            if isinstance(signal, OutputChunk):
                collector.take(signal)
            elif isinstance(signal, _sse.Ended):
                ended = signal.info
        if ended is None:
            raise ProtocolError("the output ended without a result")
        result = collector.finish(ended)
        if event is None and "handler" not in code:
            return result
        # What a handler returned is not part of the output.
        return self.result(result.exec_id)

    def result(self, exec_id: str) -> CommandResult:
        """The result of an earlier `execute`."""
        return CommandResult.from_json(self._transport.json("GET", f"{self._path}/executions/{exec_id}"))

    def _where(self) -> str:
        self.refresh()
        if self.info.sandbox_id is None:
            raise Conflict(f"session {self.session_id} has no sandbox: its state is `{self.info.state}`")
        return self.info.sandbox_id
