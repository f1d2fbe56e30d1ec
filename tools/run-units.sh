#!/usr/bin/env bash
# run-units.sh - runs every unit test that was built.   usage: run-units.sh build/MODE
#
# Owns:      the time limit of a test, its temporary folder, the sums over CUnit's summaries.
# Does not:  build anything; hide a test that crashed, hung, or ran nothing: that counts as failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

LIMIT_S=${UNIT_TIMEOUT_S:-120}
build=${1:?usage: run-units.sh build/MODE}
summary=$build/units.summary
passed=0 failed=0 asserts=0 programs=0

scratch=$(mktemp -d) || exit 1
# shellcheck source=tools/sanitizers.sh
. tools/sanitizers.sh
sanitizer_options "$(basename "$build")" "$scratch/reports" || exit 1
LIMIT_S=$((LIMIT_S * TEST_SLOWNESS))
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM HUP
rm -f "$summary"

# run_one NAME: runs one test program and adds its numbers
run_one() {
    local name=$1 rc out=$scratch/out ran ok bad checks why=
    mkdir -p "$scratch/tmp"
    GEMLINE_PACK=$scratch/tmp/packs TMPDIR=$scratch/tmp \
        timeout -k 5 "$LIMIT_S" "$build/tests/$name" </dev/null >"$out" 2>&1
    rc=$?
    rm -rf "$scratch/tmp"
    read -r ran ok bad < <(awk '$1 == "tests" && NF >= 6 { print $3, $4, $5 }' "$out" | tail -n 1)
    checks=$(awk '$1 == "asserts" { n = $3 } END { print n + 0 }' "$out")
    ran=${ran:-0} ok=${ok:-0} bad=${bad:-0}
    if [ $rc -eq 124 ] || [ $rc -eq 137 ]; then why="stopped after $LIMIT_S s"
    elif [ $rc -gt 128 ]; then why="killed by signal $((rc - 128))"
    elif [ "$ran" -eq 0 ]; then why="ran no test, or printed no CUnit summary"
    elif [ "$bad" -gt 0 ]; then why="$bad of $ran tests failed"
    elif [ $rc -ne 0 ]; then why="exit status $rc"
    fi
    if compgen -G "$scratch/reports/report.*" >/dev/null; then # of a child, perhaps
        why="${why:+$why; }a sanitizer reported"
        cat "$scratch"/reports/report.* >>"$out"
        rm -f "$scratch"/reports/report.*
    fi
    programs=$((programs + 1)) passed=$((passed + ok)) asserts=$((asserts + checks))
    if [ -z "$why" ]; then
        printf 'ok     %s\n' "$name"
        sed -n '/^Run Summary:/,/asserts/p' "$out"
        return
    fi
    [ "$bad" -gt 0 ] || bad=1
    failed=$((failed + bad))
    printf 'FAILED %s: %s\n' "$name" "$why"
    sed 's/^/    /' "$out"
}

for source in tests/unit/test_*.c; do
    [ -f "$source" ] || continue
    name=$(basename "$source" .c)
    if [ -x "$build/tests/$name" ]; then
        run_one "$name"
    else
        printf 'FAILED %s: was not built\n' "$name"
        failed=$((failed + 1))
    fi
done
if [ $programs -eq 0 ]; then
    echo "no unit test was built in $build/tests; run: make unit"
    failed=$((failed + 1))
fi
{
    printf 'unit tests (%s): %d programs, %d asserts\n' "$build" $programs "$asserts"
    printf '%d passed, %d failed\n' $passed $failed
} | tee "$summary"
[ $failed -eq 0 ]
