"""left.py - what a drill must not leave behind: pages, keys, sockets, files, processes, memory.

Owns:      looking at a pipeline at rest, and the limits of what may grow.
Does not:  run streams or kill.
"""
import http.client
import os
import re
import time

import redis

from line import Broken, processes_of, stat_of

REST_S = 60            # until nothing runs any more
FILES_GROWTH_MAX = 16  # descriptors: connections of clients come and go
MEMORY_GROWTH_MAX = 48 << 20  # bytes of one process beyond its first look; and
MEMORY_SHARE_MAX = 0.25       # this share of it, which allocators keep
KEEP_S = 600           # a finished turn's record lives so long
# A name in the run directory that comes and goes by itself.
PASSING = re.compile(r"^(state\.json\..*|\.?temp.*|.*\.tmp)$")


def metrics(line):
    """{name with labels: number} of GET /metrics."""
    link = http.client.HTTPConnection("127.0.0.1", line.port, timeout=30)
    try:
        link.request("GET", "/metrics")
        text = link.getresponse().read().decode()
    finally:
        link.close()
    found = {}
    for row in text.splitlines():
        if row and not row.startswith("#"):
            name, value = row.rsplit(" ", 1)
            found[name] = float(value)
    return found


def _sum(numbers, name):
    return sum(v for k, v in numbers.items() if k.split("{")[0].endswith(name))


def wait_rest(line):
    """Waits until no turn runs, waits or is stored; returns the metrics."""
    end = time.monotonic() + REST_S
    while True:
        status = line.status()
        busy = [p["role"] for p in status.get("processes", []) if p.get("sessions")]
        numbers = metrics(line) if status["ready"] else {}
        if status["ready"] and not busy and _sum(numbers, "kv_cache_used_bytes") == 0:
            return numbers
        if time.monotonic() > end:
            raise Broken("not at rest after %d s: %s still busy, %d KV bytes in use"
                         % (REST_S, busy, _sum(numbers, "kv_cache_used_bytes")))
        time.sleep(0.2)


def look(line):
    """{role: (pid, descriptors, bytes of memory)} now."""
    found = {}
    for role, (pid, _start) in line.processes().items():
        try:
            with open("/proc/%d/status" % pid, encoding="utf-8") as file:
                rss = int(re.search(r"RssAnon:\s+(\d+) kB", file.read()).group(1)) << 10
            found[role] = (pid, len(os.listdir("/proc/%d/fd" % pid)), rss)
        except (OSError, AttributeError):
            continue
    return found


class Growth:
    """Looks at a pipeline at rest again and again; each process against its own first look."""

    def __init__(self):
        self._first, self._last, self._looks = {}, {}, {}

    def add(self, line):
        for role, (pid, files, rss) in look(line).items():
            key = (role, pid)
            self._first.setdefault(key, (files, rss))
            self._last[key] = (files, rss)
            self._looks[key] = self._looks.get(key, 0) + 1

    def rows(self):
        """[(role, looks, files then, files now, memory then, memory now)] of those seen twice."""
        return [(role, self._looks[role, pid], *self._pairs(role, pid))
                for role, pid in sorted(self._first) if self._looks[role, pid] > 1]

    def _pairs(self, role, pid):
        first, last = self._first[role, pid], self._last[role, pid]
        return first[0], last[0], first[1], last[1]

    def trouble(self, pool):
        """Sentences about what grew; pool: KV bytes that a shard may fill."""
        found = []
        for role, _looks, files_then, files_now, then, now in self.rows():
            room = MEMORY_GROWTH_MAX + MEMORY_SHARE_MAX * then
            room += pool if role.startswith("shard") else 0
            if files_now > files_then + FILES_GROWTH_MAX:
                found.append("%s: %d descriptors, %d at first" % (role, files_now, files_then))
            if now > then + room:
                found.append("%s: %.1f MiB, %.1f at first" % (role, now / 2**20, then / 2**20))
        return found


def names(line):
    """Names in the home, without the logs' and Redis's own."""
    return {name for name in os.listdir(line.home) if not PASSING.match(name)}


def keys(line):
    """Sentences about keys that should not be there when nothing runs."""
    found = []
    with redis.Redis(unix_socket_path=os.path.join(line.home, "redis.sock")) as store:
        running = store.smembers("gm:running")
        if running:
            found.append("gm:running still has %d turns: %s" % (len(running), sorted(running)[:3]))
        for key in store.scan_iter("gm:*", count=1000):
            name, ttl = key.decode(), store.ttl(key)
            if name.startswith("gm:lease:"):
                found.append("a lease is left: %s" % name)
            elif name.startswith("gm:turn:") and not -2 <= ttl <= KEEP_S or ttl == -1 and \
                    name.startswith(("gm:turn:", "gm:sess:", "gm:idem:")):
                found.append("%s would stay for %d s" % (name, ttl))
    return found


def strays(line):
    """Sentences about processes that belong to nobody, and zombies."""
    known = {pid for pid, _start in line.processes().values()}
    found = []
    for pid, state in processes_of(line.home).items():
        if state == "Z":
            found.append("process %d is a zombie of %s" % (pid, stat_of(pid)))
        elif pid not in known:
            found.append("process %d is no one's" % pid)
    return found


def check(line, growth, first_names):
    """Everything, of a pipeline at rest: sentences, [] when nothing is left."""
    numbers = wait_rest(line)
    found = []
    if _sum(numbers, "num_requests_running") or _sum(numbers, "num_requests_waiting"):
        found.append("the gateway counts requests that nobody waits for")
    more = names(line) - first_names
    if more:
        found.append("files in the home that were not there: %s" % sorted(more))
    pool = max((v for k, v in numbers.items() if "kv_cache_kept_bytes" in k), default=0) * 2
    return found + keys(line) + strays(line) + growth.trouble(pool)
