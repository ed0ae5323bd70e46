"""The `docker` kind of a server, by the names that Docker has for things."""

from __future__ import annotations

from typing import Any, Optional

from .._sync.client import Client
from ..errors import BadRequest, CloudSandboxError, Unsupported
from ..models import ResourceRequest, SandboxInfo
from .cloud import CloudSandboxBackend

# Docker's default of `--cpu-period`, in microseconds (docker-run(1)).
CPU_PERIOD = 100_000


class DockerSandboxBackend(CloudSandboxBackend):
    """A container of `image` with at most `memory_limit` (`"512m"`) and `cpu_quota` microseconds of CPU in each 100 ms.

    It is a sandbox of the server's kind `docker`, whose container has the network `network_mode`; a server that has
    none refuses it, with `Unsupported`. An image that is not there is `ResourceNotFound`, an engine that is not there
    `BackendUnavailable`. Where there is no Docker, `kind="process"` chooses another kind by name: `image` then means
    nothing, and `template` is what it starts from. The limits hold in any kind. Further keywords are those of
    `CloudSandboxBackend`.
    """

    def __init__(
        self,
        image: str = "python:3.12-slim",
        memory_limit: Optional[str] = "512m",
        cpu_quota: Optional[int] = None,
        network_mode: str = "none",
        *,
        kind: str = "docker",
        resources: Optional[ResourceRequest] = None,
        **options: Any,
    ) -> None:
        limits: ResourceRequest = {}
        if memory_limit is not None:
            limits["memory"] = memory_limit
        if cpu_quota is not None:
            if cpu_quota <= 0:
                raise ValueError("cpu_quota is a number of microseconds")
            limits["cpu"] = cpu_quota / CPU_PERIOD
        limits.update(resources or {})
        self.image = image
        if kind == "docker":
            how = {"kind": kind, "image": image, "networkMode": network_mode}
            super().__init__(sandbox=how, resources=limits, **options)
        else:
            super().__init__(sandbox={"kind": kind}, resources=limits, network=network_mode, **options)

    def _create(self, client: Client) -> SandboxInfo:
        try:
            return super()._create(client)
        except (BadRequest, Unsupported) as refused:
            if not _lacks_docker(client, refused):
                raise
            raise Unsupported(
                "this server has no sandboxes of the kind `docker`",
                code="unsupported",
                hint='use a server that has, or choose another kind by name: DockerSandboxBackend(kind="process")',
                request_id=refused.request_id,
                status=refused.status,
            ) from refused


def _lacks_docker(client: Client, refused: CloudSandboxError) -> bool:
    """Whether it is the kind that was refused, and not something else that was asked of it."""
    if refused.code != "unsupported":
        # A server of before the kind does not know its option either.
        return refused.message.startswith("sandbox.image: unknown field")
    try:
        return not any(kind.name == "docker" and kind.available for kind in client.kinds())
    except CloudSandboxError:
        return "`docker`" in refused.message
