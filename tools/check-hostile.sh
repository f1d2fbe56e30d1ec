#!/usr/bin/env bash
# check-hostile.sh - a gateway with AddressSanitizer against malformed requests and clients that
# leave.   usage: check-hostile.sh [COUNT [SEED]]
#
# Owns:      the two builds it needs, a pipeline in a temporary home.
# Does not:  know the requests (tests/hostile), or touch build/bin.
set -euo pipefail
cd "$(dirname "$0")/.."

bash tools/fetch-model.sh
make -s "-j$(nproc)" build/release/.built
make -s MODE=asan "-j$(nproc)" build/asan/bin/gm-gateway

GEMLINE_HOME=$(mktemp -d /tmp/gemline-hostile-XXXXXX)
export GEMLINE_HOME
gemline=build/release/bin/gemline
end() {
    "$gemline" down </dev/null >/dev/null 2>&1 || true
    rm -rf "$GEMLINE_HOME"
}
trap end EXIT
"$gemline" up --detach --http off </dev/null >"$GEMLINE_HOME/up.txt" 2>&1 || {
    cat "$GEMLINE_HOME/up.txt"
    exit 1
}
/usr/bin/python3 tests/hostile/live.py --gateway build/asan/bin/gm-gateway --home "$GEMLINE_HOME" \
    --count "${1:-10000}" --seed "${2:-1}"
