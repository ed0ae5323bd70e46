"""Containers of a real Docker Engine and of real OCI runtimes: what is particular to them, on this host.

The engine is one of the test's own (scripts/docker.sh). Where none can be started, or a runtime is missing, the tests
that need it are skipped and say so.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker_engine
import httpx
import pytest
from ways import unpacked

from harness import ROOT, Api, Server, program, refused

SCRIPT = str(ROOT / "scripts" / "docker.sh")
# Where Debian keeps runtimes, whatever the shell's PATH.
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


class Engine:
    """A Docker Engine of the tests' own, asked over its socket."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        started = subprocess.run([SCRIPT, "start", directory], capture_output=True, text=True)
        if started.returncode:
            pytest.skip(f"no Docker Engine can be started here: {started.stderr.strip()}")
        self.host = started.stdout.strip()
        socket = self.host.removeprefix("unix://")
        self.http = httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://docker", timeout=60)

    def stop(self) -> None:
        self.http.close()
        subprocess.run([SCRIPT, "stop", self.directory], check=True)

    def containers(self) -> list[dict[str, Any]]:
        return self.http.get("/containers/json", params={"all": "true"}).json()

    def load(self, name: str, *changes: str, links: dict[str, str] | None = None) -> None:
        """An image of a static busybox and nothing else: no C library, no passwd."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add("/bin/busybox", "bin/busybox")
            applets = {f"bin/{applet}": "busybox" for applet in ("sh", "cat", "id", "ls", "echo")}
            for path, to in (applets | (links or {})).items():
                link = tarfile.TarInfo(path)
                link.type, link.linkname = tarfile.SYMTYPE, to
                archive.addfile(link)
            evil = tarfile.TarInfo("etc/ld.so.preload")
            evil.size = len(b"/evil.so\n")
            archive.addfile(evil, io.BytesIO(b"/evil.so\n"))
        repo, tag = name.split(":")
        said = ["ENV GREETING=hello LD_PRELOAD=/evil.so", *changes]
        params = {"fromSrc": "-", "repo": repo, "tag": tag, "changes": said}
        done = self.http.post("/images/create", params=params, content=packed.getvalue())
        assert done.status_code == 200, done.text


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    # Short: the address of a socket holds 107 bytes.
    engine = Engine(tempfile.mkdtemp(prefix="csb-engine-"))
    yield engine
    engine.stop()


def runtime(name: str) -> str:
    return shutil.which(name, path=PLACES) or ""


@pytest.fixture(scope="module", params=["docker", "oci"])
def kind(request: pytest.FixtureRequest) -> dict[str, str]:
    """What a request says of the kind, wherever that can be had."""
    if request.param == "oci" and not runtime("runc"):
        pytest.skip("there is no runc: apt-get install runc")
    return {"kind": request.param}


@pytest.fixture(scope="module")
def own(kind: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that knows the engine."""
    settings = {"DOCKER_HOST": request.getfixturevalue("engine").host} if kind["kind"] == "docker" else {}
    server = Server(POOL_MIN_SIZE="0", **settings)
    yield server
    server.stop()


@pytest.fixture
def user(own: Server) -> Iterator[Api]:
    api = own.api()
    yield api
    api.close()


def left(own: Server, engine: Engine | None = None) -> list[str]:
    """What a sandbox could have left on the host."""
    data = own.data_dir
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{data}/guests" in line]
    found += [str(path) for path in Path(data, "guests").glob("sb-*")]
    found += [str(path) for path in Path(data, "disks").glob("*")]
    node = hashlib.sha256(f"{data}/guests".encode()).hexdigest()[:16]
    found += [str(group) for group in Path("/sys/fs/cgroup").glob(f"*/csb-oci-{node}/sb-*")]
    if engine:
        found += [container["Names"][0] for container in engine.containers() if "csb.sandbox" in container["Labels"]]
    return found


