#!/usr/bin/env bash
# Installs what a task needs and this machine lacks: prerequisites.sh {build|run|test|test-vm|fuzz|soak|lint|bench}
# Only Debian's packages, by name; says what is missing where it may not install. Quick when nothing is missing.
set -euo pipefail

task=${1:?usage: prerequisites.sh build|run|test|lint|bench}
missing=()

# need FILE PACKAGE: PACKAGE is installed unless FILE is there. Files and not commands: a sandbox of the template
# `host` sees /usr, not a Python or Node that a version manager keeps in a home directory.
need() { [ -e "$1" ] || missing+=("$2"); }
# need_command COMMAND PACKAGE: for what only the build uses.
need_command() { command -v "$1" >/dev/null || missing+=("$2"); }

if ! command -v cargo >/dev/null; then
    echo "error: cargo is not installed" >&2
    echo "hint: install a Rust toolchain of version 1.95 or later, with rustup for instance" >&2
    exit 1
fi

need_command cc gcc                       # ring and SQLite are compiled from C
need /usr/include/stdio.h libc6-dev

case $task in
build | lint) ;;
run | test | bench)
    need /usr/bin/python3 python3         # languages of the template `host`
    need /usr/bin/node nodejs
    need /usr/sbin/mkfs.ext4 e2fsprogs    # sandboxes with `storage: disk`
    ;;&
test)
    need_command c++ g++                  # libFuzzer itself is compiled
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    need /usr/lib/python3/dist-packages/pip python3-pip
    need /usr/bin/git git                 # programs that must run inside unchanged
    need /usr/bin/ps procps
    need /usr/bin/gcc gcc
    need /usr/bin/sqlite3 sqlite3
    need /usr/bin/go golang-go
    need /usr/bin/curl curl               # the quick start's session, verbatim
    need /usr/bin/jq jq
    need /bin/busybox busybox-static      # a template from a directory and a tar
    need /usr/bin/bwrap bubblewrap        # rivals in the comparison
    need /usr/sbin/runc runc
    need /usr/sbin/lynis lynis            # an auditor, run inside
    need /usr/bin/stress-ng stress-ng     # hostile loads, run inside
    need /usr/bin/trinity trinity
    # Libraries of the QEMU that scripts/microvm.sh unpacks.
    [ "$(uname -m)" != x86_64 ] || need /usr/bin/qemu-system-x86_64 qemu-system-x86
    # Of the Docker engine that scripts/docker.sh unpacks.
    ldconfig -p | grep -q libdevmapper || missing+=(libdevmapper1.02.1)
    ;;
test-vm)
    need /usr/bin/qemu-system-x86_64 qemu-system-x86
    need /usr/bin/cpio cpio
    need /usr/bin/xz xz-utils
    need /usr/sbin/mkfs.ext4 e2fsprogs
    need /bin/busybox busybox-static
    need /usr/bin/python3 python3
    need /usr/bin/ps procps
    ;;
soak)
    need /usr/bin/python3 python3
    need /usr/sbin/mkfs.ext4 e2fsprogs
    need /usr/sbin/runc runc              # sandboxes of kind `oci`
    need /bin/busybox busybox-static      # the template of `hardened` ones
    ;;
fuzz)
    need_command c++ g++                  # libFuzzer itself is compiled
    ;;
bench)
    need /usr/bin/bwrap bubblewrap
    need /usr/sbin/runc runc
    need /usr/bin/crun crun
    need /bin/busybox busybox-static
    need_command jq jq
    # Libraries of the QEMU that scripts/microvm.sh unpacks.
    [ "$(uname -m)" != x86_64 ] || need /usr/bin/qemu-system-x86_64 qemu-system-x86
    need_command curl curl
    # Of the Docker engine that scripts/docker.sh unpacks.
    ldconfig -p | grep -q libdevmapper || missing+=(libdevmapper1.02.1)
    ;;
*)
    [ "$task" = run ] || { echo "error: no task \`$task\`" >&2; exit 2; }
    ;;
esac

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
        echo "error: these packages (Debian's names) are missing: ${missing[*]}" >&2
        echo "hint: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    install() { apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >&2; }
    # The lists of a fresh machine may be absent or old.
    install || { apt-get update -q </dev/null >&2 && install; }
fi

# cargo_tool COMMAND CRATE: a cargo subcommand, compiled once.
cargo_tool() {
    if ! cargo "$1" --version >/dev/null 2>&1; then
        echo "installing $2" >&2
        # Its own build is no part of ours.
        env -u CARGO_TARGET_DIR cargo install --locked "$2" </dev/null >&2
    fi
}
case $task in
test) cargo_tool nextest cargo-nextest ;;
lint) cargo_tool deny cargo-deny ;;
esac
