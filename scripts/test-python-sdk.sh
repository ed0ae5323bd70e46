#!/usr/bin/env bash
# Tests of sdk/python in a virtual environment of their own, against the program that `cargo nextest` has just built.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
venv=$target/python-sdk-venv
if [ ! -x "$venv/bin/pytest" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check pytest pytest-asyncio
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check './sdk/python[test]'
export CSB_BIN=$target/debug/csb
"$venv/bin/pytest" -q sdk/python/tests