def test_a_command_runs_as_in_any_sandbox(user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox=kind, env={"A": "sandbox"})
    done = user.run(sandbox, "echo out; echo err >&2; pwd; echo $A $B $HOME; id -u; exit 3", env={"B": "exec"})
    assert (done["stdout"], done["stderr"], done["exit_code"]) == (
        "out\n/workspace\nsandbox exec /home/user\n1000\n",
        "err\n",
        3,
    )
    assert user.run(sandbox, "id -u; cat /proc/self/status", user="root")["stdout"].startswith("0\n")
    assert user.run(sandbox, "cat", stdin="given")["stdout"] == "given"
    assert user.run(sandbox, "kill -TERM $$")["signal"] == 15
    late = user.run(sandbox, "(sleep 60 & sleep 60) | cat", timeout=1)
    assert late["killed_by"] == "timeout"
    # By its mark, the whole tree: nothing but the init and the process that waits for the next command is left.
    assert "sleep" not in user.run(sandbox, "cat /proc/[0-9]*/comm")["stdout"]
    missing = user("POST", f"/sandboxes/{sandbox}/execs", json={"command": ["no-such-program"]})
    refused(missing, 422, "command_not_found")


def test_a_command_holds_no_privilege(user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox=kind)
    for name in ("user", "root"):
        status = user.run(sandbox, "cat /proc/self/status", user=name)["stdout"]
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {fields[f"Cap{of}"] for of in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        tried = (
            "ls /.csb-run; echo x > /.csb-run/x; echo x > /.csb/csb-guest; mount -t tmpfs x /mnt; "
            "chown 65535 /workspace; kill -9 1; echo 1 > /proc/sys/kernel/panic; mknod /tmp/d b 8 0; true"
        )
        assert user.run(sandbox, tried, user=name)["exit_code"] == 0
        assert user.run(sandbox, "ls /.csb-run", user=name)["exit_code"] != 0
        assert user.run(sandbox, "test -e /tmp/d", user=name)["exit_code"] == 1
    # The init's socket is not one to connect to from inside, and answers to nobody here.
    inside = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "try: s.connect('/.csb-run/init.sock')\nexcept OSError as e: print(type(e).__name__)"
    )
    assert user.run(sandbox, ["python3", "-c", inside], user="root")["stdout"] == "PermissionError\n"
    assert user.run(sandbox, "echo still here")["stdout"] == "still here\n"


def test_a_terminal(user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox=kind)
    exec_id = user.start(sandbox, "stty size; tty; read line; echo got $line", pty={"cols": 100, "rows": 40})
    user.until_said(sandbox, exec_id, "/dev/pts/")
    sent = user("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/stdin", content=b"hello\n")
    assert sent.status_code in (200, 204), sent.text
    result = user("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/result?wait=60").json()
    assert result["exit_code"] == 0 and "40 100" in result["stdout"] and "got hello" in result["stdout"]


def test_files_go_in_and_out_and_a_link_leads_nowhere_else(user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox=kind, resources={"memory": "512Mi"})
    data = os.urandom(1 << 20) * 48
    put = user("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/deep/er/big", content=data)
    assert put.status_code in (200, 201, 204), put.text
    assert user("GET", f"/sandboxes/{sandbox}/files?path=/workspace/deep/er/big").content == data
    assert user.run(sandbox, "wc -c < deep/er/big")["stdout"].strip() == str(len(data))
    user.run(sandbox, "ln -s /.csb-run/init.sock a; ln -s /proc/1/root/etc/shadow b; ln -s /etc/shadow c")
    for name in "abc":
        answer = user("GET", f"/sandboxes/{sandbox}/files?path=/workspace/{name}")
        assert answer.status_code >= 400, answer.text
    assert user("PUT", f"/sandboxes/{sandbox}/files?path=/usr/bin/evil", content=b"x").status_code >= 400


def test_limits_hold_and_change_on_a_living_container(user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox={**kind, "memory": "128m", "cpu": "0.5"}, resources={"pids": 40, "disk": "32Mi"})
    hog = ["python3", "-c", "x = bytearray(400 << 20)"]
    assert user.run(sandbox, hog)["killed_by"] == "oom"
    bomb = user.run(sandbox, "f() { f | f & }; f; sleep 2; echo over", timeout=20)
    assert bomb["killed_by"] in ("pids", "timeout") or bomb["exit_code"] is not None
    assert user.run(sandbox, "echo lives")["stdout"] == "lives\n"
    # What the bomb left in the background takes its time, with half a CPU, to die of having no room.
    deadline = time.monotonic() + 60
    while "Cannot fork" in (full := user.run(sandbox, "dd if=/dev/zero of=/workspace/f bs=1M count=64"))["stderr"]:
        assert time.monotonic() < deadline, "the bomb lives"
        time.sleep(0.1)
    assert full["exit_code"] != 0 and "No space left" in full["stderr"]
    assert "No space left" in user.run(sandbox, "dd if=/dev/zero of=/tmp/f bs=1M count=64")["stderr"]
    user.run(sandbox, "rm -f /workspace/f /tmp/f")
    changed = user("PATCH", f"/sandboxes/{sandbox}", json={"resources": {"memory": "600Mi"}})
    assert changed.status_code == 200, changed.text
    assert user.run(sandbox, hog)["exit_code"] == 0
    stats = user("GET", f"/sandboxes/{sandbox}/stats").json()
    assert stats["cpu_usec"] > 0 and stats["memory_peak"] > 300 << 20, stats


