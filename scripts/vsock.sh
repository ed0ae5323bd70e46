#!/usr/bin/env bash
# Prints the path of `vhost-device-vsock`, with which a test joins a machine's vsock to a Unix socket: vsock.sh PLACE
#
# Built from its crate in PLACE, which takes a minute, where CSB_FULL is set; else it fails unless it is there already.
set -euo pipefail
place=$(realpath -m "${1:?usage: vsock.sh PLACE}")
program=$place/bin/vhost-device-vsock
if [ ! -x "$program" ]; then
    [ -n "${CSB_FULL:-}" ] || { echo "vsock.sh: vhost-device-vsock is built with CSB_FULL=1 only" >&2; exit 1; }
    # Its own build is no part of ours.
    CARGO_TARGET_DIR=$place/build cargo install --locked --quiet --root "$place" vhost-device-vsock@0.3.0 >&2
    rm -rf "$place/build"
fi
echo "$program"
