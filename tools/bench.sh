#!/usr/bin/env bash
# bench.sh - the side-by-side benchmark against llama.cpp: one table, build/bench.json, two plots.
#
# Owns:      which Python runs it (the standard library is enough).
# Does not:  measure (tools/bench/), or use a pipeline that is running.
# Options:   --rows 1,2,5  --rounds N  --threads N  --quick  --merge  --write-docs  (see --help)
set -euo pipefail
cd "$(dirname "$0")/.."

python=/usr/bin/python3
[ -x "$python" ] || python=python3
unset PROMPT MODEL ADAPTER ARGS MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL
# The user's own pipeline and its settings stay out of it.
unset GEMLINE_HOME GM_KERNELS
exec env PYTHONDONTWRITEBYTECODE=1 "$python" tools/bench/main.py "$@"
