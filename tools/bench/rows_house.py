"""rows_house.py - the rows about the house around the kernels: first token, hops, memory, start.

Owns:      rows 4 to 9 and 11, and their goals.
Does not:  print, or start what the pool keeps.
"""
import os
import shutil
import signal
import subprocess
import tempfile
import time

import peer
from base import CACHE, Abba, Failed, NotBuilt, figure, median, prompt, say
from ours import GEMLINE, Pipeline, cpu_seconds, pss_bytes, sharers, with_children
from rows_speed import SHORTEST, plain

TTFT_TIMES, TTFT_NEW, TTFT_RUNS = 1.5, 20, 7
HOP_US, SHARDS, SHARDS_LEAST = 40.0, 4, 0.92
MEMORY_SPARE = 110e6
START_S, START_RUNS = 0.5, 5
IDLE_S, IDLE_SHARE, IDLE_SETTLE_S = 10.0, 0.01, 2.0
ADAPTER_LEAST = 0.95
PACK_SHARE = 0.8  # of the disk's own rate: "at disk speed"
DISK_BLOCK = 4 << 20
MEMORY_PROMPT = 448


def first_token(bench):
    """Row 4: a turn of 20 new tokens on a long history, against a fresh prompt of 20."""
    line = bench.pool.get(*plain(bench))
    name = "bench-%d" % os.getpid()
    history = bench.sizes["history"]
    line.run(prompt(history), 1, "--session", name)
    on_history, fresh, cached = [], [], []
    for _ in range(TTFT_RUNS):
        got = line.run(prompt(TTFT_NEW, words_only=True), 1, "--session", name)
        on_history.append(got["timings"]["ttft_ms"])
        cached.append(got["usage"]["prompt_tokens"] - got["usage"]["cached_tokens"])
        fresh.append(line.run(prompt(TTFT_NEW), 1)["timings"]["ttft_ms"])
    mine, base = median(on_history), median(fresh)
    return {"figures": [figure(
        "first token, %d new on %d tokens / fresh %d" % (TTFT_NEW, history, TTFT_NEW), "ms",
        ours=mine, ratio=mine / base, met=mine <= TTFT_TIMES * base,
        goal="at most %.1f x %.1f ms" % (TTFT_TIMES, base),
        note="%d tokens computed a turn" % median(cached))],
            "raw": {"history_ms": on_history, "fresh_ms": fresh}, "commands": line.commands}


def hops(bench):
    """Row 5: one shard against four, and a hop."""
    one = bench.pool.get(*plain(bench))
    four = bench.pool.get(*plain(bench, "--shards", SHARDS))
    answer = bench.sizes["answer"]

    def decode(line):
        return lambda: {"rate": line.decode(prompt(SHORTEST), answer)[0]}

    runs = Abba(bench.rounds, decode(four), decode(one))
    mine, base = runs.ours.median("rate"), runs.peer.median("rate")
    figures = [figure("%d shards / one shard, decode" % SHARDS, "tokens/s", ours=mine,
                      ratio=mine / base, met=mine >= SHARDS_LEAST * base,
                      goal="at least %.0f %% of %.1f" % (100 * SHARDS_LEAST, base))]
    for name, value in four.bench("hop").items():
        figures.append(figure(name, "us", ours=value, met=value <= HOP_US,
                              goal="at most %.0f us" % HOP_US))
    return {"figures": figures, "raw": runs.raw(), "commands": one.commands + four.commands}


def memory(bench):
    """Row 6: a fresh pipeline after one turn. Other pipelines of ours are taken down before: they
    map the same weights, and a page that two processes map counts half in each."""
    bench.pool.close()
    answer = bench.sizes["answer"]
    line = Pipeline(plain(bench))
    try:
        line.up()
        got = line.run(prompt(MEMORY_PROMPT), answer)
        tokens = got["usage"]["prompt_tokens"] + got["usage"]["completion_tokens"]
        pids = line.processes()
        used, kind, beside = pss_bytes(pids), line.kv_kind(), sharers(pids, bench.model)
    finally:
        line.close()
    with peer.Server(bench.model, bench.threads, 1, 8192) as server:
        server.ask(peer.completion(prompt(MEMORY_PROMPT), answer))
        theirs = pss_bytes(with_children({server.process.pid}))
        commands = line.commands + [server.shown()]
    weights, kv = bench.gguf.file_bytes(), bench.gguf.kv_kept_bytes(tokens, kind)
    most = weights + kv + MEMORY_SPARE
    return {"figures": [figure(
        "memory of all processes", "MB", ours=used / 1e6, peer=theirs / 1e6,
        met=None if beside else used <= most,
        goal="at most %.0f + %.0f + %.0f = %.0f MB" % (weights / 1e6, kv / 1e6,
                                                       MEMORY_SPARE / 1e6, most / 1e6),
        note="%d tokens kept as %s%s" % (tokens, kind, "; NOT WHOLE: %d other processes map the "
                                         "model" % beside if beside else ""))],
            "raw": {"pss": used, "peer_pss": theirs, "weights": weights, "kv": kv},
            "commands": commands}


