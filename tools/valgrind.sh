#!/usr/bin/env bash
# valgrind.sh - the unit tests of everything that reads files from outside, under valgrind.
#   usage: valgrind.sh [NAME]...
#
# Owns:      which tests those are, valgrind's options.
# Does not:  build (make unit does). The sanitizers do not see what this does: values that were
#            never set, and libraries without instrumentation.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

LOADERS=(test_gguf test_pack test_lora test_vocab test_tokenizer test_config)
LIMIT_S=1800
FOUND=9 # valgrind's own exit status; a failed test has another

# valgrind knows no AVX-512; which kernels run decides nothing about a loader.
export GM_KERNELS=ref
[ $# -gt 0 ] || set -- "${LOADERS[@]}"
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
failed=0
for name in "$@"; do
    program=build/release/tests/$name
    if [ ! -x "$program" ]; then
        echo "valgrind: $program is missing; run: make unit"
        failed=1
        continue
    fi
    begin=$SECONDS
    mkdir -p "$scratch/tmp"
    GEMLINE_PACK=$scratch/tmp/packs TMPDIR=$scratch/tmp timeout -k 5 "$LIMIT_S" \
        valgrind -q --error-exitcode="$FOUND" --leak-check=full --errors-for-leak-kinds=definite \
        --track-origins=yes "$program" </dev/null >"$scratch/out" 2>&1
    rc=$?
    rm -rf "$scratch/tmp"
    if [ $rc -eq 0 ]; then
        printf 'ok     %s (%d s)\n' "$name" $((SECONDS - begin))
    else
        printf 'FAILED %s: exit status %d\n' "$name" $rc
        sed 's/^/    /' "$scratch/out"
        failed=1
    fi
done
exit $failed
