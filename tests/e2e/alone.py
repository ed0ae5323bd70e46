"""Runs a quick start against a server on the port it names: `alone.py PORT SCRIPT`, in a network namespace of its own.

The scripts are what the documents print, to the letter; ports and addresses cannot be changed in them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx

from harness import Server


def shell(text: str, home: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], env={**os.environ, "HOME": home}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the script failed: {done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    port, script = int(sys.argv[1]), Path(sys.argv[2])
    text = script.read_text()
    server = Server(port=port)
    try:
        with tempfile.TemporaryDirectory() as home:
            if script.suffix == ".py":
                said = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True).stdout
            elif "{session_id}" in text:
                # The document shows no credential; ours wants one, which curl takes from its own configuration.
                token = httpx.post(f"{server.url}/api/v1/auth/token", json={}).json()["access_token"]
                Path(home, ".curlrc").write_text(f'silent\nheader = "Authorization: Bearer {token}"\n')
                first, second = re.split(r"\n\n(?=# )", text)
                created = shell(first, home)
                said = created + "\n" + shell(second.replace("{session_id}", json.loads(created)["session_id"]), home)
            else:
                said = shell(text, home)
        left = server.api("test")("GET", "/sandboxes").json()["items"]
        print(json.dumps({"said": said, "left": left}))
    finally:
        server.stop()


main()
