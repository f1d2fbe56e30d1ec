"""test_kill.py - P4: kill -9 of any process in mid-stream, and the client's bytes stay the same.

Owns:      drills with the real processes, read through a pipe.
Does not:  long random drills (a later issue).
"""
import os
import signal
import time

import pytest

PROMPT = "Tell a long story about a lighthouse."
OPTIONS = ("--seed", "5", "--max-tokens", "160", "--ignore-eos")


def stream(line, *more):
    return line.popen("run", "--stream", *OPTIONS, *more, "--", PROMPT, bufsize=0)


def undisturbed(line):
    out, err = stream(line).communicate(timeout=100)
    assert out, err
    return out


@pytest.mark.timeout_s(170)
@pytest.mark.parametrize("role", ["shard:0", "shard:1", "sampler", "tokenizer", "orchestrator"])
def test_stream_goes_on(up, role):
    line = up("--shards", 2)
    want = undisturbed(line)
    child = stream(line)
    head = child.stdout.read(60)  # unbuffered: communicate() gets the rest
    line.kill(role)
    rest, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert head + rest == want
    line.wait_ready()


@pytest.mark.timeout_s(170)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_redis_away(up, how):
    line = up()
    want = undisturbed(line)
    child = stream(line, "--session", "kept")
    head = child.stdout.read(60)  # unbuffered: communicate() gets the rest
    redis = line.pids("redis")[0]
    os.kill(redis, how)
    rest, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert head + rest == want
    if how == signal.SIGSTOP:
        os.kill(redis, signal.SIGCONT)
    line.wait_ready()
    time.sleep(1)
    shown = line.cli("session", "show", "kept", check=True).stdout
    assert "lighthouse" in shown


@pytest.mark.timeout_s(170)
def test_a_machine_that_stood_still(up):
    """Longer than a client may be silent: nobody was, so the stream goes on."""
    line = up()
    want = undisturbed(line)
    child = stream(line)
    head = child.stdout.read(60)
    pids = [child.pid] + [pid for role in ("orchestrator", "tokenizer", "shard", "sampler", "redis")
                          for pid in line.pids(role)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(11)
    for pid in reversed(pids):  # the client last
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)
    rest, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert head + rest == want


@pytest.mark.timeout_s(170)
def test_kept_rows_and_computed_anew_give_the_same_bits(up):
    """P2 and P3: the second turn on reused rows equals the one whose shards have lost all rows."""
    line = up("--shards", 2)
    options = ("--session", "bits", "--temperature", 0, "--logprobs", 3)
    line.run("Count to three.", *options)
    kept = line.run("And backwards?", *options)
    line.cli("session", "undo", "bits", check=True)
    for role in ("shard:0", "shard:1"):
        line.kill(role)
    line.wait(lambda s: sum(p["restarts"] for p in s["processes"] if p["role"] == "shard") == 2)
    line.wait_ready()
    time.sleep(1.5)
    anew = line.run("And backwards?", *options)
    assert kept["usage"]["cached_tokens"] > 0 and anew["usage"]["cached_tokens"] == 0
    assert anew["ids"] == kept["ids"] and anew["logprobs"] == kept["logprobs"]


@pytest.mark.timeout_s(170)
def test_down_and_up_keeps_the_conversation(up):
    line = up()
    first = line.run("My name is Ada.", "--session", "s", "--temperature", 0)
    line.cli("down", check=True)
    line.up()
    second = line.run("What is my name?", "--session", "s", "--temperature", 0)
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + 5
