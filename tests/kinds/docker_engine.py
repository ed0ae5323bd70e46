"""An image for a Docker engine that can reach no registry: busybox and a few directories."""

from __future__ import annotations

import io
import subprocess
import tarfile

import httpx

BUSYBOX = "/bin/busybox"


def add_image(host: str, name: str = "csb-kinds") -> None:
    """Imports it into the engine at `unix://…`."""
    transport = httpx.HTTPTransport(uds=host.removeprefix("unix://"))
    with httpx.Client(transport=transport, base_url="http://docker", timeout=60) as engine:
        params = {"fromSrc": "-", "repo": name, "tag": "latest"}
        made = engine.post(
            "/images/create", params=params, content=image(), headers={"Content-Type": "application/x-tar"}
        )
        assert made.status_code == 200 and "error" not in made.text, made.text


def containers(host: str) -> str:
    """All containers, whether they run or not, as the engine tells."""
    transport = httpx.HTTPTransport(uds=host.removeprefix("unix://"))
    with httpx.Client(transport=transport, base_url="http://docker", timeout=60) as engine:
        return engine.get("/containers/json?all=1").text


def image() -> bytes:
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as tar:

        def add(name: str, mode: int, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> None:
            info = tarfile.TarInfo(name)
            info.mode, info.type, info.linkname, info.size = mode, kind, link, len(data)
            tar.addfile(info, io.BytesIO(data))

        for directory in ("bin", "etc", "dev", "proc", "sys", "root", "usr", "usr/bin", "var"):
            add(directory, 0o755, tarfile.DIRTYPE)
        add("tmp", 0o1777, tarfile.DIRTYPE)
        with open(BUSYBOX, "rb") as program:
            add("bin/busybox", 0o755, data=program.read())
        listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout
        for applet in listed.split():
            if applet != "busybox":
                add(f"bin/{applet}", 0o777, tarfile.SYMTYPE, "busybox")
        add("etc/passwd", 0o644, data=b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        add("etc/group", 0o644, data=b"root:x:0:\nuser:x:1000:\n")
    return files.getvalue()
