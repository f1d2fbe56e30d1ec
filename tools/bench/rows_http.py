"""rows_http.py - the rows of the HTTP server: `gemline load` on the gateway and on llama-server.

Owns:      rows 12 to 16 and their goals: all tokens, first token, conversations, connections,
           overload.
Does not:  send requests (gemline load), print, or start what the pool keeps.
"""
import os
import random
import threading

import peer
from base import Abba, Failed, NotBuilt, command_json, figure, shown
from ours import GEMLINE, has_command

RATE_TIMES = {1: 2.0, 8: 3.0, 32: 3.0}
SLOTS, SLOT_CONTEXT = 8, 4096  # -np 8 -c 32768
PEER_CACHE_MIB = 8192  # what llama-server keeps of other prompts unless told
LATER_SHARE = 1 / 3
RSS_MOST = 120e6
SPEED_LEAST, REFUSAL_MS, OVER = 0.8, 50.0, 5
STREAM_TOKENS = 98304  # of the pool: 200 prompts of about 75 tokens with answers of 256
LOOK_S = 0.1  # between two looks at the gateway's memory
FULL = {"clients": [1, 8, 32], "each": {1: 6, 8: 3, 32: 2}, "tokens": 64, "first": 500,
        "first_tokens": 16, "first_clients": 8, "turns": 6, "talkers": 8, "idle": 10000,
        "streams": 200, "stream_tokens": 256, "seconds": 60}
QUICK = {"clients": [1, 4], "each": {1: 2, 4: 1}, "tokens": 16, "first": 16,
         "first_tokens": 4, "first_clients": 4, "turns": 3, "talkers": 2, "idle": 200,
         "streams": 10, "stream_tokens": 32, "seconds": 8}


def sizes(bench):
    return QUICK if bench.quick else FULL


def plain(bench, *more):
    """The options of the pipeline whose gateway is asked: the defaults, without what the peer does
    not have."""
    return ("--adapter", "none", "--speculate", "off", "--threads", bench.threads) + more


class Loads:
    """Runs `gemline load`; each run has other prompts, and its command is remembered once."""

    def __init__(self):
        self.commands, self._kinds, self._seed = [], set(), random.randrange(1 << 40)

    def words(self, url, *options):
        self._seed += 1
        words = [GEMLINE, "load", "--url", url, "--json", "--seed", self._seed] + list(options)
        kind = (url,) + options
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.commands.append(shown(words))
        return words

    def run(self, url, *options):
        return command_json(self.words(url, *options))

    def whole(self, url, *options):
        """As run(); every request must have been answered."""
        got = self.run(url, *options)
        if got["done"] != got["requests"]:
            raise Failed("%d of %d requests of %s were answered; %s" % (
                got["done"], got["requests"], url,
                got.get("first_failure") or got.get("first_refusal")))
        return got


def gateway(bench, *more):
    """A pipeline of the pool and the address of its gateway."""
    if not has_command("load"):
        raise NotBuilt("not built: this gemline has no load")
    if not os.path.isfile(os.path.join(os.path.dirname(GEMLINE), "gm-gateway")):
        raise NotBuilt("not built: there is no gm-gateway")
    line = bench.pool.get(*plain(bench, *more))
    return line, "http://" + line.status()["http"]


def beside(bench, rounds, measure, cache_mib=0):
    """Alternating runs of measure(loads, url) on the gateway and on llama-server."""
    loads = Loads()
    line, url = gateway(bench)
    with peer.Server(bench.model, bench.threads, SLOTS, SLOT_CONTEXT,
                     cache_mib=cache_mib) as other:
        for one in (url, other.url()):  # warm-up
            loads.run(one, "--clients", 2, "--max-tokens", 8)
        loads.commands = []
        runs = Abba(rounds, lambda: measure(loads, url), lambda: measure(loads, other.url()))
        commands = line.commands + [other.shown()] + loads.commands
    return runs, commands


def rates(bench):
    """Row 12: all tokens a second at one client, eight and 32."""
    size = sizes(bench)

    def measure(loads, url):
        return {n: loads.whole(url, "--clients", n, "--requests", n * size["each"][n],
                               "--max-tokens", size["tokens"])["tokens_per_s"]
                for n in size["clients"]}

    runs, commands = beside(bench, bench.rounds, measure)
    lines = []
    for n in size["clients"]:
        mine, theirs, times = runs.ours.median(n), runs.peer.median(n), RATE_TIMES.get(n, 3.0)
        lines.append(figure("HTTP, %d client%s, all tokens" % (n, "s" if n > 1 else ""),
                            "tokens/s", ours=mine, peer=theirs, met=mine >= times * theirs,
                            goal="%.1f x peer" % times))
    return {"figures": lines, "raw": runs.raw(), "commands": commands}


def first_token(bench):
    """Row 13: the slowest first tokens of ours against the median of the peer's. One round: each
    run is hundreds of requests."""
    size = sizes(bench)

    def measure(loads, url):
        got = loads.whole(url, "--clients", size["first_clients"], "--requests", size["first"],
                          "--max-tokens", size["first_tokens"])["ttft_ms"]
        return {"p50": got["p50"], "p99": got["p99"]}

    runs, commands = beside(bench, 1, measure)
    name = "HTTP, first token of %d requests, %d clients" % (size["first"], size["first_clients"])
    mine, theirs = runs.ours.median("p99"), runs.peer.median("p50")
    return {"figures": [
        figure(name + ", p50", "ms", ours=runs.ours.median("p50"), peer=theirs),
        figure(name + ", p99", "ms", ours=mine, peer=runs.peer.median("p99"), met=mine < theirs,
               goal="below the peer's p50, %.1f ms" % theirs)],
            "raw": runs.raw(), "commands": commands}


