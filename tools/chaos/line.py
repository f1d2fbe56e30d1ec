"""line.py - the pipeline under the drill: one home, its processes, signals to them.

Owns:      `gemline up` and `down`, which process has which id, SIGKILL, SIGSTOP and SIGCONT.
Does not:  choose whom (plan.py) or when (faults.py).
"""
import json
import os
import signal
import socket
import subprocess
import time

UP_S = 240      # `gemline up --detach`, on a machine that is busy
DOWN_S = 120
POLL_S = 0.05


class Broken(Exception):
    """The drill cannot go on; the text says why."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stat_of(pid):
    """(parent, start in clock ticks, state) of a process; None when there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19]), fields[0].decode()


def processes_of(home):
    """{pid: state} of all that were started with GEMLINE_HOME=home, and of their children."""
    want = b"GEMLINE_HOME=" + os.fsencode(home)
    found, parents = {}, {}
    for entry in os.listdir("/proc"):
        stat = stat_of(int(entry)) if entry.isdigit() else None
        if not stat or int(entry) == os.getpid():
            continue
        parents[int(entry)] = stat
        try:
            with open("/proc/%s/environ" % entry, "rb") as file:
                if want in file.read().split(b"\0"):
                    found[int(entry)] = stat[2]
        except OSError:
            continue  # it ended while we looked
    for pid, stat in parents.items():  # a zombie has no environment any more
        if stat[2] == "Z" and stat[0] in found:
            found[pid] = "Z"
    return found


class Line:
    """A pipeline in a home of its own."""

    def __init__(self, gemline, home, options):
        self.gemline, self.home = gemline, home
        self.port = free_port()
        self._options = [*options, "--http", "127.0.0.1:%d" % self.port]
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith(("GEMLINE_", "GM_", "MAKE")) or k == "GEMLINE_PACK"}
        self.env = {**clean, "GEMLINE_HOME": home}

    def cli(self, *args, timeout=60):
        return subprocess.run([self.gemline, *args], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=timeout, env=self.env)

    def up(self):
        """Starts it, or adopts what is there."""
        try:
            done = self.cli("up", "--detach", *self._options, timeout=UP_S)
        except subprocess.TimeoutExpired:
            raise Broken("gemline up --detach did not return in %d s" % UP_S) from None
        if done.returncode != 0:
            raise Broken("gemline up: exit status %d: %s" % (done.returncode, done.stderr))

    def down(self):
        done = self.cli("down", timeout=DOWN_S)
        if done.returncode != 0:
            raise Broken("gemline down: exit status %d: %s" % (done.returncode, done.stderr))

    def status(self):
        done = self.cli("status", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {"ready": False}

    def processes(self):
        """{role: (pid, start)} as the supervisor wrote it down; "up" is the supervisor."""
        with open(os.path.join(self.home, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
        found = {}
        for p in state["processes"]:
            role = "shard:%d" % p["index"] if p["role"] == "shard" else p["role"]
            found[role] = (p["pid"], p["start"])
        found["up"] = (state["pid"], state["start"])
        return found

    def signal(self, process, number):
        """Sends a signal to (pid, start); False when that process is gone."""
        pid, start = process
        stat = stat_of(pid) if pid > 0 else None
        if not stat or stat[1] != start or stat[2] == "Z":
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self, role):
        return self.signal(self.processes()[role], signal.SIGKILL)

    def wait_ready(self, seconds):
        """Waits until all processes say that they are ready."""
        end = time.monotonic() + seconds
        while True:
            status = self.status()
            if status["ready"]:
                return status
            if time.monotonic() > end:
                raise Broken("not ready within %d s: %s" % (seconds, json.dumps(status)))
            time.sleep(POLL_S)