def test_a_fork_bomb_is_killed_whole(user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox=kind, resources={"pids": 60})
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    done = user.run(sandbox, ["python3", "-c", bomb], timeout=3)
    assert done["killed_by"] in ("timeout", "pids"), done
    # What was killed is gone when it is its turn.
    deadline = time.monotonic() + 20
    while "python3" in user.run(sandbox, "cat /proc/[0-9]*/comm")["stdout"]:
        assert time.monotonic() < deadline, "some of it lives"
        time.sleep(0.1)


def test_a_paused_container_stands_still(user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox=kind)
    exec_id = user.start(sandbox, "while :; do date +%s%N; sleep 0.02; done")
    user.until_said(sandbox, exec_id, "1")
    assert user("POST", f"/sandboxes/{sandbox}/pause").status_code == 200

    def said() -> str:
        return user("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/output?follow=false").text

    time.sleep(0.3)
    before = said()
    time.sleep(0.5)
    assert said() == before
    refused(user("POST", f"/sandboxes/{sandbox}/execs", json={"command": "true"}), 409, "sandbox_paused")
    assert user("POST", f"/sandboxes/{sandbox}/resume").status_code == 200
    deadline = time.monotonic() + 20
    while said() == before:
        assert time.monotonic() < deadline, "it never went on"
        time.sleep(0.05)


def test_a_command_goes_on_while_the_server_is_killed(own: Server, kind: dict[str, str]) -> None:
    user = own.api()
    sandbox = user.create(sandbox=kind)
    count = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.01; done; exit 7"
    exec_id = user.start(sandbox, count)
    reader = user.start(sandbox, "read line; echo got $line", stdin=True)
    user.until_said(sandbox, exec_id, "line 20")
    own.kill()
    time.sleep(0.5)
    own.start()
    result = user("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/result?wait=60").json()
    assert result["stdout"] == "".join(f"line {i}\n" for i in range(1, 201))
    assert result["stderr"] == "".join(f"err {i}\n" for i in range(1, 201))
    assert result["exit_code"] == 7
    sent = user("POST", f"/sandboxes/{sandbox}/execs/{reader}/stdin?close=true", content=b"after\n")
    assert sent.status_code in (200, 204), sent.text
    assert user("GET", f"/sandboxes/{sandbox}/execs/{reader}/result?wait=60").json()["stdout"] == "got after\n"
    assert user.run(sandbox, "echo same")["stdout"] == "same\n"
    user.close()


def test_a_paused_one_is_found_again(own: Server, kind: dict[str, str]) -> None:
    user = own.api()
    sandbox = user.create(sandbox=kind)
    assert user("POST", f"/sandboxes/{sandbox}/pause").status_code == 200
    own.kill()
    own.start()
    assert user("GET", f"/sandboxes/{sandbox}").json()["state"] == "paused"
    assert user("POST", f"/sandboxes/{sandbox}/resume").status_code == 200
    assert user.run(sandbox, "echo awake")["stdout"] == "awake\n"
    user.close()


