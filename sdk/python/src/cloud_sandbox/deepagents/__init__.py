"""Backends for LangChain's deepagents: agents that work on files and run commands, confined.

`pip install 'cloud-sandbox[deepagents]'`. Each satisfies deepagents' sandbox protocol, for threads and for asyncio.

    from cloud_sandbox.deepagents import CloudSandboxBackend

    with CloudSandboxBackend() as backend:
        agent = create_agent(model, middleware=[FilesystemMiddleware(backend=backend)])
"""

try:
    import deepagents as _deepagents  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("cloud_sandbox.deepagents needs: pip install 'cloud-sandbox[deepagents]'") from error

from .cloud import CloudSandboxBackend
from .docker import DockerSandboxBackend
from .filesystem import FilesystemSandboxBackend
from .pool import BackendPool
from .state import StateSandboxBackend

__all__ = [
    "BackendPool",
    "CloudSandboxBackend",
    "DockerSandboxBackend",
    "FilesystemSandboxBackend",
    "StateSandboxBackend",
]
