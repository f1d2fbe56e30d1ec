#!/usr/bin/env bash
# run-system.sh - runs the tests of the running system.
#   usage: [MODE=asan|ubsan|tsan] run-system.sh [pytest's options]
#
# Owns:      which Python runs them (Debian's, which has python3-pytest, in build/venv), where the
#            results go.
# Does not:  set time limits (tests/system/conftest.py does) or stop at the first failure.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

bash tools/test-venv.sh || exit 1
python=build/venv/bin/python # Debian's, with the official client and a browser's driver
unset PROMPT MODEL ADAPTER ARGS MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL
mkdir -p build
mode=${MODE:-release}
unset MODE                                    # `make` in a test builds the release
export TEST_MODE=$mode                        # which build is tested
export TEST_REPORTS=build/$mode/reports       # where its sanitizer reports
rm -rf "$TEST_REPORTS"
# shellcheck source=tools/sanitizers.sh
. tools/sanitizers.sh
sanitizer_options "$mode" "$TEST_REPORTS" || exit 1
results=build/system.xml
[ "$mode" = release ] || results=build/$mode/system.xml
GEMLINE_PACK=$(mktemp -d) || exit 1 # packs of the tests' models, apart from the user's
export GEMLINE_PACK
trap 'rm -rf "$GEMLINE_PACK"' EXIT
rm -f "$results"
env PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest tests/system -c /dev/null --rootdir . \
    -p no:cacheprovider -ra --tb=short --durations=5 -v --junit-xml="$results" "$@"
