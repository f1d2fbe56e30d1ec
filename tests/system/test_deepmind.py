"""test_deepmind.py - --sampling deepmind: the running system against a second reading of its rules.

Owns:      Threefry and the four methods once more, in Python, on the log-probabilities that the
           system gives; what is refused; a shard that dies.
Does not:  hold the numbers of JAX itself (tests/unit/test_deepmind.c has them).
"""
import math

import pytest

PROMPT = "Write a short poem about the sea."
LISTED = 128      # --logprobs: the best tokens of each step
CLOSE = 1e-3      # scores nearer than this may change places by rounding
NOISE_MAX = 15.95  # of f32 Gumbel noise
MASK = 0xffffffff


def threefry(key, counter):
    k = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = (counter[0] + k[0]) & MASK, (counter[1] + k[1]) & MASK
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = (a + b) & MASK
            b = ((b << turn | b >> (32 - turn)) & MASK) ^ a
        a = (a + k[(group + 1) % 3]) & MASK
        b = (b + k[(group + 2) % 3] + group + 1) & MASK
    return a, b


def gumbel(key, index):
    a, b = threefry(key, (0, index))
    u = ((a ^ b) >> 9) * 2.0 ** -23
    return -math.log(-math.log(max(u, 2.0 ** -126)))


def keys(seed, steps):
    rng = (seed >> 32, seed & MASK)
    for _ in range(steps):
        yield threefry(rng, (0, 1))
        rng = threefry(rng, (0, 0))


def candidates(step):
    return [(top["logprob"], top["id"]) for top in step["top"]]


def scores_of(method, param, t, listed, key):
    """[(score, id)], and the score that no token outside can pass."""
    if method == "top-k":
        return [(lp / t + gumbel(key, rank), i)
                for rank, (lp, i) in enumerate(listed[:param])], -math.inf
    kept, outside = listed, listed[-1][0] / t + NOISE_MAX
    if method == "top-p":
        # at temperature 1 log-probabilities are the mass itself
        mass, n = 0.0, 0
        while n < len(listed) and mass < param:
            mass += math.exp(listed[n][0])
            n += 1
        kept, outside = listed[:n], -math.inf if mass >= param else math.inf
    return [(lp / t + gumbel(key, i), i) for lp, i in kept], outside


@pytest.mark.parametrize("method,param,t", [
    ("greedy", None, None), ("random", None, 0.4), ("top-k", 40, 0.8), ("top-k", 3, 1.0),
    ("top-p", 0.6, 1.0)])
def test_each_method(web, method, param, t):
    options = ["--sampling", "deepmind", "--seed", "7", "--logprobs", str(LISTED),
               "--max-tokens", "48", "--ignore-eos"]
    if t is not None and not (method != "random" and t == 1.0):
        options += ["--temperature", str(t)]
    if param is not None:
        options += ["--" + method, str(param)]
    steps = web.run(PROMPT, *options)["logprobs"]
    assert len(steps) == 48
    judged = 0
    for step, key in zip(steps, keys(7, len(steps))):
        listed = candidates(step)
        if method == "greedy":
            assert step["id"] == listed[0][1]
            judged += 1
            continue
        scores, outside = scores_of(method, param, t, listed, key)
        scores.sort(reverse=True)
        second = max(scores[1][0] if len(scores) > 1 else -math.inf, outside)
        if scores[0][0] - second > CLOSE:
            assert step["id"] == scores[0][1], (step["id"], scores[:3])
            judged += 1
    assert judged >= 40, judged  # the others were too near, or beyond the list


def test_same_over_http(web):
    options = ["--sampling", "deepmind", "--seed", "3", "--max-tokens", "24", "--top-k", "20"]
    want = web.run(PROMPT, *options)["text"]
    body = {"messages": [{"role": "user", "content": PROMPT}], "sampling": "deepmind", "seed": 3,
            "max_tokens": 24, "top_k": 20}
    reply = web.post("/v1/chat/completions", body)
    assert reply.status == 200, reply.body
    assert reply.json()["choices"][0]["message"]["content"] == want


@pytest.mark.parametrize("options,words", [
    (["--temperature", "0"], "leave it out for greedy"),
    (["--top-k", "5", "--top-p", "0.5"], "no top_p beside top_k"),
    (["--min-p", "0.1"], "no min_p"),
    (["--repeat-penalty", "1.2"], "no repeat_penalty"),
    (["--presence-penalty", "1"], "no presence_penalty"),
    (["--frequency-penalty", "1"], "no frequency_penalty")])
def test_what_it_has_not(web, options, words):
    said = web.cli("run", "--sampling", "deepmind", *options, PROMPT)
    assert said.returncode == 2
    assert words in said.stderr


@pytest.mark.timeout_s(170)
def test_a_shard_dies(up):
    line = up("--shards", 2)
    options = ["run", "--stream", "--sampling", "deepmind", "--temperature", "0.9", "--seed", "11",
               "--max-tokens", "120", "--ignore-eos", "--", PROMPT]
    want = line.popen(*options, bufsize=0).communicate(timeout=100)[0]
    child = line.popen(*options, bufsize=0)
    head = child.stdout.read(60)
    line.kill("shard:0")
    rest, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert len(want) > 100 and head + rest == want
