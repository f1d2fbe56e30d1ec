#!/usr/bin/env bash
# run.sh - what `make run` starts: one answer when PROMPT is set, else the terminal chat with the
# web page and the HTTP API beside it.
#
# Owns:      turning PROMPT, MODEL, ADAPTER (environment) and further options into a call; the end
#            of the pipeline that it started.
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

# The chat attaches to a pipeline that has a gateway: one that runs already, or one of our own.
if [[ $(build/bin/gemline status --json) == *'"processes": []'* ]]; then
    trap 'build/bin/gemline down' EXIT
    up=(build/bin/gemline up --detach ${options[@]+"${options[@]}"})
    "${up[@]}" "$@" >/dev/null 2>&1 || "${up[@]}" >/dev/null # an option may be the chat's alone
fi
http=$(build/bin/gemline status --json | sed -n 's/.*"http": "\([^"]*\)".*/\1/p')
[ -z "$http" ] || printf 'web page and API: http://%s   (API: http://%s/v1)\n' "$http" "$http"
build/bin/gemline chat ${options[@]+"${options[@]}"} "$@"