def conversations(bench):
    """Row 14: conversations whose client sends all of the history with each turn. llama-server has
    its own prompt cache here."""
    size = sizes(bench)

    def measure(loads, url):
        got = loads.whole(url, "--clients", size["talkers"], "--turns", size["turns"],
                          "--max-tokens", size["tokens"])
        return {"later": got["ttft_later_ms"]["p50"], "p99": got["ttft_later_ms"]["p99"],
                "cached": got["cached_tokens"] / max(got["prompt_tokens"], 1)}

    runs, commands = beside(bench, bench.rounds, measure, PEER_CACHE_MIB)
    mine, theirs = runs.ours.median("later"), runs.peer.median("later")
    name = "HTTP, first token of turns 2 to %d, %d clients" % (size["turns"], size["talkers"])
    return {"figures": [
        figure(name + ", p50", "ms", ours=mine, peer=theirs, met=mine <= LATER_SHARE * theirs,
               goal="at most a third of the peer's",
               note="%.0f %% of prompts from the cache, the peer's %.0f %%"
               % (100 * runs.ours.median("cached"), 100 * runs.peer.median("cached"))),
        figure(name + ", p99", "ms", ours=runs.ours.median("p99"),
               peer=runs.peer.median("p99"))],
            "raw": runs.raw(), "commands": commands}


# ---- rows without a peer -------------------------------------------------------------------------
def rss_bytes(pid):
    with open("/proc/%d/status" % pid, encoding="utf-8") as file:
        return next(int(row.split()[1]) for row in file if row.startswith("VmRSS:")) * 1024


class Watch:
    """The most memory that a process had, looked at while something runs; use it in a `with`."""

    def __init__(self, pid):
        self.pid, self.most = pid, rss_bytes(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._stop.wait(LOOK_S):
            try:
                self.most = max(self.most, rss_bytes(self.pid))
            except (OSError, StopIteration):
                return  # it ended; what asks it says so

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def connections(bench):
    """Row 15: connections that ask nothing, and streams beside them, on one gateway."""
    size = sizes(bench)
    loads = Loads()
    line, url = gateway(bench, "--kv-tokens", STREAM_TOKENS)
    pid = next(p["pid"] for p in line.status()["processes"] if p["role"] == "gateway")
    loads.run(url, "--max-tokens", 8)
    loads.commands = []
    with Watch(pid) as watch:
        got = loads.run(url, "--idle", size["idle"], "--clients", size["streams"], "--requests",
                        size["streams"], "--max-tokens", size["stream_tokens"])
    kept = got["idle"]["usable"]
    lost = got["requests"] - got["done"]
    with_all = "beside %d idle connections, %d streams" % (size["idle"], size["streams"])
    return {"figures": [
        figure("gateway's memory " + with_all, "MB", ours=watch.most / 1e6,
               met=watch.most < RSS_MOST, goal="under %.0f MB" % (RSS_MOST / 1e6)),
        figure("streams lost", "", ours=lost, met=lost == 0, goal="none",
               note=got.get("first_failure") or got.get("first_refusal") or
               "%d at once" % got["at_once"]),
        figure("idle connections lost", "", ours=size["idle"] - kept, met=kept == size["idle"],
               goal="none", note=got.get("idle_lost") or "")],
            "raw": {"rss": watch.most, "load": got}, "commands": line.commands + loads.commands}


def overload(bench):
    """Row 16: requests at random times, as many as are served and five times as many."""
    size = sizes(bench)
    loads = Loads()
    line, url = gateway(bench)
    loads.run(url, "--clients", 2, "--max-tokens", 8)
    loads.commands = []
    tokens = ("--max-tokens", size["tokens"])
    most = loads.whole(url, "--clients", 32, "--requests", 32 if bench.quick else 128, *tokens)
    rate = most["done"] / most["wall_s"]
    once, over = (loads.run(url, "--rate", "%.3f" % (times * rate), "--duration",
                            "%ds" % size["seconds"], *tokens) for times in (1, OVER))
    strange = {k: v for k, v in over["refused_by_status"].items() if k != "429"}
    if strange or over["failed"] or over["refused"] != over["refused_with_retry_after"]:
        raise Failed("under overload: %d failed (%s), refused with %s, %d of %d with Retry-After"
                     % (over["failed"], over.get("first_failure"), over["refused_by_status"],
                        over["refused_with_retry_after"], over["refused"]))
    base, mine = (got["request_tokens_per_s"]["p50"] for got in (once, over))
    late = over["refusal_ms"]["p99"] if over["refused"] else None
    return {"figures": [
        figure("speed of an answer at %d x / at 1 x the requests" % OVER, "tokens/s", ours=mine,
               ratio=mine / base, met=mine >= SPEED_LEAST * base,
               goal="at least %.0f %% of %.1f" % (100 * SPEED_LEAST, base),
               note="%.1f requests a second are served; %d of %d refused at 1 x, %d of %d at %d x"
               % (rate, once["refused"], once["requests"], over["refused"], over["requests"],
                  OVER)),
        figure("first token at %d x / at 1 x, p50" % OVER, "ms", ours=over["ttft_ms"]["p50"],
               ratio=over["ttft_ms"]["p50"] / once["ttft_ms"]["p50"]),
        figure("refusals at %d x, p99" % OVER, "ms", ours=late,
               met=None if late is None else late <= REFUSAL_MS,
               goal="at most %.0f ms" % REFUSAL_MS,
               note="NOTHING was refused" if late is None else "")],
            "raw": {"most": most, "once": once, "over": over},
            "commands": line.commands + loads.commands}
