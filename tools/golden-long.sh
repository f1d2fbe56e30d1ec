#!/usr/bin/env bash
# golden-long.sh - the two long golden cases on the reference kernels, about half an hour.
#
# Owns:      the calls; the output head runs at every 64th position only, the layers at all.
# Does not:  judge (tests/system/golden_compare.py does) or use a pipeline that is running.
set -euo pipefail
cd "$(dirname "$0")/.."

EVERY=64
CONTEXT=9216 # the longest case has 9,000 tokens
cases=(window-1700 long-9000)
[ $# -eq 0 ] || cases=("$@")
compare=(env PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/system/golden_compare.py)

GEMLINE_HOME=$(mktemp -d)
export GEMLINE_HOME GM_KERNELS=ref
# shellcheck disable=SC2317  # the trap calls it
finish() {
    build/bin/gemline down >/dev/null 2>&1 || true
    rm -rf "$GEMLINE_HOME"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

failed=0
for name in "${cases[@]}"; do
    start=$SECONDS
    "${compare[@]}" ids "$name" >"$GEMLINE_HOME/ids"
    if build/bin/gemline score --adapter none --kv f32 --context "$CONTEXT" --kv-tokens "$CONTEXT" \
        --tokens --top 20 --json --every "$EVERY" "$GEMLINE_HOME/ids" >"$GEMLINE_HOME/line" &&
        "${compare[@]}" exact "$name" "$EVERY" <"$GEMLINE_HOME/line"; then
        echo "$name: ok ($((SECONDS - start)) s)"
    else
        echo "$name: FAILED"
        failed=1
    fi
done
exit $failed
