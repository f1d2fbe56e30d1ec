"""test_speculate.py - guesses ahead change how fast an answer comes, and nothing else.

Owns:      the same turns with --speculate off, on, and on over three shards: ids, text,
           log-probabilities, finish; what is kept for the next turn; kills in mid-stream.
Does not:  measure speed.
"""
import json
import tempfile

import pytest

from conftest import Pipeline

ONCE = ("The committee met on Tuesday in the old library to discuss the plan for the new bridge. "
        "Nobody from the council was present, but a letter from the mayor was read aloud. ")
REPEAT = ("Text: " + ONCE + "\nThe same text, word for word: " + ONCE
          + "\nOnce more: The committee met")
RAW = ("--raw", "--ignore-eos")
SAME = ("ids", "text", "finish_reason", "logprobs", "usage")


@pytest.fixture(scope="module")
def lines(gemline, model_file):
    """Pipelines without guesses, with them, and with them over three shards."""
    made = {}
    try:
        for name, options in (("off", ("--speculate", "off")), ("on", ("--speculate", "on")),
                              ("three", ("--speculate", "on", "--shards", 3))):
            made[name] = Pipeline(tempfile.mkdtemp(prefix="gemline-test-"))
            made[name].up(*options)
        yield made
    finally:
        trouble = []
        for line in made.values():
            try:
                line.close()
            except pytest.fail.Exception as failure:
                trouble.append(str(failure))
        if trouble:
            pytest.fail("\n".join(trouble))


def guesses(line):
    """[(drafted, accepted)] of the shards."""
    return [(p["drafted"], p["accepted"]) for p in line.status()["processes"]
            if p["role"] == "shard"]


def same_everywhere(lines, prompt, *options):
    """The turn's object, found equal on all pipelines."""
    got = {name: line.run(prompt, *options) for name, line in lines.items()}
    for name in ("on", "three"):
        for field in SAME:
            assert got[name].get(field) == got["off"].get(field), (name, field)
    return got["off"]


def test_guesses_are_accepted_where_the_text_repeats(lines):
    before = {name: guesses(line) for name, line in lines.items()}
    got = same_everywhere(lines, REPEAT, *RAW, "--temperature", 0, "--max-tokens", 80)
    assert len(got["ids"]) == 80
    assert all(pair == (0, 0) for pair in guesses(lines["off"]))
    for name in ("on", "three"):
        now = guesses(lines[name])
        assert len(set(now)) == 1, "shards count differently: %r" % now
        drafted, accepted = (a - b for a, b in zip(now[0], before[name][0]))
        assert 30 < accepted <= drafted, name


@pytest.mark.parametrize("options", [
    ("--temperature", 0, "--logprobs", 3),
    ("--seed", 7, "--temperature", "0.4"),
    ("--seed", 8, "--logprobs", 2),
    ("--seed", 4, "--top-k", 0, "--top-p", 1, "--temperature", "0.6"),
    ("--seed", 5, "--top-k", 1, "--logprobs", 0),
    ("--seed", 6, "--top-k", 0, "--min-p", "0.1"),
    ("--temperature", 0, "--repeat-penalty", "1.02", "--logprobs", 0),
    ("--temperature", 0, "--presence-penalty", "0.1", "--frequency-penalty", "0.02"),
    ("--seed", 9, "--repeat-penalty", "1.2", "--frequency-penalty", "0.3"),
], ids=lambda o: " ".join(map(str, o)))
def test_same_bytes(lines, options):
    same_everywhere(lines, REPEAT, *RAW, "--max-tokens", 48, *options)


def test_natural_ends(lines):
    for seed in range(3):
        got = same_everywhere(lines, "Which vitamins does the sun give us?", "--seed", seed,
                              "--max-tokens", 200)
        assert got["finish_reason"] == "stop"


def test_max_tokens_at_every_place_of_a_run(lines):
    for most in range(24, 34):
        got = same_everywhere(lines, REPEAT, *RAW, "--temperature", 0, "--max-tokens", most)
        assert got["finish_reason"] == "length" and len(got["ids"]) == most


@pytest.mark.parametrize("stop", ["letter from the mayor", "council was", "y", " aloud.", "zzz"])
def test_stop_strings(lines, stop):
    got = same_everywhere(lines, REPEAT, *RAW, "--temperature", 0, "--max-tokens", 60, "--stop",
                          stop, "--stop", "read aloud for nobody", "--logprobs", 1)
    assert stop not in got["text"]
    assert got["finish_reason"] == ("length" if stop == "zzz" else "stop")


def test_streams_beside_each_other(lines):
    prompts = [REPEAT, "List: " + "one two three four five " * 6, ONCE * 3]
    options = (*RAW, "--seed", 3, "--temperature", "0.3", "--max-tokens", 60)
    want = [lines["off"].run(prompt, *options)["ids"] for prompt in prompts]
    for name in ("on", "three"):
        for count in (2, 3, 6):
            children = [lines[name].popen("run", "--json", *options, "--", prompts[i % 3])
                        for i in range(count)]
            for i, child in enumerate(children):
                out, err = child.communicate(timeout=100)
                assert child.returncode == 0, err
                assert json.loads(out)["ids"] == want[i % 3], (name, count, i)


def test_the_next_turn_stands_on_the_same_rows(lines):
    session = ("--session", "memo", "--temperature", 0)
    first = same_everywhere(lines, "Repeat after me: " + ONCE + ONCE, *session, "--ignore-eos",
                            "--max-tokens", 61)
    second = same_everywhere(lines, "Again, please: " + ONCE, *session, "--logprobs", 2,
                             "--max-tokens", 40)
    assert second["usage"]["cached_tokens"] >= first["usage"]["prompt_tokens"] + 60
    for line in lines.values():
        line.cli("session", "undo", "memo", check=True)
    again = same_everywhere(lines, "Again, please: " + ONCE, *session, "--logprobs", 2,
                            "--max-tokens", 40)
    assert again["ids"] == second["ids"] and again["logprobs"] == second["logprobs"]


@pytest.mark.timeout_s(170)
@pytest.mark.parametrize("name, role", [("on", "shard:0"), ("three", "shard:0"),
                                        ("three", "shard:1"), ("three", "shard:2"),
                                        ("on", "sampler")])
def test_killed_in_mid_stream(lines, name, role):
    options = ("run", "--stream", *RAW, "--temperature", 0, "--max-tokens", 400, "--", REPEAT)
    want = lines["off"].cli(*options, check=True, text=False).stdout
    line = lines[name]
    child = line.popen(*options, bufsize=0)
    head = child.stdout.read(60)
    line.kill(role)
    rest, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert head + rest == want
    line.wait_ready()
