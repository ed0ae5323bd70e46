"""Where the server is and who asks. Read once from arguments and the environment; then constant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import urlsplit

from .errors import CloudSandboxError

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Config:
    """What a client needs to know."""

    base_url: str
    api_key: Optional[str] = field(default=None, repr=False)
    token: Optional[str] = field(default=None, repr=False)
    user_id: Optional[str] = None
    request_timeout: float = 60.0
    max_retries: int = 3
    reconnect_timeout: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        base_url: Optional[str] = None,
        api_key: Optional[str] = None,
        token: Optional[str] = None,
        user_id: Optional[str] = None,
        request_timeout: float = 60.0,
        max_retries: int = 3,
        reconnect_timeout: float = 30.0,
        headers: Optional[Mapping[str, str]] = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Config:
        """Arguments win over `CSB_SERVER`, `CSB_API_KEY` and `CSB_TOKEN`; a key wins over a token of the same place."""
        url = base_url or environ.get("CSB_SERVER") or DEFAULT_URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise CloudSandboxError(f"`{url}` is not the address of a server", hint=f"write it like {DEFAULT_URL}")
        if token and api_key:
            raise CloudSandboxError("give `token` or `api_key`, not both")
        if not api_key and not token:
            api_key = environ.get("CSB_API_KEY") or None
            token = None if api_key else environ.get("CSB_TOKEN") or None
        return cls(
            base_url=url.rstrip("/"),
            api_key=api_key,
            token=token,
            user_id=user_id,
            request_timeout=request_timeout,
            max_retries=max(0, max_retries),
            reconnect_timeout=reconnect_timeout,
            headers=dict(headers or {}),
        )
