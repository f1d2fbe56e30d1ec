"""test_synth.py - `gemline synth`: files of random weights that run, and the manners of it.

Owns:      the command's exit codes, what a kill or a stop leaves behind, a run of such a file.
Does not:  look into the file (tests/unit/test_synth.c does).
"""
import math
import os
import signal
import time

import pytest

from conftest import scaled

OPTIONS = ["--variant", "--type", "--seed", "--layers", "--vocab-from", "--force"]

WRONG_USE = [
    [],
    ["--variant", "270m"],
    ["out.gguf"],
    ["--variant", "5b", "out.gguf"],
    ["--variant", "1b", "--type", "q3_k", "out.gguf"],
    ["--variant", "1b", "--layers", "-1", "out.gguf"],
    ["--variant", "1b", "--layers", "999", "out.gguf"],
    ["--variant", "1b", "--seed", "x", "out.gguf"],
    ["--variant", "1b", "one.gguf", "two.gguf"],
    ["--variant", "1b", "--nosuchoption", "out.gguf"],
]


def _sentence(done, word=""):
    lines = done.stderr.strip().splitlines()
    assert done.stdout == "" and len(lines) == 1 and len(lines[0].split()) >= 4, done.stderr
    assert word in done.stderr


def _wait_for_temp(child, home):
    """Until the file under its temporary name is there."""
    end = time.monotonic() + scaled(20)
    while not any(name.endswith(".tmp") for name in os.listdir(home)):
        assert child.poll() is None and time.monotonic() < end, "it ended too early"
        time.sleep(0.002)


def test_help(home):
    done = home.cli("synth", "--help", check=True)
    for name in OPTIONS:
        assert name in done.stdout
    assert "synth" in home.cli("--help", check=True).stdout


@pytest.mark.parametrize("words", WRONG_USE, ids=lambda words: " ".join(words)[:40])
def test_wrong_use(home, words):
    done = home.cli("synth", *words)
    assert done.returncode == 2, done.stderr
    _sentence(done)
    assert os.listdir(home.home) == []


def test_failures(home, model_file):
    with open(os.path.join(home.home, "mine"), "w") as file:
        file.write("mine")
    short = ["synth", "--variant", "270m", "--layers", "1"]
    for words, sentence in (
            ([*short, "mine"], "--force"),
            ([*short, "no/such/folder.gguf"], "folder.gguf"),
            ([*short, "--force", "."], "folder"),
            ([*short, "--vocab-from", "absent.gguf", "out.gguf"], "absent.gguf"),
            ([*short, "--vocab-from", "mine", "out.gguf"], "mine")):
        done = home.cli(*words)
        assert done.returncode == 1
        _sentence(done, sentence)
    assert os.listdir(home.home) == ["mine"]
    with open(os.path.join(home.home, "mine")) as file:
        assert file.read() == "mine"
    os.unlink(os.path.join(home.home, "mine"))


@pytest.mark.parametrize("variant", ["270m", "1b"])
def test_it_runs(home, model_file, variant):
    path = os.path.join(home.home, "random.gguf")
    done = home.cli("synth", "--variant", variant, "--layers", 2, path, check=True)
    assert "2 layers" in done.stdout and done.stderr == ""
    assert [name for name in os.listdir(home.home) if name.endswith(".tmp")] == []
    got = home.run("hello", "--model", path, "--adapter", "none", "--max-tokens", 4,
                   "--ignore-eos", "--logprobs", 1)
    assert len(got["ids"]) == 4 and got["finish_reason"] == "length"
    assert all(math.isfinite(one["logprob"]) for one in got["logprobs"])
    score = home.score([2, 1000, 2000, 3000], "--model", path, "--adapter", "none")
    assert all(-60 < x < -3 for x in score["logprobs"] if x is not None)  # one of 262,144
    os.unlink(path)


def test_a_kill_leaves_nothing_under_the_name(home, model_file):
    path = os.path.join(home.home, "random.gguf")
    child = home.popen("synth", "--variant", "1b", "--layers", "8", path)
    _wait_for_temp(child, home.home)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not os.path.exists(path)


def test_a_stop_leaves_nothing_at_all(home, model_file):
    path = os.path.join(home.home, "random.gguf")
    child = home.popen("synth", "--variant", "1b", "--layers", "8", path)
    _wait_for_temp(child, home.home)
    child.send_signal(signal.SIGTERM)
    _out, err = child.communicate(timeout=30)
    assert child.returncode == 1 and b"stopped" in err
    assert os.listdir(home.home) == []
