#!/usr/bin/env bash
# Measures csb beside other programs that isolate, in turn in the same run, prints a table and adds it to
# docs/reference/benchmarks.md: bench.sh CSB [ROUNDS]
set -euo pipefail
csb=$(realpath "${1:?usage: bench.sh CSB [ROUNDS]}")
rounds=${2:-100}
cd "$(dirname "$0")/.."
page=docs/reference/benchmarks.md

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# Debian 12's gVisor is of 2022, before its faster way of catching system calls (systrap).
if ! command -v runsc >/dev/null && files=$(scripts/unpacked.sh "$target/unpacked" trixie runsc); then
    PATH=$PATH:$files/usr/bin
fi
# The client, of its own package from Debian 13 on.
for package in docker-cli docker.io; do
    command -v docker >/dev/null || { files=$(scripts/unpacked.sh "$target/unpacked" host $package 2>/dev/null) && PATH=$PATH:$files/usr/bin; }
done
# A kernel for virtual machines.
[ -n "${CSB_MICROVM_KERNEL:-}" ] || { settings=$(scripts/microvm.sh "$target/microvm") && export $settings; }
if [ -z "${DOCKER_HOST:-}" ] && ! docker version >/dev/null 2>&1; then
    engine=$target/docker-bench-$$
    if DOCKER_HOST=$(scripts/docker.sh start "$engine"); then
        export DOCKER_HOST
        trap 'scripts/docker.sh stop "$engine"' EXIT
    else
        unset DOCKER_HOST
    fi
fi

measure() { "$csb" --json bench "$@"; }
versions() {
    for program in bwrap runc crun runsc; do
        ! command -v $program >/dev/null || $program --version 2>/dev/null | head -1
    done
    docker version --format 'Docker Engine {{.Server.Version}}' 2>/dev/null || true
}
row='"| \(.bench) | \(.n) | \(.p50) | \(.p90) | \(.p99) |"'

cold=$(measure compare-run --n "$rounds")
create=$(measure cold --n "$((rounds * 2))")
sustained=$(measure sustained --n "$((rounds * 10))" --live "${LIVE:-100}")
claim=$(measure claim --n "$((rounds * 2))")
exec=$(measure exec --n "$((rounds * 5))")
rest=$(measure rest --n "$((rounds * 5))")
exec_others=$(measure compare-exec --n "$rounds")
release=$(measure release --n "$rounds")
burst=$(measure burst --n "$rounds")
burst_ready=$(measure burst --n "$rounds" --pool "$rounds")
density=$(measure density --n "$((rounds * 2))")
capacity=$(measure capacity --n "$((rounds * 50))")
syscall=$(measure syscall)
kinds=$(measure kinds --n "$((rounds / 2))")

table=$(
    echo "## $(date -u +%Y-%m-%d), $("$csb" --version)"
    echo
    echo "$(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(awk '/MemTotal/ {printf "%.0f", $2 / 1048576}' /proc/meminfo) GiB of memory, Linux $(uname -r), cgroups $("$csb" --json doctor 2>/dev/null | jq -r '.checks[] | select(.name == "cgroups") | .found'); load $(cut -d' ' -f1 /proc/loadavg)."
    echo "Beside it: $(versions | paste -sd ';' | sed 's/;/; /g')."
    echo
    echo "Milliseconds."
    echo
    echo "| start to first output, everything made anew | n | p50 | p90 | p99 | against csb |"
    echo "| --- | --- | --- | --- | --- | --- |"
    jq -r '.items[0].p50 as $ours | .items[] | "| \(.bench) | \(.n) | \(.p50) | \(.p90) | \(.p99) | \(.p50 / $ours * 10 | round / 10)× |"' <<<"$cold"
    echo
    echo "| one more command, to its end | n | p50 | p90 | p99 |"
    echo "| --- | --- | --- | --- | --- |"
    jq -r "$row" <<<"$exec"
    jq -r ".items[] | $row" <<<"$rest" | sed 's/| rest |/| exec over HTTP |/; s/| look |/| look at a sandbox over HTTP |/'
    jq -r ".items[] | $row" <<<"$exec_others"
    echo
    echo "| in a running node | n | p50 | p90 | p99 |"
    echo "| --- | --- | --- | --- | --- |"
    jq -r "$row" <<<"$create" | sed 's/| cold |/| cold: create, built on request, to first output |/'
    jq -r "$row" <<<"$claim" | sed 's/| claim |/| claim: create, claimed from the pool, to first output |/'
    jq -r '"| the same program, started outside any sandbox, in turn with it | \(.n) | \(.outside[0]) | | \(.outside[1]) |"' <<<"$claim"
    jq -r "$row" <<<"$release"
    jq -r "$row" <<<"$burst" | sed "s/| burst |/| burst of $(jq .n <<<"$burst") over HTTP, each to its end |/"
    jq -r "$row" <<<"$burst_ready" | sed "s/| burst |/| the same with as many in the pool |/"
    echo
    echo "| one system call, nanoseconds | outside | inside | added |"
    echo "| --- | --- | --- | --- |"
    jq -r '.items[] | "| \(.call): \(.what) | \(.outside) | \(.inside) | \(.added) |"' <<<"$syscall"
    echo
    echo "Each kind over HTTP, without a pool (\`csb bench kinds\`): from the request for a sandbox to the end of \`echo\` in it, one more command, and memory of this host."
    echo
    echo "| kind | n | start p50 | p99 | command p50 | p99 | live at once | KiB each |"
    echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
    jq -r '.items[] | "| \(.kind) | \(.start.n) | \(.start.p50) | \(.start.p99) | \(.exec.p50) | \(.exec.p99) | \(.live) | \(.kib_each // "") |"' <<<"$kinds"
    echo
    jq -r '.items[] | select(.note) | "\(.kind): \(.note)."' <<<"$kinds"
    jq -r '.missing[] | "\(.kind): not here: \(.why_not | gsub("\n"; "; "))."' <<<"$kinds"
    echo
    echo "Sustained, $(jq .live <<<"$sustained") others live: $(jq .per_second <<<"$sustained") sandboxes a second made, used and released."
    echo "$(jq .live <<<"$density") sandboxes live at once, each of which had run code: $(jq .kib_each <<<"$density") KiB of host memory each."
    echo "As many of them fit, the server included (at most $(jq .n <<<"$capacity") were made): $(jq -r '[.budgets[] | "\(.gib) GiB: \(if .full then "" else "at least " end)\(.sandboxes)"] | join("; ")' <<<"$capacity")."
)
echo "$table"
if [ ! -e "$page" ]; then
    cat >"$page" <<'HEAD'
# Benchmarks

`make bench` adds a section here. Everyone is measured in turn in the same run: one round runs each program once. "First output" is
the first byte of `echo x` arriving at whoever started the program. What is compared does not do the same work: bubblewrap makes
namespaces alone, without limits, system call filter or user ids of its own; runc and crun make a container with cgroups (what `runc spec` says: no
filter) of a root file system that has only busybox; runsc (gVisor) puts a kernel of its own in between; Docker does what runc does, with
a filter, through its engine, whose containers have no network here; csb makes all of the `process` kind. Commands that run code through csb read `/bin/echo` of
the host with its shared libraries, while the containers run a static busybox.
HEAD
fi
printf '\n%s\n' "$table" >>"$page"
