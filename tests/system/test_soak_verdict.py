"""test_soak_verdict.py - what a soak calls growth (tools/soak/verdict.py); nothing is started.

Owns:      series that grow, that stand still, that peak once, that are too short.
Does not:  run a soak (make soak).
"""
import os
import random
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, "tools", "soak"))
import verdict  # noqa: E402

MIB = 1 << 20
TIMES = [5.0 * i for i in range(360)]  # half an hour


def noisy(base, per_sample=0.0, noise=0.005):
    rng = random.Random(1)
    return [base + per_sample * i + base * noise * (rng.random() - 0.5) for i in range(len(TIMES))]


@pytest.mark.parametrize("base", [10 * MIB, 130 * MIB, 4096 * MIB])
def test_a_leak_of_three_percent_fails(base):
    finding = verdict.memory("x", TIMES, noisy(base, 0.05 * base / len(TIMES)))
    assert finding.bad and "grows" in finding.bad
    assert 0.04 * base < finding.fit < 0.06 * base and finding.step > 0.02 * base


@pytest.mark.parametrize("base", [10 * MIB, 130 * MIB, 4096 * MIB])
def test_what_stands_still_or_shrinks_passes(base):
    assert verdict.memory("x", TIMES, noisy(base)).bad is None
    assert verdict.memory("x", TIMES, noisy(base, -0.05 * base / len(TIMES))).bad is None
    assert verdict.memory("x", TIMES, noisy(base, 0.01 * base / len(TIMES))).bad is None


def test_steps_of_malloc_pass_and_more_does_not():
    small = 2 * MIB
    for gain, bad in ((200 << 10, False), (600 << 10, True)):
        series = [small] * 180 + [small + gain] * 180
        assert bool(verdict.memory("x", TIMES, series).bad) == bad


def test_one_peak_is_no_growth():
    series = noisy(100 * MIB)
    series[200:210] = [180 * MIB] * 10
    assert verdict.memory("x", TIMES, series).bad is None


def test_growth_that_ends_before_the_last_fifth_is_growth():
    series = [100 * MIB + min(i, 250) * MIB // 25 for i in range(len(TIMES))]
    assert verdict.memory("x", TIMES, series).bad


def test_descriptors():
    rng = random.Random(2)
    busy = [30 + rng.randrange(8) for _ in TIMES]
    assert verdict.count("x", TIMES, busy).bad is None
    assert verdict.count("x", TIMES, [n + i // 60 for i, n in enumerate(busy)]).bad
    assert verdict.rested("x", 23, 23) is None and verdict.rested("x", 23, 22) is None
    assert "23 at rest" in verdict.rested("x", 23, 24)


def test_too_few_samples_say_nothing():
    assert "samples" in verdict.memory("x", TIMES[:10], [MIB] * 10).bad
    assert "samples" in verdict.count("x", [], []).bad


def test_a_share_of_any_figure():
    assert verdict.share_of("x", TIMES, noisy(1000.0), 0.1).bad is None
    assert verdict.share_of("x", TIMES, noisy(1000.0, 0.5), 0.1).bad
