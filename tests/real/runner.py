"""Runs many small programs and says how each ended. The same file runs inside a sandbox and outside.

runner.py LIST RESULTS WORKERS TIMEOUT     LIST: a JSON object of names and commands
"""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time


def run(command, timeout):
    """How a program ends: its exit code, `signal N`, or `timeout`; and after how many seconds."""
    place = tempfile.mkdtemp()
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
            how = f"signal {-code}" if code < 0 else code
        except subprocess.TimeoutExpired:
            how = "timeout"
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return how, round(time.monotonic() - start, 3)


def main():
    listed, results, workers, timeout = sys.argv[1:]
    with open(listed) as file:
        commands = json.load(file)
    with concurrent.futures.ThreadPoolExecutor(int(workers)) as pool:
        ended = pool.map(lambda command: run(command, float(timeout)), commands.values())
        outcome = dict(zip(commands, ended))
    with open(results, "w") as file:
        json.dump(outcome, file)


if __name__ == "__main__":
    main()
