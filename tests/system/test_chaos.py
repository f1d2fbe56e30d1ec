"""test_chaos.py - the drill's own judgement: what it compares, what it plans, what it counts.

Owns:      checks of tools/chaos that need no pipeline.
Does not:  run the drill (make chaos, make check).
"""
import itertools
import os
import sys

from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, "tools", "chaos"))
import compare  # noqa: E402
import left  # noqa: E402
import plan  # noqa: E402
import prompts  # noqa: E402
import streams  # noqa: E402

TEXT = "One café, two.\n".encode() * 9


def test_every_changed_byte_is_found():
    assert compare.first_difference(TEXT, TEXT) is None and compare.explain(TEXT, TEXT) == ""
    for at in range(len(TEXT)):
        other = TEXT[:at] + bytes([TEXT[at] ^ 0x20]) + TEXT[at + 1:]
        assert compare.first_difference(TEXT, other) == at
        assert "byte %d of" % at in compare.explain(TEXT, other)
        assert compare.first_difference(TEXT, TEXT[:at]) == at  # it ended early,
        assert compare.first_difference(TEXT[:at], TEXT) == at  # or went on
    for data in (TEXT, b"x", b""):
        assert compare.first_difference(data, compare.corrupted(data)) is not None


def test_a_seed_is_a_schedule():
    def first(seed, n=400):
        return list(itertools.islice(plan.faults(seed, 3), n))
    assert first(1) == first(1) != first(2)
    for kind in ("kill", "stop"):  # everybody's turn comes
        assert {f.role for f in first(1) if f.kind == kind} == set(plan.roles_of(3))
    for fault in first(1):
        assert plan.GAP_S[0] <= fault.gap <= plan.GAP_S[1]
        assert fault.kind == "kill" or plan.STOP_S[0] <= fault.seconds <= plan.STOP_S[1]
        assert fault.orphan is None or (fault.kind, fault.role) == ("kill", "up")
        assert fault.role in plan.words(fault)
    assert sum(f.kind == "kill" for f in first(1)) > 200


def test_twenty_streams_of_all_kinds():
    made = prompts.streams()
    assert len(made) == len({s.name for s in made}) == 20
    assert {s.kind for s in made} == {"cli", "key", "from"}
    assert {1, 400} <= {s.options["max_tokens"] for s in made}
    assert any(len(s.turns) > 1 for s in made if s.kind == "cli")
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "logit_bias",
                 "presence_penalty", "frequency_penalty", "stop"):
        assert any(name in s.options for s in made), name


def test_growth_is_told():
    growth = left.Growth()
    looks = iter([{"sampler": (7, 20, 10 << 20), "shard:0": (8, 20, 100 << 20)},
                  {"sampler": (7, 21, 11 << 20), "shard:0": (8, 20, 140 << 20)},
                  {"sampler": (7, 90, 99 << 20), "shard:0": (9, 20, 900 << 20)}])
    real, left.look = left.look, lambda _line: next(looks)
    try:
        growth.add(None)
        growth.add(None)
        assert growth.trouble(0) == []
        growth.add(None)  # the shard is another process by now
        said = growth.trouble(0)
    finally:
        left.look = real
    assert len(said) == 2 and all(s.startswith("sampler") for s in said), said


def test_what_a_client_may_be_refused_with():
    for said in ("the session is busy with another turn; try again", "Redis is away; try again",
                 "the pipeline waits for shard 1; try again in a moment",
                 "running turns are still being read from Redis"):
        assert streams.REFUSED.search(said)
    for said in ("the turn was given up: 3 attempts came no further; the last ended with: x",
                 "the stream of the turn has gaps; look at the orchestrator's log",
                 "the client was not heard of for 10 s", "signal 11"):
        assert not streams.REFUSED.search(said)
