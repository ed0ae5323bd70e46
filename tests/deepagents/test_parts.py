"""The parts that need no sandbox: pages, replacements, patterns."""

from __future__ import annotations

import glob
import random
from pathlib import Path

import pytest
from cloud_sandbox.deepagents import _text
from cloud_sandbox.deepagents._globs import BadPattern, Pattern

LINES = ["", "a", "é" * 5, "x" * 40, "世界", "tab\there", " "]


def cut(data: bytes, random_: random.Random) -> list[bytes]:
    pieces = []
    while data:
        size = random_.randint(1, 17)
        pieces.append(data[:size])
        data = data[size:]
    return pieces or [b""]


def test_a_page_is_the_same_however_the_file_comes() -> None:
    random_ = random.Random(1)
    for _ in range(500):
        lines = [random_.choice(LINES) for _ in range(random_.randint(1, 12))]
        end = random_.choice(["\n", "\r\n", "\r"])
        data = (end.join(lines) + random_.choice(["", end])).encode()
        offset, limit = random_.randint(0, 13), random_.randint(1, 13)
        pager = _text.Pager(offset, limit)
        pieces = cut(data, random_)
        for at, piece in enumerate(pieces):
            if not pager.feed(piece, at == len(pieces) - 1):
                break
        seen = data.decode().replace("\r\n", "\n").replace("\r", "\n")
        whole = seen.split("\n")[:-1] if seen.endswith("\n") else seen.split("\n")
        whole = whole if seen else []
        page = pager.page()
        if whole[offset : offset + limit]:
            assert isinstance(page, _text.Page)
            assert page.content == "\n".join(whole[offset : offset + limit])
            assert page.count == len(whole[offset : offset + limit])
            assert page.total in (None, len(whole))
        else:
            assert page == f"Line offset {offset} exceeds file length ({len(whole)} lines)"


def test_a_long_line_is_cut_and_reading_goes_on_behind_it() -> None:
    pager = _text.Pager(0, 10, most=len(_text.CUT) + 100)
    for _ in range(50):
        if not pager.feed(b"x" * 1000, False):
            break
    page = pager.page()
    assert isinstance(page, _text.Page)
    assert (page.content, page.count) == ("x" * 100 + _text.CUT, 1)
    pager = _text.Pager(0, 10, most=len(_text.CUT) + 100)
    assert not pager.feed(b"short\n" + b"y" * 1000 + b"\nend\n", True)
    page = pager.page()
    assert isinstance(page, _text.Page)
    assert page.content.startswith("short\nyyy") and page.count == 1


def test_replacements_are_exact() -> None:
    assert _text.replace("a b a", "b", "c", False) == ("a c a", 1)
    assert _text.replace("a b a", "a", "c", True) == ("c b c", 2)
    assert "multiple" in str(_text.replace("a b a", "a", "c", False))
    assert "not found" in str(_text.replace("abc", "x", "c", False))
    assert "newline" in str(_text.replace("abc", "abc\n", "c", False))
    assert _text.replace("1\r\n2\r\n", "1\n2", "x\ny", False) == ("x\r\ny\r\n", 1)


def test_lines_with_a_string() -> None:
    random_ = random.Random(2)
    for _ in range(300):
        data = "\n".join(random_.choice(LINES) for _ in range(20)).encode()
        wanted = random_.choice(["a", "x", "界", "here", "\t"])
        expected = [(n, line) for n, line in enumerate(data.decode().split("\n"), 1) if wanted in line]
        assert list(_text.lines_with(data, wanted)) == expected
    assert list(_text.lines_with(b"\0a", "a")) == []
    assert list(_text.lines_with(b"ab", "")) == [(1, "ab")]


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "*.py",
        "**/*.py",
        "a/*",
        "**",
        "**/b*",
        "a/**/c.py",
        "?.py",
        "[a-b].py",
        "[!a].py",
        ".*",
        "a/.*",
        "**/*",
        "x/",
    ],
)
def test_patterns_mean_what_they_mean_to_python(tmp_path: Path, pattern: str) -> None:
    for name in ("a.py", "b.py", "c.txt", ".h.py", "a/b.py", "a/b/c.py", "a/.x/d.py", "a/.y", "x/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ours = Pattern(pattern, any_depth=False)
    every = list(tmp_path.rglob("*"))
    found = {str(p.relative_to(tmp_path)) for p in every if ours.matches(str(p.relative_to(tmp_path)), p.is_dir())}
    expected = {name.rstrip("/") for name in glob.glob(pattern, root_dir=tmp_path, recursive=True)} - {""}
    assert found == expected


def test_patterns_of_the_later_promise() -> None:
    assert Pattern("*.py", any_depth=True).matches("d/e/a.py")
    assert not Pattern("/*.py", any_depth=True).matches("d/a.py")
    assert Pattern("{a,b{c,d}}.{py,txt}", any_depth=True).matches("x/bd.txt")
    assert not Pattern("*", any_depth=True).matches("x/.hidden")
    assert Pattern("{a}.py", any_depth=True).matches("{a}.py")
    assert Pattern("[^a].py", any_depth=True).matches("b.py")
    for pattern in ("../*", "a/../b", "{a,b}" * 12):
        with pytest.raises(BadPattern):
            Pattern(pattern)


def test_a_pattern_that_means_harm_is_tried_quickly() -> None:
    assert not Pattern("*a" * 40 + "b", any_depth=True).matches("a" * 255)
    assert not Pattern("**/*a/" * 12 + "b", any_depth=True).matches("/".join(["a" * 50] * 40))
