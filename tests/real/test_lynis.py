"""An established checker of hosts, run inside: what it finds is explained, and the sandbox works afterwards."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from cloud_sandbox import Sandbox

RULES = Path(__file__).with_name("lynis_rules.toml")
LYNIS = Path("/usr/sbin/lynis")
SETTINGS = Path("/etc/lynis")


@pytest.mark.skipif(not LYNIS.exists(), reason="lynis is not installed (apt-get install lynis)")
def test_every_finding_of_lynis_is_explained(sandbox: Sandbox, tell: Callable[[str], None]) -> None:
    # A sandbox has none of the host's /etc but what it needs.
    sandbox.upload(SETTINGS, "/workspace/lynis")
    audit = (
        "cd /workspace && lynis audit system --quick --no-colors --profile lynis/default.prf --plugindir lynis/plugins"
        " --logfile /tmp/log --report-file /tmp/report > /tmp/out 2>&1; tail -n 5 /tmp/out"
    )
    said = sandbox.run_command(audit, timeout=280)
    report = sandbox.read_text("/tmp/report")
    lines = [line for line in report.splitlines() if line.startswith(("warning[", "suggestion["))]
    findings = [line.split("=", 1)[1].split("|") for line in lines]
    assert len(findings) > 5, f"{said.stdout}{said.stderr}{report[-500:]}"
    patterns = [rule["id"] for rule in tomllib.loads(RULES.read_text())["rule"]]
    unexplained = [found for found in findings if not any(fnmatch.fnmatch(found[0], pattern) for pattern in patterns)]
    assert not unexplained
    tell(f"lynis: {len(findings)} findings, each explained")
    assert sandbox.run_command("echo works").stdout == "works\n"
