#!/usr/bin/env bash
# A Docker engine of one's own, for comparisons and for tests against a real one:
#
#   export DOCKER_HOST=$(scripts/docker.sh start DIR [OPTION OF dockerd…])     waits until it answers, prints its address
#   scripts/docker.sh stop DIR                                                ends it, its containers, and removes DIR
#
# All of its state lies in DIR; its control groups below one group of its own. It touches neither the host's firewall nor
# its networks: containers have the networks `none` and `host`, unless `--bridge=…` says otherwise. Needs root.
# Where the host has no dockerd, Debian's packages are unpacked into the target directory, not installed: installing
# would start an engine for the whole host.
set -euo pipefail
usage() { echo "usage: docker.sh start DIR [OPTION…] | stop DIR" >&2; exit 2; }
[ $# -ge 2 ] || usage
what=$1 dir=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
group=csb-docker-$(echo -n "$dir" | sha256sum | head -c 12)

fail() { echo "error: $1" >&2; [ -z "${2:-}" ] || echo "hint: $2" >&2; exit 1; }

# alive: whether the process that DIR names is this engine, not one that got its number later.
alive() { [ -s "$dir/pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$dir/pid")/cmdline" | grep -qF -- "--data-root $dir/data"; }

# ended: waits for an engine that was killed a moment ago, whose memory is gone before it is; the next would take it for alive.
ended() {
    local pid
    [ -s "$dir/pid" ] || return 0
    pid=$(cat "$dir/pid")
    for _ in $(seq 50); do
        [ -z "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" ] && [ -e "/proc/$pid" ] || break
        sleep 0.1
    done
    rm -f "$dir/pid"
}

start() {
    [ "$(id -u)" = 0 ] || fail 'a Docker engine needs root'
    ! alive || fail "an engine runs in $dir" "scripts/docker.sh stop $dir"
    ended
    if ! command -v dockerd >/dev/null; then
        local files
        files=$(scripts/unpacked.sh "$(realpath -m "${CARGO_TARGET_DIR:-target}")/unpacked" host docker.io containerd tini) ||
            fail 'there is no dockerd, and the packages docker.io, containerd, tini cannot be had'
        while read -r directory; do PATH=$PATH:$directory/usr/bin:$directory/usr/sbin; done <<<"$files"
    fi
    command -v runc >/dev/null || fail 'there is no runc' 'apt-get install runc'
    dockerd --version >/dev/null 2>"${TMPDIR:-/tmp}/$group" ||
        fail "dockerd does not run: $(cat "${TMPDIR:-/tmp}/$group")" 'apt-get install libdevmapper1.02.1'
    rm -f "${TMPDIR:-/tmp}/$group"
    mkdir -p "$dir"
    # Not a child of whoever asks: it outlives the script that starts it.
    setsid dockerd --host "unix://$dir/socket" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
        --iptables=false --ip6tables=false --bridge=none --exec-opt native.cgroupdriver=cgroupfs \
        --cgroup-parent "/$group" --shutdown-timeout 2 "$@" </dev/null >"$dir/log" 2>&1 &
    local started=$!
    for _ in $(seq 300); do
        # The answer of its ping, not the socket alone.
        if [ -S "$dir/socket" ] && curl -fsS --unix-socket "$dir/socket" http://docker/_ping >/dev/null 2>&1; then
            echo "unix://$dir/socket"
            return
        fi
        [ -e "/proc/$started" ] || fail "dockerd ended: $(tail -n 3 "$dir/log")"
        sleep 0.1
    done
    stop
    fail 'dockerd did not answer within 30 s'
}

stop() {
    if alive; then
        local pid
        pid=$(cat "$dir/pid")
        # The engine would give each container ten seconds.
        find /sys/fs/cgroup -path "*/$group/*" -name cgroup.procs -exec cat {} + | sort -u | xargs -r kill -9 2>/dev/null || true
        kill "$pid"
        for _ in $(seq 300); do [ -e "/proc/$pid" ] || break; sleep 0.1; done
        [ ! -e "/proc/$pid" ] || fail "dockerd, process $pid, did not end within 30 s"
    fi
    # What an engine that was killed leaves.
    awk -v dir="$dir/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r place; do umount -l "$place"; done
    find /sys/fs/cgroup -maxdepth 3 -depth -path "*/$group*" -type d -exec rmdir {} + 2>/dev/null || true
    rm -rf "$dir"
}

case $what in
start) start "$@" ;;
stop) stop ;;
*) usage ;;
esac
