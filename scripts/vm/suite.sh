#!/bin/bash
# Runs in the test machine as its first process: the engine's tests on cgroup v2 alone, as root, as an ordinary user and with
# user namespaces denied. Which part is on the kernel command line: csb.part=PART. The last line counts.
export PATH=/usr/sbin:/usr/bin HOME=/root TMPDIR=/tmp CSB_PROBE=/vm/probe
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sysfs /sys
mount -t securityfs none /sys/kernel/security
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /run
ln -sfn /proc/self/fd /dev/fd
busybox ip link set lo up
hostname vm
# A login session has a group of its own; the top stays free, as on every real host.
mkdir /sys/fs/cgroup/session && echo $$ >/sys/fs/cgroup/session/cgroup.procs
passed=0 failed=0 failures=()

# check NAME COMMAND…: counts the command's success; shows what it said where it fails.
check() {
    local name=$1 before=$SECONDS
    shift
    if "$@" >/tmp/check.log 2>&1; then
        passed=$((passed + 1))
        echo "ok    $name ($((SECONDS - before)) s)"
    else
        failed=$((failed + 1))
        failures+=("$name")
        echo "FAIL  $name ($((SECONDS - before)) s)"
        tail -n 40 /tmp/check.log | sed 's/^/      /'
    fi
}

# says TEXT COMMAND…: the command's output holds TEXT.
says() {
    local text=$1 output
    shift
    output=$("$@" 2>&1)
    echo "$output"
    grep -qF -- "$text" <<<"$output"
}

# refuses TEXT COMMAND…: the command fails, and says TEXT.
refuses() {
    local text=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "it succeeded: $output"
        return 1
    fi
    echo "$output"
    grep -qF -- "$text" <<<"$output"
}

ordinary() { setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/ann "$@"; }

# delegated COMMAND…: as an ordinary user in a group that was given to them, a new one each time, as systemd does.
delegated() {
    local group
    echo '+cpu +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
    group=$(mktemp -d /sys/fs/cgroup/delegated.XXXX)
    chmod 755 "$group"
    chown 1000:1000 "$group" "$group"/cgroup.{procs,threads,subtree_control}
    (echo 0 >"$group/cgroup.procs" && ordinary "$@")
}

# tests FILE: each line is a test program and a test of it, each run in a process of its own.
tests() {
    local program name
    while read -r program name; do
        check "$program::$name" timeout 200 "/vm/deps/$program" --exact "$name" --nocapture
    done <"$1"
}

host_is_as_meant() {
    grep -q 'cgroup2' /proc/mounts && ! grep -q ' cgroup rw' /proc/mounts && grep -q "$1" /sys/kernel/security/lsm
}

as_root() {
    check 'cgroup v2 alone, and BPF among the security modules' host_is_as_meant bpf
    check 'root: csb doctor finds v2' says 'v2: memory, cpu, pids' /vm/csb doctor
    check 'root: csb doctor finds that sandboxes run' says 'started and ended' /vm/csb doctor
    check 'root: csb run' says '1000 42' /vm/csb run -- sh -c 'echo $(id -u) $((6 * 7))'
    check 'root: csb run with Python' says 'forty-two' /vm/csb run --lang python -c 'print("forty-two")'
    check 'root: csb doctor finds what hardened sandboxes need' says 'images with EROFS' /vm/csb doctor
    check 'root: csb run --kind hardened' says '1000 42' /vm/csb run --kind hardened -- sh -c 'echo $(id -u) $((6 * 7))'
    check 'root: csb run on a disk of its own' says '16777216' \
        /vm/csb run --storage disk --disk 64m -- sh -c 'head -c 16m /dev/zero > f; stat -c %s f'
    check 'root: disk speed is limited' says '3145728' /vm/csb run --storage disk --disk 64m --write-bps 1m --timeout 60s -- sh -c \
        'a=$(date +%s); dd if=/dev/zero of=f bs=64k count=48 conv=fsync status=none; [ $(($(date +%s) - a)) -ge 2 ] && stat -c %s f'
    check 'root: a memory limit is named' refuses 'memory' /vm/csb run --memory 48m -- python3 -c 'x = bytearray(200 << 20)'
    tests /vm/tests
}

