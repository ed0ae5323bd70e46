"""Programs made to break kernels, run inside: stress-ng's stressors and trinity's random system calls.

What a stressor fails on is explained in stress_rules.toml. A neighbour's program goes on and its answers stay right,
the host's settings stay as they are, and the sandbox that was loaded works afterwards.
"""

from __future__ import annotations

import re
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cloud_sandbox import Sandbox

from harness import Server

RULES = Path(__file__).with_name("stress_rules.toml")
# What the host could lose: names, the clock's course, what starts as root by itself.
SETTINGS = ("hostname", "domainname", "core_pattern", "pid_max", "randomize_va_space")

# Each asks the kernel for something of its own, a few times.
STRESSORS = """
access af-alg aiol bad-ioctl chroot clone close dev dev-shm dnotify enosys epoll exec fanotify fifo file-ioctl
filename flock fork full handle icmp-flood inotify io io-uring ioprio kcmp key klog lockf loop memfd mincore mknod
mlock mq msg netdev netlink-proc netlink-task null personality pidfd ping-sock pkey poll procfs ptrace pty quota
rawsock rawudp reboot remap resources rtc schedpolicy sctp seal seccomp secretmem sem set shm-sysv sigfd sigq sock
sockabuse sockdiag splice swap symlink sysfs sysinfo sysinval timerfd tun udp uprobe umount unshare urandom
userfaultfd verity vfork vm-splice x86syscall xattr zombie
""".split()


def settings() -> list[str]:
    return [Path(f"/proc/sys/kernel/{name}").read_text() for name in SETTINGS]


@contextmanager
def beside_a_neighbour(server: Server) -> Iterator[None]:
    """Another user's sandbox, which answers all the time, and right."""
    before, wrong, over, answers = settings(), [], threading.Event(), 0
    with Sandbox.create(server.url, user_id="neighbour") as neighbour:
        neighbour.write_file("/workspace/file", "as it was")
        neighbour.run_command("echo $$ > /tmp/shop; while :; do echo open; sleep 0.1; done", background=True)

        def ask() -> None:
            nonlocal answers
            while not over.is_set():
                said = neighbour.run_command("cat file; echo $((6 * 7))").stdout
                if said != "as it was42\n":
                    wrong.append(said)
                answers += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert not wrong and answers > 0
        assert neighbour.run_command("kill -0 $(cat /tmp/shop)").exit_code == 0
    assert settings() == before


def stress(sandbox: Sandbox, arguments: str) -> str:
    """What stress-ng says while it stresses."""
    command = f"cd /tmp && stress-ng --temp-path /tmp {arguments} > /tmp/said 2>&1; tail -c 200000 /tmp/said"
    return sandbox.run_command(command, timeout=100).stdout


pytestmark = [
    pytest.mark.skipif(not shutil.which("stress-ng"), reason="stress-ng is not installed (apt-get install stress-ng)"),
    pytest.mark.skipif(not shutil.which("trinity"), reason="trinity is not installed (apt-get install trinity)"),
]


def test_what_stressors_fail_on_is_explained(server: Server, sandbox: Sandbox, tell: Callable[[str], None]) -> None:
    # Names differ between versions.
    known = set(re.findall(r"--([a-z0-9-]+)-ops", sandbox.run_command("stress-ng --help").stdout))
    names = [name for name in STRESSORS if name in known]
    assert len(names) > 80
    with beside_a_neighbour(server):
        said = stress(sandbox, "--timeout 5 " + " ".join(f"--{name} 1 --{name}-ops 5" for name in names))
    assert "run completed" in said, said[-2000:]
    failed = set(re.findall(r"fail:\s+\[\d+\] ([a-z0-9-]+):", said))
    failed |= set(re.findall(r"process \[\d+\] \(([a-z0-9-]+)\) terminated with an error", said))
    explained = {rule["stressor"] for rule in tomllib.loads(RULES.read_text())["rule"]}
    lines = [line for line in said.splitlines() if any(f" {name}:" in line for name in failed - explained)]
    assert failed <= explained, "\n".join(lines[:20])
    tell(f"stress-ng: {len(names)} stressors, {len(failed)} fail, each explained")
    assert sandbox.run_command("echo works").stdout == "works\n"


@pytest.mark.parametrize("kind", ["os", "filesystem", "network", "vm"])
def test_all_stressors_of_a_kind_at_once_hurt_nobody_else(server: Server, kind: str) -> None:
    # Segments that no process maps would keep the limit reached when all are killed: tests/security/load.rs has them.
    load = (
        f"cd /tmp && stress-ng --class {kind} --all 1 --exclude shm-sysv --timeout 3 --temp-path /tmp > /dev/null 2>&1"
    )
    resources = {"cpu": 1, "memory": "256Mi", "disk": "64Mi", "pids": 300}
    with Sandbox.create(server.url, user_id="stress", resources=resources) as sandbox, beside_a_neighbour(server):
        # Whatever it does not survive itself: limits are small.
        sandbox.run_command(load, timeout=6)
        sandbox.run_command("kill -9 -1")
        sandbox.run_command("rm -rf /tmp/* /dev/shm/*")
        assert sandbox.run_command("echo works").stdout == "works\n"


def test_random_system_calls_hurt_nobody_else(server: Server, tell: Callable[[str], None]) -> None:
    # 32-bit calls are killed at once (point 9): only those of the machine's own kind are worth trying.
    fuzz = (
        "mkdir -p /tmp/victims && echo x > /tmp/victims/file && cd /tmp && timeout -s KILL 10"
        " trinity -a 64 -q -C 4 -N 10000 -V /tmp/victims -l off"
        " --disable-fds=sockets --disable-fds=perf --disable-fds=drm --disable-fds=pseudo 2>&1 | tail -n 1"
    )
    resources = {"cpu": 1, "memory": "256Mi", "disk": "64Mi", "pids": 100}
    with Sandbox.create(server.url, user_id="fuzz", resources=resources) as sandbox, beside_a_neighbour(server):
        # Some random call may end trinity itself.
        for _ in range(4):
            said = sandbox.run_command(fuzz, timeout=30).stdout
            if "Ran " in said:
                break
        tell(f"trinity: {said.strip()}")
        assert "Ran " in said
        assert sandbox.run_command("echo works").stdout == "works\n"
