#!/usr/bin/env bash
# Feeds what reads foreign bytes with any bytes, guided by coverage (libFuzzer), with the stable toolchain.
#
#   scripts/fuzz.sh SECONDS [TARGET…]     each target of fuzz/fuzz_targets for so long
#
# What is found goes to TARGET_DIR/fuzz/found; what reaches new code to TARGET_DIR/fuzz/corpus, for the next run. A found
# input runs again with: TARGET_DIR/fuzz/x86_64-unknown-linux-gnu/release/TARGET FILE
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: fuzz.sh SECONDS [TARGET…]}
shift
targets=("$@")
[ $# -gt 0 ] || for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done

place=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
# What `cargo fuzz -s none` passes: coverage alone. The code is safe Rust, so panics are what there is to find; the
# sanitizers need a nightly toolchain.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# Named, the triple keeps the flags from build scripts.
CARGO_TARGET_DIR=$place RUSTFLAGS=$flags CARGO_INCREMENTAL=0 \
    cargo build -q --release --locked --manifest-path fuzz/Cargo.toml --target "$triple"

mkdir -p "$place/found"
failed=()
for target in "${targets[@]}"; do
    corpus=$place/corpus/$target
    mkdir -p "$corpus"
    seeds=()
    [ ! -d "fuzz/seeds/$target" ] || seeds=("$PWD/fuzz/seeds/$target")
    # Targets that write files become nobody, and keep what they find all the same.
    chmod 777 "$corpus" "$place/found"
    log=$place/$target.log
    if (cd "$place" && "./$triple/release/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=16384 \
        -print_final_stats=1 -artifact_prefix="found/$target-" "corpus/$target" "${seeds[@]}") >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        covered=$(grep -o 'cov: [0-9]*' "$log" | tail -1)
        echo "fuzz: $target: $runs runs, ${covered:-cov: ?}"
    else
        failed+=("$target")
        echo "fuzz: $target: FAILED"
        tail -n 30 "$log"
    fi
done
[ ${#failed[@]} = 0 ] || { echo "fuzz: failed: ${failed[*]}; inputs in $place/found"; exit 1; }
