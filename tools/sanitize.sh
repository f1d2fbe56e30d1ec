#!/usr/bin/env bash
# sanitize.sh - unit tests and system tests on the builds of the sanitizers.
#   usage: sanitize.sh [asan|ubsan|tsan]... [-- pytest's options]
#
# Owns:      the order; every build is tested, and the exit status is 1 if any failed.
# Does not:  touch build/bin, or know options of a sanitizer (tools/sanitizers.sh).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

modes=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    modes+=("$1")
    shift
done
[ $# -eq 0 ] || shift
[ ${#modes[@]} -gt 0 ] || modes=(asan ubsan tsan)
failed=()
for mode in "${modes[@]}"; do
    begin=$SECONDS
    make -s MODE="$mode" "-j$(nproc)" "build/$mode/.built" "build/$mode/.units" >&2 &&
        bash tools/run-units.sh "build/$mode" || failed+=("$mode: unit tests")
    MODE=$mode bash tools/run-system.sh "$@" || failed+=("$mode: system tests")
    echo "---- $mode: $((SECONDS - begin)) s"
done
[ ${#failed[@]} -eq 0 ] && echo "sanitize: all passed" && exit 0
printf 'sanitize: failed:'
printf ' %s;' "${failed[@]}"
printf '\n'
exit 1
