"""test_ring.py - tokenizer, sampler and shards as real processes, with the real model.

Owns:      the ring against the reference's results (tests/golden) and P1: the same bits for every cut.
Does not:  need an orchestrator: ring_driver plays it. The command line's tests stand in cli/.
"""
import json
import os
import shutil
import subprocess
import tempfile

import pytest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.path.join(ROOT, "build", "release")
MARGIN_FAST = 0.4  # a greedy step of the fast kernels may differ below this margin


def ring(model_file, shards, mode, number, ids, adapter="none", kernels=None, timeout=160):
    """Runs the driver on lines of ids: its output."""
    env = dict(os.environ)
    if kernels:
        env["GM_KERNELS"] = kernels
    folder = tempfile.mkdtemp(prefix="gm-ring-")
    try:
        with open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
            done = subprocess.run(
                [os.path.join(BUILD, "tests", "ring_driver"), os.path.join(BUILD, "bin"), folder,
                 model_file, adapter, str(shards), mode, str(number)],
                input="".join(json.dumps(one) + "\n" for one in ids), stdout=subprocess.PIPE,
                stderr=log, text=True, timeout=timeout, env=env)
            log.seek(0)
            assert done.returncode == 0, log.read()[-2000:]
        return done.stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def lines(text):
    return [json.loads(one) for one in text.splitlines()]


@pytest.mark.timeout_s(170)
def test_exact_kernels_score(model_file, golden):
    cases = golden.cases(100)
    got = lines(ring(model_file, 1, "score", 20, [c["ids"] for c in cases], kernels="ref"))
    result = golden.Comparison("exact")
    for one, score in zip(cases, got):
        result.add(one["name"], score)
    assert len(got) == len(cases) and not result.problems(), result.problems()


@pytest.mark.timeout_s(170)
def test_fast_kernels_score(model_file, golden):
    cases = golden.cases(320)
    got = lines(ring(model_file, 1, "score", 64, [c["ids"] for c in cases]))
    result = golden.Comparison("fast")
    for one, score in zip(cases, got):
        result.add(one["name"], score)
    print(result.numbers())
    assert len(got) == len(cases) and not result.problems(), result.problems()


@pytest.mark.timeout_s(400)
@pytest.mark.parametrize("name", ["window-1700", "long-9000"])
def test_fast_kernels_score_long(model_file, golden, name):
    got = lines(ring(model_file, 1, "score", 64, [golden.case(name)["ids"]], timeout=380))
    result = golden.Comparison("fast")
    result.add(name, got[0])
    print(result.numbers())
    assert not result.problems(), result.problems()


@pytest.mark.timeout_s(170)
def test_same_bits_for_all_cuts(model_file, golden):
    ids = [c["ids"] for c in golden.cases(320)]
    texts = [ring(model_file, shards, "score", 20, ids) for shards in (1, 2, 3, 6, 18)]
    assert len(texts[0].splitlines()) == len(ids)
    for text in texts[1:]:
        assert text == texts[0]


@pytest.mark.timeout_s(170)
def test_greedy_answers(model_file, golden):
    cases = [c for c in golden.cases(100) if "greedy" in c]
    got = lines(ring(model_file, 2, "generate", 48, [c["ids"] for c in cases]))
    assert len(got) == len(cases)
    for one, answer in zip(cases, got):
        problem = golden.greedy_problem(one["name"], answer["ids"], MARGIN_FAST)
        assert not problem, problem


@pytest.mark.timeout_s(170)
def test_greedy_is_the_same_for_all_cuts_with_the_adapter(model_file, golden):
    adapter = os.path.join(ROOT, "models", "gemma3-270m-chat")
    with open(os.path.join(golden.FOLDER, "chat.json"), encoding="utf-8") as file:
        chats = [c for c in json.load(file)["conversations"] if len(c["prompt_ids"]) < 60]
    ids = [c["prompt_ids"] for c in chats]
    ids_of = [[a["ids"] for a in lines(ring(model_file, n, "generate", 40, ids, adapter))]
              for n in (1, 3)]
    assert ids_of[0] == ids_of[1]
    same = 0
    for chat, got in zip(chats, ids_of[0]):
        want, margins = chat["greedy"]["ids"], chat["greedy"]["margins"]
        step = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), None)
        assert step is None or margins[step] < MARGIN_FAST, (chat["messages"][-1], step)
        same += step is None
    assert same >= len(chats) * 0.6, "%d of %d answers are the reference's" % (same, len(chats))
