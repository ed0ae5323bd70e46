"""Output survives lost connections: nothing twice, nothing left out, and no command is started a second time."""

from __future__ import annotations

import asyncio
import time

import pytest
from conftest import ENDED, EXEC, SANDBOX, exec_view
from peer import Connection, Cut, Peer, Request, Reset

from cloud_sandbox import (
    AsyncSandbox,
    ConnectionLost,
    ProtocolError,
    Sandbox,
    SandboxGone,
)

EXECS = f"/api/v1/sandboxes/{SANDBOX}/execs"
TEXT = "línea 日本 🎈\n".encode() * 50


def broken_run(peer: Peer, how: type[Exception], at: int, heard: list[str]) -> None:
    """The first answer gives `at` bytes of output and breaks; later ones go on where asked to, and break too."""

    def first(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        if at:
            c.output("stdout", 0, TEXT[:at])
        c.send(b"40\r\nevent: stdout\nid: 9999\ndata: {")  # a piece of an event that must not count
        # A reset throws away what the client's kernel has not handed over: wait until the client has read.
        while how is Reset and not heard:
            time.sleep(0.005)
        raise how

    def again(c: Connection, r: Request) -> None:
        begin = int(r.query["from"])
        end = min(len(TEXT), begin + 100)
        c.begin_events()
        c.chunk(b": keep-alive\n\n")
        if begin < end:
            # Overlaps what was delivered, as a server that resends its last chunk would.
            low = max(0, begin - 3)
            c.output("stdout", low, TEXT[low:end])
            raise Cut
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    peer.on(f"POST {EXECS}", first)
    peer.on(f"GET {EXECS}/{EXEC}/output", again)


@pytest.mark.parametrize(
    ("how", "at"), [(Cut, 0), (Cut, 1), (Cut, 2), (Cut, 7), (Cut, 500), (Reset, 1), (Reset, 2), (Reset, 500)]
)
def test_a_broken_stream_is_attached_to_again_without_losing_or_repeating_a_byte(
    peer: Peer, how: type[Exception], at: int
) -> None:
    heard: list[str] = []
    broken_run(peer, how, at, heard)
    with Sandbox.create(peer.url) as sandbox:
        result = sandbox.run_command("x", on_stdout=heard.append)
    assert result.stdout_bytes == TEXT
    assert "".join(heard) == TEXT.decode()
    assert peer.count(f"POST {EXECS}") == 1


@pytest.mark.parametrize(("how", "at"), [(Cut, 0), (Reset, 7)])
def test_the_same_with_asyncio_and_a_coroutine_as_callback(peer: Peer, how: type[Exception], at: int) -> None:
    heard: list[str] = []
    broken_run(peer, how, at, heard)

    async def sink(text: str) -> None:
        await asyncio.sleep(0)
        heard.append(text)

    async def main() -> bytes:
        async with await AsyncSandbox.create(peer.url) as sandbox:
            return (await sandbox.run_command("x", on_stdout=sink)).stdout_bytes

    assert asyncio.run(main()) == TEXT
    assert "".join(heard) == TEXT.decode()
    assert peer.count(f"POST {EXECS}") == 1


@pytest.mark.parametrize("how", [Cut, Reset, None])
def test_an_answer_that_ends_before_the_exec_is_known_is_asked_for_again(
    peer: Peer, how: type[Exception] | None
) -> None:
    def nothing(c: Connection, r: Request) -> None:
        c.begin_events()
        if how is not None:
            raise how
        c.end_events()

    def all_of_it(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        c.output("stdout", 0, b"whole")
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    peer.on(f"POST {EXECS}", nothing, all_of_it)
    with Sandbox.create(peer.url) as sandbox:
        assert sandbox.run_command("x").stdout == "whole"
        peer.on(f"POST {EXECS}", nothing)
        with pytest.raises(ConnectionLost):
            sandbox.run_command("x")
    keys = [r.headers["idempotency-key"] for r in peer.requests if r.path == EXECS]
    # Two tries of the first command, four of the second: one key each.
    assert (keys[0] == keys[1], len(set(keys[2:])), len(keys)) == (True, 1, 6)


def test_the_output_that_is_there_now_is_read_without_waiting(peer: Peer) -> None:
    def so_far(c: Connection, r: Request) -> None:
        assert r.query == {"from": "2", "follow": "false"}
        c.begin_events()
        c.output("stdout", 2, b"cde")
        c.event("running", exec_view())
        c.end_events()

    peer.on(f"POST {EXECS}", lambda c, r: c.json(202, exec_view()))
    peer.on(f"GET {EXECS}/{EXEC}/output", so_far)
    with Sandbox.create(peer.url) as sandbox:
        process = sandbox.start("x")
        assert [chunk.data for chunk in process.output(2, follow=False)] == [b"cde"]
        assert process.info.running


def test_a_server_that_stays_away_is_given_up_with_the_position_to_go_on_from(peer: Peer) -> None:
    def first(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        c.output("stdout", 0, b"before")
        peer.stop_listening()
        raise Cut

    peer.on(f"POST {EXECS}", first)
    sandbox = Sandbox.create(peer.url, reconnect_timeout=0.2)
    with pytest.raises(ConnectionLost) as caught:
        sandbox.run_command("x")
    assert (caught.value.exec_id, caught.value.seq) == (EXEC, 6)

    # The server is back: the caller goes on by hand from there.
    def rest(c: Connection, r: Request) -> None:
        assert r.query["from"] == "6"
        c.begin_events()
        c.output("stdout", 6, b" after")
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    peer.on(f"GET {EXECS}/{EXEC}", lambda c, r: c.json(200, exec_view()))
    peer.on(f"GET {EXECS}/{EXEC}/output", rest)
    peer.listen_again()
    process = sandbox.process(EXEC)
    assert [chunk.data for chunk in process.output(caught.value.seq)] == [b" after"]
    assert process.info.exit_code == 0


def test_a_server_that_restarts_in_time_is_found_again(peer: Peer) -> None:
    def first(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        c.output("stderr", 0, b"one ")
        raise Cut

    def unavailable(c: Connection, r: Request) -> None:
        c.error(503, "http_503")

    def rest(c: Connection, r: Request) -> None:
        c.begin_events()
        c.output("stderr", 4, b"two")
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    peer.on(f"POST {EXECS}", first)
    peer.on(f"GET {EXECS}/{EXEC}/output", *[unavailable] * 6, rest)
    with Sandbox.create(peer.url) as sandbox:
        assert sandbox.run_command("x").stderr == "one two"


def test_output_that_jumps_is_an_error_and_never_a_silent_gap(peer: Peer) -> None:
    def gap(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        c.output("stdout", 5, b"late")
        c.end_events()

    peer.on(f"POST {EXECS}", gap)
    with Sandbox.create(peer.url) as sandbox, pytest.raises(ProtocolError, match="jumped from byte 0 to 5"):
        sandbox.run_command("x")


def test_an_error_inside_a_stream_is_raised_as_its_class(peer: Peer) -> None:
    def gone(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        c.event("error", {"error": {"code": "sandbox_gone", "message": "the sandbox went away"}})
        c.end_events()

    peer.on(f"POST {EXECS}", gone)
    with Sandbox.create(peer.url) as sandbox, pytest.raises(SandboxGone, match="went away"):
        sandbox.run_command("x")


def test_binary_output_and_characters_cut_between_chunks_arrive_whole(peer: Peer) -> None:
    balloon = "🎈".encode()

    def cut(c: Connection, r: Request) -> None:
        c.begin_events()
        c.event("start", exec_view())
        seq = 0
        for byte in balloon:
            seq = c.output("stdout", seq, bytes([byte]))
        seq = c.output("stderr", seq, b"\xff\x00")
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    peer.on(f"POST {EXECS}", cut)
    heard: list[str] = []
    with Sandbox.create(peer.url) as sandbox:
        result = sandbox.run_command("x", on_stdout=heard.append)
    assert heard == ["🎈"]
    assert (result.stdout_bytes, result.stderr_bytes) == (balloon, b"\xff\x00")
    assert result.stderr == "\ufffd\0"


def test_lines_are_whole_whatever_the_chunks(peer: Peer) -> None:
    def pieces(c: Connection, r: Request) -> None:
        c.begin_events()
        seq = 0
        for raw in (b"one\ntw", b"o\r\n", b"err", b"thr\xc3", b"\xa9e"):
            seq = c.output("stderr" if raw == b"err" else "stdout", seq, raw)
        c.event("end", exec_view("ended", **ENDED))
        c.end_events()

    peer.on(f"POST {EXECS}", lambda c, r: c.json(202, exec_view()))
    peer.on(f"GET {EXECS}/{EXEC}/output", pieces)
    with Sandbox.create(peer.url) as sandbox:
        assert list(sandbox.start("x").lines()) == ["one", "two", "thrée"]
