"""Directories from a sandbox are hostile: nothing is written outside the destination, whatever the archive holds."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SANDBOX
from peer import Connection, Peer, Request

from cloud_sandbox import Sandbox, UnsafeArchive, _tar


def archive(*members: tuple[str, dict[str, Any], bytes]) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    raw.seek(0)
    return raw


def link(target: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


FILE: dict[str, Any] = {"mode": 0o644}
DIRECTORY: dict[str, Any] = {"type": tarfile.DIRTYPE, "mode": 0o755}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A destination with something beside it that must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "keep").write_text("kept")
    yield tmp_path / "here"
    assert sorted(os.listdir(tmp_path)) in (["here", "outside"], ["outside"])
    assert os.listdir(tmp_path / "outside") == ["keep"]
    assert (tmp_path / "outside" / "keep").read_text() == "kept"


@pytest.mark.parametrize(
    "members",
    [
        [("../outside/keep", FILE, b"!")],
        [("/etc/cloud-sandbox-was-here", FILE, b"!")],
        [("a/../../outside/keep", FILE, b"!")],
        [("f", FILE, b"x"), ("d", DIRECTORY, b""), ("d", link("f"), b"")],
        [("l", link("."), b""), ("l/x", FILE, b"!")],
        [("f", FILE, b"x"), ("f/g", FILE, b"!")],
    ],
)
def test_an_archive_that_leads_outside_or_through_links_is_refused(
    place: Path, members: list[tuple[str, dict[str, Any], bytes]]
) -> None:
    with pytest.raises(UnsafeArchive):
        _tar.unpack(archive(*members), str(place))


@pytest.mark.parametrize(
    ("name", "target", "kept"),
    [
        ("l", "f", True),
        ("d/l", "../f", True),
        ("d/l", "../../outside/keep", False),
        ("l", "../outside", False),
        ("l", "/etc/passwd", False),
        ("l", "d/../../outside", False),
        ("d/l", "e/..", False),
        ("l", "..", False),
        ("d/e/l", "../../f", True),
    ],
)
def test_links_are_made_only_when_they_stay_inside(place: Path, name: str, target: str, kept: bool) -> None:
    result = _tar.unpack(archive(("f", FILE, b"x"), (name, link(target), b"")), str(place))
    assert os.path.islink(place / name) == kept
    assert result.skipped == ([] if kept else [name])
    if kept:
        assert (place / name).read_text() == "x"


def test_a_chain_of_links_that_each_look_harmless_leads_nowhere(place: Path) -> None:
    members = archive(
        ("d", DIRECTORY, b""),
        ("d/up", link(".."), b""),
        ("out", link("d/up/../outside"), b""),
        ("out2", link("d/up/outside"), b""),
    )
    result = _tar.unpack(members, str(place))
    assert result.skipped == ["out"]
    assert not os.path.exists(place / "out2")


def test_a_file_replaces_a_link_and_does_not_write_through_it(place: Path) -> None:
    place.mkdir()
    os.symlink("../outside/keep", place / "keep")
    _tar.unpack(archive(("keep", FILE, b"new")), str(place))
    assert not os.path.islink(place / "keep")
    assert (place / "keep").read_text() == "new"


def test_a_second_name_of_something_outside_is_refused_or_skipped(place: Path) -> None:
    hard = {"type": tarfile.LNKTYPE}
    with pytest.raises(UnsafeArchive):
        _tar.unpack(archive(("h", {**hard, "linkname": "../outside/keep"}, b"")), str(place))
    result = _tar.unpack(archive(("f", FILE, b"x"), ("h", {**hard, "linkname": "f"}, b"")), str(place))
    assert result.files == 2
    assert (place / "h").read_text() == "x"


def test_a_second_name_of_a_link_does_not_read_through_it(place: Path) -> None:
    place.mkdir()
    os.symlink("../outside/keep", place / "l")
    result = _tar.unpack(archive(("h", {"type": tarfile.LNKTYPE, "linkname": "l"}, b"")), str(place))
    assert result.skipped == ["h"]


def test_devices_are_skipped_and_modes_lose_their_dangerous_bits(place: Path) -> None:
    members = archive(
        ("null", {"type": tarfile.CHRTYPE}, b""),
        ("pipe", {"type": tarfile.FIFOTYPE}, b""),
        ("su", {"mode": 0o6777}, b"x"),
    )
    result = _tar.unpack(members, str(place))
    assert result.skipped == ["null", "pipe"]
    assert (place / "su").stat().st_mode & 0o7777 == 0o755


def tree(root: Path) -> None:
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "a.txt").write_text("å" * 1000)
    (root / "sub" / ("long" * 60)).write_bytes(b"x" * 513)
    (root / "sub" / "big").write_bytes(os.urandom(3 << 20))
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    os.symlink("sub/big", root / "link")
    os.link(root / "a.txt", root / "same")


def test_what_is_packed_unpacks_to_the_same(tmp_path: Path) -> None:
    tree(tmp_path / "from")
    raw = b"".join(_tar.pack(str(tmp_path / "from")))
    assert len(raw) % 512 == 0
    _tar.unpack(io.BytesIO(raw), str(tmp_path / "to"))

    def shown(root: Path) -> dict[str, object]:
        return {
            str(path.relative_to(root)): os.readlink(path)
            if path.is_symlink()
            else (path.read_bytes(), path.stat().st_mode & 0o111)
            if path.is_file()
            else None
            for path in root.rglob("*")
        }

    assert shown(tmp_path / "from") == shown(tmp_path / "to")


def test_a_directory_is_uploaded_and_downloaded_as_a_stream(peer: Peer, tmp_path: Path) -> None:
    tree(tmp_path / "from")
    stored = bytearray()

    def put(c: Connection, r: Request) -> None:
        assert r.headers["transfer-encoding"] == "chunked"
        stored.extend(r.body)
        c.json(200, {"bytes": len(r.body)})

    def get(c: Connection, r: Request) -> None:
        c.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nContent-Length: %d\r\n\r\n" % len(stored))
        c.send(bytes(stored))

    base = f"/api/v1/sandboxes/{SANDBOX}"
    peer.on(f"PUT {base}/archive", put)
    peer.on(f"GET {base}/archive", get)
    entry = {"name": "d", "path": "/workspace/d", "kind": "directory", "size": 0}
    peer.on(f"GET {base}/files/stat", lambda c, r: c.json(200, entry))
    with Sandbox.create(peer.url) as sandbox:
        sandbox.upload(tmp_path / "from", "/workspace/d")
        result = sandbox.download("/workspace/d", tmp_path / "to")
    assert result.files == 5
    assert (tmp_path / "to" / "sub" / "big").read_bytes() == (tmp_path / "from" / "sub" / "big").read_bytes()
