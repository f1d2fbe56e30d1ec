"""main.py - the side-by-side benchmark: Gemline and llama.cpp on the same file and threads.

Owns:      the options, the list of rows and their order, build/bench.json and the two plots.
Does not:  know how a row is measured (rows_speed.py, rows_house.py, rows_http.py, quality.py).
"""
import argparse
import datetime
import json
import os
import signal
import subprocess
import sys

import ours
import peer
import plot
import quality
import report
import rows_house
import rows_http
import rows_speed
from base import MODEL, QUIET_CORES, ROOT, Failed, NotBuilt, Samples, figure, others, say
from gguf import Gguf

BUILD = os.path.join(ROOT, "build")
RECORD = os.path.join(BUILD, "bench.json")
# row of the result whose "plot" is drawn: file, title, x axis, evenly spaced, title on the page
PLOTS = {
    "1": ("bench-context.svg", "Decode, one stream", "tokens of context", False,
          "tokens a second against context"),
    "3": ("bench-sessions.svg", "Decode, all sessions together", "sessions at once", True,
          "tokens a second against sessions"),
}
# row: what it is, its function; rows that start pipelines of their own come last, so that what
# runs is used by as many rows as possible
ROWS = (
    ("1", "decode, one stream", rows_speed.decode),
    ("2", "prefill", rows_speed.prefill),
    ("3", "eight sessions at once", rows_speed.sessions),
    ("4", "first token on a long history", rows_house.first_token),
    ("5", "hops and shards", rows_house.hops),
    ("8", "idle", rows_house.idle),
    ("9", "the chat adapter", rows_house.adapter),
    ("12", "HTTP, all tokens", rows_http.rates),
    ("13", "HTTP, first token", rows_http.first_token),
    ("14", "HTTP, conversations", rows_http.conversations),
    ("16", "HTTP, overload", rows_http.overload),
    ("15", "HTTP, connections", rows_http.connections),
    ("quality", "distance from the reference", quality.quality),
    ("6", "memory", rows_house.memory),
    ("7", "start", rows_house.start),
    ("10", "other shapes", rows_speed.shapes),
    ("11", "pack", rows_house.pack),
)
ORDER = [str(n) for n in range(1, 17)] + ["quality"]
SIZES = {"contexts": [0, 2048, 8192], "prefill": [512, 2048], "answer": 64, "beside": 4000,
         "history": 4000, "streams": [1, 2, 4, 8]}
SIZES_QUICK = {"contexts": [0, 256], "prefill": [128], "answer": 16, "beside": 400,
               "history": 300, "streams": [1, 2]}


class Bench:
    """What every row is given."""

    def __init__(self, options):
        self.model, self.threads, self.quick = options.model, options.threads, options.quick
        self.rounds = options.rounds or (1 if options.quick else 3)
        self.sizes = SIZES_QUICK if options.quick else SIZES
        self.pool = ours.Pool()
        self.gguf = Gguf(options.model)
        self.speed = Samples()

    def bandwidth(self):
        got = ours.bandwidth(self.threads)
        self.speed.add(got)
        return got


def run_row(bench, name, what, measure):
    """The row's result; a failure is its one line. Where others worked on the machine meanwhile, no
    goal is judged."""
    say("row %s: %s" % (name, what))
    others.look()
    try:
        result = measure(bench)
        others.look()
    except NotBuilt as reason:
        result = {"figures": [figure(what, "", note=str(reason))]}
    except (Failed, OSError, ValueError, KeyError, TypeError, StopIteration,
            ArithmeticError) as problem:
        kind = "" if isinstance(problem, Failed) else type(problem).__name__ + ": "
        result = {"figures": [figure(what, "", note="FAILED: %s%s" % (kind, problem))],
                  "failed": True}
    cores = result["others_cores"] = round(others.take(), 2)
    for line in result["figures"]:
        if cores > QUIET_CORES and line["met"] is not None and name != "quality":
            line["met"] = None
            line["note"] = "; ".join(filter(None, (
                "DISTURBED: others used up to %.1f cores" % cores, line["note"])))
    result.setdefault("commands", [])
    result["row"], result["quick"] = name, bench.quick
    result["date"] = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    return result


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        found = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return "%s (%d processors)" % (found[0] if found else "unknown", os.cpu_count())


