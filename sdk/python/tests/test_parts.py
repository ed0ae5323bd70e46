"""The parts without I/O: events, positions, the retry rule; and that the two clients are the same."""

from __future__ import annotations

import inspect
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import cloud_sandbox
from cloud_sandbox import OutputChunk, ProtocolError, _sse, errors
from cloud_sandbox._retry import Outcome, Safety, backoff, delay_before_retry

ROOT = Path(__file__).parent.parent


def test_events_are_the_same_however_the_bytes_are_cut() -> None:
    wanted = [("stdout", f"line {i}: é🎈") for i in range(50)] + [("end", "a\nb")]
    raw = b": comment\r\n\r\n"
    for name, data in wanted:
        end = random.choice(["\n", "\r\n"])
        body = "".join(f"data: {line}{end}" for line in data.split("\n"))
        raw += f"event: {name}{end}id: 1{end}{body}{end}".encode()
    for seed in range(200):
        rng = random.Random(seed)
        parser, got, at = _sse.Parser(), [], 0
        while at < len(raw):
            size = rng.choice([1, 2, 3, 10, 100, 1000])
            got += [(event.name, event.data) for event in parser.feed(raw[at : at + size])]
            at += size
        assert got == wanted, seed


def test_a_cut_event_never_counts() -> None:
    raw = b'event: stdout\ndata: {"seq":2,"data":"hi","encoding":"utf-8"}\n\n'
    for end in range(len(raw)):
        assert list(_sse.Parser().feed(raw[:end])) == []


@pytest.mark.parametrize("data", ["", "null", "[]", '{"seq":"x","data":"a"}', '{"seq":1}', '{"data":1,"seq":1}'])
def test_an_output_event_that_cannot_be_read_is_a_protocol_error(data: str) -> None:
    with pytest.raises(ProtocolError):
        _sse.decode(_sse.Event("stdout", data))


def test_events_of_a_newer_server_are_passed_over() -> None:
    assert _sse.decode(_sse.Event("progress", "anything")) is None
    extra = {"exec_id": "ex-1", "state": "running", "novel": 1}
    assert isinstance(_sse.decode(_sse.Event("start", json.dumps(extra))), _sse.Started)


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sse, "MOST_EVENT_BYTES", 1000)
    parser = _sse.Parser()
    with pytest.raises(ProtocolError):
        for _ in range(20):
            list(parser.feed(b"data: " + b"x" * 100))


def test_progress_drops_what_was_seen_and_cuts_what_overlaps() -> None:
    progress = _sse.Progress()
    assert progress.accept(OutputChunk("stdout", b"abc", 3)) == OutputChunk("stdout", b"abc", 3)
    assert progress.accept(OutputChunk("stdout", b"abc", 3)) is None
    assert progress.accept(OutputChunk("stdout", b"bcde", 5)) == OutputChunk("stdout", b"de", 5)
    with pytest.raises(ProtocolError):
        progress.accept(OutputChunk("stdout", b"x", 7))


@pytest.mark.parametrize(
    ("outcome", "safety", "again"),
    [
        (Outcome.NOT_SENT, Safety.ONCE, True),
        (Outcome.REFUSED, Safety.ONCE, True),
        (Outcome.UNKNOWN, Safety.ONCE, False),
        (Outcome.GATEWAY, Safety.ONCE, False),
        (Outcome.NOT_SENT, Safety.REPEATABLE, True),
        (Outcome.REFUSED, Safety.REPEATABLE, True),
        (Outcome.UNKNOWN, Safety.REPEATABLE, True),
        (Outcome.GATEWAY, Safety.REPEATABLE, True),
    ],
)
def test_what_may_have_run_is_not_sent_again(outcome: Outcome, safety: Safety, again: bool) -> None:
    assert (delay_before_retry(outcome, safety, 0, 3) is not None) == again
    assert delay_before_retry(outcome, safety, 3, 3) is None


def test_waits_grow_and_stay_bounded() -> None:
    assert all(0 < backoff(attempt) <= 5 for attempt in range(2000))
    assert backoff(10) > backoff(0)


def test_the_client_for_threads_is_generated_from_the_one_for_asyncio() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "unasync.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_objects_of_the_api_are_the_contracts() -> None:
    if not (ROOT.parent.parent / "openapi").is_dir():
        pytest.skip("openapi is not beside this package")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "models.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_reference_in_the_repository_is_the_codes() -> None:
    if not (ROOT.parent.parent / "docs" / "reference").is_dir():
        pytest.skip("docs/reference is not beside this package")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Client", "Process", "Sandbox", "Session", "Terminal"])
def test_both_clients_offer_the_same(name: str) -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        return {
            member: list(inspect.signature(value).parameters)
            for member, value in inspect.getmembers(kind, callable)
            if not member.startswith("_")
        }

    asynchronous = surface(getattr(cloud_sandbox, f"Async{name}"))
    if "aclose" in asynchronous:
        asynchronous["close"] = asynchronous.pop("aclose")
    assert surface(getattr(cloud_sandbox, name)) == asynchronous


def test_every_name_that_is_offered_exists_and_is_documented() -> None:
    for name in cloud_sandbox.__all__:
        value = getattr(cloud_sandbox, name)
        assert name.startswith("__") or value.__doc__, name


def test_every_code_of_the_api_has_a_class() -> None:
    pages = {page.stem for page in (ROOT.parent.parent / "docs" / "errors").glob("*.md")} - {"README"}
    if not pages:
        pytest.skip("docs/errors is not beside this package")
    assert pages <= set(errors._BY_CODE), pages - set(errors._BY_CODE)
