"""Two users on one host: one attacks, and the other is asked what it noticed.

csb serve --dev                                    # in another terminal
python neighbour.py --kind process                 # or vfs, hardened, docker, …
python neighbour.py --kind docker --opt image=debian:12
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloud_sandbox import Client, CloudSandboxError, CommandResult, Sandbox

LIMITS = {"memory": "96Mi", "pids": 64, "disk": "24Mi", "cpu": 0.5}
MINE = "the victim's own"


@dataclass(frozen=True)
class Hazard:
    """Something that a program does to its neighbours where nothing stops it."""

    name: str
    command: str
    user: str = "user"
    timeout: float = 20
    also_seen: tuple[str, ...] = ()
    """What it would print if it saw the victim."""
    needs: str = ""
    """The capability without which the kind does not promise that it is stopped."""


HAZARDS = (
    Hazard(
        "rm -rf /tmp/* and all else", "rm -rf /tmp/* /workspace/* /dev/shm/* /home/* /usr/* 2>/dev/null", user="root"
    ),
    Hazard("fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 60", timeout=5),
    Hazard("ps aux", "ps aux 2>/dev/null; cat /proc/[0-9]*/cmdline | tr '\\0' ' '", also_seen=("4711.5", "csb serve")),
    Hazard("kill -9 every process", "kill -9 -1", user="root"),
    Hazard(
        "read /etc/passwd, /etc/shadow, homes",
        "cat /etc/passwd /etc/shadow /root/.* 2>/dev/null; grep -rs 'victim' /home /root",
    ),
    Hazard(
        "look for the victim's files", "find / -xdev -name 'victims*' 2>/dev/null", user="root", also_seen=("victims",)
    ),
    Hazard(
        "fill the disk",
        "for d in /workspace /tmp /dev/shm; do dd if=/dev/zero of=$d/fill bs=1M count=2000; done",
        timeout=60,
        needs="disk_limit",
    ),
    Hazard(
        "fill the disk with files",
        "i=0; while : > /workspace/f$i; do i=$((i+1)); [ $i -lt 20000 ] || exit 0; done",
        needs="disk_limit",
    ),
    Hazard("hog every processor", "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; sleep 60", timeout=5),
    Hazard("hog the memory", "dd if=/dev/zero of=/dev/null bs=900M count=1"),
    Hazard("flood the log", "yes", timeout=3),
)


class Victim:
    """A sandbox in which something runs, and which can be asked how it is."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        for path in ("/workspace/victims.txt", "/tmp/victims.txt"):
            sandbox.write_file(path, MINE)
        self.running = sandbox.start("while :; do echo tick; sleep 0.1; done")
        sandbox.start(["sleep", "4711.5"])
        self.usual = self.ask()

    def ask(self) -> float:
        """Seconds that a command took; it looks at the files and wants room for more."""
        begun = time.monotonic()
        result = self.sandbox.run_command(
            "cat /workspace/victims.txt /tmp/victims.txt && head -c 4000000 /dev/zero > more && rm more"
        )
        if result.stdout != MINE * 2 or result.exit_code != 0:
            raise AssertionError(f"its files: {result.stdout!r} {result.stderr!r}")
        return time.monotonic() - begun

    def notices(self) -> str:
        """What is not as it was; empty where everything is."""
        noticed = []
        try:
            took = self.ask()
            # Two sandboxes and whoever asks share the host: only what a user would feel is told.
            if took > self.usual + 5:
                noticed.append(f"a command took {took:.1f} s instead of {self.usual:.1f} s")
            if not self.running.poll().running:
                noticed.append("its command ended")
            stats = self.sandbox.stats()
            if stats.oom_kills or stats.pids_refused:
                noticed.append("its own limits were met")
        except (AssertionError, CloudSandboxError) as error:
            noticed.append(str(error).splitlines()[0])
        return "; ".join(noticed)


def outcome(result: CommandResult) -> str:
    """How the attack ended for the attacker."""
    return f"ended by {result.killed_by}" if result.killed_by else f"exit {result.exit_code}"


class Arena:
    """A server, and the kind of both sandboxes."""

    def __init__(self, server: str | None, kind: dict[str, Any]) -> None:
        self.server, self.kind = server, kind
        with Client(server, user_id="victim") as client:
            kinds = {one.name: one.cannot for one in client.kinds()}
        self.cannot: dict[str, str] = dict(kinds.get(kind["kind"], {}))

    @contextlib.contextmanager
    def sandbox_of(self, user: str) -> Iterator[Sandbox]:
        limits = {name: limit for name, limit in LIMITS.items() if f"{name}_limit" not in self.cannot}
        with (
            Client(self.server, user_id=user) as client,
            Sandbox.create(client=client, sandbox=self.kind, resources=limits, timeout=900) as sandbox,
        ):
            yield sandbox

    def fight(self, hazard: Hazard, victim: Victim) -> tuple[str, str, str]:
        """How it ended for the attacker, and what the victim noticed."""
        if hazard.needs in self.cannot:
            return hazard.name, "not tried", f"this kind does not stop it: {self.cannot[hazard.needs]}"
        # A fresh one each time: most of these leave the attacker without a shell.
        with self.sandbox_of("attacker") as sandbox:
            running = sandbox.start(hazard.command, user=hazard.user, timeout=hazard.timeout, max_output_bytes=1 << 20)
            noticed = [victim.notices()]
            result = running.wait()
            noticed.append(victim.notices())
            said = result.stdout + result.stderr
            noticed += [f"the attacker saw `{text}`" for text in (*hazard.also_seen, MINE) if text in said]
            return hazard.name, outcome(result), "; ".join(dict.fromkeys(filter(None, noticed))) or "nothing"


def attack(server: str | None, kind: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each hazard, how it ended for the attacker, and what the victim noticed."""
    arena = Arena(server, kind)
    with arena.sandbox_of("victim") as sandbox:
        victim = Victim(sandbox)
        return [arena.fight(hazard, victim) for hazard in HAZARDS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="address; default: $CSB_SERVER, or this host's")
    parser.add_argument("--kind", default="process", help="how both are isolated; docs/concepts/kinds.md")
    parser.add_argument("--opt", action="append", default=[], metavar="NAME=VALUE", help="what the kind alone has")
    given = parser.parse_args()
    words = {"true": True, "false": False}
    options = {name: words.get(value, value) for name, value in (option.split("=", 1) for option in given.opt)}
    try:
        rows = attack(given.server, {"kind": given.kind, **options})
    except CloudSandboxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    widths = [max(len(row[i]) for row in [*rows, ("the attacker does", "and gets", "")]) for i in range(2)]
    for row in [("the attacker does", "and gets", "the victim notices"), *rows]:
        print(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}")
    return int(any(row[2] != "nothing" for row in rows if row[1] != "not tried"))


if __name__ == "__main__":
    sys.exit(main())
