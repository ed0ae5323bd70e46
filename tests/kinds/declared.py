"""Of each kind: how to ask for one, and what it declares that it cannot do. The server must say the same."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Declared:
    cannot: frozenset[str] = frozenset()
    options: Callable[[], dict[str, Any]] = dict
    # As the API calls it, where that is not its name here.
    kind: str = ""
    # Who goes past its memory or processes loses the sandbox, not a command: the limit is one of its kernel's.
    ends_at_limits: bool = False


KINDS = {
    "process": Declared(),
    "hardened": Declared(),
    "vfs": Declared(frozenset({"disk"}), lambda: {"memoryOnly": True}),
    "local": Declared(options=lambda: {"workDir": f"kinds-{next(numbers)}"}),
    "docker": Declared(options=lambda: {"image": "csb-kinds:latest", "workDir": "/workspace"}),
    "oci": Declared(),
    "k8s": Declared(frozenset({"pause", "disk", "pids_limit"}), lambda: {"workDir": "/workspace"}),
    "gvisor": Declared(options=lambda: {"runtime": "runsc"}, kind="oci", ends_at_limits=True),
    "microvm": Declared(),
    "remote": Declared(),
}