as_ordinary_user() {
    check 'ordinary user: csb run' says '1000 42' ordinary /vm/csb run -- sh -c 'echo $(id -u) $((6 * 7))'
    check 'ordinary user: csb doctor says what limits are lost' says 'memory limits: a sandbox can use up' ordinary /vm/csb doctor
    check 'ordinary user: csb doctor finds that sandboxes run' says 'started and ended' ordinary /vm/csb doctor
    check 'delegated group: csb doctor finds its controllers' says 'v2: memory, cpu, pids' delegated /vm/csb doctor
    check 'delegated group: csb run' says '1000 42' delegated /vm/csb run -- sh -c 'echo $(id -u) $((6 * 7))'
    check 'delegated group: the memory limit holds' refuses 'memory' \
        delegated /vm/csb run --memory 48m -- python3 -c 'x = bytearray(200 << 20)'
    check 'delegated group: the process limit holds' says 'refused' \
        delegated /vm/csb run --pids 8 -- python3 -c '
import os, time
try:
    for _ in range(20):
        if os.fork() == 0: time.sleep(5); os._exit(0)
except OSError: print("refused", flush=True)
os._exit(0)'
    check 'delegated group: a second warden works beside what the first left' delegated sh -c \
        '/vm/csb run -- true && /vm/csb doctor | grep "v2: memory, cpu, pids" && /vm/csb run -- true'
    check 'delegated group: the cgroup tests' delegated /vm/deps/cgroup --test-threads=1 --nocapture
}

without_user_namespaces() {
    if sysctl -qw kernel.unprivileged_userns_clone=0 2>/dev/null; then
        check 'unprivileged_userns_clone=0: csb run says why' \
            refuses 'kernel.unprivileged_userns_clone' ordinary /vm/csb run -- true
        check 'unprivileged_userns_clone=0: csb doctor says what to do' \
            refuses 'sysctl kernel.unprivileged_userns_clone=1' ordinary /vm/csb doctor
        check 'unprivileged_userns_clone=0: root is as before' says '42' /vm/csb run -- echo 42
        sysctl -qw kernel.unprivileged_userns_clone=1
    fi
    sysctl -qw user.max_user_namespaces=0
    check 'max_user_namespaces=0: csb run says why' refuses 'user.max_user_namespaces' ordinary /vm/csb run -- true
    check 'max_user_namespaces=0: csb doctor says what to do' \
        refuses 'sysctl user.max_user_namespaces=' ordinary /vm/csb doctor
    check 'max_user_namespaces=0: root is told as well' refuses 'user.max_user_namespaces' /vm/csb run -- true
    sysctl -qw user.max_user_namespaces=10000
    check 'user namespaces allowed again: csb run' says '42' ordinary /vm/csb run -- echo 42
}

# A part of the others, for those who work on it.
control_groups() {
    check 'root: disk speed is limited' says '3145728' /vm/csb run --storage disk --disk 64m --write-bps 1m --timeout 60s -- sh -c \
        'a=$(date +%s); dd if=/dev/zero of=f bs=64k count=48 conv=fsync status=none; [ $(($(date +%s) - a)) -ge 2 ] && stat -c %s f'
    check 'root: the cgroup tests' /vm/deps/cgroup --test-threads=1 --nocapture
    check 'delegated group: the cgroup tests' delegated /vm/deps/cgroup --test-threads=1 --nocapture
}

without_landlock() {
    check 'no Landlock: the kernel has none' host_is_as_meant yama
    check 'no Landlock: csb doctor says what is lost' says 'landlock          absent or off' /vm/csb doctor
    check 'no Landlock: csb run' says '42' /vm/csb run -- echo 42
    check 'no Landlock: an ordinary user' says '42' ordinary /vm/csb run -- echo 42
    check 'no Landlock: abstract sockets end at the sandbox all the same' \
        /vm/deps/security --exact points::point_15_abstract_sockets_end_at_the_sandbox
    check 'no Landlock: signals as well' \
        /vm/deps/security --exact load::killing_everything_in_sight_kills_only_what_is_the_tenants
}

read -r line </proc/cmdline
case $line in
*csb.part=without-landlock*) without_landlock ;;
*csb.part=cgroups*) control_groups ;;
*csb.part=quick*) without_user_namespaces; as_ordinary_user ;;
*)
    as_ordinary_user
    without_user_namespaces
    as_root
    ;;
esac
for name in "${failures[@]}"; do echo "failed: $name"; done
echo "vm: $passed passed, $failed failed"
sync
busybox poweroff -f
