"""What a `local` sandbox's directory may hold, while commands run and through the file API."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness import Api, Server, refused, until, workspaces

MIB = 1 << 20
QUOTA = 64 * MIB


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(POOL_MIN_SIZE="0", CSB_LOCAL_IDLE="1s")
    yield server
    server.stop()


def make(api: Api, name: str, disk: int = QUOTA, **resources: Any) -> str:
    return api.create(sandbox={"kind": "local", "workDir": name}, resources={"disk": disk, **resources})


def held(server: Server, name: str) -> int:
    """Bytes that a directory takes on the disk."""
    top = workspaces(server) / name
    return sum(p.lstat().st_blocks * 512 for p in [top, *top.rglob("*")])


def put(api: Api, box: str, path: str, size: int, **query: Any) -> Any:
    return api("PUT", f"/sandboxes/{box}/files", params={"path": f"/workspace/{path}", **query}, content=b"x" * size)


def test_the_file_api_stops_at_the_quota_and_leaves_every_file_as_it_was(server: Server, ann: Api) -> None:
    box = make(ann, "api")
    assert put(ann, box, "one", 40 * MIB).status_code == 200
    said = refused(put(ann, box, "two", 40 * MIB), 403, "quota_exceeded")
    assert "workspace quota exceeded" in said and "64 MiB" in said
    until(lambda: held(server, "ann/api") < 41 * MIB, "what was written of a file that did not fit stays")
    names = ann("GET", f"/sandboxes/{box}/files/list?path=/workspace").json()["items"]
    assert [one["path"] for one in names] == ["/workspace/one"], "half of a file is left"
    # One that is replaced by what does not fit, or appended to, stays whole.
    refused(put(ann, box, "one", 70 * MIB), 403, "quota_exceeded")
    refused(put(ann, box, "one", 30 * MIB, append="true"), 403, "quota_exceeded")
    assert ann("GET", f"/sandboxes/{box}/files?path=/workspace/one").content == b"x" * 40 * MIB
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for i in range(5):
            info = tarfile.TarInfo(f"f{i}")
            info.size = 10 * MIB
            tar.addfile(info, io.BytesIO(b"y" * info.size))
    unpacked = ann("PUT", f"/sandboxes/{box}/archive?path=/workspace/tar", content=archive.getvalue())
    refused(unpacked, 403, "quota_exceeded")
    assert held(server, "ann/api") <= QUOTA + MIB
    # Elsewhere there is room: that is not the workspace.
    assert ann("PUT", f"/sandboxes/{box}/files?path=/tmp/f", content=b"x" * 30 * MIB).status_code == 200
    assert ann("DELETE", f"/sandboxes/{box}/files?path=/workspace/tar&recursive=true").status_code == 204
    assert put(ann, box, "fits", 20 * MIB).status_code == 200
    stats = ann("GET", f"/sandboxes/{box}/stats").json()
    assert stats["disk_limit"] == QUOTA and 60 * MIB <= stats["disk"] <= 61 * MIB


def test_many_small_files_through_the_api_stop_at_the_quota(server: Server, ann: Api) -> None:
    box = make(ann, "many", 8 * MIB)
    sent = 0
    while (reply := put(ann, box, f"f{sent}", 200_000)).status_code == 200:
        sent += 1
        assert sent < 60
    refused(reply, 403, "quota_exceeded")
    assert 35 <= sent <= 42
    assert held(server, "ann/many") <= 8 * MIB + 256 * 1024


def test_a_command_that_writes_too_much_is_killed_while_it_runs(server: Server, ann: Api) -> None:
    box = make(ann, "command", memory="1g")
    began = time.monotonic()
    done = ann.run(box, "echo begun; yes > large; echo never", timeout=60)
    assert (done["killed_by"], done["signal"] or done["exit_code"]) in [("disk", 9), ("disk", 137)], done
    assert done["stdout"] == "begun\n"
    assert time.monotonic() - began < 30
    over = held(server, "ann/command")
    print(f"\nheld {over / MIB:.0f} MiB of a quota of {QUOTA / MIB:.0f} MiB when it was stopped")
    assert over > QUOTA // 2
    refused(put(ann, box, "more", 1), 403, "quota_exceeded")
    # What makes room goes on; then all is as before.
    assert ann.run(box, "ls; echo x > /tmp/elsewhere; rm large")["stdout"] == "large\n"
    assert put(ann, box, "more", 1).status_code == 200
    assert ann.run(box, "head -c 30M /dev/zero > fits; stat -c %s fits")["stdout"] == f"{30 * MIB}\n"


def test_a_command_in_the_background_is_stopped_as_well(server: Server, ann: Api) -> None:
    box = make(ann, "background")
    ann.run(box, "(while :; do head -c 4M /dev/zero > f$(date +%N); sleep 0.05; done) >/dev/null 2>&1 &")
    deadline = time.monotonic() + 30
    last = -1
    while (now := held(server, "ann/background")) != last or now < QUOTA:
        assert time.monotonic() < deadline and now < QUOTA * 8, f"{now / MIB} MiB and it goes on"
        last = now
        time.sleep(1)


def test_many_small_files_and_deep_directories_count(server: Server, ann: Api) -> None:
    box = make(ann, "inodes", QUOTA, inodes=2000)
    program = "import itertools\nfor i in itertools.count():\n open(f'{i}', 'w').close()"
    done = ann("POST", f"/sandboxes/{box}/execs", json={"command": ["python3", "-c", program], "timeout": 60}).json()
    assert done["killed_by"] == "disk", done
    refused(put(ann, box, "new", 1), 403, "quota_exceeded")
    assert ann.run(box, "find . -type f -delete; ls", timeout=60)["stdout"] == ""
    program = "import os\nwhile True:\n os.mkdir('d'); os.chdir('d'); open('f', 'w').write('x' * 50000)"
    done = ann("POST", f"/sandboxes/{box}/execs", json={"command": ["python3", "-c", program], "timeout": 60}).json()
    assert done["killed_by"] == "disk", done
    # Too deep for what removes this test's files.
    assert ann.run(box, "rm -rf d", timeout=60)["exit_code"] == 0


def test_a_directory_that_is_moved_about_all_the_time_is_measured_all_the_same(server: Server, ann: Api) -> None:
    box = make(ann, "moved")
    program = (
        "import os, threading\nos.makedirs('a/b/c'); os.makedirs('x')\n"
        "def move():\n"
        "  while True:\n"
        "    os.rename('a/b', 'x/b'); os.rename('x/b', 'a/b')\n"
        "threading.Thread(target=move, daemon=True).start()\n"
        "f = open('x/large', 'w')\n"
        "while True: f.write('x' * 100000)"
    )
    done = ann("POST", f"/sandboxes/{box}/execs", json={"command": ["python3", "-c", program], "timeout": 60}).json()
    assert done["killed_by"] == "disk", done
    assert held(server, "ann/moved") < QUOTA * 12


def test_a_neighbour_that_fills_the_disk_stops_nobody_else(server: Server, ann: Api) -> None:
    box, other = make(ann, "quiet"), make(ann, "loud", 512 * MIB)
    running = ann.start(box, "for i in $(seq 40); do echo $i > f; sleep 0.05; done; echo done")
    assert ann.run(other, "head -c 400M /dev/zero > f; stat -c %s f", timeout=60)["stdout"] == f"{400 * MIB}\n"
    result = ann("GET", f"/sandboxes/{box}/execs/{running}/result?wait=60").json()
    assert (result["stdout"], result["killed_by"]) == ("done\n", None)
    assert ann.run(other, "rm f")["exit_code"] == 0


def test_all_workspaces_of_a_user_have_a_quota_together_and_other_users_their_own() -> None:
    server = Server(POOL_MIN_SIZE="0", WORKSPACE_QUOTA="100m")
    ann, bob = server.api("ann"), server.api("bob")
    one, two, his = make(ann, "one"), make(ann, "two"), make(bob, "one")
    assert put(ann, one, "f", 60 * MIB).status_code == 200
    assert put(ann, two, "f", 30 * MIB).status_code == 200
    quiet = ann.start(one, "for i in $(seq 60); do echo $i > g; sleep 0.1; done; echo done")
    said = refused(put(ann, two, "g", 20 * MIB), 403, "quota_exceeded")
    assert "workspace quota exceeded" in said and "100 MiB" in said
    done = ann.run(two, "head -c 60M /dev/zero > h; sleep 5", timeout=60)
    assert done["killed_by"] == "disk", done
    assert put(bob, his, "f", 60 * MIB).status_code == 200
    assert ann("GET", f"/sandboxes/{one}/execs/{quiet}/result?wait=60").json()["stdout"] == "done\n"
    for api in (ann, bob):
        api.close()
    server.stop()


def test_what_a_workspace_holds_is_known_while_its_sandbox_sleeps(server: Server, ann: Api) -> None:
    box = make(ann, "asleep")
    assert ann.run(box, "head -c 20M /dev/urandom > f")["exit_code"] == 0
    time.sleep(2.5)
    stats = ann("GET", f"/sandboxes/{box}/stats").json()
    assert stats["memory"] == 0 and 20 * MIB <= stats["disk"] <= 21 * MIB
    assert os.path.getsize(f"{server.data_dir}/workspaces/ann/asleep/f") == 20 * MIB
