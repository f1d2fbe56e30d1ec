#!/usr/bin/env bash
# run.sh - what `make run` starts: one answer when PROMPT is set, else the terminal chat.
#
# Owns:      turning PROMPT, MODEL, ADAPTER (environment) and further options into a call.
# Does not:  build or configure; look into the prompt: its bytes go through unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."

prompt=${PROMPT:-}
options=()
[ -z "${MODEL:-}" ] || options+=(--model "$MODEL")
[ -z "${ADAPTER:-}" ] || options+=(--adapter "$ADAPTER")
[ -n "${MODEL:-}" ] || bash tools/fetch-model.sh

# What make added for this script must not reach the processes that the command starts.
unset PROMPT MODEL ADAPTER MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL MAKE_TERMOUT MAKE_TERMERR

if [ -n "$prompt" ]; then
    exec build/bin/gemline run ${options[@]+"${options[@]}"} "$@" -- "$prompt"
fi
exec build/bin/gemline chat ${options[@]+"${options[@]}"} "$@"
