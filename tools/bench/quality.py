"""quality.py - how close both sides are to the reference: mean KL and same best token.

Owns:      the peer's rows in the form of `gemline score`, one request a position.
Does not:  judge rows itself: tests/system/golden_compare.py does, by the same rule for both.
"""
import json
import os
import sys

import peer
from base import ROOT, Failed, command, figure
from ours import GEMLINE
from rows_speed import plain

sys.path.insert(0, os.path.join(ROOT, "tests", "system"))
import golden_compare  # noqa: E402  (lies with the tests)

TOKENS_MAX, TOKENS_MAX_QUICK = 320, 12
TOP = golden_compare.FAST_ASK_TOP
SLOT_CONTEXT = 1024


def peer_score(server, ids):
    """One case as `gemline score --tokens --top N --json` prints it. The cache of the server holds
    the ids before, so each request computes one token; all of the sliding window's keys are kept
    (--swa-full), or it would compute the case again for each of them."""
    rows_ids, rows_logprobs, follow = [], [], []
    for n in range(1, len(ids) + 1):
        got = server.ask({"prompt": ids[:n], "n_predict": 1, "temperature": 0, "n_probs": TOP,
                          "cache_prompt": True})
        top = got["completion_probabilities"][0]["top_logprobs"]
        rows_ids.append([one["id"] for one in top])
        rows_logprobs.append([min(one["logprob"], 0.0) for one in top])
        if n < len(ids):
            listed = dict(zip(rows_ids[-1], rows_logprobs[-1]))
            follow.append(listed.get(ids[n]))
    return {"top_ids": rows_ids, "top_logprobs": rows_logprobs, "logprobs": follow}


def quality(bench):
    """Both sides on the reference's short cases."""
    cases = golden_compare.cases(TOKENS_MAX_QUICK if bench.quick else TOKENS_MAX)
    if not cases:
        raise Failed("tests/golden has no case of at most %d tokens" % TOKENS_MAX_QUICK)
    line = bench.pool.get(*plain(bench))
    words = [GEMLINE, "score", "--tokens", "--json", "--top", TOP]
    line.remember(words)
    feed = "".join(json.dumps(c["ids"]) + "\n" for c in cases)
    scores = command(words, env=line.env, text=feed).splitlines()
    mine, theirs = golden_compare.Comparison("fast"), golden_compare.Comparison("fast")
    for case, score in zip(cases, scores):
        mine.add(case["name"], score)
    with peer.Server(bench.model, bench.threads, 1, SLOT_CONTEXT, "--swa-full") as server:
        for case in cases:
            theirs.add(case["name"], peer_score(server, case["ids"]))
        commands = line.commands + [server.shown()]
    a, b = mine.numbers(), theirs.numbers()
    if a["positions"] != b["positions"]:
        raise Failed("%d positions compared on our side, %d on the peer's; %s"
                     % (a["positions"], b["positions"], theirs.problems()[:1]))
    return {"figures": [
        figure("mean KL from the reference", "nats", ours=a["mean_kl"], peer=b["mean_kl"],
               met=a["mean_kl"] <= b["mean_kl"], goal="closer than the peer",
               note="%d positions of %d cases" % (a["positions"], len(cases))),
        figure("same best token", "%", ours=100 * a["same_best"], peer=100 * b["same_best"],
               met=a["same_best"] >= b["same_best"], goal="at least the peer's",
               note="%d positions with a clear best" % a["clear"])],
            "raw": {"ours": a, "peer": b}, "commands": commands}
