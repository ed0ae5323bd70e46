"""Writes `_sync` from `_async`: the same client without `await`. With `--check`, only says whether it is up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "cloud_sandbox"
PLACES = (PACKAGE, PACKAGE / "deepagents")
BY_HAND = {"__init__.py", "shims.py"}
RULES = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bwebsockets\.asyncio\b", "websockets.sync"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"Awaitable, ", ""),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\benter_async_context\b", "enter_context"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b__a(enter|exit|iter)__\b", r"__\1__"),
    (r"\ba(close|read|iter_bytes)\b", r"\1"),
    (r"\bhttpx\.AsyncClient\b", "httpx.Client"),
    (r"\b_async\b", "_sync"),
]


def convert(source: str, name: str) -> str:
    """One module's source without asyncio."""
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source)
    source = re.sub(r"\nfrom collections\.abc import ([^\n]+)", _without_repeats, source, count=1)
    return f"# Generated from _async/{name} by tools/unasync.py; edit that one.\n" + source


def _without_repeats(found: re.Match[str]) -> str:
    names = sorted({name.strip() for name in found[1].split(",")})
    return "\nfrom collections.abc import " + ", ".join(names)


def main() -> int:
    """Converts every module; returns 1 if `--check` finds a stale one."""
    stale = []
    for path in (path for place in PLACES for path in sorted((place / "_async").glob("*.py"))):
        if path.name in BY_HAND:
            continue
        target = path.parent.parent / "_sync" / path.name
        text = convert(path.read_text(), path.name)
        if not target.exists() or target.read_text() != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                target.write_text(text)
    if stale and "--check" in sys.argv:
        print("stale, run tools/unasync.py: " + ", ".join(stale))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
