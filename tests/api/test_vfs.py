"""Kind `vfs`: nothing of a sandbox reaches a disk, and it is otherwise a sandbox like any other."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server, refused

VFS = {"kind": "vfs", "memoryOnly": True}


@pytest.fixture
def own() -> Iterator[Server]:
    """A server of the test's own, which it may kill."""
    server = Server(POOL_MIN_SIZE="0")
    yield server
    server.stop()


def files_with(directory: str, mark: bytes) -> list[str]:
    """Files below a directory, and beside it of the same name, that hold these bytes."""
    top = Path(directory)
    files = [p for p in top.rglob("*") if p.is_file() and not p.is_symlink()]
    files += [p for p in top.parent.glob(f"{top.name}*") if p.is_file()]
    return [str(p) for p in files if mark in p.read_bytes()]


def writable_files(pid: int) -> list[str]:
    """Regular files that a process has open for writing, on anything but memory."""
    found = []
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended
        return []
    for fd in descriptors:
        try:
            if not fd.resolve().is_file() or fd.stat().st_nlink == 0:
                continue
            flags = int(Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0], 8)
            memory = os.statvfs(fd).f_fsid == os.statvfs("/dev/shm").f_fsid
        except OSError:
            continue
        if flags & os.O_ACCMODE != os.O_RDONLY and not memory:
            found.append(str(fd.resolve()))
    return found


def memory_dirs() -> set[str]:
    return {p.name for p in Path("/dev/shm").glob("csb-*")}


def shared_memory() -> int:
    return next(int(line.split()[1]) << 10 for line in open("/proc/meminfo") if line.startswith("Shmem:"))


def test_no_file_of_the_server_ever_holds_what_a_vfs_sandbox_reads_writes_or_says(own: Server) -> None:
    api = own.api()
    mark = secrets.token_hex(16)
    # Said by a sandbox of the usual kind, it is on the disk: the search below finds what there is to find.
    usual = api.create()
    assert api.run(usual, f"echo {mark}")["stdout"] == f"{mark}\n"
    assert files_with(own.data_dir, mark.encode())
    api("DELETE", f"/sandboxes/{usual}")
    mark = secrets.token_hex(16)
    box = api.create(sandbox=VFS, env={"SECRET": mark})
    assert api("PUT", f"/sandboxes/{box}/files?path=/workspace/f", content=mark.encode() * 5000).status_code == 200
    assert api.run(box, f"echo {mark}; echo {mark} >&2; cat f > g; sync; printenv SECRET")["stdout"] == f"{mark}\n" * 2
    key = {"Idempotency-Key": "once"}
    done = api("POST", f"/sandboxes/{box}/execs", json={"command": ["echo", mark]}, headers=key)
    assert done.json()["stdout"] == f"{mark}\n"
    code = f"print('{mark}')"
    assert api("POST", f"/sandboxes/{box}/run-code", json={"code": code}).json()["stdout"] == f"{mark}\n"
    terminal = api.start(box, f"echo {mark}; sleep 600", pty={"cols": 80, "rows": 24})
    api.until_said(box, terminal, mark[:8])
    made = api("POST", "/sessions", json={"sandbox": VFS, "env": {"SECRET": mark}}).json()
    session = made["session_id"]
    handler = "import os\ndef handler(event):\n    return [event, os.environ['SECRET']]"
    body = {"code": handler, "event": {"said": mark}}
    done = api("POST", f"/sessions/{session}/execute", json=body).json()
    assert done["result"] == [{"said": mark}, mark]
    path = f"/sessions/{session}/executions/{done['exec_id']}"
    assert api("GET", path).json()["result"] == [{"said": mark}, mark]
    assert files_with(own.data_dir, mark.encode()) == []
    # The next server takes it over: what it must know for that was in memory as well.
    own.kill()
    assert files_with(own.data_dir, mark.encode()) == []
    own.start()
    assert api.run(box, "printenv SECRET")["stdout"] == f"{mark}\n"
    assert api("GET", f"/sandboxes/{box}/files?path=/workspace/g").content == mark.encode() * 5000
    assert api("GET", f"/sandboxes/{box}/execs/{terminal}").json()["state"] == "running"
    assert api("GET", path).json()["result"] == [{"said": mark}, mark]
    api("DELETE", f"/sessions/{session}")
    assert api("DELETE", f"/sandboxes/{box}").status_code == 204
    assert files_with(own.data_dir, mark.encode()) == []
    assert not any(mark.encode() in p.read_bytes() for p in Path("/dev/shm").rglob("*") if p.is_file())
    api.close()


