"""The whole surface of the SDK against the real server: for threads, and the same for asyncio."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_sandbox import (
    AsyncSandbox,
    Client,
    CommandFailed,
    CommandNotFound,
    ExecEnded,
    FileNotFound,
    RateLimited,
    Sandbox,
    SandboxNotFound,
    SandboxPaused,
    Session,
    TemplateNotFound,
    TimedOut,
)

from harness import Server
from terminal import try_terminal


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    with Sandbox.create(server.url, user_id="sdk") as sandbox:
        yield sandbox


def test_code_and_commands(sandbox: Sandbox) -> None:
    result = sandbox.run_code("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == ("out\n", "err\n", 3, False)
    with pytest.raises(CommandFailed, match="exited with 3"):
        result.check()
    assert sandbox.run_code("echo $A", language="bash", env={"A": "b"}).stdout == "b\n"
    assert sandbox.run_command(["printf", "%s", "a b"]).stdout == "a b"
    assert sandbox.run_command("cat", stdin="text").stdout == "text"
    assert sandbox.run_command("sleep 60", timeout=0.2).killed_by == "timeout"
    assert sandbox.run_command("yes", timeout=5, max_output_bytes=100).truncated
    with pytest.raises(CommandNotFound):
        sandbox.run_command(["no-such-program"])


def test_output_comes_while_the_command_runs(sandbox: Sandbox) -> None:
    heard: list[str] = []

    def listen(text: str) -> None:
        heard.append(text)
        if "ready" in text:  # the command waits for this file: output must come before it ends
            sandbox.write_file("/workspace/go", "")

    line = "rm -f go; echo ready; while [ ! -e go ]; do sleep 0.02; done; echo gone >&2"
    result = sandbox.run_command(line, timeout=60, on_stdout=listen, on_stderr=heard.append)
    assert (result.exit_code, heard) == (0, ["ready\n", "gone\n"])


def test_binary_input_of_a_mebibyte_comes_back(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 4096
    result = sandbox.run_command("cat", stdin=data)
    assert result.stdout_bytes == data
    assert sandbox.run_command("head -c 10", stdin=data).stdout_bytes == data[:10]


def test_a_process_is_talked_to_and_found_again(server: Server, sandbox: Sandbox) -> None:
    process = sandbox.start("while read line; do echo got $line; done; echo bye", stdin=True)
    lines = process.lines()
    process.send_stdin("one\n")
    assert next(lines) == "got one"
    with pytest.raises(TimedOut):
        process.wait(timeout=0.1)
    with Sandbox.connect(sandbox.id, server.url, user_id="sdk") as again:
        found = again.process(process.exec_id)
        found.send_stdin("two\n", close=True)
        assert process.exec_id in [p.exec_id for p in again.processes()]
    assert list(lines) == ["got two", "bye"]
    result = process.wait()
    assert (result.stdout, result.exit_code) == ("got one\ngot two\nbye\n", 0)
    assert [chunk.data for chunk in process.output(from_seq=len(b"got one\n"))][0].startswith(b"got two")
    with pytest.raises(ExecEnded):
        process.send_stdin("three\n")


def test_signals_and_kill(sandbox: Sandbox) -> None:
    line = "trap 'echo caught; exit 9' TERM; echo on; while :; do sleep 0.05; done"
    process = sandbox.run_command(line, background=True)
    assert next(process.stdout()) == b"on\n"
    process.signal("TERM")
    assert (process.wait(30).stdout, process.info.exit_code) == ("on\ncaught\n", 9)
    process = sandbox.start("sleep 1000 & sleep 1000")
    process.kill()
    assert process.wait(30).killed_by == "signal"


def test_a_terminal(sandbox: Sandbox) -> None:
    try_terminal(sandbox)


def test_files(sandbox: Sandbox, tmp_path: Path) -> None:
    entry = sandbox.write_file("/workspace/files/a.txt", "é", mode=0o600)
    assert (entry.path, entry["size"], entry.mode, entry.is_file) == ("/workspace/files/a.txt", 2, "0600", True)
    sandbox.write_file("/workspace/files/a.txt", b"!", append=True)
    assert sandbox.read_text("/workspace/files/a.txt") == "é!"
    assert sandbox.read_file("/workspace/files/a.txt", offset=2) == b"!"
    sandbox.write_file("/workspace/files/big", io.BytesIO(b"x" * 3_000_000))
    assert sum(len(piece) for piece in sandbox.iter_file("/workspace/files/big")) == 3_000_000
    assert sandbox.mkdir("/workspace/files/d/e").is_dir
    assert sandbox.move("/workspace/files/a.txt", "/workspace/files/d/b.txt").name == "b.txt"
    found = sandbox.list_files("/workspace/files", recursive=True)
    assert [entry.path.removeprefix("/workspace/files/") for entry in found] == ["big", "d", "d/b.txt", "d/e"]
    sandbox.remove("/workspace/files/d", recursive=True)
    with pytest.raises(FileNotFound):
        sandbox.stat("/workspace/files/d")

    local = tmp_path / "project"
    (local / "sub").mkdir(parents=True)
    (local / "sub" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (local / "sub" / "run.sh").chmod(0o755)
    (local / "link").symlink_to("sub/run.sh")
    sandbox.upload(local, "/workspace/project")
    assert sandbox.run_command(["/workspace/project/link"]).stdout == "ran\n"
    sandbox.run_command("echo made > project/made; ln -s /etc/passwd project/out")
    fetched = sandbox.download("/workspace/project", tmp_path / "back")
    assert fetched.skipped == ["out"]
    assert (tmp_path / "back" / "made").read_text() == "made\n"
    assert (tmp_path / "back" / "sub" / "run.sh").stat().st_mode & 0o777 == 0o755
    sandbox.upload(local / "sub" / "run.sh")
    sandbox.download("/workspace/run.sh", tmp_path / "run.sh")
    assert (tmp_path / "run.sh").read_text() == "#!/bin/sh\necho ran\n"


def test_the_sandbox_itself(server: Server) -> None:
    with Client(server.url, user_id="itself") as client:
        assert client.health() == {"service": "gateway", "status": "ok"}
        assert "python" in [language.name for language in client.languages()]
        assert client.templates()[0].name == "host"
        resources = {"memory": "256Mi", "cpu": "0.5"}
        with Sandbox.create(client=client, resources=resources, metadata={"a": "b"}, timeout=600) as sandbox:
            assert sandbox.info.resources["memory"] == 256 << 20 and sandbox.info.resources["cpu"] == 0.5
            assert sandbox.info.metadata == {"a": "b"} and sandbox.info.expires_at is not None
            assert sandbox.stats().memory_limit == 256 << 20
            assert sandbox.set_resources({"pids": 77}).resources["pids"] == 77
            assert sandbox.pause().state == "paused"
            with pytest.raises(SandboxPaused):
                sandbox.run_command("true")
            assert [info.sandbox_id for info in Sandbox.list(client=client, state="paused")] == [sandbox.id]
            sandbox.resume()
            assert sandbox.refresh().state == "running"
        with pytest.raises(SandboxNotFound):
            Sandbox.connect(sandbox.id, client=client)
        with pytest.raises(TemplateNotFound) as caught:
            Sandbox.create(client=client, template="absent")
        assert caught.value.hint and caught.value.request_id and caught.value.status == 404
        assert client.pool_stats()["pool"]["min"] == 1


def test_sessions(server: Server) -> None:
    with Session.create(server.url, user_id="sessions", template_id="python-basic", env={"A": "b"}) as session:
        result = session.execute("import os; print(os.environ['A'])")
        assert result.stdout == "b\n"
        assert session.result(result.exec_id).stdout == "b\n"
        heard: list[str] = []
        handled = session.execute(
            "def handler(event):\n    print('working')\n    return {'sum': event['a'] + 1}",
            event={"a": 41},
            on_stdout=heard.append,
        )
        assert (handled.result, heard) == ({"sum": 42}, ["working\n"])
        box = session.sandbox()
        box.write_file("/workspace/kept", "x")
        session.pause()
        session.resume()
        assert session.execute("print(open('/workspace/kept').read())").stdout == "x\n"
        with Session.connect(session.session_id, server.url, user_id="sessions") as again:
            assert again.info.sandbox_id == box.id
        assert [info.session_id for info in Session.list(server.url, user_id="sessions")] == [session.session_id]


def test_a_rate_limit_slows_the_client_down_and_breaks_nothing() -> None:
    server = Server(CSB_RATE_PER_SECOND="20", CSB_RATE_BURST="5", POOL_MIN_SIZE="0")
    try:
        with Client(server.url, max_retries=20) as client, Sandbox.create(client=client) as sandbox:
            sandbox.run_command("echo -n > log")
            for _ in range(15):
                sandbox.run_command("echo x >> log")
            assert sandbox.read_text("/workspace/log") == "x\n" * 15
        with Client(server.url, max_retries=0) as impatient, pytest.raises(RateLimited) as caught:
            for _ in range(30):
                impatient.list_sandboxes()
        assert caught.value.retry_after and caught.value.retry_after >= 1
    finally:
        server.stop()


def test_asyncio_does_the_same(server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with await AsyncSandbox.create(server.url, user_id="async") as sandbox:
            results = await asyncio.gather(*(sandbox.run_code(f"print({i} * 2)") for i in range(5)))
            assert [r.stdout for r in results] == [f"{i * 2}\n" for i in range(5)]
            heard: list[str] = []

            async def listen(text: str) -> None:
                heard.append(text)

            await sandbox.run_command("echo a; sleep 0.1; echo b", on_stdout=listen)
            assert "".join(heard) == "a\nb\n"
            process = await sandbox.start("cat", stdin=True)
            await process.send_stdin("x\ny\n", close=True)
            assert [line async for line in process.lines()] == ["x", "y"]
            assert (await process.wait()).ok
            terminal_process = await sandbox.start("cat", pty=True)
            async with await terminal_process.attach() as terminal:
                await terminal.send("hi\n")
                chunk = await terminal.recv(timeout=30)
                assert chunk is not None and chunk.text.startswith("hi")
                await terminal.signal("KILL")
                async for chunk in terminal:
                    assert chunk.stream == "pty"
                assert terminal.info is not None and terminal.info.killed_by == "signal"
            (tmp_path / "up").mkdir()
            (tmp_path / "up" / "f").write_bytes(b"z" * 2_000_000)
            await sandbox.upload(tmp_path / "up", "/workspace/up")
            await sandbox.write_file("/workspace/up/g", io.BytesIO(b"g"))
            await sandbox.download("/workspace/up", tmp_path / "down")
            assert (tmp_path / "down" / "f").stat().st_size == 2_000_000
            await sandbox.download("/workspace/up/g", tmp_path / "g")
            assert (tmp_path / "g").read_bytes() == b"g"
            assert len(await AsyncSandbox.list(server.url, user_id="async")) == 1

    asyncio.run(main())
