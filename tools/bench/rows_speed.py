"""rows_speed.py - the rows that are set against the peer: decode, prefill, sessions, other shapes.

Owns:      rows 1, 2, 3 and 10: what is run on both sides, and their goals.
Does not:  print, or start what the pool keeps.
"""
import os
import shutil
import tempfile

import peer
from base import CACHE, Abba, Failed, NotBuilt, command, figure, median, prompt, shown
from gguf import Gguf
from ours import GEMLINE, Pool, has_command

DECODE_TIMES, DECODE_SHARE = 2.0, 0.80
PREFILL_TIMES = 3.0
SESSIONS_TIMES = 3.0
GAP_P99_TIMES, GAP_LONGEST_TIMES, LONG_TIMES = 1.5, 3.0, 3.0
SHAPE_DECODE_TIMES, SHAPE_PREFILL_TIMES, SHAPE_SHARE = 1.3, 1.5, 0.85
SHAPES = [(variant, kind) for variant in ("1b", "4b") for kind in ("q4_0", "q4_k_m")]
SESSION_PROMPT, SLOT_CONTEXT = 64, 512
SPARE = 128  # tokens of context beyond prompt and answer
SHORTEST = 2  # <bos> and one word: what "context 0" is


def plain(bench, *more):
    """The options of the pipeline that the peer is compared with."""
    longest = max(bench.sizes["contexts"] + bench.sizes["prefill"] + [bench.sizes["beside"]])
    return ("--adapter", "none", "--speculate", "off", "--threads", bench.threads, "--context",
            max(8192, longest + bench.sizes["answer"] + SPARE)) + more


def decode_limit(gguf, kind, context, speed):
    """Tokens a second when each byte of weights, keys and values is read once at `speed`."""
    return speed / (gguf.token_bytes() + gguf.kv_read_bytes(context, kind))


def decode(bench):
    """Row 1."""
    contexts, answer = bench.sizes["contexts"], bench.sizes["answer"]
    line = bench.pool.get(*plain(bench))
    kind = line.kv_kind()

    def ours():
        return {c: line.decode(prompt(max(c, SHORTEST)), answer)[0] for c in contexts}

    runs = Abba(bench.rounds, ours, lambda: peer.decode(bench.model, bench.threads, contexts,
                                                        answer), bench.bandwidth)
    lines, points = [], []
    for context in contexts:
        mine, theirs = runs.ours.median(context), runs.peer.median(context)
        limit = decode_limit(bench.gguf, kind, context + answer / 2, runs.speed.median("median"))
        need = min(DECODE_TIMES * theirs, DECODE_SHARE * limit)
        lines.append(figure("decode, context %d" % context, "tokens/s", ours=mine, peer=theirs,
                            limit=limit, met=mine >= need,
                            goal="%.1f x peer or %.0f %% of the limit: %.1f"
                            % (DECODE_TIMES, 100 * DECODE_SHARE, need)))
        points.append((context, mine, theirs))
    return {"figures": lines, "plot": points, "raw": runs.raw(), "commands":
            line.commands + [shown(peer.bench_words(
                bench.model, bench.threads, "-p", 0, "-n", answer, "-d",
                ",".join(map(str, contexts))))]}


def prefill(bench):
    """Row 2."""
    sizes = bench.sizes["prefill"]
    line = bench.pool.get(*plain(bench))
    runs = Abba(bench.rounds, lambda: {n: line.prefill(prompt(n)) for n in sizes},
                lambda: peer.prefill(bench.model, bench.threads, sizes), bench.bandwidth)
    lines = []
    for size in sizes:
        mine, theirs = runs.ours.median(size), runs.peer.median(size)
        lines.append(figure("prefill, %d tokens" % size, "tokens/s", ours=mine, peer=theirs,
                            met=mine >= PREFILL_TIMES * theirs,
                            goal="%.1f x peer" % PREFILL_TIMES))
    return {"figures": lines, "raw": runs.raw(), "commands":
            line.commands + [shown(peer.bench_words(bench.model, bench.threads, "-n", 0, "-p",
                                                         ",".join(map(str, sizes))))]}


