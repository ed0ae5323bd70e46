"""Large transfers are streamed: the server does not grow with them. `CSB_FULL=1` moves 1 GiB instead of 96 MiB."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator

from cloud_sandbox import Sandbox

from harness import Api, Server

MIB = 1 << 20
SIZE = (1024 if os.environ.get("CSB_FULL") else 96) * MIB
# Buffers on the way: a socket's, a pipe's, a chunk's. Far below the file.
GROWTH = 24 * MIB


class Peak:
    """The server's highest memory while something runs."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __enter__(self) -> Peak:
        self.before = self.peak = self.server.rss()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.02):
            self.peak = max(self.peak, self.server.rss())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def growth(self) -> int:
        return self.peak - self.before


def pieces(digest: hashlib._Hash) -> Iterator[bytes]:
    block = os.urandom(MIB)
    for i in range(SIZE // MIB):
        piece = i.to_bytes(8, "little") + block[8:]
        digest.update(piece)
        yield piece


class Source:
    """A file that is made while it is read."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.pieces = pieces(self.digest)

    def read(self, size: int = -1) -> bytes:
        return next(self.pieces, b"")


def test_a_large_file_goes_in_and_out_without_the_server_growing(api: Api) -> None:
    room = f"{SIZE // MIB + 512}Mi"
    with Sandbox.create(api.server.url, token=api.token, resources={"memory": room, "disk": room}) as sandbox:
        source = Source()
        with Peak(api.server) as up:
            assert sandbox.write_file("/workspace/big", source).size == SIZE  # type: ignore[arg-type]
        assert sandbox.run_command(["sha256sum", "/workspace/big"]).stdout.split()[0] == source.digest.hexdigest()
        digest = hashlib.sha256()
        with Peak(api.server) as down:
            for piece in sandbox.iter_file("/workspace/big"):
                digest.update(piece)
        assert digest.digest() == source.digest.digest()
        sandbox.run_command("mkdir d; mv big d/")
        with (
            Peak(api.server) as packed,
            api.http.stream(
                "GET", f"/api/v1/sandboxes/{sandbox.id}/archive", params={"path": "/workspace/d"}
            ) as answer,
        ):
            assert sum(len(piece) for piece in answer.iter_bytes()) > SIZE
    print(
        f"\n{SIZE // MIB} MiB: server grew {up.growth >> 20} MiB up, {down.growth >> 20} MiB down, "
        f"{packed.growth >> 20} MiB packed"
    )
    assert max(up.growth, down.growth, packed.growth) < GROWTH


def test_a_reader_that_stops_reading_costs_the_server_nothing(api: Api) -> None:
    sandbox = api.create()
    exec_id = api.start(sandbox, f"head -c {32 * MIB} /dev/zero | tr '\\0' x", max_output_bytes=64 * MIB)
    with Peak(api.server) as peak:
        with api.http.stream("GET", f"/api/v1/sandboxes/{sandbox}/execs/{exec_id}/output") as slow:
            reader = slow.iter_raw()
            next(reader)
            # It reads no more; the exec ends all the same, and another reader gets everything.
            deadline_reached = api("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/result?wait=60", timeout=90)
            assert len(deadline_reached.json()["stdout"]) == 32 * MIB
            before = len(next(reader))
            assert before > 0
    assert peak.growth < 6 * 32 * MIB  # the result is held once, and as JSON; the slow reader's part is not
