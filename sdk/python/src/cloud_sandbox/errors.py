"""What can go wrong, as exception classes: one per error code of the API, and a few for what happens on the way.

Every class derives from `CloudSandboxError`, which carries what the server said: `code`, `message`, `hint`,
`request_id` and the HTTP `status`. Codes that have no class of their own arrive as the class of their status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

__all__ = [
    "BackendUnavailable",
    "BadRequest",
    "CapacityExceeded",
    "CloudSandboxError",
    "CommandNotFound",
    "CommandNotRunnable",
    "Conflict",
    "ConnectionFailed",
    "ConnectionLost",
    "DiskFull",
    "ExecEnded",
    "ExecNotFound",
    "ExecNotInteractive",
    "ExecRunning",
    "FileExists",
    "FileFailed",
    "FileInterrupted",
    "FileNotFound",
    "IdempotencyConflict",
    "InvalidArchive",
    "InvalidPath",
    "IsADirectory",
    "NotADirectory",
    "NotARegularFile",
    "NotEmpty",
    "NotFound",
    "PayloadTooLarge",
    "PermissionDenied",
    "ProtocolError",
    "QuotaExceeded",
    "RateLimited",
    "ResourceNotFound",
    "RoleDenied",
    "SandboxGone",
    "SandboxLimit",
    "SandboxNotFound",
    "SandboxPaused",
    "SandboxReleasing",
    "ServerError",
    "SessionNotFound",
    "StdinClosed",
    "TemplateNotFound",
    "TimedOut",
    "TokenExpired",
    "Unauthorized",
    "UnknownLanguage",
    "UnsafeArchive",
    "Unsupported",
]


class CloudSandboxError(Exception):
    """Something failed. `code` is stable and documented; `message` is for people."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "client_error",
        hint: Optional[str] = None,
        request_id: Optional[str] = None,
        status: Optional[int] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.request_id = request_id
        self.status = status

    def __str__(self) -> str:
        text = self.message if self.code == "client_error" else f"{self.message} [{self.code}]"
        if self.hint:
            text += f"\nhint: {self.hint}"
        if self.request_id:
            text += f"\nrequest id: {self.request_id}"
        return text


class BadRequest(CloudSandboxError):
    """The request cannot be meant: malformed JSON, unknown fields, impossible limits (400, 405, 415, 422)."""


class InvalidPath(BadRequest):
    """A path is relative, too long, or holds a NUL or `..`."""


class InvalidArchive(BadRequest):
    """An archive is malformed, or holds what may not be unpacked."""


class UnknownLanguage(BadRequest):
    """`run_code` has no runner for this language."""


class CommandNotRunnable(BadRequest):
    """The command cannot be started: not executable, no such working directory, no such user."""


class CommandNotFound(CommandNotRunnable):
    """There is no such program in the sandbox."""


class PayloadTooLarge(BadRequest):
    """The body is larger than this call accepts."""


class Unauthorized(CloudSandboxError):
    """The credential is missing, forged or unknown."""


class TokenExpired(Unauthorized):
    """The token's time is over and no new one could be had."""


class RoleDenied(CloudSandboxError):
    """The credential's role does not allow this."""


class QuotaExceeded(CloudSandboxError):
    """The user has as many objects as the operator allows."""


class PermissionDenied(CloudSandboxError):
    """The sandbox's user may not touch this file."""


class NotFound(CloudSandboxError):
    """There is no such object, or it belongs to someone else."""


class SandboxNotFound(NotFound):
    """There is no such sandbox (any more)."""


class SessionNotFound(NotFound):
    """There is no such session."""


class ExecNotFound(NotFound):
    """There is no such exec in this sandbox."""


class FileNotFound(NotFound):
    """There is no such file or directory in the sandbox."""


class TemplateNotFound(NotFound):
    """There is no such template on the server."""


class ResourceNotFound(NotFound):
    """What the options of a kind name is not there: an image, a runtime, a directory."""


class Conflict(CloudSandboxError):
    """The object is in a state that does not allow this."""


class FileExists(Conflict):
    """The path exists already."""


class NotEmpty(Conflict):
    """The directory is not empty and removal was not recursive."""


class IsADirectory(Conflict):
    """A directory where a file was expected."""


class NotADirectory(Conflict):
    """A file where a directory was expected."""


class NotARegularFile(Conflict):
    """Neither a regular file nor a directory: a FIFO, a socket, a device."""


class FileInterrupted(Conflict):
    """The sandbox's file helper was killed from inside, or its memory ran out. Trying again may help."""


class SandboxPaused(Conflict):
    """The sandbox is paused; resume it first."""


class SandboxReleasing(Conflict):
    """The sandbox is being released."""


class ExecRunning(Conflict):
    """The exec is still running."""


class ExecEnded(Conflict):
    """The exec has ended; it takes no input or signals any more."""


class ExecNotInteractive(Conflict):
    """The exec was started without stdin, or without a terminal."""


class StdinClosed(Conflict):
    """The exec's stdin was closed by an earlier write, or by the command itself."""


class IdempotencyConflict(Conflict):
    """The idempotency key was used before with another request."""


class SandboxLimit(Conflict):
    """The sandbox's process or memory limit leaves no room for another exec."""


class SandboxGone(CloudSandboxError):
    """The sandbox ended while the request was under way."""


