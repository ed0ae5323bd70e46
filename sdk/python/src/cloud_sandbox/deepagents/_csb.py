"""Runs a command in a sandbox of its own by the program `csb`, without a server; for threads and for asyncio."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import Any, Optional

from deepagents.backends.protocol import ExecuteResponse

from ..errors import CloudSandboxError
from . import _shell
from ._quota import INTERVAL, Quota
from ._shell import Habits

GRACE = 30.0
"""Seconds after a command's timeout until `csb` itself is given up."""
END = 10.0
"""Seconds that `csb` has to end a sandbox when it is told to."""


def find(given: Optional[str]) -> str:
    """The program: as given, `CSB_BIN`, or `csb` in the `PATH`."""
    program = given or os.environ.get("CSB_BIN") or shutil.which("csb")
    if not program or not os.access(program, os.X_OK):
        raise CloudSandboxError(
            f"the program `{program or 'csb'}` is not there",
            hint="put csb into the PATH, or say where it is with CSB_BIN or csb=",
        )
    return program


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one command may use."""

    memory: str
    cpus: float
    pids: int
    disk: Optional[str]


class Runner:
    """How commands of one backend run."""

    def __init__(
        self, program: str, root: str, mount: str, limits: Limits, template: Optional[str], habits: Habits, quota: Quota
    ) -> None:
        self._habits = habits
        self._quota = quota
        self._argv = [program, "run", "--json", "--no-stdin", "-v", f"{root}:{mount}", "-w", mount]
        self._argv += ["-m", limits.memory, "--cpus", str(limits.cpus), "--pids", str(limits.pids)]
        self._argv += ["--max-output", str(habits.most_output)]
        self._argv += ["--disk", limits.disk] if limits.disk else []
        self._argv += ["--template", template] if template else []
        for name, value in (habits.env or {}).items():
            self._argv += ["-e", f"{name}={value}"]

    def _command(self, command: str, seconds: Optional[float], most_file: int) -> tuple[list[str], Optional[bytes]]:
        argv, stdin = _shell.program(command)
        # The kernel's own limit of one file's size, in blocks of 512 bytes (POSIX, ulimit).
        argv = ["sh", "-c", f'ulimit -f {most_file >> 9}; exec "$@"', "sh", *argv]
        options = ["--timeout", f"{int(seconds * 1000)}ms"] if seconds else []
        whole = [*self._argv, *options, "--", *argv]
        if stdin is not None:
            whole.remove("--no-stdin")
        return whole, None if stdin is None else stdin.encode()

    def run(self, command: str, timeout: Optional[int]) -> ExecuteResponse:
        """Runs a line of a shell."""
        seconds = self._habits.seconds(timeout)
        most = self._quota.begin()
        argv, stdin = self._command(command, seconds, most[0])
        waited = 0.0
        why: Optional[str] = None
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                while True:
                    try:
                        out, err = process.communicate(stdin, INTERVAL)
                        break
                    except subprocess.TimeoutExpired:
                        stdin, waited = None, waited + INTERVAL
                        why = why or self._reason_to_stop(most, process.pid, waited, seconds)
                        if why:
                            process.terminate()
                            if waited > END + (seconds or 0) + GRACE:
                                process.kill()
            except BaseException:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END)
                process.kill()
                raise
        return self._response(process.returncode, out, err, seconds, why)

    async def arun(self, command: str, timeout: Optional[int]) -> ExecuteResponse:
        """As `run`."""
        seconds = self._habits.seconds(timeout)
        most = await asyncio.to_thread(self._quota.begin)
        argv, stdin = self._command(command, seconds, most[0])
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe if stdin else nothing, stdout=pipe, stderr=pipe
        )
        talk = asyncio.ensure_future(process.communicate(stdin))
        waited = 0.0
        why: Optional[str] = None
        try:
            while not (await asyncio.wait([talk], timeout=INTERVAL))[0]:
                waited += INTERVAL
                why = why or await asyncio.to_thread(self._reason_to_stop, most, process.pid, waited, seconds)
                if why:
                    _signal(process, process.terminate)
            out, err = await talk
        except BaseException:
            # Cancelled: the command ends with whoever waited for it.
            _signal(process, process.terminate)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.shield(asyncio.wait_for(process.wait(), END))
            _signal(process, process.kill)
            talk.cancel()
            raise
        return self._response(process.returncode, out, err, seconds, why)

    def _reason_to_stop(
        self, most: tuple[int, int], pid: int, waited: float, seconds: Optional[float]
    ) -> Optional[str]:
        if self._quota.exceeded(most, pid):
            return "quota"
        return "timeout" if seconds and waited > seconds + GRACE else None

    def _response(
        self, code: Optional[int], out: bytes, err: bytes, seconds: Optional[float], why: Optional[str]
    ) -> ExecuteResponse:
        result = _json(out)
        if result is None:
            if why is not None:
                return _shell.response(b"", 137, killed_by=why, seconds=seconds)
            raise _failure(code, err)
        text = result["stdout"] + result["stderr"]
        output = base64.b64decode(text) if result.get("encoding") == "base64" else text.encode()
        killed_by = why or result.get("killed_by")
        if result["exit_code"] == 128 + signal.SIGXFSZ:
            killed_by = "quota"
        exit_code = 137 if why else result["exit_code"]
        return _shell.response(output, exit_code, bool(result.get("truncated")), killed_by, seconds)


def _signal(process: asyncio.subprocess.Process, send: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            send()


def _json(data: bytes) -> Optional[dict[str, Any]]:
    try:
        result = json.loads(data)
    except ValueError:
        return None
    return result if isinstance(result, dict) and "exit_code" in result else None


def _failure(code: Optional[int], err: bytes) -> CloudSandboxError:
    """What `csb` says when it ran nothing."""
    text = err.decode("utf-8", "replace").strip()
    said: Any = None
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            break
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return CloudSandboxError(f"csb run ended with {code}: {text[-500:]}")
    causes: Sequence[str] = error.get("causes") or []
    message = ": ".join([str(error.get("message")), *map(str, causes)])
    return CloudSandboxError(message, code=str(error.get("code") or "client_error"), hint=error.get("hint"))
