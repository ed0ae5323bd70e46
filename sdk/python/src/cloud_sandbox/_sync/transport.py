# Generated from _async/transport.py by tools/unasync.py; edit that one.
"""Sends requests: credentials, retries, errors as exceptions. Knows nothing of sandboxes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Optional, Union

import httpx

from .._config import Config
from .._retry import Outcome, Safety, delay_before_retry
from .._version import __version__
from ..errors import (
    CloudSandboxError,
    ConnectionFailed,
    ConnectionLost,
    ProtocolError,
    TimedOut,
    error_from,
    parse_retry_after,
)
from . import shims

Body = Union[bytes, Iterator[bytes], None]
Params = Mapping[str, Union[str, int, float, bool, None]]

MOST_ERROR_BYTES = 1 << 20
CONNECT_TIMEOUT = 10.0


class Transport:
    """One connection pool to one server, as one user."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._http = httpx.Client(
            base_url=config.base_url,
            headers={"User-Agent": f"cloud-sandbox-python/{__version__}", **config.headers},
            timeout=httpx.Timeout(config.request_timeout, connect=CONNECT_TIMEOUT),
            # An idle connection is dropped well before servers and proxies do, so that no request meets a dying one.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=10.0),
            follow_redirects=False,
        )
        self._token = config.token
        self._token_lock = shims.Lock()
        self._closed = False

    def close(self) -> None:
        """Closes the connections."""
        self._closed = True
        self._http.close()

    # -- requests ---------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        safety: Optional[Safety] = None,
        params: Optional[Params] = None,
        json: Any = None,
        content: Body = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Optional[float] = None,
        authorize: bool = True,
    ) -> httpx.Response:
        """Sends a request and reads the whole answer. Raises the error that the server names."""
        with self.stream(
            method,
            path,
            safety=safety,
            params=params,
            json=json,
            content=content,
            headers=headers,
            timeout=timeout,
            authorize=authorize,
        ) as response:
            try:
                response.read()
            except httpx.HTTPError as error:
                raise _lost(method, path, error) from error
            return response

    def json(self, method: str, path: str, **options: Any) -> Any:
        """`request`, with the answer as JSON."""
        response = self.request(method, path, **options)
        try:
            return response.json()
        except ValueError as error:
            raise ProtocolError(f"{method} {path}: the answer is not JSON") from error

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        safety: Optional[Safety] = None,
        params: Optional[Params] = None,
        json: Any = None,
        content: Body = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Optional[float] = None,
        authorize: bool = True,
    ) -> Generator[httpx.Response, None]:
        """Sends a request and hands out the answer as soon as its headers are there. `with` closes it."""
        if safety is None:
            safety = Safety.REPEATABLE if method in ("GET", "HEAD") else Safety.ONCE
        if content is not None and not isinstance(content, bytes):
            safety = Safety.ONCE  # an iterator gives its bytes once
        response = self._send(method, path, safety, params, json, content, headers, timeout, authorize)
        try:
            yield response
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        safety: Safety,
        params: Optional[Params],
        json: Any,
        content: Body,
        headers: Optional[Mapping[str, str]],
        timeout: Optional[float],
        authorize: bool,
    ) -> httpx.Response:
        attempt = 0
        renewed = False
        replayable = content is None or isinstance(content, bytes)
        while True:
            credential = self._credential() if authorize else {}
            request = self._http.build_request(
                method,
                path,
                params={key: _text(value) for key, value in (params or {}).items() if value is not None},
                json=json,
                content=content,
                headers={**credential, **(headers or {})},
                timeout=httpx.Timeout(timeout or self.config.request_timeout, connect=CONNECT_TIMEOUT),
            )
            retry_after: Optional[float] = None
            failure: CloudSandboxError
            try:
                response = self._http.send(request, stream=True)
                if response.status_code < 400:
                    return response
                failure = _error_of(response)
                retry_after = parse_retry_after(response.headers.get("retry-after"))
                if response.status_code == 401 and self._may_renew() and not renewed and replayable:
                    # Refused before anything was done: a new token and the same request again.
                    renewed = True
                    self._forget_token(credential)
                    continue
                outcome = _outcome_of(response.status_code, retry_after)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                failure = ConnectionFailed(f"cannot reach {self.config.base_url}: {error or type(error).__name__}")
                failure.__cause__ = error
                outcome = Outcome.NOT_SENT
            except httpx.TimeoutException as error:
                failure = TimedOut(f"{method} {path}: no answer in time")
                failure.__cause__ = error
                outcome = Outcome.UNKNOWN
            except httpx.HTTPError as error:
                failure = _lost(method, path, error)
                outcome = Outcome.UNKNOWN
            except RuntimeError as error:
                if self._closed:
                    raise CloudSandboxError("this client is closed") from error
                raise
            delay = None
            if outcome is not None and (replayable or outcome is Outcome.NOT_SENT):
                delay = delay_before_retry(outcome, safety, attempt, self.config.max_retries, retry_after)
            if delay is None:
                raise failure
            attempt += 1
            shims.sleep(delay)

    # -- credentials ------------------------------------------------------------------------------------------

    def _may_renew(self) -> bool:
        return self.config.token is None and self._token is not None

    def _credential(self) -> dict[str, str]:
        """An API key is sent as it is, unless its (admin) owner acts for another user; then it buys a token."""
        if self.config.api_key and not self.config.user_id:
            return {"X-API-Key": self.config.api_key}
        with self._token_lock:
            if self._token is None:
                self._token = self._fetch_token()
            return {"Authorization": f"Bearer {self._token}"}

    def _forget_token(self, used: Mapping[str, str]) -> None:
        with self._token_lock:
            if used.get("Authorization") == f"Bearer {self._token}":
                self._token = None

    def _fetch_token(self) -> str:
        body = {"user_id": self.config.user_id} if self.config.user_id else {}
        key = {"X-API-Key": self.config.api_key} if self.config.api_key else {}
        response = self._send(
            "POST", "/api/v1/auth/token", Safety.REPEATABLE, None, body, None, key, None, authorize=False
        )
        try:
            response.read()
            token = response.json()["access_token"]
        except httpx.HTTPError as error:
            raise _lost("POST", "/api/v1/auth/token", error) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"{self.config.base_url} gave no token: is it a Cloud Sandbox server?") from error
        finally:
            response.close()
        return str(token)

    def credential(self) -> dict[str, str]:
        """The headers that say who asks, for a WebSocket."""
        return self._credential()


def _text(value: Union[str, int, float, bool]) -> Union[str, int, float]:
    return ("true" if value else "false") if isinstance(value, bool) else value


def _lost(method: str, path: str, error: Exception) -> ConnectionLost:
    lost = ConnectionLost(f"{method} {path}: the connection broke: {error or type(error).__name__}")
    lost.__cause__ = error
    return lost


def _outcome_of(status: int, retry_after: Optional[float]) -> Optional[Outcome]:
    if status == 429 or (status == 503 and retry_after is not None):
        return Outcome.REFUSED
    return Outcome.GATEWAY if status in (502, 503, 504) else None


def _error_of(response: httpx.Response) -> CloudSandboxError:
    """Reads an error response, but not without end."""
    raw = b""
    body: Any = None
    try:
        for piece in response.iter_bytes():
            raw += piece
            if len(raw) > MOST_ERROR_BYTES:
                break
        body = httpx.Response(200, content=raw).json()
    except (httpx.HTTPError, ValueError):
        pass  # the status alone says what failed
    finally:
        response.close()
    return error_from(response.status_code, body, response.headers)
