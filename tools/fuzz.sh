#!/usr/bin/env bash
# fuzz.sh - builds the libFuzzer targets and runs them.   usage: fuzz.sh [NAME|all] [SECONDS]
#
# Owns:      build/fuzz: the targets, the inputs that reach new code (corpus/NAME), what was found
#            (found/NAME-*), a log and a line of figures for each target.
# Does not:  add to the seeds in tests/fuzz; a finding becomes a case of a unit test.
# FUZZ_JOBS: targets that run at a time (1).
set -euo pipefail
cd "$(dirname "$0")/.."

only=${1:-all}
seconds=${2:-60}
jobs=${FUZZ_JOBS:-1}
LIMIT_S=10      # of one input
RSS_MB=1024     # and its memory
MAX_LEN=8192    # bytes of one input
build=build/fuzz

if command -v ccache >/dev/null; then
    cc="ccache clang" cxx="ccache clang++"
else
    cc=clang cxx=clang++
fi

names() {
    local target
    for target in tests/fuzz/fuzz_*.c; do
        target=$(basename "$target" .c)
        echo "${target#fuzz_}"
    done
}

# fuzz_one NAME: runs one target; what it found stays in build/fuzz/found
fuzz_one() {
    local name=$1 log=$build/$1.log dict=tests/fuzz/words.dict rc=0
    [ ! -f "tests/fuzz/$name.dict" ] || dict=tests/fuzz/$name.dict
    mkdir -p "$build/corpus/$name" "$build/found"
    local run=("$build/bin/fuzz_$name" "-timeout=$LIMIT_S" "-rss_limit_mb=$RSS_MB")
    "${run[@]}" "-max_total_time=$seconds" "-max_len=$MAX_LEN" "-dict=$dict" -print_final_stats=1 \
        "-artifact_prefix=$build/found/$name-" "$build/corpus/$name" "tests/fuzz/$name" \
        </dev/null >"$log" 2>&1 || rc=$?
    awk -v name="$name" '
        /INITED/{ for (i = 1; i < NF; i++) if ($i == "cov:") first = $(i + 1) }
        / cov: /{ for (i = 1; i < NF; i++) if ($i == "cov:") last = $(i + 1) }
        /number_of_executed_units/{ n = $2 }
        END { printf "fuzz %-20s %10d runs, edges %d -> %d\n", name, n, first, last }' "$log"
    [ $rc -ne 0 ] || return 0
    tail -n 40 "$log"
    local input
    for input in "$build/found/$name"-*; do
        [ ! -f "$input" ] || echo "fuzz $name: FOUND; again with: ${run[*]} $input"
    done
    return 1
}
export -f fuzz_one
export build seconds LIMIT_S RSS_MB MAX_LEN

if [ "$only" != all ] && [ ! -f "tests/fuzz/fuzz_$only.c" ]; then
    echo "fuzz: there is no target $only; there are: $(names | tr '\n' ' ')" >&2
    exit 2
fi
targets=("$only")
[ "$only" != all ] || mapfile -t targets < <(names)
bins=("${targets[@]/#/$build/bin/fuzz_}")
make -s "-j$(nproc)" MODE=fuzz CC="$cc" CXX="$cxx" "${bins[@]}" >&2
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1:detect_leaks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz_one {}'
