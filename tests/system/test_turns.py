"""test_turns.py - turns and sessions as a user meets them.

Owns:      run's options and output, sessions, sampling's repeatability, bad input.
Does not:  kill anything (test_kill.py) or judge the model (test_golden.py).
"""
import json

import pytest

QUESTION = "Which vitamins does the sun give us?"


def test_json_fields(shared):
    got = shared.run(QUESTION, "--temperature", 0, "--logprobs", 2)
    assert set(got) == {"text", "ids", "finish_reason", "session", "seed", "usage", "timings",
                        "logprobs"}
    assert got["finish_reason"] == "stop"
    assert got["usage"]["completion_tokens"] == len(got["ids"])
    assert len(got["logprobs"]) == len(got["ids"])
    for one in got["logprobs"]:
        assert len(one["top"]) == 2 and one["logprob"] <= 0
        assert one["top"][0]["logprob"] >= one["top"][1]["logprob"]


def test_stream_is_text(shared):
    got = shared.run(QUESTION, "--seed", 7)
    done = shared.cli("run", "--stream", "--seed", 7, "--", QUESTION, check=True, text=False)
    assert done.stdout == got["text"].encode() + b"\n"


def test_seed_decides(shared):
    one = shared.run(QUESTION, "--seed", 11, "--max-tokens", 24)
    two = shared.run(QUESTION, "--seed", 11, "--max-tokens", 24)
    others = {shared.run(QUESTION, "--seed", s, "--max-tokens", 24)["text"] for s in range(4)}
    assert one["ids"] == two["ids"] and len(others) > 1


def test_second_turn_computes_only_its_tokens(shared):
    first = shared.run("My name is Ada.", "--session", "memo", "--temperature", 0)
    second = shared.run("What is my name?", "--session", "memo", "--temperature", 0)
    usage = second["usage"]
    assert usage["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert usage["cached_tokens"] >= first["usage"]["prompt_tokens"]
    assert usage["prompt_tokens"] - usage["cached_tokens"] < 40


def test_undo_gives_the_same_turn_again(shared):
    shared.run("Count to three.", "--session", "bits", "--temperature", 0)
    kept = shared.run("And backwards?", "--session", "bits", "--temperature", 0, "--logprobs", 0)
    shared.cli("session", "undo", "bits", check=True)
    again = shared.run("And backwards?", "--session", "bits", "--temperature", 0, "--logprobs", 0)
    assert again["ids"] == kept["ids"] and again["logprobs"] == kept["logprobs"]


@pytest.mark.parametrize("options", [
    ("--top-k", "0", "--top-p", "1"), ("--top-k", "0"), ("--top-k", "1024", "--top-p", "1"),
    ("--top-k", "0", "--top-p", "1", "--temperature", "3"), ("--top-k", "0", "--min-p", "0.02"),
    ("--repeat-penalty", "1.3"), ("--presence-penalty", "1", "--frequency-penalty", "0.5"),
])
def test_every_way_of_sampling(shared, options):
    """Open distributions need more candidates than travel at first; the seed still decides."""
    words = ("--seed", "4", "--max-tokens", "12", "--ignore-eos")
    one = shared.run("Name a colour.", *words, *options)
    two = shared.run("Name a colour.", *words, *options)
    assert len(one["ids"]) == 12 and one["ids"] == two["ids"]


def test_stop_string_is_cut(shared):
    plain = shared.run(QUESTION, "--temperature", 0)
    word = plain["text"].split()[2]
    got = shared.run(QUESTION, "--temperature", 0, "--stop", word)
    assert got["finish_reason"] == "stop" and word not in got["text"]
    assert plain["text"].startswith(got["text"])


def test_length(shared):
    got = shared.run(QUESTION, "--temperature", 0, "--max-tokens", 3)
    assert got["finish_reason"] == "length" and len(got["ids"]) == 3


def test_raw_has_no_template(shared):
    got = shared.run("The capital of France is", "--raw", "--temperature", 0, "--max-tokens", 4)
    assert got["usage"]["prompt_tokens"] == 6


def test_sessions_are_apart_and_listed(shared):
    shared.run("The word is apple.", "--session", "one", "--max-tokens", 4)
    shared.run("The word is pear.", "--session", "two", "--max-tokens", 4)
    names = shared.cli("session", "list", check=True).stdout
    assert "one" in names and "two" in names
    shown = shared.cli("session", "show", "one", check=True).stdout
    assert "apple" in shown and "pear" not in shown
    shared.cli("session", "rm", "two", check=True)
    assert shared.cli("session", "show", "two").returncode == 1


def test_busy_session_is_aborted(shared):
    slow = shared.popen("run", "--session", "busy", "--max-tokens", "400", "--ignore-eos", "--",
                        "Tell a long story.")
    shared.wait(lambda s: any(p.get("sessions") for p in s["processes"] if p["role"] == "shard"))
    done = shared.cli("run", "--session", "busy", "--", "Hello")
    assert done.returncode == 1 and "busy" in done.stderr.lower()
    slow.wait(timeout=100)
    assert slow.returncode == 0


@pytest.mark.parametrize("words", [
    ["run", "--temperature", "-1", "--", "x"],
    ["run", "--top-p", "0", "--", "x"],
    ["run", "--session", "a b", "--", "x"],
    ["run", "--nonsense", "--", "x"],
])
def test_wrong_options(shared, words):
    done = shared.cli(*words)
    assert done.returncode in (1, 2) and done.stderr.strip() and not done.stdout


def test_prompt_longer_than_the_context(shared):
    done = shared.cli("run", "--", "word " * 9000)
    assert done.returncode == 1 and "--context" in done.stderr


def test_score_is_repeatable(shared):
    ids = [2, 818, 5279, 529, 7001, 563]
    one = shared.cli("score", "--tokens", "--json", input=json.dumps(ids) + "\n", check=True).stdout
    two = shared.cli("score", "--tokens", "--json", input=json.dumps(ids) + "\n", check=True).stdout
    assert one == two and len(json.loads(one)["logprobs"]) == 5
