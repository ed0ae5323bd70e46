"""A terminal of a sandbox, wherever that is, through the Python SDK."""

from __future__ import annotations

from cloud_sandbox import Sandbox


def try_terminal(sandbox: Sandbox) -> None:
    """Uses one, leaves it, comes back to it where it was, and ends it."""
    process = sandbox.start(["bash", "--norc"], pty=(100, 30), env={"PS1": "$ "})
    with process.attach() as terminal:
        terminal.send("stty size; tty -s && echo it is a $((0))terminal\n")
        said = ""
        while "it is a 0terminal" not in said:
            chunk = terminal.recv(timeout=30)
            assert chunk is not None and chunk.stream == "pty"
            said += chunk.text
        assert "30 100" in said
        terminal.resize(120, 40)
        terminal.send("stty size\n")
        while "40 120" not in said:
            said += terminal.recv(timeout=30).text  # type: ignore[union-attr]
        seq = terminal.seq
    # Detached, not ended; attached again where it was.
    assert process.poll().running
    with process.attach(seq) as terminal:
        terminal.send("exit 4\n")
        rest = "".join(chunk.text for chunk in terminal)
        assert "exit 4" in rest and "stty" not in rest
        assert terminal.info is not None and terminal.info.exit_code == 4
