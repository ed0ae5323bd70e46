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


# Of kinds whose sandboxes take seconds to start, what is about them: the rest is the same code as for the others.
# All of it runs with CSB_FULL=1, or where CSB_KINDS names the kind.
SLOW = ("gvisor", "microvm")
CORE = (
    "test_a_sandbox_is_what_was_asked_for",
    "test_streams_are_apart_in_order_and_whole",
    "test_a_command_is_as_long_as_the_api_lets_it_be",
    "test_stdin_is_passed_on_and_closed",
    "test_a_command_has_no_privilege_and_no_network",
    "test_a_terminal_echoes_resizes_and_is_interrupted",
    "test_files_are_written_read_in_part_and_appended_to",
    "test_a_paused_sandbox_stands_still_and_goes_on",
    "test_it_outlives_the_server_with_every_byte_of_its_output",
    "test_another_warden_takes_nothing_along_that_other_programs_hold",
    "test_a_release_leaves_nothing",
    "test_memory_is_limited_and_it_is_told",
    "test_a_full_disk_is_told_and_can_be_emptied",
)

# The example takes a third of a minute on each kind: those on which the others' walls stand.
NEIGHBOURS = ("process", "docker", "k8s")

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
