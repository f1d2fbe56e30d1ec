"""ours.py - Gemline's side: pipelines in private homes, timed turns, their processes.

Owns:      the class of a pipeline (options, home), the pool that keeps them for several rows and
           takes them down, reading /proc for their memory and CPU time.
Does not:  know a row, or touch a home that it did not make.
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from base import ROOT, Failed, command, command_json, shown

GEMLINE = os.path.join(ROOT, "build", "bin", "gemline")
START_S = 600
STRAYS_S = 10


class Pipeline:
    """`gemline up --detach OPTIONS` in a home of its own."""

    def __init__(self, options, env=None):
        self.options = [str(o) for o in options]
        self.home = tempfile.mkdtemp(prefix="gemline-bench-")
        self.env = dict(os.environ, GEMLINE_HOME=self.home, **(env or {}))
        self.commands = []

    def _call(self, words, run=command, **more):
        words = [GEMLINE] + [str(w) for w in words]
        self.remember(words)
        return run(words, env=self.env, **more)

    def remember(self, words):
        line = shown(words)
        if line not in self.commands:
            self.commands.append(line)

    def up(self):
        self._call(["up", "--detach"] + self.options, timeout=START_S)
        return self

    def down(self):
        self._call(["down"])

    def close(self):
        try:
            command([GEMLINE, "down"], env=self.env, timeout=60)
        except Failed:
            pass
        self.kill_strays()
        shutil.rmtree(self.home, ignore_errors=True)

    def kill_strays(self):
        """Ends what a killed supervisor left: the processes whose arguments name this home, which
        nobody else has. Looks again until none is there, since one may just be starting another."""
        until = time.monotonic() + STRAYS_S
        while time.monotonic() < until:
            strays = [pid for pid in all_pids() if self.home in arguments(pid)]
            if not strays:
                return
            for pid in strays:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)

    def turn_words(self, tokens, *options):
        """The command of one greedy turn; the prompt comes on stdin."""
        return ["run", "--raw", "--temperature", "0", "--ignore-eos", "--json", "--max-tokens",
                str(tokens)] + list(options)

    def run(self, text, tokens, *options):
        """One turn: the parsed object of `gemline run --json`."""
        return self._call(self.turn_words(tokens, *options), run=command_json, text=text)

    def decode(self, text, tokens):
        """(tokens a second after the first one, prompt tokens)."""
        got = self.run(text, tokens)
        made = got["usage"]["completion_tokens"]
        return (made - 1) * 1000 / got["timings"]["decode_ms"], got["usage"]["prompt_tokens"]

    def prefill(self, text):
        """Tokens of the prompt a second, from the turn sent to the first token received."""
        got = self.run(text, 1)
        fresh = got["usage"]["prompt_tokens"] - got["usage"]["cached_tokens"]
        return fresh * 1000 / got["timings"]["prefill_ms"]

    def together(self, texts, tokens):
        """One `gemline run` each, at once. {"rate": all tokens / (first token of the first to last
        token of the last), "wall": seconds from the first start to the last line}."""
        words = [GEMLINE] + self.turn_words(tokens)
        self.remember(words)
        results = [None] * len(texts)

        def one(at):
            child = subprocess.Popen(words, env=self.env, stdin=subprocess.PIPE, cwd=ROOT,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            child.stdin.write(texts[at])
            child.stdin.close()
            line = child.stdout.readline()
            ended = time.monotonic()
            child.stdout.read()
            error = child.stderr.read()
            results[at] = (child.wait(), line, ended, error)

        threads = [threading.Thread(target=one, args=(at,)) for at in range(len(texts))]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        firsts, lasts, count = [], [], 0
        for status, line, ended, error in results:
            if status != 0:
                raise Failed("gemline run: exit %d: %s" % (status, error.strip()))
            got = json.loads(line)
            lasts.append(ended)
            firsts.append(ended - got["timings"]["decode_ms"] / 1000)
            count += got["usage"]["completion_tokens"]
        return {"rate": count / (max(lasts) - min(firsts)), "wall": max(lasts) - began}

    def bench(self, part, *options):
        """`gemline bench PART --json`: {name: value}."""
        got = self._call(["bench", part, "--json"] + list(options), run=command_json)
        return {f["name"]: f["value"] for f in got["figures"] if f["part"] == part}

    def status(self):
        """The object of `gemline status --json`."""
        return command_json([GEMLINE, "status", "--json"], env=self.env)

    # ---- processes ------------------------------------------------------------------------------
    def kv_kind(self):
        """The type of the KV cache that this pipeline runs with."""
        with open(os.path.join(self.home, "state.json"), encoding="utf-8") as file:
            return json.load(file)["options"]["kv"]

    def processes(self):
        """Pids of all processes of the home: supervisor, services, and the children of each."""
        with open(os.path.join(self.home, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
        pids = {state["pid"]} | {p["pid"] for p in state["processes"]}
        return sorted(with_children(pids - {0}))


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def arguments(pid):
    """The command line of a process, zero bytes between its words; empty when it is gone."""
    try:
        with open("/proc/%d/cmdline" % pid, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def with_children(pids):
    """The pids and all processes below them."""
    parents = {}
    for pid in all_pids():
        try:
            with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
                parents[pid] = int(file.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = {p for p in pids if p in parents}
    while True:
        more = {p for p, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def pss_bytes(pids):
    """Proportional set size of all of them together."""
    total = 0
    for pid in pids:
        with open("/proc/%d/smaps_rollup" % pid, encoding="utf-8") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    return total


def mapped_files(pid):
    """The files that a process maps, by device and inode; empty when we may not look."""
    try:
        with open("/proc/%d/maps" % pid, encoding="utf-8", errors="replace") as file:
            rows = [line.split(None, 5) for line in file]
    except OSError:
        return set()
    return {(row[3], row[4]) for row in rows if len(row) == 6 and ".so" not in row[5]
            and row[4] != "0"}


def sharers(pids, path):
    """How many processes beside `pids` map the file `path`: they take a part of its proportional
    size on themselves."""
    status = os.stat(path)
    name = ("%02x:%02x" % (os.major(status.st_dev), os.minor(status.st_dev)), str(status.st_ino))
    return sum(name in mapped_files(one) for one in all_pids() if one not in pids)


def cpu_seconds(pids):
    """User and system time of all of them together, in steps of a clock tick a process."""
    ticks = 0
    for pid in pids:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Pool:
    """Pipelines by their options: started when first asked for, kept until close(). Its `commands`
    begin anew at each get()."""

    def __init__(self, env=None):
        self._running, self._env = {}, env

    def get(self, *options):
        key = tuple(str(o) for o in options)
        if key not in self._running:
            line = Pipeline(key, self._env)
            self._running[key] = line
            line.up()
            line.run(" Warm up.", 8)
        line = self._running[key]
        line.commands = []  # of the row that asks
        line.remember([GEMLINE, "up", "--detach"] + line.options)
        return line

    def close(self):
        for line in self._running.values():
            line.close()
        self._running = {}


def has_command(name):
    """Whether this build's gemline knows the command."""
    done = subprocess.run([GEMLINE, name, "--help"], capture_output=True, check=False,
                          stdin=subprocess.DEVNULL)
    return done.returncode == 0


def bandwidth(threads):
    """{"median", "best"}: bytes a second that the threads read (gemline bench bandwidth)."""
    got = command_json([GEMLINE, "bench", "bandwidth", "--json", "--threads", threads])
    pick = {f["name"].rsplit(" ", 1)[1]: f["value"] * 1e9 for f in got["figures"]}
    return {"median": pick["median"], "best": pick["best"]}
