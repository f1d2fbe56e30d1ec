#!/usr/bin/env bash
# fuzz.sh - builds the libFuzzer targets and runs each for a short time.   usage: fuzz.sh [SECONDS]
#
# Owns:      build/fuzz: the targets, what they found (crash-*), the inputs that reach new code.
# Does not:  add to the seeds in tests/fuzz; a finding becomes a case of a unit test.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
runs=200000
[ "$seconds" -le 20 ] || runs=-1
sources=(services/gateway/{request,params,problem,scan,path}.c services/gateway/read_*.c
    common/base/{err,text,sampling}.c)
mkdir -p build/fuzz
for target in tests/fuzz/fuzz_*.c; do
    name=$(basename "$target" .c)
    seeds=tests/fuzz/${name#fuzz_}
    found=build/fuzz/${name#fuzz_}
    clang -std=c11 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
        -D_GNU_SOURCE -I. -o "build/fuzz/$name" "$target" "${sources[@]}" -ljansson -lm
    mkdir -p "$found"
    echo "fuzz $name: at most $seconds s"
    if ! "build/fuzz/$name" -runs="$runs" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=1024 -max_len=4096 -dict=tests/fuzz/words.dict -verbosity=0 \
        -artifact_prefix=build/fuzz/ -print_final_stats=1 "$found" "$seeds" \
        </dev/null >"build/fuzz/$name.log" 2>&1; then
        tail -n 40 "build/fuzz/$name.log"
        echo "fuzz $name: failed; the input is one of build/fuzz/{crash,timeout,oom,leak}-*"
        exit 1
    fi
    grep -m1 number_of_executed "build/fuzz/$name.log"
done
