"""plan.py - what happens to which process, and when: a function of the seed.

Owns:      the random schedule of faults and its words.
Does not:  send signals (faults.py does).
"""
import collections
import random

GAP_S = (1.0, 10.0)    # between two faults
STOP_S = (0.1, 8.0)    # from SIGSTOP to SIGCONT
KILL_SHARE = 0.65      # of all faults; the others stop a process
ORPHAN_SHARE = 0.5     # of the supervisor's deaths: another process dies while there is none
ORPHAN_S = (0.0, 2.0)  # from the supervisor's death to the next `gemline up`

# gap: seconds since the fault before; kind: "kill" or "stop"; role: "shard:0", .., "up";
# seconds: how long a stop lasts, or how long there is no supervisor; orphan: a role that is killed
# meanwhile, or None.
Fault = collections.namedtuple("Fault", "gap kind role seconds orphan")


def roles_of(shards):
    """Every process of a pipeline with a gateway; "up" is its supervisor."""
    return ["shard:%d" % i for i in range(shards)] + [
        "sampler", "tokenizer", "orchestrator", "redis", "gateway", "up"]


def faults(seed, shards):
    """Endless: the faults of this seed, one after another."""
    dice = random.Random(seed)
    roles = roles_of(shards)
    while True:
        gap = dice.uniform(*GAP_S)
        role = dice.choice(roles)
        kill = dice.random() < KILL_SHARE
        seconds = dice.uniform(*(ORPHAN_S if kill else STOP_S))
        orphan = dice.choice(roles[:-1]) if dice.random() < ORPHAN_SHARE else None
        yield Fault(gap, "kill" if kill else "stop", role, seconds,
                    orphan if kill and role == "up" else None)


def words(fault):
    """A fault as a line of the schedule says it."""
    if fault.kind == "stop":
        return "stop %s %.1f s" % (fault.role, fault.seconds)
    if fault.role != "up":
        return "kill %s" % fault.role
    return "kill up %.1f s%s" % (fault.seconds,
                                 ", %s meanwhile" % fault.orphan if fault.orphan else "")
