#!/usr/bin/env bash
# chaos.sh - kill drills: a pipeline whose processes die at random while twenty clients read.
#            usage: chaos.sh SECONDS SEED [options of tools/chaos/main.py]
#
# Owns:      which Python runs them (Debian's, which has python3-redis).
# Does not:  build, or know what is done to whom (tools/chaos).
set -euo pipefail
cd "$(dirname "$0")/.."

export PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 tools/chaos/main.py --seconds "$1" --seed "$2" "${@:3}"
