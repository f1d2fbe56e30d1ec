"""faults.py - the hand that kills and stops, while streams run.

Owns:      the thread that carries the plan out, what it did and when, the counts.
Does not:  choose (plan.py); judge the streams (main.py).
"""
import collections
import signal
import threading
import time

import line as lines
import plan

ROUND_S = 0.05  # how long the thread sleeps at a time


class Faults(threading.Thread):
    """Carries faults out until stop() or `until` (time.monotonic). `trouble` is why it gave up."""

    def __init__(self, line, seed, shards, until):
        super().__init__(daemon=True)
        self.kills, self.stops = collections.Counter(), collections.Counter()
        self.log, self.trouble = [], None
        self._line, self._until = line, until
        self._plan = plan.faults(seed, shards)
        self._begin = time.monotonic()
        self._held = []  # (when to let go, process, role)
        self._calm = threading.Event()

    def stop(self):
        """Ends it: everybody runs again, a supervisor is there."""
        self._calm.set()
        self.join()

    def run(self):
        try:
            for fault in self._plan:
                if not self._sleep(fault.gap):
                    break
                self._do(fault)
        except (lines.Broken, OSError, ValueError) as failure:
            self.trouble = str(failure) or repr(failure)
        finally:
            self._let_go(True)

    def seconds_at(self, moment):
        """A time.monotonic() by the clock of the schedule."""
        return moment - self._begin

    def _note(self, text):
        self.log.append("%7.1f s  %s" % (self.seconds_at(time.monotonic()), text))

    def _sleep(self, seconds):
        """False: it is time to end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._let_go(False)
            if self._calm.is_set() or time.monotonic() > self._until:
                return False
            time.sleep(ROUND_S)
        return True

    def _let_go(self, everybody):
        now = time.monotonic()
        for held in [h for h in self._held if everybody or h[0] <= now]:
            self._held.remove(held)
            self._line.signal(held[1], signal.SIGCONT)

    def _do(self, fault):
        self._note(plan.words(fault))
        process = self._line.processes()[fault.role]
        if fault.kind == "stop":
            if self._line.signal(process, signal.SIGSTOP):
                self._held.append((time.monotonic() + fault.seconds, process, fault.role))
                self.stops[fault.role] += 1
        elif fault.role == "up":
            self._kill_supervisor(fault, process)
        elif self._line.signal(process, signal.SIGKILL):
            self.kills[fault.role] += 1

    def _kill_supervisor(self, fault, process):
        """Nobody restarts anything until the next `gemline up` has taken over."""
        if not self._line.signal(process, signal.SIGKILL):
            return
        self.kills["up"] += 1
        if fault.orphan and self._line.kill(fault.orphan):
            self.kills[fault.orphan] += 1
        self._sleep(fault.seconds)
        self._let_go(True)  # `up` waits for what it adopts
        self._line.up()
        self._note("adopted")
