#!/usr/bin/env bash
# setup.sh - installs the Debian packages that a build needs.   usage: setup.sh [GROUP]...
#
# Owns:      reading tools/packages.txt, asking dpkg what is missing, one apt-get call for that.
# Does not:  use the network when nothing is missing; change a service that was here before.
set -euo pipefail
cd "$(dirname "$0")/.."

LIST=tools/packages.txt
POLICY=/usr/sbin/policy-rc.d
LOCK_WAIT_S=300

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# packages GROUP...: the names in these sections, one a line
packages() {
    local group
    for group in "$@"; do
        grep -qxF "[$group]" "$LIST" || die "$LIST has no section [$group]; name one that it has."
        sed -e 's/#.*//' "$LIST" | while read -r line; do
            case $line in
            "[$group]") inside=1 ;;
            \[*) inside= ;;
            *) [ -z "${inside:-}" ] || printf '%s\n' "$line" ;;
            esac
        done
    done | awk '{ for (i = 1; i <= NF; i++) print $i }'
}

# missing NAME...: those that dpkg does not know as installed
missing() {
    { dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } |
        awk -v want="$*" '$1 == "installed" { have[$2] = 1 }
            END {
                n = split(want, w, " ")
                for (i = 1; i <= n; i++) if (!(w[i] in have)) print w[i]
            }'
}

names=$(packages "${@:-build}")
[ -n "$names" ] || die "$LIST names no package for: ${*:-build}."
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    die "this is not Debian (no apt-get): install what $LIST names with your system's own" \
        "tool, then run: mkdir -p build && touch build/.setup"
fi
# shellcheck disable=SC2086  # names are words
lacking=$(missing $names)
[ -n "$lacking" ] || exit 0
# shellcheck disable=SC2086
say "installing:" $lacking

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    hint="run as root: apt-get install --no-install-recommends ${lacking//$'\n'/ }"
    command -v sudo >/dev/null ||
        die "packages are missing, and there is neither root nor sudo here; $hint"
    [ -t 0 ] || sudo -n true 2>/dev/null ||
        die "packages are missing, and sudo needs a password but there is no terminal; $hint"
    as_root=(sudo)
fi
root() { ${as_root[@]+"${as_root[@]}"} "$@"; }
apt() {
    root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
        apt-get -q -o "DPkg::Lock::Timeout=$LOCK_WAIT_S" "$@" </dev/null >&2
}

refresh() {
    apt update ||
        die "apt-get update failed; check the network and the apt sources, then run make again."
}

# Gemline starts its own private Redis, so the package's service must neither start nor be enabled.
# A policy that is already here belongs to the machine and stays; then the service is stopped below.
redis_is_new=
policy_is_ours=
unlock() { [ -z "$policy_is_ours" ] || root rm -f "$POLICY"; }
if grep -qx redis-server <<<"$lacking"; then
    redis_is_new=1
    if [ ! -e "$POLICY" ]; then
        trap unlock EXIT
        trap 'exit 1' INT TERM HUP
        policy_is_ours=1
        printf '#!/bin/sh\nexit 101\n' | root tee "$POLICY" >/dev/null
        root chmod 755 "$POLICY"
    fi
fi

# shellcheck disable=SC2086
if ! apt-get -qq -s install --no-install-recommends $lacking >/dev/null 2>&1; then
    say "the package lists are empty or old: apt-get update"
    refresh
fi
# shellcheck disable=SC2086
if ! apt install -y --no-install-recommends $lacking; then
    say "trying again with new package lists: apt-get update"
    refresh
    apt install -y --no-install-recommends $lacking ||
        die "apt-get could not install the packages (its message is above); then run make again."
fi

if [ -n "$redis_is_new" ]; then
    if command -v systemctl >/dev/null; then
        root systemctl disable redis-server >/dev/null 2>&1 || true
        [ -n "$policy_is_ours" ] || root systemctl stop redis-server >/dev/null 2>&1 || true
    elif command -v update-rc.d >/dev/null; then
        root update-rc.d redis-server disable >/dev/null 2>&1 || true
    fi
fi
# shellcheck disable=SC2086
lacking=$(missing $names)
# shellcheck disable=SC2086
[ -z "$lacking" ] || die "still missing after apt-get:" $lacking
say "done"
