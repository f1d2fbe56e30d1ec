#!/usr/bin/env bash
# bench.sh - decode and prefill tokens a second of this build, one conversation, context empty.
#
# Owns:      the two commands, five runs of each, the medians.
# Does not:  compare with the machine's memory bandwidth, or use a pipeline that is running.
# Options of `gemline up` may follow:  bench.sh --shards 2 --threads 4
set -euo pipefail
cd "$(dirname "$0")/.."

GEMLINE_HOME=$(mktemp -d)
export GEMLINE_HOME
# shellcheck disable=SC2317  # the trap calls it
finish() {
    build/bin/gemline down >/dev/null 2>&1 || true
    rm -rf "$GEMLINE_HOME"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

build/bin/gemline up --detach "$@" >/dev/null
/usr/bin/python3 - <<'PY'
import json, statistics, subprocess

RUNS, ANSWER, WORDS = 5, 128, 500
BASE = ["build/bin/gemline", "run", "--raw", "--temperature", "0", "--json"]
TEXT = " ".join("The %s of the %s." % (a, b)
                for a in ("river", "house", "north", "letter", "engine")
                for b in ("city", "sea", "winter", "book", "queen"))


def run(options, prompt):
    done = subprocess.run(BASE + options + ["--", prompt], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("bench: gemline run failed: " + done.stderr.strip())
    return json.loads(done.stdout)


def decode(_):
    out = run(["--ignore-eos", "--max-tokens", str(ANSWER)], "The capital of France is")
    return (out["usage"]["completion_tokens"] - 1) * 1000 / out["timings"]["decode_ms"]


def prefill(number):
    # The first word differs each time, so that nothing comes from the prefix cache.
    words = ("%d %s " % (number, TEXT) + (TEXT + " ") * (WORDS // len(TEXT.split())))
    out = run(["--max-tokens", "1"], words)
    global prompt_tokens
    prompt_tokens = out["usage"]["prompt_tokens"]
    return (prompt_tokens - out["usage"]["cached_tokens"]) * 1000 / out["timings"]["prefill_ms"]


run(["--max-tokens", "8"], "Warm up.")
print("%-8s %10s %10s %10s   %s" % ("", "median", "slowest", "fastest", "tokens/s from"))
for name, measure, command in (
        ("decode", decode, "%s --ignore-eos --max-tokens %d 'The capital of France is'"
         % (" ".join(BASE), ANSWER)),
        ("prefill", prefill, "%s --max-tokens 1 (a prompt of %%d tokens)" % " ".join(BASE))):
    rates = [measure(number) for number in range(RUNS)]
    command = command % prompt_tokens if "%d" in command else command
    print("%-8s %10.1f %10.1f %10.1f   %s"
          % (name, statistics.median(rates), min(rates), max(rates), command))
print("%d runs each. decode: (tokens - 1) / decode_ms. prefill: tokens computed / prefill_ms, which"
      " holds the\nway of one token through the pipeline too." % RUNS)
PY
