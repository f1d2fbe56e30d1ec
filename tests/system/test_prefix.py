"""test_prefix.py - rows that come from another conversation, and pages that run out.

Owns:      what `cached_tokens` says of prompts that begin alike; turns that share too small a pool.
           The text is always that of a pipeline that holds nothing.
Does not:  look at pages (tests/unit/test_prefix.c does).
"""
import json

import pytest

LONG = "Remember these words well: " + "river house north letter engine city sea winter " * 30
FIXED = ("--temperature", 0, "--max-tokens", 12, "--ignore-eos")


@pytest.mark.parametrize("options", [(), ("--shards", 3), ("--kv", "q8")], ids=str)
def test_another_session_that_begins_alike(up, options):
    line = up(*options)
    asked = [LONG + "And the first?", LONG + "And the second one, what was it?"]
    first = line.run(asked[0], *FIXED)
    assert first["usage"]["cached_tokens"] == 0
    second = line.run(asked[1], *FIXED)
    again = line.run(asked[0], *FIXED)
    assert first["usage"]["prompt_tokens"] > 250
    assert second["usage"]["cached_tokens"] > 240
    assert again["usage"]["cached_tokens"] == first["usage"]["prompt_tokens"] - 1
    assert again["ids"] == first["ids"]
    line.cli("down", check=True)
    line.up(*options)
    fresh = line.run(asked[1], *FIXED, "--logprobs", 2)
    assert fresh["usage"]["cached_tokens"] == 0 and fresh["ids"] == second["ids"]
    warm = line.run(asked[1], *FIXED, "--logprobs", 2)
    assert warm["usage"]["cached_tokens"] == fresh["usage"]["prompt_tokens"] - 1
    assert warm["ids"] == fresh["ids"] and warm["logprobs"] == fresh["logprobs"]


def test_a_turn_that_runs_gives_its_rows(shared):
    text = LONG + "Now tell me a story about all of them."
    options = ("--seed", 9, "--max-tokens", 300, "--ignore-eos")
    child = shared.popen("run", "--stream", *map(str, options), "--", text, bufsize=0)
    child.stdout.read(1)
    beside = shared.run(text, *options)
    assert beside["usage"]["cached_tokens"] == beside["usage"]["prompt_tokens"] - 1
    out, _ = child.communicate(timeout=100)
    assert child.returncode == 0
    assert beside["text"].endswith(out.decode().rstrip("\n")[-100:])


def test_a_score_leaves_nothing_and_takes_nothing(shared):
    ids = [2] + [818, 5279, 529, 7001, 563] * 40
    one = shared.score(ids)
    two = shared.score(ids)
    assert one == two


def test_one_process_of_the_chain_lost_its_rows(up):
    line = up("--shards", 3)
    first = line.run(LONG, *FIXED)
    line.kill("shard:1")
    line.wait_ready()
    again = line.run(LONG, *FIXED)
    assert again["usage"]["cached_tokens"] == 0 and again["ids"] == first["ids"]


def ask_together(line, asked, fixed):
    """The ids of each answer; all are asked at once."""
    children = [line.popen("run", "--json", "--max-tokens", str(n), *fixed, "--", text)
                for text, n in asked]
    answers = []
    for child in children:
        out, err = child.communicate(timeout=200)
        assert child.returncode == 0, err
        answers.append(json.loads(out)["ids"])
    assert "an older turn needs the pages" in line.logs()
    return answers


@pytest.mark.timeout_s(400)
def test_more_turns_than_pages(up):
    """Two turns of 1,000 tokens and a short one in a pool of 1,344: the younger of the two is
    pushed out and comes back. All end with the ids that they have alone."""
    options = ("--context", 1344, "--kv-tokens", 1344)
    fixed = ("--ignore-eos", "--seed", "5")
    asked = [("Tell a story.", 1000), ("Tell another one.", 1000), ("And a third one?", 50)]
    line = up(*options)
    one = ask_together(line, asked, fixed)
    assert [len(ids) for ids in one] == [n for _text, n in asked]
    for (text, n), ids in list(zip(asked, one))[1:]:
        assert line.run(text, "--max-tokens", n, *fixed)["ids"] == ids
    assert ask_together(up("--shards", 3, *options), asked, fixed) == one


def test_a_turn_that_no_pool_holds(up):
    line = up("--context", 1024, "--kv-tokens", 512)
    done = line.cli("run", "--max-tokens", 800, "--", "A story")
    assert done.returncode == 1 and "--kv-tokens" in done.stderr
    assert line.run("A story", "--max-tokens", 4)["ids"]


def test_the_same_pipeline_again(up):
    """The size of the pool follows the free memory; it is no option that anyone gave."""
    line = up()
    assert line.cli("up", "--detach", "--http", "off").returncode == 0
    done = line.cli("up", "--detach", "--http", "off", "--kv-tokens", 4096)
    assert done.returncode == 1 and "--kv-tokens" in done.stderr
