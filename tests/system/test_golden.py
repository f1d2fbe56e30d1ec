"""test_golden.py - the real model against the reference's results (tests/golden).

Owns:      issue lines "right" and P1: ids, log-probabilities, greedy answers, cuts of the layers.
Does not:  run the two long cases on the reference kernels (make golden-long).
"""
import gzip
import json
import os

import pytest

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
FAST_OPTIONS = ("--context", "9216", "--adapter", "none")
EXACT = ("--kv", "f32")  # the reference keeps keys and values unrounded


def scores(line, cases, top, every=1, **more):
    """One call of `score` for all cases: the parsed lines."""
    feed = "".join(json.dumps(c["ids"]) + "\n" for c in cases)
    done = line.cli("score", "--tokens", "--json", "--top", top, "--every", every,
                    input=feed, check=True, **more)
    return [json.loads(one) for one in done.stdout.splitlines()]


@pytest.mark.timeout_s(170)
def test_tokenizer_lines(shared):
    with gzip.open(os.path.join(GOLDEN, "tokenizer.jsonl.gz"), "rt", encoding="utf-8") as file:
        rows = [json.loads(one) for one in file]
    assert len(rows) == 20000
    feed = "".join(json.dumps({"text": r["text"]}) + "\n" for r in rows)
    done = shared.cli("tokenize", "--no-bos", "--json", input=feed, check=True)
    got = done.stdout.splitlines()
    assert len(got) == len(rows)
    wrong = [r["text"] for r, one in zip(rows, got) if json.loads(one) != r["ids"]]
    assert not wrong, "%d of 20,000 lines differ, the first: %r" % (len(wrong), wrong[0])


@pytest.mark.timeout_s(600)
def test_exact_kernels(up, golden):
    line = up("--adapter", "none", *EXACT, env={"GM_KERNELS": "ref"})
    cases = golden.cases(320)
    result = golden.Comparison("exact")
    for one, score in zip(cases, scores(line, cases, 20, timeout=500)):
        result.add(one["name"], score)
    assert not result.problems(), result.problems()


@pytest.mark.timeout_s(300)
def test_exact_kernels_beyond_the_window(up, golden):
    """Three windows of text: a window that is off by one shows here, and not in the fast limits."""
    line = up("--adapter", "none", *EXACT, env={"GM_KERNELS": "ref"})
    result = golden.Comparison("exact", 64)
    one = golden.case("window-1700")
    result.add(one["name"], scores(line, [one], 20, every=64, timeout=280)[0])
    assert not result.problems(), result.problems()


@pytest.mark.timeout_s(600)
def test_fast_kernels(up, golden):
    line = up(*FAST_OPTIONS)
    cases = golden.cases()
    result = golden.Comparison("fast")
    for one, score in zip(cases, scores(line, cases, golden.FAST_ASK_TOP, timeout=500)):
        result.add(one["name"], score)
    print(result.numbers())
    assert not result.problems(), result.problems()


@pytest.mark.timeout_s(300)
def test_same_bits_for_all_cuts(up, golden):
    cases = golden.cases(320)
    first = None
    for shards in (1, 2, 3, 6, 18):
        line = up("--adapter", "none", "--shards", shards)
        feed = "".join(json.dumps(c["ids"]) + "\n" for c in cases)
        done = line.cli("score", "--tokens", "--json", "--top", 20, input=feed, check=True)
        line.cli("down", check=True)
        first = first or done.stdout
        assert done.stdout == first, "%d shards give other bits than one" % shards


@pytest.mark.timeout_s(300)
def test_greedy_exact(up, golden):
    line = up("--adapter", "none", *EXACT, env={"GM_KERNELS": "ref"})
    for one in golden.cases():
        if one["name"] not in ("prompt-0", "prompt-2", "prompt-9"):
            continue
        got = line.run(one["text"], "--raw", "--temperature", 0, "--max-tokens", 48, "--ignore-eos",
                       timeout=100)
        problem = golden.greedy_problem(one["name"], got["ids"])
        assert not problem, problem


def chats():
    with open(os.path.join(GOLDEN, "chat.json"), encoding="utf-8") as file:
        return [c for c in json.load(file)["conversations"] if not c["tools"]
                and len(c["messages"]) <= 2 and c["messages"][-1]["role"] == "user"]


@pytest.mark.timeout_s(300)
def test_chat_answers_exact(up):
    """The reference kernels with the adapter: equal until a step whose margin is under 0.01."""
    line = up(*EXACT, env={"GM_KERNELS": "ref"})
    for chat in sorted(chats(), key=lambda c: len(c["prompt_ids"]) + len(c["greedy"]["ids"]))[:6]:
        got = line.run(chat["messages"][-1]["content"], "--temperature", 0, timeout=100)
        want, margins = chat["greedy"]["ids"], chat["greedy"]["margins"]
        step = next((i for i, (a, b) in enumerate(zip(want, got["ids"])) if a != b), None)
        assert step is None or margins[step] < 0.01, (chat["messages"][-1], step)
        if step is None and want[-1] in (1, 106):
            assert len(got["ids"]) == len(want) - 1 and got["finish_reason"] == "stop"


@pytest.mark.timeout_s(170)
def test_chat_answers(shared):
    """Greedy answers with the adapter: equal until a step of small margin."""
    same = 0
    for chat in chats():
        system = [m["content"] for m in chat["messages"] if m["role"] == "system"]
        options = ["--system", system[0]] if system else []
        got = shared.run(chat["messages"][-1]["content"], "--temperature", 0, *options)
        assert got["usage"]["prompt_tokens"] == len(chat["prompt_ids"])
        want, margins = chat["greedy"]["ids"], chat["greedy"]["margins"]
        ids = got["ids"] + [want[-1]] if got["finish_reason"] == "stop" else got["ids"]
        for step, (a, b) in enumerate(zip(want, ids)):
            if a != b:
                assert margins[step] < 0.3, "%r: step %d" % (chat["messages"][-1], step)
                break
        else:
            same += 1
    assert same >= len(chats()) * 0.6
