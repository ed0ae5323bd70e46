"""Request bodies. Pure functions; what is impossible is left for the server to refuse: there is one rulebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

from .models import ResourceRequest

Command = Union[str, Sequence[str]]
"""A line for `/bin/sh`, or a program and its arguments."""
Input = Union[str, bytes, None]

MOST_INLINE_STDIN = 64 * 1024
STDIN_PIECE = 256 * 1024


def without_none(body: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what was not given: the server refuses nulls for unknown intent and has the defaults."""
    return {key: value for key, value in body.items() if value is not None}


def sandbox_request(
    template: Optional[str],
    resources: Optional[ResourceRequest],
    timeout: Optional[float],
    env: Optional[Mapping[str, str]],
    metadata: Optional[Mapping[str, str]],
    sandbox: Optional[Mapping[str, Any]],
    network: Optional[str],
    storage: Optional[str],
    hostname: Optional[str],
) -> dict[str, Any]:
    """The body that creates a sandbox."""
    return without_none(
        {
            "template": template,
            "resources": dict(resources) if resources is not None else None,
            "timeout": timeout,
            "env": dict(env) if env is not None else None,
            "metadata": dict(metadata) if metadata is not None else None,
            "sandbox": dict(sandbox) if sandbox is not None else None,
            "network": network,
            "storage": storage,
            "hostname": hostname,
        }
    )


def split_stdin(stdin: Input) -> tuple[Union[str, bool, None], Optional[bytes]]:
    """Short text travels in the request itself; anything else is written behind it (`True` keeps stdin open)."""
    if stdin is None:
        return None, None
    if isinstance(stdin, str):
        raw = stdin.encode()
        return (stdin, None) if len(raw) <= MOST_INLINE_STDIN else (True, raw)
    return True, bytes(stdin)


def exec_request(
    command: Command,
    env: Optional[Mapping[str, str]],
    cwd: Optional[str],
    user: Optional[str],
    stdin: Union[str, bool, None],
    timeout: Optional[float],
    max_output_bytes: Optional[int],
    pty: Optional[tuple[int, int]] = None,
    wait: Optional[bool] = None,
) -> dict[str, Any]:
    """The body that starts a command."""
    return without_none(
        {
            "command": command if isinstance(command, str) else [str(part) for part in command],
            "env": dict(env) if env is not None else None,
            "cwd": cwd,
            "user": user,
            "stdin": stdin,
            "timeout": timeout,
            "max_output_bytes": max_output_bytes,
            "pty": {"cols": pty[0], "rows": pty[1]} if pty is not None else None,
            "wait": wait,
        }
    )


def code_request(
    code: str,
    language: str,
    env: Optional[Mapping[str, str]],
    cwd: Optional[str],
    stdin: Union[str, bool, None],
    timeout: Optional[float],
    max_output_bytes: Optional[int],
) -> dict[str, Any]:
    """The body that runs a piece of source code."""
    return without_none(
        {
            "code": code,
            "language": language,
            "env": dict(env) if env is not None else None,
            "cwd": cwd,
            "stdin": stdin,
            "timeout": timeout,
            "max_output_bytes": max_output_bytes,
        }
    )
