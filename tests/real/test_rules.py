"""The tables of rules say only what the security page says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness import ROOT

HERE = Path(__file__).parent


@pytest.mark.parametrize("table", ["cpython_rules.toml", "posix_rules.toml"])
def test_every_rule_names_a_line_of_the_security_page(table: str) -> None:
    page = (ROOT / "docs" / "concepts" / "security.md").read_text()
    for rule in tomllib.loads((HERE / table).read_text())["rule"]:
        assert set(rule) == {"test", "inside", "because", "security"}
        assert rule["security"] in page, rule