def test_no_process_that_serves_a_vfs_sandbox_writes_to_a_file_of_its_own_on_a_disk(own: Server) -> None:
    api = own.api()
    box = api.create(sandbox=VFS)
    running = api.start(box, "while echo line; do echo more > file; sleep 0.01; done")
    api.until_said(box, running, "line")
    warden = api("GET", "/sandbox/stats").json()["warden"]["pid"]
    pids, more = [own.pid, warden], [warden]
    while more:
        parent = more.pop()
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        more += [int(child) for child in children]
        pids += [int(child) for child in children]
    assert len(pids) > 3
    known = {
        own.log,
        f"{own.data_dir}/run/server.lock",
        f"{own.data_dir}/run/warden.log",
        f"{own.data_dir}/run/warden.lock",
        f"{own.data_dir}/guests/.lock",
    }
    known |= {f"{own.data_dir}/state.db{suffix}" for suffix in ["", "-wal", "-shm"]}
    written = {name for pid in pids for name in writable_files(pid)}
    assert written <= known, written - known
    # Inside, all that takes a write is memory.
    mounts = api.run(box, "cat /proc/self/mountinfo")["stdout"].splitlines()
    kinds = {line.split(" - ")[1].split()[0] for line in mounts if " rw" in line.split(" - ")[0]}
    assert kinds <= {"overlay", "tmpfs", "devpts", "proc", "mqueue"}, mounts
    api("DELETE", f"/sandboxes/{box}")
    api.close()


def test_its_size_is_exact_to_the_byte_and_its_memory_is_given_back(own: Server) -> None:
    api = own.api()
    before, size = shared_memory(), 600 << 20
    box = api.create(sandbox=VFS, resources={"memory": 1 << 30, "disk": size})
    filled = api.run(
        box, "head -c 700M /dev/zero > all; stat -c %s all; head -c 1 /dev/zero > more; stat -c %s more", timeout=300
    )
    assert filled["stdout"] == f"{size}\n0\n"
    assert filled["stderr"].count("No space left on device") == 2
    refused(api("PUT", f"/sandboxes/{box}/files?path=/workspace/late", content=b"x"), 507, "disk_full")
    # A file given back is room again, to the byte.
    freed = api.run(
        box, "truncate -s -4096 all; head -c 4096 /dev/zero > more; stat -c %s more; head -c 1 /dev/zero > again"
    )
    assert freed["stdout"] == "4096\n" and "No space left" in freed["stderr"]
    assert shared_memory() > before + size // 2
    stats = api("GET", f"/sandboxes/{box}/stats").json()
    assert stats["disk_limit"] == size and stats["memory"] > size
    assert api("DELETE", f"/sandboxes/{box}").status_code == 204
    deadline = time.monotonic() + 30
    while shared_memory() > before + size // 2:
        assert time.monotonic() < deadline, "its memory was not given back"
        time.sleep(0.1)
    api.close()


def test_nothing_of_it_is_left_in_memory_when_the_servers_warden_is_stopped() -> None:
    before = memory_dirs()
    server = Server(POOL_MIN_SIZE="0")
    api = server.api()
    box = api.create(sandbox=VFS)
    assert api.run(box, "yes | head -c 1000000")["exit_code"] == 0
    made = memory_dirs() - before
    assert len(made) == 1
    server.kill()
    server.stop()
    assert not made & memory_dirs()


def test_more_than_its_memory_can_hold_is_refused_and_so_is_a_disk(own: Server) -> None:
    api = own.api()
    said = refused(
        api("POST", "/sandboxes", json={"sandbox": VFS, "resources": {"memory": "256m", "disk": "1g"}}),
        400,
        "invalid_request",
    )
    assert "three quarters" in said
    kept = {"kind": "vfs", "memoryOnly": False}
    refused(api("POST", "/sandboxes", json={"sandbox": kept}), 501, "unsupported")
    api.close()