def start(bench):
    """Row 7: from nothing to a served turn, both sides in turn."""
    line = Pipeline(("--threads", bench.threads))
    mine, theirs = [], []
    try:
        line.up()  # packs, if that is still to be done
        line.down()
        for _ in range(START_RUNS):
            began = time.monotonic()
            line.up()
            line.run(prompt(SHORTEST), 1)
            mine.append(time.monotonic() - began)
            line.down()
            began = time.monotonic()
            with peer.Server(bench.model, bench.threads, 1, 8192) as server:
                server.ask(peer.completion(prompt(SHORTEST), 1))
                theirs.append(time.monotonic() - began)
                command_of_peer = server.shown()
    finally:
        line.close()
    return {"figures": [figure("start to a served turn", "s", ours=median(mine),
                               peer=median(theirs), met=median(mine) <= START_S,
                               goal="at most %.1f s" % START_S)],
            "raw": {"ours": mine, "peer": theirs}, "commands": line.commands + [command_of_peer]}


def idle(bench):
    """Row 8: CPU time of every process over ten seconds in which nothing is asked."""
    line = bench.pool.get(*plain(bench))
    line.run(prompt(SHORTEST), 8)
    time.sleep(IDLE_SETTLE_S)
    pids = line.processes()
    before, began = cpu_seconds(pids), time.monotonic()
    time.sleep(IDLE_S)
    share = (cpu_seconds(pids) - before) / (time.monotonic() - began)
    return {"figures": [figure("idle, all processes", "% of a core", ours=100 * share,
                               met=share < IDLE_SHARE, goal="under %.0f %%" % (100 * IDLE_SHARE),
                               note="%d processes" % len(pids))],
            "raw": {"share": share}, "commands": line.commands[:1]}


def adapter(bench):
    """Row 9: the default chat adapter against none."""
    none = bench.pool.get(*plain(bench))
    chat = bench.pool.get(*[o for o in plain(bench) if o not in ("--adapter", "none")])
    answer = bench.sizes["answer"]

    def decode(line):
        return lambda: {"rate": line.decode(prompt(SHORTEST), answer)[0]}

    runs = Abba(bench.rounds, decode(chat), decode(none))
    mine, base = runs.ours.median("rate"), runs.peer.median("rate")
    return {"figures": [figure("decode with the chat adapter / without", "tokens/s", ours=mine,
                               ratio=mine / base, met=mine >= ADAPTER_LEAST * base,
                               goal="at least %.0f %% of %.1f" % (100 * ADAPTER_LEAST, base))],
            "raw": runs.raw(), "commands": chat.commands + none.commands[:1]}


# ---- row 11 -------------------------------------------------------------------------------------
def folder_bytes(folder):
    return sum(os.path.getsize(os.path.join(at, name))
               for at, _, names in os.walk(folder) for name in names)


def disk_rate(folder, size):
    """Bytes a second of a plain write with a sync at its end, in the same folder."""
    block = os.urandom(DISK_BLOCK)
    path = os.path.join(folder, "disk-rate")
    began = time.monotonic()
    with open(path, "wb") as file:
        for _ in range(max(size // DISK_BLOCK, 1)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = max(size // DISK_BLOCK, 1) * DISK_BLOCK / (time.monotonic() - began)
    os.remove(path)
    return rate


def timed_start(options, pack):
    """(seconds of `up --detach`, ids of a greedy answer, commands)."""
    line = Pipeline(options, env={"GEMLINE_PACK": pack})
    try:
        began = time.monotonic()
        line.up()
        took = time.monotonic() - began
        return took, line.run(" The river of the city", 8)["ids"], line.commands
    finally:
        line.close()


def killed_start(options, pack, after):
    """Starts a pipeline and kills all of its processes `after` seconds later."""
    line = Pipeline(options, env={"GEMLINE_PACK": pack})
    try:
        child = subprocess.Popen([GEMLINE, "up", "--detach"] + line.options, env=line.env,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        time.sleep(after)
        victims = with_children({child.pid})
        try:
            victims |= set(line.processes())
        except (OSError, ValueError, KeyError):
            pass  # it had not come so far
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        line.kill_strays()
        child.wait()
    finally:
        line.close()


def pack(bench):
    """Row 11: the first start on a new machine, and one that is killed half way."""
    os.makedirs(CACHE, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-pack-", dir=CACHE)
    options = [o for o in plain(bench)]
    where = os.path.join(folder, "pack")
    try:
        first, ids, commands = timed_start(options, where)
        size = folder_bytes(where) if os.path.isdir(where) else 0
        if size == 0:
            raise NotBuilt("not built: a first start leaves nothing in GEMLINE_PACK")
        again, same_ids, _ = timed_start(options, where)
        disk = disk_rate(folder, size)
        shutil.rmtree(where)
        killed_start(options, where, first / 2)
        after, after_ids, _ = timed_start(options, where)
        size_after = folder_bytes(where)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if ids != same_ids:
        raise Failed("the second start answers %s, the first %s" % (same_ids, ids))
    rate = size / max(first - again, 1e-3)
    good = after_ids == ids
    say("pack: %d bytes, first start %.2f s, then %.2f s" % (size, first, again))
    return {"figures": [
        figure("pack, first start less a later one", "MB/s", ours=rate / 1e6, limit=disk / 1e6,
               met=rate >= PACK_SHARE * disk,
               goal="%.0f %% of a plain write and sync" % (100 * PACK_SHARE),
               note="%.0f MB in %.2f s; later starts take %.2f s" % (size / 1e6, first - again,
                                                                     again)),
        figure("start after a killed pack", "s", ours=after, met=good,
               goal="the same answer",
               note="%s answer; %.0f MB packed" % ("same" if good else "ANOTHER",
                                                   size_after / 1e6))],
            "raw": {"bytes": size, "first_s": first, "again_s": again, "disk": disk,
                    "after_kill_s": after}, "commands": ["GEMLINE_PACK=" + "DIR " + commands[0]]}
