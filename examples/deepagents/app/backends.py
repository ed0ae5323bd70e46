"""The backend of the examples: `DockerSandboxBackend` of the SDK, with this application's settings.

`SANDBOX_KIND` chooses the kind of isolation: `docker` unless it says another, such as `process`, which needs no Docker.
The server is `CSB_SERVER`, the key `CSB_API_KEY`.
"""

from __future__ import annotations

import os
from typing import Any

from cloud_sandbox.deepagents import DockerSandboxBackend as _DockerSandboxBackend
from deepagents.backends.protocol import ExecuteResponse

EMPTY_IT = "rm -rf /workspace/*"


class DockerSandboxBackend(_DockerSandboxBackend):
    """Gives a fresh sandbox to whoever empties the workspace.

    The pool of the third example does so before it hands a backend to the next user. Removing files alone would leave
    that user hidden files, `/tmp`, and processes that still run.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("kind", os.environ.get("SANDBOX_KIND", "docker"))
        super().__init__(*args, **options)

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a command; see the class for the one that is not run."""
        if command == EMPTY_IT:
            self.reset()
            return ExecuteResponse(output="", exit_code=0)
        return super().execute(command, timeout=timeout)
