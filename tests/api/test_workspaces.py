"""Housekeeping: workspaces that nobody uses are removed, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Admin, Api, Server, program, refused, workspaces

DAY = 86400


@pytest.fixture
def own() -> Iterator[Server]:
    server = Server(dev=False, POOL_MIN_SIZE="0", CSB_LOCAL_IDLE="100ms")
    yield server
    server.stop()


def local(name: str) -> dict[str, str]:
    return {"kind": "local", "workDir": name}


def make(server: Server, name: str, days: float, size: int = 1000) -> Path:
    """A workspace that was last used so many days ago."""
    place = workspaces(server) / name
    (place / "d").mkdir(parents=True)
    (place / "d" / "f").write_bytes(b"x" * size)
    age(place, days)
    return place


def age(place: Path, days: float) -> None:
    then = time.time() - days * DAY
    for path in [*place.rglob("*"), place]:
        os.utime(path, (then, then), follow_symlinks=False)


def clean(api: Api, days: float, dry_run: bool = False) -> dict:
    done = api("POST", "/workspaces/clean", json={"older_than": days * DAY, "dry_run": dry_run})
    assert done.status_code == 200, done.text
    return done.json()


def test_what_nobody_used_for_so_long_goes_and_what_exists_or_is_recent_stays(own: Server) -> None:
    admin = Admin(own)
    ann = admin.user_api("ann")
    old, recent, touched = make(own, "ann/old", 40), make(own, "ann/recent", 20), make(own, "bob/touched", 40)
    (touched / "d" / "new").write_text("x")
    used, deep = make(own, "ann/used", 40), make(own, "ann/deep/er", 40)
    box = ann.create(sandbox=local("used"))
    ann.create(sandbox=local("deep/er"))
    for path in [used, used.parent / "deep"]:
        age(path, 40)
    only = make(own, "carol/only", 40, size=1 << 20)
    tried = clean(admin, 30, dry_run=True)
    assert [one["path"] for one in tried["removed"]] == ["ann/old", "carol/only"]
    assert (tried["dry_run"], tried["recent"], tried["in_use"], tried["failed"]) == (True, 2, 2, [])
    assert (old / "d" / "f").exists() and (only / "d" / "f").exists()
    done = clean(admin, 30)
    assert done["removed"] == tried["removed"] and not done["dry_run"]
    assert done["bytes"] >= 1 << 20 and done["removed"][1]["files"] == 2
    assert done["removed"][0]["used_at"][:10] == time.strftime("%Y-%m-%d", time.gmtime(time.time() - 40 * DAY))
    assert not old.exists() and not only.parent.exists()
    assert all((place / "d" / "f").exists() for place in [recent, touched, used, deep])
    assert not list(workspaces(own).glob(".trash/*"))
    # Released, it is used no longer, and was until now.
    assert ann("DELETE", f"/sandboxes/{box}").status_code == 204
    assert clean(admin, 30)["removed"] == []
    age(used, 40)
    assert [one["path"] for one in clean(admin, 30)["removed"]] == ["ann/used"]


def test_a_command_that_reads_or_a_sandbox_that_was_woken_is_use(own: Server) -> None:
    admin = Admin(own)
    ann = admin.user_api("ann")
    place = make(own, "ann/w", 40)
    box = ann.create(sandbox=local("w"))
    age(place, 40)
    assert ann.run(box, "cat d/f > /dev/null")["exit_code"] == 0
    time.sleep(1)
    assert ann("DELETE", f"/sandboxes/{box}").status_code == 204
    assert clean(admin, 1)["recent"] == 1 and place.exists()


def test_what_a_tenant_left_there_leads_nowhere(own: Server) -> None:
    admin = Admin(own)
    kept = make(own, "bob/kept", 1)
    outside = Path(own.data_dir) / "outside"
    outside.mkdir()
    (outside / "f").write_text("stays")
    place = make(own, "ann/links", 40)
    (place / "out").symlink_to(outside)
    (place / "bob").symlink_to(kept)
    os.mkfifo(place / "pipe")
    (place / "locked").mkdir()
    (place / "locked" / "f").write_text("x")
    (place / "locked").chmod(0)
    (workspaces(own) / "ann" / "link").symlink_to(outside)
    (workspaces(own) / "eve").symlink_to(outside)
    nested = place
    for _ in range(300):
        nested = nested / "deep"
        nested.mkdir()
    age(place, 40)
    os.utime(workspaces(own) / "ann" / "link", (0, 0), follow_symlinks=False)
    done = clean(admin, 30)
    assert [one["path"] for one in done["removed"]] == ["ann/link", "ann/links"]
    assert [one["path"] for one in done["failed"]] == ["eve"]
    assert (outside / "f").read_text() == "stays" and (kept / "d" / "f").exists()
    assert not place.exists()


def test_a_workspace_that_is_all_of_its_users_stays_while_it_is_empty(own: Server) -> None:
    admin = Admin(own)
    ann = admin.user_api("ann")
    box = ann.create(sandbox=local("./workspace"))
    assert ann.run(box, "pwd")["exit_code"] == 0
    age(workspaces(own) / "ann", 40)
    clean(admin, 30)
    assert ann.run(box, "echo kept > f; cat f")["stdout"] == "kept\n"
    assert (workspaces(own) / "ann" / "f").exists()


def test_no_name_and_no_date_keeps_a_workspace_for_ever(own: Server) -> None:
    admin = Admin(own)
    odd = os.fsencode(workspaces(own) / "ann") + b"/\xff\xfe"
    os.makedirs(odd + b"/\x80")
    os.utime(odd + b"/\x80", (0, 0))
    os.utime(odd, (0, 0))
    to_come = make(own, "ann/to-come", -1000)
    time.sleep(2.1)
    done = clean(admin, 1 / DAY)
    assert done["failed"] == [] and len(done["removed"]) == 2
    assert not os.path.exists(odd) and not to_come.exists()


def test_a_sandbox_that_is_made_while_workspaces_are_cleaned_keeps_its_directory(own: Server) -> None:
    admin = Admin(own)
    ann = admin.user_api("ann")
    stop = threading.Event()
    failures: list[str] = []

    def cleaner() -> None:
        other = Admin(own)
        while not stop.is_set():
            # Older than a second: what was made just now must be kept because a sandbox has it, or go before it has.
            done = other("POST", "/workspaces/clean", json={"older_than": 1})
            if done.status_code != 200:
                failures.append(done.text)

    thread = threading.Thread(target=cleaner)
    thread.start()
    for i in range(60):
        make(own, f"ann/n{i}", 40)
        box = ann.create(sandbox=local(f"n{i}"))
        written = ann("PUT", f"/sandboxes/{box}/files?path=/workspace/mine", content=b"kept")
        assert written.status_code == 200, written.text
        age(workspaces(own) / "ann" / f"n{i}", 40)
        assert ann.run(box, "cat mine")["stdout"] == "kept"
        assert ann("DELETE", f"/sandboxes/{box}").status_code == 204
    stop.set()
    thread.join()
    assert not failures


def test_only_admins_clean_and_nonsense_is_refused(own: Server) -> None:
    admin = Admin(own)
    ann = admin.user_api("ann")
    refused(ann("POST", "/workspaces/clean", json={"older_than": 1}), 403, "role_denied")
    for body in [{}, {"older_than": 0}, {"older_than": -1}, {"older_than": 1, "dry": True}, {"older_than": "30d"}]:
        refused(admin("POST", "/workspaces/clean", json=body), 400, "invalid_request")


def csb(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    command = [program(), *words, "--server", server.url, "--data-dir", server.data_dir]
    return subprocess.run(command, env=server.env, capture_output=True, text=True)


def test_the_command_line_says_what_it_would_do_and_what_it_did(own: Server) -> None:
    place = make(own, "ann/old", 40, size=3 << 20)
    tried = csb(own, "workspaces", "clean", "--older-than", "30d", "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert tried.stdout.splitlines()[0].split() == ["WORKSPACE", "SIZE", "FILES", "USED"]
    assert "ann/old" in tried.stdout and "40d ago" in tried.stdout and "would remove 1 of 3.0 MiB" in tried.stdout
    assert place.exists()
    done = csb(own, "--json", "workspaces", "clean", "--older-than", "30d")
    assert done.returncode == 0, done.stderr
    assert [one["path"] for one in json.loads(done.stdout)["removed"]] == ["ann/old"]
    assert not place.exists()
    empty = csb(own, "workspaces", "clean", "--older-than", "30d")
    assert empty.stdout == "removed 0 of 0 B; kept 0 used more recently and 0 of sandboxes that exist\n"


def test_the_server_cleans_by_itself_on_schedule() -> None:
    server = Server(POOL_MIN_SIZE="0", CLEANUP_SCHEDULE="*/2 * * * * *", CLEANUP_IDLE_DAYS="30")
    old, recent = make(server, "ann/old", 31), make(server, "ann/recent", 29)
    deadline = time.monotonic() + 30
    while old.exists():
        assert time.monotonic() < deadline, server.said()
        time.sleep(0.1)
    assert recent.exists()
    deadline = time.monotonic() + 10
    while "cleaned workspaces" not in server.said():
        assert time.monotonic() < deadline, server.said()
        time.sleep(0.1)
    assert "ann/old" in server.said()
    server.stop()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"CLEANUP_SCHEDULE": "daily", "CLEANUP_IDLE_DAYS": "30"}, "not a cron expression"),
        ({"CLEANUP_SCHEDULE": "0 2 * * *"}, "CLEANUP_IDLE_DAYS"),
        ({"CLEANUP_IDLE_DAYS": "30"}, "CLEANUP_SCHEDULE"),
        ({"LOCAL_ALLOW_PATHS": "etc"}, "not an absolute directory"),
    ],
)
def test_settings_that_mean_nothing_are_refused_at_start(settings: dict[str, str], said: str) -> None:
    env = {**os.environ, **settings}
    done = subprocess.run(
        [program(), "serve", "--dev", "--listen", "127.0.0.1:0"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and said in done.stderr
