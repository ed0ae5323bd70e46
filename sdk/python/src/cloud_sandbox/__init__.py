"""Cloud Sandbox: run code that nobody has read, safely and at once.

`Sandbox` is for ordinary programs, `AsyncSandbox` the same for asyncio.

    from cloud_sandbox import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.run_code("print('Hello')").stdout)
"""

from ._async.client import AsyncClient
from ._async.process import AsyncProcess
from ._async.sandbox import AsyncSandbox
from ._async.session import AsyncSession
from ._async.terminal import AsyncTerminal
from ._sync.client import Client
from ._sync.process import Process
from ._sync.sandbox import Sandbox
from ._sync.session import Session
from ._sync.terminal import Terminal
from ._tar import Unpacked
from ._version import __version__
from .errors import *  # noqa: F403
from .errors import __all__ as _errors
from .models import (
    CommandFailed,
    CommandResult,
    ExecInfo,
    FileEntry,
    IoRequest,
    KindInfo,
    Language,
    OutputChunk,
    Page,
    ResourceRequest,
    SandboxInfo,
    SandboxStats,
    SessionInfo,
    Template,
)

__all__ = [
    "AsyncClient",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncSession",
    "AsyncTerminal",
    "Client",
    "CommandFailed",
    "CommandResult",
    "ExecInfo",
    "FileEntry",
    "IoRequest",
    "KindInfo",
    "Language",
    "OutputChunk",
    "Page",
    "Process",
    "ResourceRequest",
    "Sandbox",
    "SandboxInfo",
    "SandboxStats",
    "Session",
    "SessionInfo",
    "Template",
    "Terminal",
    "Unpacked",
    "__version__",
    *_errors,
]
