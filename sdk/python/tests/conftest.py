from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from peer import Connection, Peer, Request

import cloud_sandbox._async.output as async_output
import cloud_sandbox._async.transport as async_transport
import cloud_sandbox._sync.output as sync_output
import cloud_sandbox._sync.transport as sync_transport

SANDBOX = "sb-" + "a" * 20
EXEC = "ex-" + "b" * 20


def sandbox_view(**changes: object) -> dict[str, object]:
    view = {"sandbox_id": SANDBOX, "user_id": "u", "state": "running", "kind": "process", "template": "host"}
    return {**view, "created_at": "2026-01-02T03:04:05.678901234Z", "expires_at": None, **changes}


def exec_view(state: str = "running", **changes: object) -> dict[str, object]:
    return {"exec_id": EXEC, "state": state, "command": "x", "pid": 7, "pty": False, **changes}


ENDED = {"exit_code": 0, "signal": None, "duration_ms": 1.5, "truncated": False, "killed_by": None}


def give_token(connection: Connection, request: Request) -> None:
    connection.json(200, {"access_token": "token-1", "token_type": "bearer", "expires_in": 60})


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A peer that gives tokens and one sandbox; the client waits a hundredth of its usual delays."""
    for name in ("CSB_SERVER", "CSB_API_KEY", "CSB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for module in (async_output, sync_output):
        monkeypatch.setattr(module, "backoff", lambda attempt: 0.02)
    for module in (async_transport, sync_transport):
        usual = module.delay_before_retry

        def quick(*arguments: object, usual: object = usual) -> float | None:
            delay = usual(*arguments)  # type: ignore[operator]
            return None if delay is None else delay / 100

        monkeypatch.setattr(module, "delay_before_retry", quick)
    peer = Peer()
    peer.on("POST /api/v1/auth/token", give_token)
    peer.on("POST /api/v1/sandboxes", lambda c, r: c.json(201, sandbox_view()))
    peer.on(f"GET /api/v1/sandboxes/{SANDBOX}", lambda c, r: c.json(200, sandbox_view()))
    peer.on(f"DELETE /api/v1/sandboxes/{SANDBOX}", lambda c, r: c.empty())
    yield peer
    peer.close()
