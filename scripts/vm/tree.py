#!/usr/bin/env python3
"""Makes the root file system of the test machine from files of installed Debian packages.

usage: tree.py DIRECTORY PACKAGE…     the packages, what they depend on, and an /etc of its own
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# What nothing reads when a test runs; most of the size.
LEFT_OUT = re.compile(r"^/usr/(share/(doc|man|locale|info|i18n|zoneinfo|lintian|bash-completion|bug|gcc|perl5?)|lib/x86_64-linux-gnu/(perl|gconv))/|/__pycache__/|^/(etc|var|boot|dev|proc|sys)/")


def installed() -> dict[str, set[str]]:
    """For each installed package, and each virtual one, the packages that it needs."""
    form = "${Package}\t${Status}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], check=True, capture_output=True, text=True).stdout
    needs: dict[str, set[str]] = {}
    names = lambda field: {re.split(r"[ :(|]", part.strip())[0] for part in field.split(",")} - {""}
    for line in listed.splitlines():
        name, status, provides, depends = line.split("\t")
        if status.endswith(" installed"):
            needs[name] = names(depends)
            for other in names(provides):
                needs.setdefault(other, {name})
    return needs


def closure(wanted: list[str]) -> set[str]:
    needs, found, left = installed(), set(), list(wanted)
    missing = [name for name in wanted if name not in needs]
    if missing:
        sys.exit(f"error: not installed: {' '.join(missing)}\nhint: apt-get install {' '.join(missing)}")
    while left:
        name = left.pop()
        if name in needs and name not in found:
            found.add(name)
            left += needs[name]
    return found


def copy(root: Path, packages: set[str]) -> None:
    for top in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        (root / top).mkdir(parents=True, exist_ok=True)
        (root / Path(top).name).symlink_to(top)
    listed = subprocess.run(["dpkg-query", "-L", *packages], capture_output=True, text=True).stdout
    for name in sorted(set(listed.splitlines())):
        source = Path(name)
        if not name.startswith("/") or LEFT_OUT.search(name + ("/" if source.is_dir() else "")):
            continue
        target = root / name[1:]
        if source.is_symlink() and not target.is_symlink() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif source.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def etc(root: Path) -> None:
    """Accounts that tests name, and what the dynamic linker and alternatives need."""
    place = root / "etc"
    place.mkdir()
    for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "nsswitch.conf", "mke2fs.conf"):
        source = Path("/etc") / name
        if source.is_dir():
            shutil.copytree(source, place / name, symlinks=True)
        elif source.exists():
            shutil.copy2(source, place / name)
    (place / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/sh\n"
    )
    (place / "group").write_text("root:x:0:\nann:x:1000:\nnogroup:x:65534:\n")
    (place / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    (place / "shadow").chmod(0o600)
    (place / "hosts").write_text("127.0.0.1 localhost\n")
    (place / "hostname").write_text("vm\n")


def main() -> None:
    root = Path(sys.argv[1])
    root.mkdir(parents=True)
    copy(root, closure(sys.argv[2:]))
    etc(root)
    for name in ("dev", "proc", "sys", "run", "root", "home/ann", "var/lib", "var/tmp", "tmp", "vm"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o700)
    os.chown(root / "home/ann", 1000, 1000)


main()
