#!/usr/bin/env bash
# check-bits.sh - the release and the sanitizer builds give the same bits: a hash of all logits of
# every shape of tests/golden/shapes, on each kernel set of this CPU, for each way to keep keys and
# values.
#
# Owns:      building test_shapes in each mode, comparing what it prints with --bits.
# Does not:  compare with the reference (test_shapes without --bits does).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

MODES=(release asan ubsan)
LINES_MIN=40 # 10 shapes, one kernel set, four ways
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM HUP

for mode in "${MODES[@]}"; do
    make -s MODE="$mode" "-j${JOBS:-$(nproc)}" "build/$mode/tests/test_shapes" >&2 || exit 1
    if ! GEMLINE_PACK=$scratch/packs "build/$mode/tests/test_shapes" --bits >"$scratch/out"; then
        tail -n 20 "$scratch/out"
        echo "the $mode build failed"
        exit 1
    fi
    grep '^bits ' "$scratch/out" >"$scratch/$mode"
    if [ "$(wc -l <"$scratch/$mode")" -lt $LINES_MIN ]; then
        echo "the $mode build printed too few results"
        exit 1
    fi
    if ! diff "$scratch/${MODES[0]}" "$scratch/$mode" >"$scratch/diff"; then
        echo "the $mode build gives other bits than the ${MODES[0]} build:"
        head -n 10 "$scratch/diff"
        exit 1
    fi
done
echo "$(wc -l <"$scratch/release") results, the same bits in ${MODES[*]}"
