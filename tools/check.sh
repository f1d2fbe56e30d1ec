#!/usr/bin/env bash
# check.sh - what must hold before a change is shared: lint, format, shell scripts, sanitizers,
# fuzzing, hostile clients.
#
# Owns:      the order of the checks; every check runs, and the exit status is 1 if any failed.
# Does not:  touch build/bin (it keeps pointing at the build that `make` made).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

bash tools/setup.sh build check || exit 1
failed=()

# step NAME COMMAND...: runs one check and remembers its failure
step() {
    local name=$1 start=$SECONDS
    shift
    printf -- '---- %s\n' "$name"
    if "$@"; then
        printf -- '---- %s: ok (%d s)\n' "$name" $((SECONDS - start))
    else
        printf -- '---- %s: FAILED\n' "$name"
        failed+=("$name")
    fi
}

code() {
    find kernels common services orchestrator tests \
        -name '*.[ch]' -o -name '*.cc' 2>/dev/null | sort
}

format() { code | xargs -r clang-format --dry-run -Werror; }

# sanitizer MODE: everything built, and the unit tests run, in build/MODE
sanitizer() {
    make -s MODE="$1" "-j$(nproc)" "build/$1/.built" "build/$1/.units" &&
        bash tools/run-units.sh "build/$1"
}

step lint make -s lint
step format format
step "shell scripts" shellcheck tools/*.sh tools/*/*.sh .ci/run
step "address sanitizer" sanitizer asan
step "undefined behaviour sanitizer" sanitizer ubsan
step "the same bits in all builds" bash tools/check-bits.sh
step "fuzzing" env FUZZ_JOBS=2 bash tools/fuzz.sh all 30
step "hostile clients" bash tools/check-hostile.sh

if [ ${#failed[@]} -gt 0 ]; then
    printf 'check: failed:'
    printf ' %s;' "${failed[@]}"
    printf '\n'
    exit 1
fi
echo "check: all passed"
