"""A backend whose files are a directory of the host: nothing leads out of it, and commands are confined to it."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cloud_sandbox import CloudSandboxError
from cloud_sandbox.deepagents import FilesystemSandboxBackend


@pytest.fixture
def backend(tmp_path: Path) -> FilesystemSandboxBackend:
    return FilesystemSandboxBackend(tmp_path / "root")


def root_of(backend: FilesystemSandboxBackend) -> Path:
    return Path(backend.root_dir)


def test_files_and_commands_see_the_same_directory(backend: FilesystemSandboxBackend) -> None:
    assert backend.write("/workspace/a/one.txt", "1\n").path == "/workspace/a/one.txt"
    assert backend.write("/two.txt", "2\n").path == "/workspace/two.txt"
    ran = backend.execute("pwd; cat a/one.txt two.txt; echo 3 > /workspace/a/three.txt; echo 4 >> two.txt")
    assert (ran.exit_code, ran.output) == (0, "/workspace\n1\n2\n")
    assert (root_of(backend) / "a/three.txt").read_text() == "3\n"
    assert backend.edit("/two.txt", "4", "5").occurrences == 1
    assert backend.execute("cat two.txt; echo x > a/one.txt && rm two.txt").output == "2\n5\n"
    entries = backend.ls("/").entries or []
    assert [(entry["path"], entry["is_dir"]) for entry in entries] == [("/workspace/a", True)]
    owners = {path.stat().st_uid for path in root_of(backend).rglob("*")}
    assert owners == {root_of(backend).stat().st_uid}


def test_a_command_that_takes_a_path_of_the_file_tools_is_told_its_own(backend: FilesystemSandboxBackend) -> None:
    backend.write("/hello.py", "print(1)")
    ran = backend.execute("python3 /hello.py")
    assert ran.exit_code != 0 and ran.output.endswith("[commands find /hello.py as /workspace/hello.py]")


def test_an_owner_other_than_root_keeps_what_is_made(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.fail("the tests of isolation run as root")
    (tmp_path / "root").mkdir()
    os.chown(tmp_path / "root", 33, 33)
    backend = FilesystemSandboxBackend(tmp_path / "root")
    backend.write("/workspace/d/tool", "x")
    assert backend.execute("echo y >> d/tool && echo z > d/new && cat d/tool").output == "xy\n"
    assert {path.stat().st_uid for path in (tmp_path / "root").rglob("*")} == {33}


def test_host_paths_outside_of_the_root_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    backend = FilesystemSandboxBackend(tmp_path / "root", virtual_mode=False)
    inside = f"{backend.root_dir}/a"
    assert backend.write(inside, "x").path == inside
    assert backend.execute(f"cat {inside}; pwd").output == f"x{backend.root_dir}\n"
    for path in (str(outside), f"{backend.root_dir}/../outside", "/etc/passwd", "relative", f"{inside}\0"):
        assert backend.read(path).file_data is None
        assert backend.write(path, "y").error and backend.edit(path, "s", "y").error
        assert backend.upload_files([(path, b"y")])[0].error in ("permission_denied", "invalid_path")
        assert backend.delete(path).error
    assert outside.read_text() == "secret"
    assert backend.execute(f"cat {outside}").exit_code != 0


def test_no_link_leads_outside(backend: FilesystemSandboxBackend, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    ran = backend.execute(
        f"ln -s {outside} dir; ln -s {outside}/secret file; ln -s ../outside up; ln -s ../../../../../../etc etc; "
        "ln -s loop loop; mkdir real; echo in > real/in; ln -s /workspace/real absolute; ln -s real/../real relative"
    )
    assert ran.exit_code == 0
    for path in ("/dir/secret", "/file", "/up/secret", "/etc/passwd", "/loop"):
        assert backend.read(path).file_data is None, path
        assert backend.download_files([path])[0].content is None
        assert backend.edit(path, "secret", "changed").error
    assert backend.upload_files([("/dir/new", b"x")])[0].error == "permission_denied"
    backend.upload_files([("/file", b"replaced, not followed")])
    assert backend.ls("/dir").error and backend.ls("/up").error
    assert (backend.grep("secret").matches, (outside / "secret").read_text()) == ([], "secret")
    assert os.listdir(outside) == ["secret"]
    for path in ("/absolute/in", "/relative/in"):
        assert (backend.read(path).file_data or {})["content"] == "in"
    backend.delete("/absolute")
    assert (root_of(backend) / "real/in").exists()


def test_a_race_with_links_never_leaves_the_root(backend: FilesystemSandboxBackend, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("secret")
    root = root_of(backend)
    (root / "real").mkdir()
    (root / "real/f").write_text("inside")
    (root / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        # `d` is a directory one moment and a link to the outside the next.
        while not stop.is_set():
            for thing in ("real", "link"):
                try:
                    os.rename(root / thing, root / "d")
                except OSError:  # an upload made one
                    shutil.rmtree(root / "d", ignore_errors=True)
                    continue
                os.rename(root / "d", root / thing)

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        seen = set()
        for number in range(1000):
            seen.add(backend.download_files(["/d/f"])[0].content)
            backend.upload_files([(f"/d/{number % 5}", b"x")])
            backend.grep("secret", "/")
    finally:
        stop.set()
        racer.join()
    assert seen <= {None, b"inside"}
    assert os.listdir(outside) == ["f"] and (outside / "f").read_text() == "secret"


def test_what_is_no_file_keeps_nobody_waiting(backend: FilesystemSandboxBackend) -> None:
    backend.execute("mkfifo fifo; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"; touch a")
    for path in ("/fifo", "/sock"):
        assert backend.read(path).error and backend.download_files([path])[0].error
        assert backend.edit(path, "a", "b").error
    assert backend.grep("x").matches == []
    assert [entry["path"] for entry in backend.ls("/").entries or []] == [
        "/workspace/a",
        "/workspace/fifo",
        "/workspace/sock",
    ]


def test_names_of_any_kind(backend: FilesystemSandboxBackend) -> None:
    ran = backend.execute("for n in 'line\\nend' 'bad\\377' ü; do printf needle > \"$(printf $n)\"; done")
    assert ran.exit_code == 0, ran.output
    found = [match["path"] for match in backend.grep("needle").matches or []]
    assert "/workspace/ü" in found and "/workspace/bad\ufffd" in found
    assert all(entry["path"].encode() for entry in backend.ls("/").entries or [])


def test_no_set_id_file_and_no_half_of_a_file_is_left(backend: FilesystemSandboxBackend) -> None:
    backend.execute("cp /bin/sh sh; chmod 4755 sh; chmod 755 sh")
    assert not any(path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID) for path in root_of(backend).rglob("*"))
    backend.upload_files([("/sh", b"#!/bin/sh\necho new\n")])
    assert backend.execute("./sh").output == "new\n"
    assert [path.name for path in root_of(backend).iterdir()] == ["sh"]


def test_files_have_the_quota_of_commands(tmp_path: Path) -> None:
    backend = FilesystemSandboxBackend(tmp_path / "root", quota_bytes=1 << 20, quota_files=20)
    assert backend.upload_files([("/a", bytes(600_000))])[0].error is None
    assert backend.upload_files([("/b", bytes(600_000))])[0].error == "workspace quota exceeded"
    assert "quota exceeded" in str(backend.write("/c", "x" * 600_000).error)
    assert backend.download_files(["/a"])[0].content == bytes(600_000)
    assert "quota exceeded" in backend.execute("for i in $(seq 300); do : > f$i; done; sleep 20").output
    backend.execute("rm f*")
    assert backend.write("/c", "x").error is None


def test_nothing_is_left_of_a_file_that_is_unlinked_and_still_open(tmp_path: Path) -> None:
    backend = FilesystemSandboxBackend(tmp_path / "root", quota_bytes=16 << 20)
    code = (
        "import os\nkept=[]\nfor n in range(200):\n f=open(str(n),'wb'); os.unlink(str(n))\n"
        " f.write(bytes(4<<20)); f.flush(); kept.append(f)\n"
    )
    backend.write("/w.py", code)
    ran = backend.execute("python3 w.py; sleep 30")
    assert ran.exit_code == 137 and "quota exceeded" in ran.output


async def test_a_cancelled_command_ends(backend: FilesystemSandboxBackend) -> None:
    task = asyncio.ensure_future(backend.aexecute("while :; do date +%s%N > beat; sleep 0.05; done"))
    beat = root_of(backend) / "beat"
    deadline = time.monotonic() + 30
    while not beat.exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.5)
    last = beat.read_text()
    await asyncio.sleep(0.5)
    assert beat.read_text() == last


async def test_more_commands_than_may_run_at_once_wait(tmp_path: Path) -> None:
    backend = FilesystemSandboxBackend(tmp_path / "root", max_commands=2)
    line = "f=$(mktemp on.XXXXXX); ls on.* | wc -l; sleep 0.3; rm $f"
    ran = await asyncio.gather(*(backend.aexecute(line) for _ in range(5)))
    assert all(int(one.output) <= 2 for one in ran), ran


def test_a_missing_program_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CSB_BIN")
    monkeypatch.setenv("PATH", str(tmp_path))
    backend = FilesystemSandboxBackend(tmp_path / "root")
    assert backend.write("/a", "files need none").error is None
    with pytest.raises(CloudSandboxError, match="not there") as missing:
        backend.execute("true")
    assert "CSB_BIN" in str(missing.value.hint)


def test_what_csb_refuses_is_an_error_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(CloudSandboxError, match="memory"):
        FilesystemSandboxBackend(tmp_path / "root", memory="1k").execute("true")
    for root in ("/", str(tmp_path / "a:b")):
        with pytest.raises(ValueError, match="cannot be a workspace"):
            FilesystemSandboxBackend(root)


def test_it_ends_more_than_once(tmp_path: Path) -> None:
    with FilesystemSandboxBackend(tmp_path / "root") as backend:
        backend.write("/a", "stays")
    backend.cleanup()
    assert (tmp_path / "root/a").read_text() == "stays"
    assert backend.read("/a").error
    assert subprocess.run(["ls", tmp_path / "root"], capture_output=True, text=True).stdout == "a\n"