def record_of(bench, results):
    """What build/bench.json holds."""
    try:
        peer_is = peer.version() if peer.built.cache_info().currsize else "not run"
    except Failed as problem:
        peer_is = str(problem)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True, check=False).stdout.strip()
    speed = {k: bench.speed.median(k) for k in ("median", "best")} if bench.speed.all else None
    return {"run": {"date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"), "commit": commit,
                    "cpu": cpu_name(), "threads": bench.threads, "rounds": bench.rounds,
                    "model": os.path.basename(bench.model), "bandwidth": speed, "peer": peer_is,
                    "quick": any(r["quick"] for r in results)}, "results": results}


def store(record):
    """build/bench.json and the plots whose rows were measured."""
    os.makedirs(BUILD, exist_ok=True)
    with open(RECORD, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.write("\n")
    for result in record["results"]:
        if result["row"] in PLOTS and len(result.get("plot", ())) > 1:
            name, title, x_title, evenly, _ = PLOTS[result["row"]]
            with open(os.path.join(BUILD, name), "w", encoding="utf-8") as file:
                file.write(plot.draw(title, x_title, result["plot"], ("Gemline", "llama.cpp"),
                                     evenly))


def load():
    try:
        with open(RECORD, encoding="utf-8") as file:
            return json.load(file)
    except OSError:
        raise Failed("there is no build/bench.json; run make bench first") from None


def parse(words):
    parser = argparse.ArgumentParser(
        prog="tools/bench.sh", description="Gemline beside llama.cpp: one table.")
    parser.add_argument("--rows", default="all", help="as 1,2,5 (%s)" % ",".join(ORDER))
    parser.add_argument("--rounds", type=int, default=0, help="of ours, peer, peer, ours")
    parser.add_argument("--threads", type=int, default=2, help="of each side (2)")
    parser.add_argument("--model", default=MODEL, help="a GGUF file (the default model)")
    parser.add_argument("--quick", action="store_true",
                        help="small sizes, to try the benchmark itself; no figure counts")
    parser.add_argument("--merge", action="store_true",
                        help="keep the other rows of the last build/bench.json")
    parser.add_argument("--write-docs", action="store_true",
                        help="measure nothing: put the last build/bench.json into "
                             "docs/performance.md")
    options = parser.parse_args(words)
    wanted = ORDER if options.rows == "all" else options.rows.split(",")
    unknown = [w for w in wanted if w not in ORDER]
    if unknown or options.rounds < 0 or options.threads < 1:
        parser.error("no such row: %s" % ",".join(unknown) if unknown
                     else "--rounds and --threads are positive numbers")
    if not options.write_docs and not os.path.isfile(options.model):
        parser.error("%s is not there; run make model" % options.model)
    return options, wanted


def measure(options, wanted):
    """Runs the rows, stores and prints; the exit status."""
    bench = Bench(options)
    results = []
    try:
        for name, what, function in ROWS:
            if name in wanted:
                results.append(run_row(bench, name, what, function))
    finally:
        bench.pool.close()
    failed = any(r.get("failed") for r in results)
    if options.merge and os.path.isfile(RECORD):
        fresh = {r["row"] for r in results}
        results += [r for r in load()["results"] if r["row"] not in fresh]
    results.sort(key=lambda r: ORDER.index(r["row"]))
    record = record_of(bench, results)
    store(record)
    print(report.table(results))
    print()
    print(report.commands(results))
    print()
    print(report.about(record))
    print("build/bench.json holds every measurement.")
    return 1 if failed else 0


def main(words):
    options, wanted = parse(words)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda *_: sys.exit(1))
    try:
        if options.write_docs:
            report.write_page(load(), [(os.path.join(BUILD, p[0]), p[4]) for p in PLOTS.values()])
            return 0
        return measure(options, wanted)
    except Failed as problem:
        say(str(problem))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