def sessions(bench):
    """Row 3: the same load on both sides, then a long prompt beside it on ours."""
    counts, answer = bench.sizes["streams"], bench.sizes["answer"]
    line = bench.pool.get(*plain(bench))

    def load(side):
        numbers = {}
        for count in counts:
            got = side.together([prompt(SESSION_PROMPT) for _ in range(count)], answer)
            numbers["rate %d" % count], numbers["wall %d" % count] = got["rate"], got["wall"]
        return numbers

    with peer.Server(bench.model, bench.threads, max(counts), SLOT_CONTEXT) as server:
        load(line), load(server)  # warm-up
        runs = Abba(bench.rounds, lambda: load(line), lambda: load(server), bench.bandwidth)
        command_of_peer = server.shown()
    most = max(counts)
    mine, theirs = runs.ours.median("rate %d" % most), runs.peer.median("rate %d" % most)
    lines = [figure("%d sessions, all tokens" % most, "tokens/s", ours=mine, peer=theirs,
                    met=mine >= SESSIONS_TIMES * theirs, goal="%.1f x peer" % SESSIONS_TIMES),
             figure("%d sessions, start to last token" % most, "s",
                    ours=runs.ours.median("wall %d" % most),
                    peer=runs.peer.median("wall %d" % most))]
    points = [(c, runs.ours.median("rate %d" % c), runs.peer.median("rate %d" % c))
              for c in counts]
    try:
        lines += beside(bench, line, most)
    except Failed as problem:
        lines.append(figure("a long prompt beside them", "", note=str(problem)))
    return {"figures": lines, "plot": points, "raw": runs.raw(), "commands":
            line.commands + [command_of_peer]}


def beside(bench, line, streams):
    """Gaps between the tokens of running answers while a long prompt is read."""
    long = bench.sizes["beside"]
    tries = [line.bench("sessions", "--streams", streams, "--runs", 1, "--tokens", 8, "--beside",
                        long) for _ in range(bench.rounds)]

    def pick(word):
        return median([next(v for k, v in one.items() if word in k) for one in tries])

    step, p99, longest = pick("without it"), pick("p99"), pick("longest")
    alone, with_others = pick("alone"), pick("beside, first")
    rows = (("p99 step beside %d tokens / median step" % long, p99, step, GAP_P99_TIMES),
            ("longest step beside them / median step", longest, step, GAP_LONGEST_TIMES),
            ("first token of the long prompt beside / alone", with_others, alone, LONG_TIMES))
    return [figure(name, "ms", ours=value, ratio=value / base, met=value <= times * base,
                   goal="at most %.1f x %.1f ms" % (times, base))
            for name, value, base, times in rows]


def shapes(bench):
    """Row 10: random weights in the real shapes, made by `gemline synth`."""
    if bench.quick:
        raise NotBuilt("left out by --quick")
    if not has_command("synth"):
        raise NotBuilt("not built: this gemline has no synth")
    lines, raw, commands = [], {}, []
    os.makedirs(CACHE, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-", dir=CACHE)
    try:
        for variant, kind in SHAPES:
            path = os.path.join(folder, "gemma-3-%s-%s.gguf" % (variant, kind))
            name = "%s %s" % (variant.upper(), kind.upper())
            words = [GEMLINE, "synth", "--variant", variant, "--type", kind, path]
            commands.append(shown(words))
            try:
                command(words)
                got, raw[name] = shape(bench, path, name, commands)
                lines += got
            except (Failed, OSError, ValueError) as problem:
                lines.append(figure(name, "", note=str(problem)))
            finally:
                if os.path.exists(path):
                    os.remove(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"figures": lines, "raw": raw, "commands": commands}


def shape(bench, path, name, commands):
    """Decode and prefill of one file, on a pipeline of its own that packs into its own folder."""
    size, answer = bench.sizes["prefill"][0], bench.sizes["answer"]
    gguf = Gguf(path)
    pool = Pool(env={"GEMLINE_PACK": os.path.join(os.path.dirname(path), "pack")})
    try:
        line = pool.get("--model", path, *plain(bench))
        kind = line.kv_kind()
        runs = Abba(bench.rounds,
                    lambda: {"decode": line.decode(prompt(SHORTEST), answer)[0],
                             "prefill": line.prefill(prompt(size))},
                    lambda: {"decode": peer.decode(path, bench.threads, [0], answer)[0],
                             "prefill": peer.prefill(path, bench.threads, [size])[size]},
                    bench.bandwidth)
        commands += [c for c in line.commands if c not in commands]
    finally:
        pool.close()
        shutil.rmtree(os.path.join(os.path.dirname(path), "pack"), ignore_errors=True)
    limit = decode_limit(gguf, kind, answer / 2, runs.speed.median("median"))
    mine, theirs = runs.ours.median("decode"), runs.peer.median("decode")
    lines = [figure(name + ", decode", "tokens/s", ours=mine, peer=theirs, limit=limit,
                    met=mine >= max(SHAPE_DECODE_TIMES * theirs, SHAPE_SHARE * limit),
                    goal="%.1f x peer and %.0f %% of the limit"
                    % (SHAPE_DECODE_TIMES, 100 * SHAPE_SHARE))]
    mine, theirs = runs.ours.median("prefill"), runs.peer.median("prefill")
    lines.append(figure("%s, prefill, %d tokens" % (name, size), "tokens/s", ours=mine,
                        peer=theirs, met=mine >= SHAPE_PREFILL_TIMES * theirs,
                        goal="%.1f x peer" % SHAPE_PREFILL_TIMES))
    return lines, runs.raw()
