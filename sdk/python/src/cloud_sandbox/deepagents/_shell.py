"""How a line of a shell becomes a program with arguments, and its result what deepagents expects. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Optional

from deepagents.backends.protocol import ExecuteResponse

# One argument has at most 128 KiB (execve(2)); a longer line is read from stdin.
LONGEST_ARGUMENT = 100_000
# Exit codes of `timeout` and `docker exec` for the same.
TIMED_OUT = 124
NOT_RUN = 125

_PICK = "if command -v bash >/dev/null 2>&1; then s=bash; else s=sh; fi; "
# The two streams as one: their order is then what the command did.
_SHORT = _PICK + 'exec "$s" -c "$1" 2>&1'
_LONG = _PICK + 'f=$(mktemp) && cat >"$f" && exec 3<"$f" && rm "$f" && exec "$s" /dev/fd/3 </dev/null 2>&1'


@dataclasses.dataclass(frozen=True)
class Habits:
    """How commands of a backend run."""

    cwd: str = "/workspace"
    user: Optional[str] = None
    env: Optional[Mapping[str, str]] = None
    timeout: int = 120
    """Seconds, where a command does not say; 0 for none."""
    most_output: int = 1 << 20
    """Bytes of output that are kept."""

    def seconds(self, timeout: Optional[int]) -> Optional[float]:
        """How long a command may take."""
        seconds = self.timeout if timeout is None else timeout
        if seconds < 0:
            raise ValueError("a timeout is not negative")
        return seconds or None


def program(command: str) -> tuple[list[str], Optional[str]]:
    """Arguments, and what comes through stdin. It is bash where there is one: what agents write is for it."""
    if len(command.encode()) <= LONGEST_ARGUMENT:
        return ["sh", "-c", _SHORT, "sh", command], None
    return ["sh", "-c", _LONG, "sh"], command


def response(
    output: bytes,
    exit_code: int,
    truncated: bool = False,
    killed_by: Optional[str] = None,
    seconds: Optional[float] = None,
    note: str = "",
) -> ExecuteResponse:
    """A result, with a line that says what ended the command where that was not itself."""
    text = output.decode("utf-8", "replace")
    if killed_by == "timeout":
        exit_code = TIMED_OUT
    why = {
        "timeout": f"killed: it took longer than {seconds:g} s" if seconds else "killed: it took too long",
        "oom": "killed: out of memory, the sandbox's limit is reached",
        "pids": "the sandbox's limit of processes is reached",
        "disk": "the sandbox's disk is full",
        "quota": "killed: workspace quota exceeded. Remove files, then try again",
        "released": "killed: the sandbox was released",
        "signal": "killed by a signal from outside",
    }.get(killed_by or "", "")
    for line in (why, note):
        if line:
            text += ("" if not text or text.endswith("\n") else "\n") + f"[{line}]"
    return ExecuteResponse(output=text, exit_code=exit_code, truncated=truncated)
