#!/usr/bin/env bash
# peer.sh - builds the peer of `make bench`, llama.cpp, and prints the folder that holds its bin/.
#
# Owns:      the version, the download (the source package of llama-cpp-python), the build options,
#            the stamp that says "built for this processor".
# Does not:  write into the source tree, run anything it built, or touch GEMLINE_PEER's folder.
# GEMLINE_PEER=DIR names a build that is there already (DIR/bin/llama-bench ...).
set -euo pipefail
cd "$(dirname "$0")/../.."

PACKAGE=llama-cpp-python
VERSION=0.3.36
PROGRAMS="llama-bench llama-server llama-perplexity"
FREE_KIB=2000000 # source, objects, programs

say() { printf 'peer: %s\n' "$*" >&2; }
die() { printf 'peer: %s\n' "$*" >&2; exit 1; }

if [ -n "${GEMLINE_PEER:-}" ]; then
    for program in llama-bench llama-server; do
        [ -x "$GEMLINE_PEER/bin/$program" ] ||
            die "GEMLINE_PEER=$GEMLINE_PEER has no bin/$program; build it there, or unset it."
    done
    printf '%s\n' "$GEMLINE_PEER"
    exit 0
fi

[ -n "${XDG_CACHE_HOME:-}${HOME:-}" ] ||
    die "set HOME or XDG_CACHE_HOME, so that there is a cache folder."
dir=${XDG_CACHE_HOME:-${HOME:-}/.cache}/gemline/peer
build=$dir/$VERSION/build
stamp=$dir/$VERSION/built
# The build is for this very processor: another one builds anew.
want="$VERSION $( (grep -m 1 '^flags' /proc/cpuinfo || uname -m) | cksum)"
ready() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; }

if ! ready; then
    bash tools/setup.sh build bench
    mkdir -p "$dir" 2>/dev/null || die "cannot make $dir; set XDG_CACHE_HOME to another folder."
    { exec 9>"$dir/.lock"; } 2>/dev/null || die "cannot write to $dir; set XDG_CACHE_HOME."
    flock -n 9 || { say "waiting for another build"; flock 9; }
fi
if ! ready; then
    python=/usr/bin/python3
    [ -x "$python" ] || python=python3
    free=$(df -Pk "$dir" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$FREE_KIB" ] ||
        die "$dir has $((free / 1024)) MiB free of $((FREE_KIB / 1024)) needed; make room."
    rm -rf "${dir:?}/$VERSION"
    mkdir -p "$dir/$VERSION/source"
    log=$dir/$VERSION/log
    say "fetching $PACKAGE $VERSION (log: $log)"
    "$python" -m pip download -q --no-deps --no-binary "$PACKAGE" --no-cache-dir \
        --dest "$dir/$VERSION" "$PACKAGE==$VERSION" </dev/null >"$log" 2>&1 ||
        die "pip could not fetch $PACKAGE $VERSION; look at $log, check the network and pip's" \
            "index, then run make bench again (or set GEMLINE_PEER to a build of your own)."
    tar -xzf "$dir/$VERSION"/*.tar.gz -C "$dir/$VERSION/source" --strip-components=1 ||
        die "the package cannot be unpacked; run make bench again."
    rm -f "$dir/$VERSION"/*.tar.gz
    say "building: $PROGRAMS (some minutes, once)"
    cmake -S "$dir/$VERSION/source/vendor/llama.cpp" -B "$build" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
        </dev/null >>"$log" 2>&1 || die "cmake failed; its last words are in $log"
    # shellcheck disable=SC2086  # names are words
    ninja -C "$build" $PROGRAMS </dev/null 2>&1 | tee -a "$log" |
        awk '/^\[/ { n++; if (n % 25 == 0) { print "peer: " $1; fflush() } }' >&2 ||
        die "the build failed; its last words are in $log"
    printf '%s\n' "$want" >"$stamp"
    say "ready: $build"
fi
printf '%s\n' "$build"