class RateLimited(CloudSandboxError):
    """Too many requests. `retry_after` is in seconds."""

    retry_after: Optional[float] = None


class BackendUnavailable(CloudSandboxError):
    """What builds sandboxes of this kind does not answer: an engine, another server. `retry_after` is in seconds."""

    retry_after: Optional[float] = None


class CapacityExceeded(CloudSandboxError):
    """The host has no room for another sandbox now. `retry_after` is in seconds."""

    retry_after: Optional[float] = None


class FileFailed(CloudSandboxError):
    """The sandbox's file system refused for a reason of its own; `message` has the kernel's words."""


class DiskFull(CloudSandboxError):
    """The sandbox's disk or inode limit is reached."""


class Unsupported(CloudSandboxError):
    """This server, or this kind of sandbox, cannot do that."""


class ServerError(CloudSandboxError):
    """The server failed; its log has the reason under `request_id`."""


class ConnectionFailed(CloudSandboxError):
    """The server could not be reached, and nothing was sent: the request has certainly not been carried out."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="connection_failed")


class ConnectionLost(CloudSandboxError):
    """The connection broke after a request was sent. It may have been carried out or not; it is not sent again.

    For the output of an exec, `exec_id` and `seq` say what to attach to:
    `sandbox.process(error.exec_id).output(error.seq)`.
    """

    def __init__(self, message: str, *, exec_id: Optional[str] = None, seq: int = 0) -> None:
        super().__init__(message, code="connection_lost")
        self.exec_id = exec_id
        self.seq = seq


class TimedOut(CloudSandboxError):
    """The client's patience ended before the server's answer. What was asked for goes on in the sandbox."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="client_timeout")


class ProtocolError(CloudSandboxError):
    """The answer is not what the API promises: another program answers at this address, or a proxy in between."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="protocol_error")


class UnsafeArchive(CloudSandboxError):
    """A directory from a sandbox holds an entry that would have been written outside the destination."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="unsafe_archive")


_BY_CODE: Mapping[str, type[CloudSandboxError]] = {
    "unauthorized": Unauthorized,
    "token_expired": TokenExpired,
    "role_denied": RoleDenied,
    "permission_denied": PermissionDenied,
    "malformed_json": BadRequest,
    "invalid_request": BadRequest,
    "invalid_path": InvalidPath,
    "invalid_archive": InvalidArchive,
    "method_not_allowed": BadRequest,
    "unsupported_media_type": BadRequest,
    "request_timeout": BadRequest,
    "quota_exceeded": QuotaExceeded,
    "key_not_found": NotFound,
    "not_regular": NotARegularFile,
    "file_interrupted": FileInterrupted,
    "file_failed": FileFailed,
    "exec_not_interactive": ExecNotInteractive,
    "stdin_closed": StdinClosed,
    "not_found": NotFound,
    "sandbox_not_found": SandboxNotFound,
    "session_not_found": SessionNotFound,
    "exec_not_found": ExecNotFound,
    "file_not_found": FileNotFound,
    "template_not_found": TemplateNotFound,
    "resource_not_found": ResourceNotFound,
    "file_exists": FileExists,
    "not_empty": NotEmpty,
    "is_directory": IsADirectory,
    "not_directory": NotADirectory,
    "sandbox_paused": SandboxPaused,
    "sandbox_releasing": SandboxReleasing,
    "exec_running": ExecRunning,
    "exec_ended": ExecEnded,
    "idempotency_conflict": IdempotencyConflict,
    "sandbox_limit": SandboxLimit,
    "sandbox_gone": SandboxGone,
    "payload_too_large": PayloadTooLarge,
    "command_not_found": CommandNotFound,
    "command_not_executable": CommandNotRunnable,
    "bad_cwd": CommandNotRunnable,
    "bad_user": CommandNotRunnable,
    "unknown_language": UnknownLanguage,
    "rate_limited": RateLimited,
    "backend_unavailable": BackendUnavailable,
    "capacity": CapacityExceeded,
    "disk_full": DiskFull,
    "unsupported": Unsupported,
    "internal": ServerError,
}

_BY_STATUS: Mapping[int, type[CloudSandboxError]] = {
    401: Unauthorized,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    410: SandboxGone,
    413: PayloadTooLarge,
    429: RateLimited,
    501: Unsupported,
    507: DiskFull,
}


def error_from(status: int, body: Any, headers: Mapping[str, str]) -> CloudSandboxError:
    """The exception for an error response; `body` is its parsed JSON, or None where it was none."""
    said = body.get("error") if isinstance(body, dict) else None
    if not isinstance(said, dict):
        said = {}
    code = str(said.get("code") or f"http_{status}")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else BadRequest
    error = kind(
        str(said.get("message") or f"the server answered with status {status}"),
        code=code,
        hint=said.get("hint"),
        request_id=said.get("request_id") or headers.get("x-request-id"),
        status=status,
    )
    if isinstance(error, (RateLimited, CapacityExceeded, BackendUnavailable)):
        error.retry_after = parse_retry_after(headers.get("retry-after"))
    return error


def parse_retry_after(text: Optional[str]) -> Optional[float]:
    """Seconds of a Retry-After header. Its date form (RFC 9110, 10.2.3) is not used by this API and is ignored."""
    try:
        seconds = float(text) if text else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < 1e9 else None
