"""main.py - kill drills at length: twenty streams under random deaths, every byte compared.

Owns:      the rounds, the lines and the table that are printed, the exit status.
Does not:  know prompts (prompts.py), faults (plan.py) or what may be left (left.py).

    main.py [--seconds 60] [--seed 1] [--shards 2] [--gemline build/bin/gemline] [--corrupt N]

Exit status 0: every stream gave the bytes of the undisturbed run, and nothing was left behind.
"""
import argparse
import os
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import compare  # noqa: E402  (lies beside this file)
import faults  # noqa: E402
import left  # noqa: E402
import line as lines  # noqa: E402
import plan  # noqa: E402
import prompts  # noqa: E402
import streams  # noqa: E402

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
# Room for all twenty at once with little to spare: kept sessions are driven out as rounds go by.
OPTIONS = ("--kv-tokens", "24576", "--context", "4096")
JOIN_S = streams.PATIENCE_S + 60
READY_S = 120  # after the last fault


class Drill:
    """All that is counted."""

    def __init__(self, options, line):
        self.options, self.line = options, line
        self.all = prompts.streams()
        self.want = {}  # name -> answers of the undisturbed run
        self.growth = left.Growth()
        self.rounds = self.streams = self.retries = self.resumed = 0
        self.stall_s, self.bad = 0.0, []

    def run_all(self, label):
        """One round: all conversations at once, to their end."""
        clients = [streams.Client(self.line, s, label) for s in self.all]
        for client in clients:
            client.start()
        end = time.monotonic() + JOIN_S
        for client in clients:
            client.join(max(end - time.monotonic(), 0.1))
        for client in clients:
            if client.is_alive():
                client.trouble = client.trouble or "stuck: no end in %d s" % JOIN_S
                client.give_up()
        return clients

    def undisturbed(self):
        for client in self.run_all("calm"):
            if client.trouble or not all(client.answers):
                raise lines.Broken("undisturbed, %s: %s" % (client.stream.name, client.trouble
                                                            or "no answer"))
            self.want[client.stream.name] = client.answers

    def compare(self, clients):
        """Counts a round; notes each stream whose bytes are others."""
        for n, client in enumerate(clients):
            self.streams += 1
            self.retries += client.retries
            self.resumed += client.resumed
            self.stall_s = max(self.stall_s, client.stall_s)
            answers = client.answers
            if self.options.corrupt == n:
                answers = [compare.corrupted(a) for a in answers]
            said = client.trouble
            for turn, want in enumerate(self.want[client.stream.name]):
                have = answers[turn] if turn < len(answers) else b""
                said = said or compare.explain(want, have)
            if said:
                self.bad.append("round %d, %s (%s): %s" % (self.rounds, client.stream.name,
                                                           client.stream.kind, said))

    def round(self, hand):
        self.rounds += 1
        before, begin = (sum(hand.kills.values()), sum(hand.stops.values())), time.monotonic()
        clients = self.run_all("r%d" % self.rounds)
        self.compare(clients)
        slow = max(clients, key=lambda c: c.stall_s)
        print("round %d: %d streams in %.1f s, %d kills, %d stops, %d refused and retried, longest "
              "stall %.1f s (%s, from %.1f s on)%s"
              % (self.rounds, len(clients), time.monotonic() - begin,
                 sum(hand.kills.values()) - before[0], sum(hand.stops.values()) - before[1],
                 sum(c.retries for c in clients), slow.stall_s, slow.stream.name,
                 hand.seconds_at(slow.stall_at),
                 ", %d DIFFERENT" % len(self.bad) if self.bad else ""), flush=True)

    def disturbed(self):
        """Rounds under faults until the time is over or something is wrong."""
        hand = faults.Faults(self.line, self.options.seed, self.options.shards,
                             time.monotonic() + self.options.seconds)
        hand.start()
        try:
            while not self.bad and not hand.trouble and (hand.is_alive() or self.rounds == 0):
                self.round(hand)
                if self.line.status()["ready"]:
                    self.growth.add(self.line)
        finally:
            hand.stop()
        if hand.trouble:
            self.bad.append("the hand that kills: %s" % hand.trouble)
        return hand


def table(drill, hand, wall_s):
    rows = [("seed", drill.options.seed), ("seconds of faults", drill.options.seconds),
            ("seconds in all", "%.0f" % wall_s), ("rounds", drill.rounds),
            ("streams compared", drill.streams), ("kills", sum(hand.kills.values())),
            ("stops", sum(hand.stops.values())), ("refused and retried", drill.retries),
            ("picked up by session", drill.resumed),
            ("longest stall of a stream", "%.1f s" % drill.stall_s),
            ("different or broken", len(drill.bad))]
    for name, value in rows:
        print("%-26s %s" % (name, value))
    print("%-26s %6s %6s" % ("role", "kills", "stops"))
    for role in plan.roles_of(drill.options.shards):
        print("%-26s %6d %6d" % (role, hand.kills[role], hand.stops[role]))
    for role, looks, files_then, files_now, then, now in drill.growth.rows():
        print("%-14s %2d looks: %3d -> %3d descriptors, %6.1f -> %6.1f MiB"
              % (role, looks, files_then, files_now, then / 2**20, now / 2**20))


def report_failure(drill, hand):
    print("\nseed %d; the schedule so far:" % drill.options.seed)
    for row in hand.log:
        print("  " + row)
    for row in drill.bad:
        print("WRONG: " + row)
    print("the home with its logs stays: %s" % drill.line.home)


def drill_line(options, line):
    begin = time.monotonic()
    drill = Drill(options, line)
    line.up()
    drill.undisturbed()
    left.wait_rest(line)
    drill.growth.add(line)
    first_names = left.names(line)
    print("undisturbed: %d streams, %d bytes, %.1f s"
          % (len(drill.want), sum(len(b"".join(a)) for a in drill.want.values()),
             time.monotonic() - begin), flush=True)
    hand = drill.disturbed()
    try:
        if not drill.bad:
            line.wait_ready(READY_S)
            left.wait_rest(line)
            drill.growth.add(line)
            drill.bad += left.check(line, drill.growth, first_names)
    except (lines.Broken, OSError) as failure:
        drill.bad.append(str(failure))
    table(drill, hand, time.monotonic() - begin)
    if drill.bad:
        report_failure(drill, hand)
    return not drill.bad


def main():
    parser = argparse.ArgumentParser(description="Kill drills at length.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--gemline", default=os.path.join(ROOT, "build", "bin", "gemline"))
    parser.add_argument("--corrupt", type=int, default=-1,
                        help="changes a byte of this stream, to see that it is found")
    options = parser.parse_args()
    home = tempfile.mkdtemp(prefix="gemline-chaos-")
    line = lines.Line(options.gemline, home, [*OPTIONS, "--shards", str(options.shards)])
    good = False
    try:
        good = drill_line(options, line)
    except lines.Broken as failure:
        print("WRONG: %s\nthe home with its logs stays: %s" % (failure, home))
    finally:
        try:
            line.down()
        except (lines.Broken, OSError) as failure:
            good = False
            print("WRONG: %s" % failure)
    remains = lines.processes_of(home)
    if remains:
        good = False
        print("WRONG: behind gemline down there are still %s" % remains)
    if good:
        shutil.rmtree(home, ignore_errors=True)
    print("chaos: %s" % ("passed" if good else "FAILED"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
