"""Running the same programs in a sandbox and outside, and setting the two side by side."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import time
from pathlib import Path

FULL = bool(os.environ.get("CSB_FULL"))


class Outside:
    """Runs programs on the host as it is, but as `nobody`: the comparison is with a user, not with root."""

    ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="csb-outside-"))
        self.user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        os.chmod(self.dir, 0o755)
        self.home = self.dir / "home"
        self.home.mkdir()
        self.give(self.home)

    def give(self, path: Path) -> None:
        """Makes a tree that user's own."""
        if self.user:
            for where in (path, *path.rglob("*")):
                os.chown(where, self.user.pw_uid, self.user.pw_gid, follow_symlinks=False)

    def run(self, command: list[str], timeout: float = 600, **options: object) -> subprocess.CompletedProcess[str]:
        who = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}
        env = {**self.ENV, "HOME": str(self.home), "TMPDIR": str(self.home)}
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            command,
            cwd=self.home,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            **who,
            **options,
        )


class Clock:
    """Seconds that a block took."""

    def __enter__(self) -> Clock:
        self.start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.start


def overhead(what: str, inside: float, bare: float) -> str:
    """One line that sets the two side by side."""
    return f"{what}: {inside:.2f} s in a sandbox, {bare:.2f} s bare ({inside / bare - 1:+.0%})"
