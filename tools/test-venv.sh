#!/usr/bin/env bash
# test-venv.sh - what the system's tests need: the openai client, a browser's driver, and for
# hostile peers ZeroMQ and the protobuf runtime that belongs to Debian's protoc.
#
# Owns:      build/venv (Debian's Python with these packages) and the packages of group [test].
# Does not:  touch what the project runs on: nothing of it is needed to build or to serve.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=("openai==3.57.0" "playwright==1.65.2" "protobuf==4.21.12" "pyzmq==26.2.0")
STAMP=build/venv/.done

want="${PACKAGES[*]}"
bash tools/setup.sh test
[ "$(cat "$STAMP" 2>/dev/null)" != "$want" ] || exit 0
rm -rf build/venv
/usr/bin/python3 -m venv --system-site-packages build/venv
build/venv/bin/pip install --quiet --disable-pip-version-check --no-input "${PACKAGES[@]}" >&2 || {
    echo "test-venv: pip could not install $want; check the network and run make test again" >&2
    exit 1
}
printf '%s' "$want" > "$STAMP"
