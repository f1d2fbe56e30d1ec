"""base.py - what every file of the benchmark uses: folders, commands, prompts, medians.

Owns:      the words of the prompts, the exceptions, how a command is run and remembered.
Does not:  know Gemline's options or the peer's.
"""
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME")
                     or os.path.join(os.path.expanduser("~"), ".cache"), "gemline")
MODEL = os.path.join(CACHE, "gemma-3-270m-q4_k_m.gguf")
COMMAND_S = 900  # no single command takes longer, or it is a failure
QUIET_S = 0.2    # so long nothing of ours works, and what the machine does then is others' work
QUIET_CORES = 0.25  # more than this of one core in use then: the figures of the row do not count

# One token each with the blank before it, in every Gemma vocabulary.
WORDS = ("river house north letter engine city sea winter book queen water light stone field road "
         "bridge garden window music paper market summer forest island morning evening doctor "
         "teacher village mountain").split()


class NotBuilt(Exception):
    """What a row measures is not there in this build."""


class Failed(Exception):
    """A row could not be measured; the text says why."""


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


def prompt(tokens, words_only=False):
    """A text of `tokens` tokens with <bos> counted (not with words_only), random words, so that no
    two begin alike and nothing of one is in the prefix cache for another."""
    count = max(tokens - (0 if words_only else 1), 1)
    return "".join(" " + random.choice(WORDS) for _ in range(count))


def shown(words):
    """A command as a person would type it, long texts cut."""
    words = [w if len(w) < 60 else w[:20] + "..." for w in map(str, words)]
    return " ".join(shlex.quote(w.replace(ROOT + "/", "")) for w in words)


def command(words, env=None, timeout=COMMAND_S, text=None):
    """stdout of a command that must succeed. Raises Failed with the last line of its stderr."""
    words = [str(w) for w in words]
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=timeout,
                              input=text, stdin=None if text is not None else subprocess.DEVNULL,
                              cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        raise Failed("%s took longer than %d s" % (shown(words), timeout)) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        raise Failed("%s: exit %d: %s" % (shown(words[:4]), done.returncode, last))
    return done.stdout


def command_json(words, **more):
    return json.loads(command(words, **more))


def median(values):
    return statistics.median(values) if values else None


def busy_ticks():
    """Clock ticks that all processors worked or were taken from this machine, since boot."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, file.readline().split()[1:9])
    return user + nice + system + irq + soft + steal


class Others:
    """What other programs use of the machine, looked at between measurements. A program that spins
    with as many threads as there are processors loses many times its speed to one other that
    works: figures taken beside others compare nothing."""

    def __init__(self):
        self.cores = 0.0

    def look(self):
        """Keeps the most cores that were in use in any look."""
        before, began = busy_ticks(), time.monotonic()
        time.sleep(QUIET_S)
        ticks = busy_ticks() - before
        cores = ticks / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
        self.cores = max(self.cores, cores)

    def take(self):
        """The most since the last take()."""
        cores, self.cores = self.cores, 0.0
        return cores


others = Others()


class Samples:
    """Numbers by label: add({label: number}), then medians."""

    def __init__(self):
        self.all = {}

    def add(self, numbers):
        for label, number in numbers.items():
            self.all.setdefault(label, []).append(number)

    def median(self, label):
        return median(self.all.get(label, []))


class Abba:
    """Alternating runs: ours, peer, peer, ours, `rounds` times; `bandwidth` (may be None) is
    measured before and after each round. All three are functions that give {label: number}."""

    def __init__(self, rounds, ours, peer, bandwidth=None):
        self.ours, self.peer, self.speed = Samples(), Samples(), Samples()
        for _ in range(rounds):
            for samples, measure in ((self.speed, bandwidth), (self.ours, ours),
                                     (self.peer, peer), (self.peer, peer), (self.ours, ours),
                                     (self.speed, bandwidth)):
                if measure:
                    others.look()
                    samples.add(measure())

    def raw(self):
        return {"ours": self.ours.all, "peer": self.peer.all, "bandwidth": self.speed.all}


def figure(name, unit, **more):
    """One line of the table. more: ours, peer, ratio, limit, share, goal, met, note."""
    line = {"figure": name, "unit": unit, "ours": None, "peer": None, "ratio": None, "limit": None,
            "share": None, "goal": "", "met": None, "note": ""}
    unknown = set(more) - set(line)
    if unknown:
        raise TypeError("no such field: %s" % unknown)
    line.update(more)
    if line["ratio"] is None and line["ours"] and line["peer"]:
        line["ratio"] = line["ours"] / line["peer"]
    if line["share"] is None and line["ours"] and line["limit"]:
        line["share"] = line["ours"] / line["limit"]
    return line
