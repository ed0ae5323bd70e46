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

target=${CARGO_TARGET_DIR:-$PWD/target}
python=${CSB_PYTHON:-/usr/bin/python3}
venv=$target/python/venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

# Debian packages by what they are for; those that are missing are installed when we may.
packages=(python3-venv)
if [ -d tests/real ]; then
    # libpython3-testsuite, posixtestsuite: programs that try a kernel's behaviour call by call.
    packages+=(libpython3-testsuite posixtestsuite gcc libc6-dev git sqlite3 tar)
fi
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
    echo "$want" >"$stamp"
fi

echo "== Python SDK: ruff, mypy"
(cd sdk/python && "$venv/bin/ruff" check --quiet . && "$venv/bin/ruff" format --check --quiet . && "$venv/bin/mypy")

suites=(sdk/python/tests)
for suite in tests/e2e tests/api tests/real; do
    if [ -d "$suite" ]; then suites+=("$suite"); fi
done
if [ ${#suites[@]} -gt 1 ] && [ -z "${CSB_BIN:-}" ]; then
    cargo build --quiet -p csb
    export CSB_BIN=$target/debug/csb
fi
for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then suites=(); fi
done

echo "== pytest"
exec "$venv/bin/pytest" -p no:cacheprovider --timeout 300 "${suites[@]}" "$@"
