# Generated from _async/client.py by tools/unasync.py; edit that one.
"""One server, one user: what is not about a single sandbox."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar

from .._config import Config
from .._retry import Safety
from ..errors import ProtocolError
from ..models import KindInfo, Language, Page, Record, SandboxInfo, SessionInfo, Template
from .transport import Transport

R = TypeVar("R", bound=Record)


class Client:
    """Connections to a server as one user; many sandboxes can share it (`Sandbox.create(client=…)`).

    `request_timeout` is how long an answer may take, `max_retries` how often a request is sent again when that is
    safe, `reconnect_timeout` how long a lost server is looked for while an exec's output is followed; all in seconds.
    """

    def __init__(
        self,
        base_url: Optional[str] = None,
        *,
        user_id: Optional[str] = None,
        api_key: Optional[str] = None,
        token: Optional[str] = None,
        request_timeout: float = 60.0,
        max_retries: int = 3,
        reconnect_timeout: float = 30.0,
        headers: Optional[Mapping[str, str]] = None,
    ) -> None:
        config = Config.load(
            base_url, api_key, token, user_id, request_timeout, max_retries, reconnect_timeout, headers
        )
        self.transport = Transport(config)

    @classmethod
    def _of(cls, config: Config) -> Client:
        """Another client of the same server, as the same user."""
        client = cls.__new__(cls)
        client.transport = Transport(config)
        return client

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; sandboxes live on."""
        self.transport.close()

    # -- sandboxes --------------------------------------------------------------------------------------------

    def create_sandbox(self, body: Mapping[str, Any], idempotency_key: Optional[str] = None) -> SandboxInfo:
        """Makes a sandbox from a request body of the API. `Sandbox.create` is the comfortable way."""
        return SandboxInfo.from_json(self._create("/api/v1/sandboxes", body, idempotency_key))

    def get_sandbox(self, sandbox_id: str) -> SandboxInfo:
        """Looks a sandbox up."""
        return SandboxInfo.from_json(self.transport.json("GET", f"/api/v1/sandboxes/{sandbox_id}"))

    def list_sandboxes(
        self, limit: Optional[int] = None, cursor: Optional[str] = None, state: Optional[str] = None
    ) -> Page[SandboxInfo]:
        """One page of the user's sandboxes."""
        params = {"limit": limit, "cursor": cursor, "state": state}
        return _page(self.transport.json("GET", "/api/v1/sandboxes", params=params), SandboxInfo.from_json)

    def iter_sandboxes(self, state: Optional[str] = None) -> Iterator[SandboxInfo]:
        """All of the user's sandboxes, page by page."""
        cursor: Optional[str] = None
        while True:
            page = self.list_sandboxes(cursor=cursor, state=state)
            for info in page.items:
                yield info
            cursor = page.next_cursor
            if cursor is None:
                return

    # -- sessions ---------------------------------------------------------------------------------------------

    def create_session(self, body: Mapping[str, Any], idempotency_key: Optional[str] = None) -> SessionInfo:
        """Makes a session from a request body of the API. `Session.create` is the comfortable way."""
        return SessionInfo.from_json(self._create("/api/v1/sessions", body, idempotency_key))

    def get_session(self, session_id: str) -> SessionInfo:
        """Looks a session up."""
        return SessionInfo.from_json(self.transport.json("GET", f"/api/v1/sessions/{session_id}"))

    def list_sessions(self, limit: Optional[int] = None, cursor: Optional[str] = None) -> Page[SessionInfo]:
        """One page of the user's sessions."""
        params = {"limit": limit, "cursor": cursor}
        return _page(self.transport.json("GET", "/api/v1/sessions", params=params), SessionInfo.from_json)

    def iter_sessions(self) -> Iterator[SessionInfo]:
        """All of the user's sessions, page by page."""
        cursor: Optional[str] = None
        while True:
            page = self.list_sessions(cursor=cursor)
            for info in page.items:
                yield info
            cursor = page.next_cursor
            if cursor is None:
                return

    # -- the server -------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Whether the server is up."""
        data = self.transport.json("GET", "/health", authorize=False)
        return dict(data)

    def pool_stats(self) -> dict[str, Any]:
        """The sandbox pool, how many sandboxes there are, and the warden."""
        return dict(self.transport.json("GET", "/api/v1/sandbox/stats"))

    def templates(self) -> list[Template]:
        """What sandboxes can start from."""
        return _items(self.transport.json("GET", "/api/v1/templates"), Template.from_json)

    def kinds(self) -> list[KindInfo]:
        """How sandboxes can be isolated, what each kind cannot do, and which of them this server has."""
        return _items(self.transport.json("GET", "/api/v1/kinds"), KindInfo.from_json)

    def languages(self) -> list[Language]:
        """What `run_code` can run."""
        return _items(self.transport.json("GET", "/api/v1/languages"), Language.from_json)

    def _create(self, path: str, body: Mapping[str, Any], key: Optional[str]) -> Any:
        # With a key the server recognises a second sending, so that a lost answer leaves no second sandbox behind.
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self.transport.json("POST", path, safety=Safety.REPEATABLE, json=dict(body), headers=headers)


def _items(data: Any, read: Callable[[Any], R]) -> list[R]:
    try:
        return [read(item) for item in data["items"]]
    except (KeyError, TypeError) as error:
        raise ProtocolError("a list cannot be read") from error


def _page(data: Any, read: Callable[[Any], R]) -> Page[R]:
    return Page(items=_items(data, read), next_cursor=data.get("next_cursor"))
