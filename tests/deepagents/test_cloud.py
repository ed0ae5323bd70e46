"""A backend that is a sandbox of a server: its life, what it says when something is wrong, pools."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cloud_sandbox import BackendUnavailable, CloudSandboxError, Sandbox, SandboxNotFound, Unsupported
from cloud_sandbox.deepagents import BackendPool, CloudSandboxBackend, DockerSandboxBackend, _contract
from deepagents.backends.protocol import SandboxBackendProtocol

from harness import Server


def make(server: Server, **options: object) -> CloudSandboxBackend:
    return CloudSandboxBackend(base_url=server.url, user_id="cloud", **options)  # type: ignore[arg-type]


def is_there(server: Server, sandbox_id: str) -> bool:
    try:
        Sandbox.connect(sandbox_id, server.url, user_id="cloud")
    except SandboxNotFound:
        return False
    return True


def until_gone(server: Server, sandbox_id: str) -> None:
    deadline = time.monotonic() + 20
    while is_there(server, sandbox_id):
        assert time.monotonic() < deadline, "it was not released"
        time.sleep(0.05)


def test_a_sandbox_is_made_by_the_first_use_and_released_once(server: Server) -> None:
    backend = make(server)
    assert isinstance(backend, SandboxBackendProtocol) and "not started" in repr(backend)
    assert backend.execute("echo $((6 * 7))").output == "42\n"
    assert is_there(server, backend.id)
    backend.cleanup()
    backend.cleanup()
    with pytest.raises(CloudSandboxError, match="cleaned up"):
        backend.execute("true")
    with make(server) as inner:
        sandbox_id = inner.id
    assert not is_there(server, sandbox_id)


def test_a_backend_that_nobody_holds_any_more_is_released(server: Server) -> None:
    backend = make(server)
    sandbox_id = backend.id
    del backend
    gc.collect()
    until_gone(server, sandbox_id)


def test_a_program_that_ends_leaves_no_sandbox(server: Server) -> None:
    code = (
        "from cloud_sandbox.deepagents import CloudSandboxBackend\n"
        f"kept = CloudSandboxBackend(base_url={server.url!r}, user_id='cloud')\n"
        "print(kept.id)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert not is_there(server, ran.stdout.strip())


def test_a_program_that_is_killed_leaves_its_sandbox_to_its_lifetime(server: Server) -> None:
    backend = make(server, lifetime=2)
    until_gone(server, backend.id)
    with make(server) as usual:
        assert usual.start().expires_at is not None


def test_a_sandbox_of_somebody_else_is_used_and_left(server: Server) -> None:
    with Sandbox.create(server.url, user_id="cloud") as sandbox:
        for given in (sandbox, sandbox.sandbox_id):
            backend = make(server, sandbox=given)
            assert backend.write(f"/workspace/{type(given).__name__}", "x").error is None
            backend.cleanup()
            with pytest.raises(CloudSandboxError, match="not its own"):
                backend.reset()
        assert [entry.name for entry in sandbox.list_files()] == ["Sandbox", "str"]


def test_an_agent_is_told_that_its_sandbox_has_ended_and_goes_on_with_another(server: Server) -> None:
    with make(server) as backend:
        backend.write("/workspace/a", "x")
        Sandbox.connect(backend.id, server.url, user_id="cloud").release()
        result = backend.execute("ls")
        assert result.exit_code == 125 and "its files are gone" in result.output
        assert backend.execute("ls").output == ""
        Sandbox.connect(backend.id, server.url, user_id="cloud").release()
        assert "its files are gone" in str(backend.ls("/workspace").error)
        assert backend.ls("/workspace").entries == []


def test_what_a_server_lacks_is_an_error_with_a_hint(server: Server) -> None:
    for backend in (
        DockerSandboxBackend(image="python:3.12-slim", base_url=server.url),
        DockerSandboxBackend(base_url=server.url, network_mode="none", cpu_quota=50000),
    ):
        # No engine answers there, and no weaker kind is put in its place.
        with pytest.raises(BackendUnavailable, match="Docker Engine") as refused:
            backend.execute("true")
        assert "DOCKER_HOST" in str(refused.value.hint)
    with pytest.raises(Unsupported), make(server, kind="k8s"):
        pass
    with make(server, kind="vfs") as backend:
        assert backend.start().kind == "vfs" and backend.execute("echo hi").output == "hi\n"
    with pytest.raises(ValueError, match="do not agree"):
        make(server, kind="vfs", sandbox={"kind": "process"})


def test_the_names_of_docker_become_limits(server: Server) -> None:
    with DockerSandboxBackend(memory_limit="256m", cpu_quota=50000, kind="process", base_url=server.url) as backend:
        limits = backend.start().resources
        assert (limits["memory"], limits["cpu"]) == (256 << 20, 0.5)
    with (
        pytest.raises(CloudSandboxError),
        DockerSandboxBackend(network_mode="host", kind="process", base_url=server.url),
    ):
        pass


def test_commands_are_bash_with_both_streams_in_their_order(server: Server) -> None:
    with make(server, env={"A": "b"}) as backend:
        result = backend.execute("for i in {1..3}; do echo out$i; echo err$i >&2; done; echo $A; exit 3")
        assert (result.exit_code, result.output) == (3, "out1\nerr1\nout2\nerr2\nout3\nerr3\nb\n")
        assert backend.execute("exit(").exit_code != 0
        slow = backend.execute("echo begun; sleep 60", timeout=1)
        assert (slow.exit_code, slow.output) == (124, "begun\n[killed: it took longer than 1 s]")
        assert backend.execute("sleep 1.5; echo x", timeout=0).output == "x\n"
        with pytest.raises(ValueError, match="negative"):
            backend.execute("true", timeout=-1)
        long = "echo " + "x" * 300_000 + " | wc -c; echo $0 >/dev/null"
        assert backend.execute(long).output == "300001\n"
        assert backend.execute("cat").output == ""
    with make(server, max_output_bytes=1000) as backend:
        result = backend.execute("yes | head -c 100000")
        assert result.truncated and len(result.output) == 1000


def test_names_and_contents_of_any_kind(server: Server) -> None:
    with make(server) as backend:
        odd = ["/workspace/a b", "/workspace/line\nend", "/workspace/-n", "/workspace/ü", "/workspace/c:1:d"]
        assert all(one.error is None for one in backend.upload_files([(path, b"needle here\n") for path in odd]))
        assert sorted(entry["path"] for entry in backend.ls("/workspace").entries or []) == sorted(odd)
        matches = backend.grep("needle", "/workspace").matches or []
        assert sorted((match["path"], match["line"], match["text"]) for match in matches) == [
            (path, 1, "needle here") for path in sorted(odd)
        ]
        backend.upload_files([("/workspace/binary", b"\0needle"), ("/workspace/latin", "needle é".encode("latin-1"))])
        found = [match["path"] for match in backend.grep("needle", "/workspace").matches or []]
        assert "/workspace/binary" not in found and "/workspace/latin" in found
        backend.execute("mkfifo fifo; ln -s / loop; truncate -s 5G sparse sparse.png; chmod 000 c:1:d")
        assert "not_a_file" in str(backend.read("/workspace/fifo").error)
        assert backend.download_files(["/workspace/c:1:d", "/workspace/fifo", "/workspace"]) == [
            type(one)(path=one.path, content=None, error=error)
            for one, error in zip(
                backend.download_files(["/workspace/c:1:d", "/workspace/fifo", "/workspace"]),
                ["permission_denied", "invalid_path", "is_directory"],
            )
        ]
        assert "maximum preview" in str(backend.read("/workspace/sparse.png").error)
        page = backend.read("/workspace/sparse", limit=1).file_data
        assert page is not None and len(page["content"]) < 600_000
        assert "larger than" in str(backend.edit("/workspace/sparse", "a", "b").error)


def test_a_search_from_the_top_leaves_the_system_out(server: Server) -> None:
    with make(server) as backend:
        backend.write("/workspace/src/a.py", "import os")
        found = [match["path"].lstrip("/") for match in backend.glob("**/*.py").matches or []]
        assert found == ["workspace/src/a.py"]
        assert [match["path"] for match in backend.grep("import os", "/").matches or []] == ["/workspace/src/a.py"]
        assert [match["path"] for match in backend.grep("import os").matches or []] == ["/workspace/src/a.py"]


def test_where_grep_is_missing_files_are_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(server) as backend:
        backend.upload_files([("/workspace/a.py", b"x\nneedle\n"), ("/workspace/b.txt", b"needle")])
        backend.upload_files([("/workspace/c", b"\0needle")])
        expected = backend.grep("needle", "/workspace", "*.py")
        run = Sandbox.run_command

        def without_grep(self: Sandbox, command: object, *args: object, **options: object) -> object:
            if isinstance(command, list) and command[0] == "grep":
                command = ["grep-that-is-not-there", *command[1:]]
            return run(self, command, *args, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(Sandbox, "run_command", without_grep)
        assert backend.grep("needle", "/workspace", "*.py") == expected
        assert len(expected.matches or []) == 1


def test_edits_keep_line_ends_and_modes(server: Server) -> None:
    with make(server) as backend:
        backend.upload_files([("/workspace/dos.sh", b"one\r\ntwo\r\nthree\r\n")])
        backend.execute("chmod 755 dos.sh")
        assert backend.edit("/workspace/dos.sh", "one\ntwo", "1\n2").occurrences == 1
        assert backend.download_files(["/workspace/dos.sh"])[0].content == b"1\r\n2\r\nthree\r\n"
        assert backend.execute("stat -c %a dos.sh").output == "755\n"
        assert "empty" in str(backend.edit("/workspace/dos.sh", "", "x").error)


async def test_threads_and_event_loops_share_a_backend(server: Server) -> None:
    backend = make(server)

    def in_a_loop(number: int) -> str:
        async def work() -> str:
            await backend.awrite(f"/workspace/{number}", "x")
            return (await backend.aexecute(f"echo {number}")).output

        return asyncio.run(work())

    with ThreadPoolExecutor(4) as threads:
        loops = list(threads.map(in_a_loop, range(4)))
        plain = list(threads.map(lambda n: backend.execute(f"echo {n}").output, range(4)))
    own = [one.output for one in await asyncio.gather(*(backend.aexecute(f"echo {n}") for n in range(4)))]
    assert loops == plain == own == ["0\n", "1\n", "2\n", "3\n"]
    assert len((await backend.als("/workspace")).entries or []) == 4
    sandbox_id = backend.id
    await backend.acleanup()
    assert not is_there(server, sandbox_id)


LEFT = (
    "echo s > /tmp/secret; echo s > /workspace/.secret; echo s > ~/secret; echo s > /dev/shm/secret; "
    "(sleep 1000 &) ; echo 'export SECRET=1' >> ~/.bashrc; ipcmk -M 100 >/dev/null 2>&1; "
    "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('/tmp/sock')\"; echo left"
)
FIND = (
    "find / -xdev \\( -name '*secret*' -o -name sock \\) 2>/dev/null; ls -A /dev/shm /tmp /workspace; "
    "ps -eo comm= | grep -x sleep; env | grep SECRET; cat ~/.bashrc 2>/dev/null; tail -n +2 /proc/sysvipc/shm; true"
)


def test_a_pool_gives_nobody_what_another_left(server: Server) -> None:
    pool = BackendPool(lambda: make(server), size=1)
    with pool.use() as backend:
        clean = backend.execute(FIND).output
        assert backend.execute(LEFT).output == "left\n"
        assert "secret" in backend.execute(FIND).output
        first = backend.id
    with pool.use() as backend:
        assert backend.id != first
        assert backend.execute(FIND).output == clean
    with make(server) as backend:
        backend.execute(LEFT)
        backend.reset()
        assert backend.execute(FIND).output == clean
    pool.cleanup()


async def test_a_pool_is_bounded_and_those_who_wait_may_give_up(server: Server) -> None:
    pool = BackendPool(lambda: make(server), size=2)
    most = 0
    now = 0

    async def user(number: int) -> str:
        nonlocal most, now
        async with pool.ause() as backend:
            now += 1
            most = max(most, now)
            output = (await backend.aexecute(f"echo {number}")).output
            now -= 1
            return output

    assert await asyncio.gather(*(user(n) for n in range(6))) == [f"{n}\n" for n in range(6)]
    assert most == 2
    one, two = await pool.aacquire(), pool.acquire()
    waiting = asyncio.ensure_future(pool.aacquire())
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(TimeoutError):
        pool.acquire(timeout=0.1)
    thread = threading.Thread(target=lambda: pool.release(pool.acquire()))
    thread.start()
    await pool.arelease(one)
    await pool.arelease(one)
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()
    await pool.acleanup()
    assert not is_there(server, two.id if not two._closed else str(two._info and two._info.sandbox_id))
    with pytest.raises(CloudSandboxError, match="cleaned up"):
        pool.acquire()


if _contract.SINCE_0_7:

    def test_glob_as_since_0_7(server: Server) -> None:
        with make(server) as backend:
            backend.upload_files([(f"/workspace/{name}", b"x") for name in ("a.py", "d/b.py", "d/.c.py", ".h/e.py")])
            found = [match["path"] for match in backend.glob("*.py", "/workspace").matches or []]
            assert found == ["/workspace/.h/e.py", "/workspace/a.py", "/workspace/d/b.py"]
            found = [match["path"] for match in backend.glob("/*.py", "/workspace").matches or []]
            assert found == ["/workspace/a.py"]
            assert [m["path"] for m in backend.glob("*", "/workspace").matches or []] == [
                "/workspace/.h/e.py",
                "/workspace/a.py",
                "/workspace/d/b.py",
            ]
            assert backend.glob("../*").matches is None

    def test_write_as_since_0_7(server: Server) -> None:
        with make(server) as backend:
            assert backend.write("/workspace/a", "one\n").error is None
            assert backend.write("/workspace/a", "two\n2\n3\n").error is None
            page = backend.read("/workspace/a", 1, 1)
            assert page.file_data is not None and page.file_data["content"] == "2"
            assert (page.start_line, page.end_line, page.next_offset, page.total_lines) == (2, 2, 2, 3)
            assert backend.read("/workspace/a", 0, 0).no_lines_requested
            assert backend.grep("o", "/workspace", max_count=1).truncated is False
            assert backend.delete("/workspace/a").path == "/workspace/a"
            assert "not found" in str(backend.delete("/workspace/a").error)