def test_what_is_released_leaves_nothing(own: Server, kind: dict[str, str], request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue("engine") if kind["kind"] == "docker" else None
    user = own.api()
    asked: list[dict[str, Any]] = [{}, {"resources": {"memory": "128Mi", "disk": "512Mi"}}, {"storage": "disk"}]
    for more in asked:
        sandbox = user.create(sandbox=kind, **more)
        user.run(sandbox, "setsid sleep 600 & echo x > /workspace/x")
        assert left(own, engine)
        assert user("DELETE", f"/sandboxes/{sandbox}").status_code in (200, 204)
        assert left(own, engine) == []
    # Also if it is paused, and if the server is killed while it is made.
    sandbox = user.create(sandbox=kind)
    user("POST", f"/sandboxes/{sandbox}/pause")
    assert user("DELETE", f"/sandboxes/{sandbox}").status_code in (200, 204)
    assert left(own, engine) == []
    user.close()


def test_a_removal_that_is_refused_is_tried_until_it_is_done(tmp_path: Path) -> None:
    """A runtime that fails for a while, as one does on a host without descriptors or processes."""
    if not (real := runtime("runc")):
        pytest.skip("there is no runc: apt-get install runc")
    broken = tmp_path / "broken"
    wrapper = tmp_path / "runc"
    wrapper.write_text(f'#!/bin/sh\n[ ! -e {broken} ] || {{ echo no room >&2; exit 1; }}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    own = Server(POOL_MIN_SIZE="0", PATH=f"{tmp_path}:{PLACES}")
    user = own.api()
    try:
        asked, died = (user.create(sandbox={"kind": "oci"}) for _ in range(2))
        broken.touch()
        refusal = user("DELETE", f"/sandboxes/{asked}")
        assert refusal.status_code >= 500, refusal.text
        # Of the other the first process is killed, and nobody asks for anything.
        record = json.loads(Path(own.data_dir, "guests", died, "guest.json").read_text())
        os.kill(record["pid"], signal.SIGKILL)
        time.sleep(1)
        assert left(own)
        broken.unlink()
        deadline = time.monotonic() + 20
        while left(own) or user("GET", "/sandboxes").json()["items"]:
            assert time.monotonic() < deadline, left(own)
            time.sleep(0.1)
    finally:
        broken.unlink(missing_ok=True)
        user.close()
        own.stop()


@pytest.mark.parametrize("name", ["runc", "runsc"])
def test_a_container_that_its_runtime_knows_nothing_of_is_ended(name: str) -> None:
    """As after a disk that was full while the runtime wrote down what it had made."""
    place = os.path.dirname(runtime(name) or unpacked(name) or "")
    if not place:
        pytest.skip(f"there is no {name}")
    own = Server(POOL_MIN_SIZE="0", PATH=f"{place}:{os.environ['PATH']}")
    user = own.api()
    try:
        mark = f"98{os.getpid()}.5"
        for forgets_record in (False, True):
            sandbox = user.create(sandbox={"kind": "oci", "runtime": name})
            user.start(sandbox, ["sleep", mark])
            for known in Path(own.data_dir, "guests", ".oci", name).glob(f"*{sandbox}*"):
                shutil.rmtree(known) if known.is_dir() else known.unlink()
            if forgets_record:
                # Nothing tells of it any more but its control group.
                own.kill()
                for mount in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
                    if (where := mount.split()[4]).startswith(f"{own.data_dir}/guests/{sandbox}/"):
                        subprocess.run(["umount", "-l", where], check=True)
                shutil.rmtree(Path(own.data_dir, "guests", sandbox))
                own.start()
            else:
                assert user("DELETE", f"/sandboxes/{sandbox}").status_code == 204
            deadline = time.monotonic() + 20
            while (
                left(own) or subprocess.run(["pgrep", "-f", f"sleep {mark}"], stdout=subprocess.DEVNULL).returncode == 0
            ):
                assert time.monotonic() < deadline, left(own)
                time.sleep(0.1)
    finally:
        user.close()
        own.stop()


def test_a_hardened_sandbox_in_gvisor() -> None:
    """A kernel of its own, files that nothing else has in its page cache, and the shorter allowlist of system calls."""
    place = os.path.dirname(runtime("runsc") or unpacked("runsc") or "")
    if not place:
        pytest.skip("there is no runsc")
    own = Server(POOL_MIN_SIZE="0", PATH=f"{place}:{os.environ['PATH']}")
    add = [program(), "template", "add", "--data-dir", own.data_dir, "small", "-"]
    subprocess.run(add, input=docker_engine.image(), check=True, capture_output=True)
    user = own.api()
    try:
        answer = user("POST", "/sandboxes", json={"sandbox": {"kind": "hardened", "runtime": "runc"}})
        assert "runsc" in refused(answer, 501, "unsupported")
        asked = {"kind": "hardened", "runtime": "runsc"}
        sandbox = user.create(sandbox=asked, template="small")
        plain = user.create(sandbox={**asked, "kind": "oci"}, template="small")
        assert user("GET", f"/sandboxes/{sandbox}").json()["kind"] == "hardened"
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        images = {one: sum(f"/{one}/" in line and " - erofs " in line for line in mounts) for one in (sandbox, plain)}
        assert images[sandbox] > 0 and images[plain] == 0
        for one in (sandbox, plain):
            assert "Linux version 4.4.0" in user.run(one, "cat /proc/version")["stdout"], "it is gVisor's kernel"
        assert user.run(plain, "ip link")["exit_code"] == 0
        assert "Address family not supported" in user.run(sandbox, "ip link")["stderr"]
        waits = user.start(sandbox, "read line; echo got $line", stdin=True)
        own.kill()
        own.start()
        sent = user("POST", f"/sandboxes/{sandbox}/execs/{waits}/stdin?close=true", content=b"after\n")
        assert sent.status_code in (200, 204), sent.text
        assert user("GET", f"/sandboxes/{sandbox}/execs/{waits}/result?wait=60").json()["stdout"] == "got after\n"
        for one in (sandbox, plain):
            assert user("DELETE", f"/sandboxes/{one}").status_code == 204
        assert left(own) == []
        words = ["--data-dir", own.data_dir, "--template", "small", "--kind", "hardened", "--opt", "runtime=runsc"]
        said = subprocess.run(
            [program(), "run", *words, "--", "cat", "/proc/version"], capture_output=True, env=own.env
        )
        assert said.stdout.startswith(b"Linux version 4.4.0"), said.stderr
        assert left(own) == []
    finally:
        user.close()
        own.stop()


def test_containers_are_kept_ready_beside_other_kinds(kind: dict[str, str], request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue("engine") if kind["kind"] == "docker" else None
    settings = {"DOCKER_HOST": engine.host} if engine else {}
    own = Server(POOL_KINDS=f"process,{kind['kind']}", POOL_MIN_SIZE="1", POOL_MAX_SIZE="1", **settings)

    def filled() -> None:
        deadline = time.monotonic() + 60
        while (stats := user("GET", "/sandbox/stats").json()["pool"])["ready"] != 2:
            assert time.monotonic() < deadline, stats
            time.sleep(0.05)
        assert (stats["min"], stats["max"]) == (2, 2)

    user = own.api()
    try:
        filled()
        # One that nobody has had is still there for the next server.
        own.kill()
        own.start()
        filled()
        for sandbox in ({"kind": "process"}, kind):
            made = user("POST", "/sandboxes", json={"sandbox": sandbox}).json()
            assert (made["kind"], made["started_by"]) == (sandbox["kind"], "claim")
            assert user.run(made["sandbox_id"], "echo here")["stdout"] == "here\n"
        filled()
        other = user("POST", "/sandboxes", json={"sandbox": kind, "hostname": "other"}).json()
        assert other["started_by"] == "cold"
        for one in user("GET", "/sandboxes").json()["items"]:
            user("DELETE", f"/sandboxes/{one['sandbox_id']}")
    finally:
        user.close()
        own.stop()


@pytest.mark.parametrize("pause", [0.05, 0.15, 0.3])
def test_a_server_killed_while_it_makes_one_leaves_nothing(
    own: Server, kind: dict[str, str], pause: float, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue("engine") if kind["kind"] == "docker" else None
    user = own.api()
    maker = subprocess.Popen(
        ["curl", "-s", "-X", "POST", f"{own.url}/api/v1/sandboxes", "-H", f"Authorization: Bearer {user.token}",
         "-H", "Content-Type: application/json", "-d", json.dumps({"sandbox": kind})],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(pause)
    own.kill()
    maker.wait()
    own.start()
    for one in user("GET", "/sandboxes").json()["items"]:
        user("DELETE", f"/sandboxes/{one['sandbox_id']}")
    deadline = time.monotonic() + 20
    while left(own, engine):
        assert time.monotonic() < deadline, left(own, engine)
        time.sleep(0.1)
    user.close()


def test_an_image_of_anything(engine: Engine) -> None:
    """Of one static program, whose environment and files try to get into our init."""
    if not Path("/bin/busybox").exists():
        pytest.skip("there is no busybox: apt-get install busybox-static")
    engine.load("csb-test-busybox:1")
    server = Server(POOL_MIN_SIZE="0", DOCKER_HOST=engine.host)
    user = server.api()
    try:
        sandbox = user.create(sandbox={"kind": "docker", "image": "csb-test-busybox:1", "workDir": "/app"})
        done = user.run(sandbox, "pwd; id -u; echo $GREETING $LD_PRELOAD; echo x > f; ls /app /workspace")
        assert done["stdout"] == "/app\n1000\nhello\n/app:\nf\n\n/workspace:\nf\n", done
    finally:
        user.close()
        server.stop()


def test_an_image_that_asks_for_more_than_its_files_gets_no_program_and_no_disk_of_the_host(engine: Engine) -> None:
    check = "HEALTHCHECK --interval=1s CMD /bin/busybox id > /workspace/health"
    engine.load("csb-test-asks:1", check, "VOLUME /data", "VOLUME /workspace", "VOLUME /var/lib/things/")
    engine.load("csb-test-asks:2", "VOLUME /.csb")
    engine.load("csb-test-asks:3", "VOLUME /to-dev", links={"to-dev": "lib/../dev", "lib/there": "."})
    engine.load("csb-test-asks:4", "VOLUME /a/b/c", links={"a": "/srv", "srv/b": "../.csb-run"})
    engine.load("csb-test-asks:5", "VOLUME /var/run/x", links={"var/run": "/run"})
    server = Server(POOL_MIN_SIZE="0", DOCKER_HOST=engine.host)
    user = server.api()
    try:
        asked = {"kind": "docker", "image": "csb-test-asks:1"}
        sandbox = user.create(sandbox=asked, resources={"disk": "8Mi"})
        assert engine.http.get("/volumes").json()["Volumes"] in ([], None)
        # What it writes there is its own, and counted.
        assert (
            user.run(sandbox, "echo x > /data/f; echo y > /var/lib/things/g; cat /data/f /var/lib/things/g")["stdout"]
            == "x\ny\n"
        )
        full = user.run(sandbox, "dd if=/dev/zero of=/data/big bs=1M count=64")
        assert full["exit_code"] != 0 and full["killed_by"] == "disk", full
        user.run(sandbox, "rm /data/big")
        # A check of its health would be a program of the image's as root, past our init and its filter.
        time.sleep(2.5)
        assert user.run(sandbox, "ls /workspace")["stdout"] == ""
        answer = user("POST", "/sandboxes", json={"sandbox": {"kind": "docker", "image": "csb-test-asks:2"}})
        assert answer.status_code == 501 and "/.csb" in answer.json()["error"]["message"], answer.text
        # Nor by a link of the image's.
        for number, path in ((3, "/to-dev"), (4, "/a/b/c")):
            asked = {"kind": "docker", "image": f"csb-test-asks:{number}"}
            answer = user("POST", "/sandboxes", json={"sandbox": asked})
            assert answer.status_code == 501 and path in answer.json()["error"]["message"], answer.text
        linked = user.create(sandbox={"kind": "docker", "image": "csb-test-asks:5"})
        assert user.run(linked, "echo x > /var/run/x/f; cat /run/x/f")["stdout"] == "x\n"
    finally:
        user.close()
        server.stop()


def test_stopping_the_warden_ends_containers_too(
    own: Server, kind: dict[str, str], request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue("engine") if kind["kind"] == "docker" else None
    user = own.api()
    sandbox, other = user.create(sandbox=kind), user.create()
    own.kill()
    stop = [program(), "warden", "stop", "--data-dir", own.data_dir]
    if engine:
        # An engine that is not there ends nothing, and is not passed over.
        nowhere = {**own.env, "DOCKER_HOST": "unix:///nowhere/docker.sock"}
        failed = subprocess.run(stop, env=nowhere, capture_output=True, text=True)
        assert failed.returncode and "go on" in failed.stderr and sandbox in failed.stderr, failed.stderr
        assert left(own, engine)
    said = subprocess.run(stop, env=own.env, capture_output=True, text=True, check=True).stdout
    assert "sandboxes" in said
    assert left(own, engine) == []
    own.start()
    for gone in (sandbox, other):
        assert user("GET", f"/sandboxes/{gone}").status_code == 404
    user.close()


def test_whoever_had_a_container_that_ended_hears_why(own: Server, user: Api, kind: dict[str, str]) -> None:
    sandbox = user.create(sandbox=kind)
    record = json.loads(Path(own.data_dir, "guests", sandbox, "guest.json").read_text())
    os.kill(record["pid"], 9)
    deadline = time.monotonic() + 20
    while (answer := user("GET", f"/sandboxes/{sandbox}")).status_code != 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "its container ended" in answer.json()["error"]["message"], answer.text


def test_a_users_word_makes_the_engine_connect_nowhere_unless_the_operator_lets_it(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as registry:
        registry.settimeout(20)
        image = f"127.0.0.1:{registry.getsockname()[1]}/a:1"
        for pull in ("", f"python:,{image[:-2]}"):
            server = Server(POOL_MIN_SIZE="0", DOCKER_HOST=engine.host, CSB_DOCKER_PULL=pull)
            try:
                with ThreadPoolExecutor() as pool:
                    answer = pool.submit(
                        server.api(), "POST", "/sandboxes", json={"sandbox": {"kind": "docker", "image": image}}
                    )
                    if pull:
                        # It is no registry: what counts is that it was asked.
                        while not answer.done():
                            try:
                                registry.settimeout(1)
                                registry.accept()[0].close()
                            except TimeoutError:
                                pass
                    refused = answer.result()
                    assert refused.status_code == 404, refused.text
                    assert ("docker.pull" in refused.json()["error"]["message"]) is not bool(pull)
                if not pull:
                    registry.settimeout(0.5)
                    with pytest.raises(TimeoutError):
                        registry.accept()
            finally:
                server.stop()


def test_what_cannot_be_had_is_said(engine: Engine) -> None:
    server = Server(POOL_MIN_SIZE="0", DOCKER_HOST=engine.host)
    user = server.api()

    def ask(**options: Any) -> httpx.Response:
        return user("POST", "/sandboxes", json={"sandbox": {"kind": "docker", **options}})

    try:
        answer = ask(image="csb-test-absent:1")
        assert answer.status_code == 404, answer.text
        error = answer.json()["error"]
        assert "csb-test-absent:1" in error["message"] and "docker pull csb-test-absent:1" in error["hint"]
        assert ask(image="../containers/json?x=").status_code == 404
        for options in ({"networkMode": "host"}, {"networkMode": "container:x"}, {"workDir": "/etc"}):
            assert ask(**options).status_code in (400, 422, 501), options
        assert left(server, engine) == []
    finally:
        user.close()
        server.stop()


@pytest.mark.parametrize("host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1"])
def test_an_engine_that_is_not_there_is_said(host: str) -> None:
    server = Server(POOL_MIN_SIZE="0", DOCKER_HOST=host)
    user = server.api()
    try:
        answer = user("POST", "/sandboxes", json={"sandbox": {"kind": "docker"}})
        assert answer.status_code == (503 if host.startswith("unix") else 501), answer.text
        assert host in answer.json()["error"]["message"]
        listed = {one["name"]: one for one in user("GET", "/kinds").json()["items"]}
        assert host.removeprefix("unix://") in listed["docker"]["why_not"] and not listed["docker"]["available"]
        assert user.run(user.create(), "echo others run")["stdout"] == "others run\n"
    finally:
        user.close()
        server.stop()


def test_other_containers_of_the_engine_are_left_alone(engine: Engine) -> None:
    engine.load("csb-test-busybox:1")
    body = {"Image": "csb-test-busybox:1", "Cmd": ["/bin/sh", "-c", "exec /bin/busybox sleep 600"]}
    ids = []
    for labels in ({}, {"csb.node": "another", "csb.sandbox": "sb-aaaaaaaaaaaaaaaaaaaa"}):
        asked = {**body, "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
        made = engine.http.post("/containers/create", json=asked)
        ids.append(made.json()["Id"])
        assert engine.http.post(f"/containers/{ids[-1]}/start").status_code == 204
    server = Server(POOL_MIN_SIZE="0", DOCKER_HOST=engine.host)
    user = server.api()
    user("DELETE", f"/sandboxes/{user.create(sandbox={'kind': 'docker'})}")
    server.kill()
    server.start()
    running = {container["Id"] for container in engine.containers() if container["State"] == "running"}
    assert set(ids) <= running
    for one in ids:
        engine.http.delete(f"/containers/{one}", params={"force": "true"})
    user.close()
    server.stop()


def test_a_command_goes_on_while_the_engine_is_killed() -> None:
    """By an engine that leaves its containers alone."""
    directory = tempfile.mkdtemp(prefix="csb-engine-")
    started = subprocess.run([SCRIPT, "start", directory, "--live-restore"], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"no Docker Engine can be started here: {started.stderr.strip()}")
    server = Server(POOL_MIN_SIZE="0", DOCKER_HOST=started.stdout.strip())
    user = server.api()
    try:
        sandbox = user.create(sandbox={"kind": "docker"})
        count = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.02; done; read x"
        exec_id = user.start(sandbox, count, stdin=True)
        doomed = user.create(sandbox={"kind": "docker"})
        init = json.loads(Path(server.data_dir, "guests", doomed, "guest.json").read_text())["pid"]
        os.kill(int(Path(directory, "pid").read_text()), 9)
        # Another server needs no engine to find what lives; what does not is removed when there is one.
        server.kill()
        os.kill(init, 9)
        server.start()
        assert user("GET", f"/sandboxes/{doomed}").status_code == 404
        assert user.run(sandbox, "echo without an engine")["stdout"] == "without an engine\n"
        put = user("PUT", f"/sandboxes/{sandbox}/files?path=/workspace/f", content=b"x")
        assert put.status_code in (200, 201, 204)
        assert user("POST", f"/sandboxes/{sandbox}/pause").status_code >= 500
        subprocess.run([SCRIPT, "start", directory, "--live-restore"], check=True, capture_output=True)
        assert user("POST", f"/sandboxes/{sandbox}/pause").status_code == 200
        assert user("POST", f"/sandboxes/{sandbox}/resume").status_code == 200
        user("POST", f"/sandboxes/{sandbox}/execs/{exec_id}/stdin?close=true", content=b"x\n")
        result = user("GET", f"/sandboxes/{sandbox}/execs/{exec_id}/result?wait=60").json()
        assert result["stdout"] == "".join(f"{i}\n" for i in range(1, 101))
        deadline = time.monotonic() + 60
        while Path(server.data_dir, "guests", doomed).exists():
            assert time.monotonic() < deadline, "what was of a container that died stays"
            time.sleep(0.1)
    finally:
        user.close()
        server.stop()
        subprocess.run([SCRIPT, "stop", directory], check=True)


def test_csb_run_takes_the_kind_and_leaves_nothing(kind: dict[str, str], request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue("engine") if kind["kind"] == "docker" else None
    env = {**os.environ, **({"DOCKER_HOST": engine.host} if engine else {})}
    with tempfile.TemporaryDirectory(prefix="csb-run-") as data:
        run = [program(), "run", "--data-dir", data, "--kind", kind["kind"], "--opt", "workDir=/app", "--"]
        done = subprocess.run([*run, "sh", "-c", "pwd; cat"], input="in", capture_output=True, text=True, env=env)
        assert (done.stdout, done.stderr, done.returncode) == ("/app\nin", "", 0)
        assert data not in Path("/proc/self/mountinfo").read_text()
        assert list(Path(data, "guests-run").glob("*/sb-*")) == []
        if engine:
            assert not [one for one in engine.containers() if "csb.sandbox" in one["Labels"]]


def test_a_runtime_that_cannot_is_said(own: Server, kind: dict[str, str]) -> None:
    if kind["kind"] != "oci":
        pytest.skip("it is an option of `oci`")
    user = own.api()
    answer = user("POST", "/sandboxes", json={"sandbox": {"kind": "oci", "runtime": "podman"}})
    assert answer.status_code in (422, 501) and "runc" in answer.text
    # Of Debian 12, it refuses hosts with control groups of both versions; elsewhere it runs.
    answer = user("POST", "/sandboxes", json={"sandbox": {"kind": "oci", "runtime": "crun"}})
    if answer.status_code == 201:
        sandbox = answer.json()["sandbox_id"]
        assert user.run(sandbox, "echo runs")["stdout"] == "runs\n"
        user("DELETE", f"/sandboxes/{sandbox}")
    elif runtime("crun"):
        assert "crun makes no container here" in refused(answer, 503, "backend_unavailable")
    else:
        refused(answer, 404, "resource_not_found")
    assert left(own) == []
    user.close()
