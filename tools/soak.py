"""soak.py - a pipeline at full load for a while: does its memory stand still?

Owns:      the pipeline of a soak, its samples, the table, the exit status (1: something grew).
Does not:  make the load (soak/load.py) or say what growth is (soak/verdict.py).

    soak.py [--seconds 1800] [--warm-up 660] [--clients 18] [--every 5] [--json FILE]

Two shards, a small KV pool, bounded names of sessions. Before the load is judged it runs for a
warm-up: pages of the pool are touched for the first time, and the records of ended turns fill the
ten minutes that Redis keeps them. The pipeline comes to rest before the judged time and after it.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "soak"))
import load  # noqa: E402  (lies below this file)
import verdict  # noqa: E402

BIN = os.path.join(HERE, "..", "build", "release", "bin")
GEMLINE = os.path.abspath(os.path.join(BIN, "gemline"))
SHARDS = 2
KV_TOKENS = 6144        # small: turns push out kept rows all the time
FILL = 2                # times the pool, before the warm-up
CONTEXT = 2048
RECORD_S = 600          # how long Redis keeps the record of an ended turn
REDIS_SHARE = 0.10      # bytes a key: its mixture of records and conversations wanders
RAMP_S = 30             # from rest until as many turns run as ever will
COMMAND_S = 300
REST_S = 120            # the longest time until nothing runs
REST_LOOKS = 3          # looks in a row at a pipeline at rest


class Pipeline:
    """`gemline up` in a home of its own."""

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="gemline-soak-")
        self.env = {**{k: v for k, v in os.environ.items() if not k.startswith("GEMLINE_")},
                    "GEMLINE_HOME": self.home}
        if "GEMLINE_PACK" in os.environ:
            self.env["GEMLINE_PACK"] = os.environ["GEMLINE_PACK"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]

    def command(self, words, text=None):
        """`gemline WORDS`; raises subprocess's errors. Returns its output."""
        return subprocess.run([GEMLINE, *map(str, words)], env=self.env, input=text or "",
                              capture_output=True, text=True, timeout=COMMAND_S, check=True).stdout

    def up(self):
        self.command(["up", "--detach", "--shards", SHARDS, "--kv-tokens", KV_TOKENS, "--context",
                      CONTEXT, "--session-ttl", "%ds" % RECORD_S, "--http", self.address])
        with open(os.path.join(self.home, "state.json"), encoding="utf-8") as file:
            self.supervisor = json.load(file)["pid"]

    def down(self):
        try:
            self.command(["down"])
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def processes(self):
        """{"shard:0": pid, ...} with the supervisor."""
        rows = json.loads(self.command(["status", "--json"]))["processes"]
        found = {"%s:%d" % (row["role"], row["index"]): row["pid"] for row in rows}
        return {**found, "supervisor": self.supervisor}

    def redis_info(self, pid):
        """INFO of this home's Redis, as a dictionary of texts, asked by hand over its socket."""
        with open("/proc/%d/cmdline" % pid, encoding="utf-8") as file:
            path = re.search(r"unixsocket:([^\s\0]+)", file.read()).group(1)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(COMMAND_S)
            sock.connect(path)
            file = sock.makefile("rwb")
            file.write(b"INFO\r\n")
            file.flush()
            text = file.read(int(file.readline()[1:])).decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def metrics(self):
        """{name with labels: value} of the gateway."""
        with urllib.request.urlopen("http://%s/metrics" % self.address, timeout=COMMAND_S) as got:
            lines = got.read().decode().splitlines()
        return {name: float(value) for name, value in
                (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")}


def gauge(metrics, name):
    """The sum of a metric over its labels."""
    return sum(v for k, v in metrics.items() if k.split("{")[0] == "gemline:" + name)


def look_at(pid):
    """Bytes of memory that are the process's own (anonymous: no weights, which are mapped and come
    in as they are touched), resident bytes, descriptors, threads."""
    fields = {}
    with open("/proc/%d/smaps_rollup" % pid, encoding="utf-8") as file:
        for line in file.read().splitlines()[1:]:
            name, value = line.split(":")
            fields[name] = int(value.split()[0]) << 10
    return {"own": fields["Anonymous"] + fields.get("Swap", 0),
            "rss": fields["Rss"], "pss": fields["Pss"],
            "files": len(os.listdir("/proc/%d/fd" % pid)),
            "threads": len(os.listdir("/proc/%d/task" % pid))}


class Samples:
    """What the processes of a pipeline were like over time."""

    def __init__(self, line, pids):
        self._line, self.pids = line, pids
        self.times, self.rows, self.redis = [], [], []
        self._begin = time.monotonic()

    def take(self):
        """One row of everything. Raises OSError when a process is gone."""
        row = {name: look_at(pid) for name, pid in self.pids.items()}
        info = self._line.redis_info(self.pids["redis:0"])
        keys = dict(pair.split("=") for pair in info.get("db0", "keys=0,expires=0").split(","))
        self.redis.append({"data": int(info["used_memory_dataset"]), "keys": int(keys["keys"]),
                           "lasting": int(keys["keys"]) - int(keys["expires"])})
        self.rows.append(row)
        self.times.append(time.monotonic() - self._begin)
        return row

    def series(self, name, field):
        return [row[name][field] for row in self.rows]


def sample_for(samples, seconds, every):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        samples.take()
        time.sleep(max(min(every, end - time.monotonic()), 0))


def warm_up(line, pids, o):
    """Every page of the pool written once, then load; the troubles it had."""
    work = load.Load(line.address, line.command, o.clients, seed=1).fill(FILL * KV_TOKENS).start()
    try:
        sample_for(Samples(line, pids), o.warm_up, o.every)
    finally:
        work.stop()
    return work.troubles


def at_rest(line, pids):
    """Waits until nothing runs and nobody is connected; returns one row of samples of that time."""
    end, calm = time.monotonic() + REST_S, 0
    while calm < REST_LOOKS:
        got = line.metrics()
        busy = gauge(got, "num_requests_running") + gauge(got, "num_requests_waiting") + \
            gauge(got, "kv_cache_used_bytes") + gauge(got, "http_streams")
        calm = calm + 1 if busy == 0 else 0
        if time.monotonic() > end:
            raise load.Trouble("turns still hold pages %d s after the load" % REST_S)
        time.sleep(1)
    return Samples(line, pids).take()


def judge(samples, seconds, clients):
    """The findings about each process, all together, and Redis's data. A key that never expires
    is of a turn that runs: `clients` more of them are no growth."""
    found, times = [], samples.times
    for name in samples.pids:
        if name == "redis:0" and seconds < RECORD_S:
            continue  # its records turn over in ten minutes
        found.append(verdict.memory(name + " memory", times, samples.series(name, "own")))
    for name in samples.pids:
        found.append(verdict.count(name + " descriptors", times, samples.series(name, "files")))
        found.append(verdict.count(name + " threads", times, samples.series(name, "threads")))
    whole = [sum(one["own"] for name, one in row.items() if name != "redis:0")
             for row in samples.rows]
    found.append(verdict.memory("all but redis memory", times, whole))
    if seconds >= RECORD_S:
        found.append(verdict.share_of(
            "redis bytes a key", times,
            [one["data"] / max(one["keys"], 1) for one in samples.redis], REDIS_SHARE))
    found.append(verdict.count("redis keys that never expire", times,
                               [one["lasting"] for one in samples.redis], clients))
    return found


def rest_findings(before, after):
    """What stayed of a process at rest: sentences."""
    told = []
    for name in before:
        for field, word in (("files", "descriptors"), ("threads", "threads")):
            told.append(verdict.rested("%s %s" % (name, word), before[name][field],
                                       after[name][field]))
    return [text for text in told if text]


def print_table(samples, before, after, findings):
    print("%-16s %10s %10s %8s | %5s %5s %5s | %7s" % (
        "process", "own MiB", "RSS MiB", "growth", "files", "rest", "after", "threads"))
    by_name = {f.what: f for f in findings}
    for name in samples.pids:
        own, found = samples.series(name, "own"), by_name.get(name + " memory")
        first, last = verdict.ends(own)
        print("%-16s %10.2f %10.2f %7.2f%% | %5d %5d %5d | %7d%s" % (
            name, last / 2**20, samples.rows[-1][name]["rss"] / 2**20,
            100 * (last - first) / max(first, 1), samples.rows[-1][name]["files"],
            before[name]["files"], after[name]["files"], samples.rows[-1][name]["threads"],
            "" if found else "   (not judged: shorter than the ten minutes of its records)"))


def soak(line, o):
    """Runs all of it: a list of sentences about what is wrong."""
    pids = line.processes()
    troubles = warm_up(line, pids, o)
    before, pids = at_rest(line, pids), line.processes()
    begin = line.metrics()
    work = load.Load(line.address, line.command, o.clients, seed=1 + 2 * o.clients).start()
    samples = Samples(line, pids)
    try:
        time.sleep(RAMP_S)
        sample_for(samples, o.seconds, o.every)
    finally:
        work.stop()
    after, end = at_rest(line, pids), line.metrics()
    findings = judge(samples, o.seconds, o.clients)
    print_table(samples, before, after, findings)
    whole = RAMP_S + o.seconds
    busy = (gauge(end, "shard_busy_seconds_total") - gauge(begin, "shard_busy_seconds_total"))
    print("%d s, %d clients: %s; shards busy for %.0f %% of it; redis: %d keys, %.2f MiB" % (
        whole, o.clients, ", ".join("%d %s" % (n, k) for k, n in sorted(work.done.items())),
        100 * busy / whole, samples.redis[-1]["keys"], samples.redis[-1]["data"] / 2**20))
    print("at rest: %d of %d pages free, %.1f MiB kept for later turns, 0 used" % (
        gauge(end, "kv_cache_pages_free"), gauge(end, "kv_cache_pages"),
        gauge(end, "kv_cache_kept_bytes") / 2**20))
    wrong = ["%s %s" % (f.what, f.bad) for f in findings if f.bad] + rest_findings(before, after)
    if line.processes() != pids:
        wrong.append("a process was started again: %s became %s" % (pids, line.processes()))
    if not work.done["tokens"]:
        wrong.append("the load made no token")
    troubles += work.troubles
    if troubles:
        wrong.append("%d answers that no client should get, the first: %s" % (
            len(troubles), troubles[0]))
    if o.json:
        with open(o.json, "w", encoding="utf-8") as file:
            json.dump({"times": samples.times, "rows": samples.rows, "redis": samples.redis}, file)
    return wrong


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--seconds", type=float, default=1800, help="of judged load")
    words.add_argument("--warm-up", type=float, help="load before it (660; less for a short soak)")
    words.add_argument("--clients", type=int, default=18, help="of HTTP; one more runs commands")
    words.add_argument("--every", type=float, default=5, help="seconds between samples")
    words.add_argument("--json", metavar="FILE", help="all samples")
    o = words.parse_args()
    if o.warm_up is None:
        o.warm_up = 660 if o.seconds >= RECORD_S else max(o.seconds / 2, 120)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the pipeline comes down, too
    line = Pipeline()
    try:
        line.up()
        wrong = soak(line, o)
    except (OSError, subprocess.SubprocessError, load.Trouble) as failure:
        wrong = ["the soak broke off: %s %s" % (failure, getattr(failure, "stderr", "") or "")]
    finally:
        line.down()
    for text in wrong:
        print("soak: " + text)
    print("soak: %s" % ("FAILED" if wrong else "passed: memory stands still"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
