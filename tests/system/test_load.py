"""test_load.py - many turns at once: fairness, cancelling, deadlines, expiry.

Owns:      continuous batching as a user sees it; the same bits beside other turns (P2).
Does not:  measure speed (make bench).
"""
import json
import signal
import time

import pytest

from conftest import scaled

LONG = "the quick brown fox jumps over the lazy dog " * 440  # about 4,000 tokens


def shard(line):
    return next(p for p in line.status()["processes"] if p["role"] == "shard")


def test_same_bits_beside_others(shared):
    options = ("--seed", "3", "--max-tokens", "40", "--ignore-eos")
    alone = shared.run("Tell me about rivers.", *options)
    others = [shared.popen("run", "--stream", "--max-tokens", "120", "--ignore-eos", "--",
                           "Story number %d" % i) for i in range(6)]
    beside = shared.run("Tell me about rivers.", *options)
    for child in others:
        child.communicate(timeout=100)
        assert child.returncode == 0
    assert beside["ids"] == alone["ids"]


@pytest.mark.release_only("the time between two tokens is the release's")
@pytest.mark.timeout_s(120)
def test_a_long_prompt_does_not_stall_a_stream(shared):
    child = shared.popen("run", "--stream", "--max-tokens", "400", "--ignore-eos", "--",
                         "Tell a long story.", bufsize=0)
    child.stdout.read(1)
    path = shared.home + "/long"
    with open(path, "w", encoding="utf-8") as file:
        file.write(LONG)
    long_run = shared.popen("run", "--json", "--max-tokens", "1", "--file", path)
    gaps, last = [], time.monotonic()
    while long_run.poll() is None and child.stdout.read(8):
        now = time.monotonic()
        gaps.append(now - last)
        last = now
    alone = json.loads(long_run.communicate(timeout=100)[0])
    assert alone["usage"]["prompt_tokens"] > 3500
    child.kill()
    shared.wait(lambda s: not any(p.get("sessions") for p in s["processes"]))
    assert len(gaps) > 5 and max(gaps) < 0.7, "the longest gap: %.2f s" % max(gaps)


def test_ctrl_c_cancels_and_frees(shared):
    child = shared.popen("run", "--json", "--session", "cut", "--max-tokens", "1000",
                         "--ignore-eos", "--", "Count to a thousand.")
    shared.wait(lambda s: any(p.get("sessions") for p in s["processes"] if p["role"] == "shard"))
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    got = json.loads(out)
    assert child.returncode == 0 and got["finish_reason"] == "cancelled" and got["ids"], err
    assert shard(shared)["sessions"] == 0
    again = shared.run("Go on.", "--session", "cut", "--max-tokens", 2)
    assert again["usage"]["cached_tokens"] > 5


def test_timeout_ends_a_turn(shared):
    begin = time.monotonic()
    done = shared.cli("run", "--timeout", "1", "--max-tokens", "4000", "--ignore-eos", "--", "Go")
    assert done.returncode == 1 and time.monotonic() - begin < scaled(8)
    shared.wait(lambda s: not any(p.get("sessions") for p in s["processes"]
                                  if p["role"] == "shard"))


def test_retry_takes_the_next_seed(shared):
    first = shared.run("Name a colour.", "--session", "again", "--seed", 5, "--max-tokens", 12)
    done = shared.cli("session", "retry", "again", "--json", check=True)
    retried = json.loads(done.stdout)
    assert retried["seed"] == 6
    assert retried["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"]


def test_sessions_expire(up):
    line = up("--session-ttl", "2s")
    line.run("Hello", "--session", "short", "--max-tokens", 2)
    assert line.cli("session", "show", "short").returncode == 0
    time.sleep(3)
    assert line.cli("session", "show", "short").returncode == 1


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
def test_kv_types(up, kv):
    line = up("--kv", kv)
    got = line.run("Which vitamins does the sun give us?", "--temperature", 0)
    assert "vitamin" in got["text"].lower()
