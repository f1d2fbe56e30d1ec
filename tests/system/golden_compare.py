"""golden_compare.py - judges what `gemline score` and `gemline run` print against tests/golden.

Owns:      reading model.json and model.bin; the two rules of tests/golden/README.md ("exact" for
           the reference kernels, "fast" for the others) and the rule for greedy ids.
Does not:  start a pipeline; need more than Python's own library.

From a shell:  golden_compare.py ids CASE              the ids, as one JSON array
               golden_compare.py exact|fast CASE [EVERY] < line   exit status 1 if it differs
"""
import functools
import json
import math
import os
import struct
import sys

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
TOP = 20  # candidates a position in the golden data

EXACT_LOGPROB = 2e-3
GREEDY_MARGIN = 0.01
FAST_KL = 0.01
FAST_MARGIN = 0.05
FAST_SAME_BEST = 0.97
FAST_NLL = 0.02
FAST_NLL_TOKENS_MIN = 300
FAST_UNLISTED = 1e-3
FAST_ASK_TOP = 100  # what to give --top in fast mode, so that the reference's 20 are among them
FLOOR = -200.0      # a log-probability that stands for minus infinity
SHOWN_MAX = 5       # problems of one kind that are spelled out


@functools.lru_cache(maxsize=None)
def golden():
    """model.json as it is; raises OSError with the file's name when it is missing."""
    with open(os.path.join(FOLDER, "model.json"), encoding="utf-8") as file:
        return json.load(file)


def cases(tokens_max=None):
    """The cases, those up to tokens_max ids when given."""
    return [c for c in golden()["cases"] if tokens_max is None or len(c["ids"]) <= tokens_max]


def case(name):
    """The case of this name."""
    for one in golden()["cases"]:
        if one["name"] == name:
            return one
    names = ", ".join(c["name"] for c in golden()["cases"])
    raise KeyError("no golden case %r; there are %s" % (name, names))


def tensor(name, row=None):
    """The numbers of one tensor of model.bin, flat; of one row of it when row is given."""
    entry = next((t for t in golden()["tensors"] if t["name"] == name), None)
    if entry is None:
        raise KeyError("model.json has no tensor %r" % name)
    shape, code = entry["shape"], {"int32": "i", "float32": "f"}[entry["dtype"]]
    count, skip = math.prod(shape), 0
    if row is not None:
        if not 0 <= row < shape[0]:
            raise IndexError("%s has %d rows" % (name, shape[0]))
        count = math.prod(shape[1:])
        skip = row * count * 4
    with open(os.path.join(FOLDER, "model.bin"), "rb") as file:
        file.seek(entry["offset"] + skip)
        data = file.read(count * 4)
    return struct.unpack("<%d%s" % (count, code), data)


class Reference:
    """The golden data of one case: per position the 20 best ids with their log-probabilities."""

    def __init__(self, name):
        self.name = name
        self.case = case(name)
        self.tokens = len(self.case["ids"])
        self.logsumexp = tensor(name + ".logsumexp")
        self.logprob_next = tensor(name + ".logprob_next")
        self._ids = tensor(name + ".top_ids")
        self._logits = tensor(name + ".top_logits")

    def top(self, position):
        """[(id, log-probability)] of one position, best first."""
        at = slice(position * TOP, (position + 1) * TOP)
        norm = self.logsumexp[position]
        return [(i, l - norm) for i, l in zip(self._ids[at], self._logits[at])]


class Comparison:
    """Collects cases, then judges them all together: add(NAME, SCORE) ..., problems().

    mode   "exact" or "fast"
    every  the head's step that score was given; positions whose row is null are left out, and at
           least one of every `every` positions must be there
    """

    def __init__(self, mode, every=1):
        if mode not in ("exact", "fast"):
            raise ValueError("mode is exact or fast, not %r" % mode)
        self.mode = mode
        self.every = every
        self.positions = 0        # compared
        self.worst = 0.0          # exact: the largest difference of a log-probability
        self.kl_sum = 0.0         # fast
        self.unlisted_sum = 0.0   # fast: the reference's probability on ids we do not list
        self.clear = 0            # fast: positions with a clear reference margin
        self.clear_same = 0       # fast: those of them with the same best token
        self._problems = []
        self._hidden = 0

    def _problem(self, text):
        if len(self._problems) < SHOWN_MAX:
            self._problems.append(text)
        else:
            self._hidden += 1

    def add(self, name, score):
        """Takes one JSON object of `gemline score --tokens --top N --json`, text or parsed."""
        score = json.loads(score) if isinstance(score, (str, bytes)) else score
        ref = Reference(name)
        ids, logprobs, follow = score["top_ids"], score["top_logprobs"], score["logprobs"]
        if (len(ids), len(logprobs), len(follow)) != (ref.tokens, ref.tokens, ref.tokens - 1):
            self._problem("%s: %d, %d, %d rows of top_ids, top_logprobs, logprobs for %d tokens"
                          % (name, len(ids), len(logprobs), len(follow), ref.tokens))
            return
        compared = 0
        for position in range(ref.tokens):
            if ids[position] is None or logprobs[position] is None:
                continue
            ours = [(i, FLOOR if l is None else l)
                    for i, l in zip(ids[position], logprobs[position])]
            if self._row_is_sound(name, position, ours):
                compared += 1
                judge = self._exact_row if self.mode == "exact" else self._fast_row
                judge(name, position, ref.top(position), ours)
        if compared < ref.tokens // self.every:
            self._problem("%s: only %d of %d positions could be compared"
                          % (name, compared, ref.tokens // self.every))
        self.positions += compared
        self._nll(ref, follow)

    def _row_is_sound(self, name, position, ours):
        where = "%s, position %d" % (name, position)
        if len(ours) < TOP or len({i for i, _ in ours}) != len(ours):
            self._problem("%s: %d candidates, some twice or too few" % (where, len(ours)))
            return False
        if any(not isinstance(l, (int, float)) or math.isnan(l) or l > 1e-4 for _, l in ours):
            self._problem("%s: a log-probability is no number or above 0" % where)
            return False
        if any(a[1] < b[1] for a, b in zip(ours, ours[1:])):
            self._problem("%s: the candidates do not fall" % where)
            return False
        return True

    def _exact_row(self, name, position, ref, ours):
        """Each log-probability within the bound. An id that only one side lists may stand just
        behind the other side's last one, no further."""
        mine, theirs = dict(ours), dict(ref)
        pairs = [(i, l, mine[i]) for i, l in ref if i in mine]
        pairs += [(i, l, ours[-1][1]) for i, l in ref if i not in mine and l > ours[-1][1]]
        pairs += [(i, ref[-1][1], l) for i, l in ours if i not in theirs and l > ref[-1][1]]
        for token, want, got in pairs:
            gap = abs(want - got)
            self.worst = max(self.worst, gap)
            if gap > EXACT_LOGPROB:
                self._problem("%s, position %d, id %d: logprob %.5f, the reference has %.5f"
                              % (name, position, token, got, want))

    def _fast_row(self, name, position, ref, ours):
        """KL(reference || ours) over the reference's ids that our row lists, the rest as one."""
        mine = dict(ours)
        kl, p_seen, q_seen = 0.0, 0.0, 0.0
        for token, want in ref:
            p = math.exp(want)
            if token not in mine:
                self.unlisted_sum += p
                continue
            kl += p * (want - mine[token])
            p_seen += p
            q_seen += math.exp(mine[token])
        p_rest, q_rest = max(1.0 - p_seen, 0.0), max(1.0 - q_seen, 1e-12)
        if p_rest > 1e-7:
            kl += p_rest * math.log(p_rest / q_rest)
        self.kl_sum += kl
        if ref[0][1] - ref[1][1] > FAST_MARGIN:
            self.clear += 1
            self.clear_same += ref[0][0] == ours[0][0]

    def _nll(self, ref, follow):
        """The mean negative log-probability of the next given token, over the positions that are
        there on both sides (all of them without `every`)."""
        pairs = [(want, got) for want, got in zip(ref.logprob_next, follow) if got is not None]
        if len(pairs) < len(follow) // self.every:
            self._problem("%s: only %d of %d logprobs are numbers"
                          % (ref.name, len(pairs), len(follow)))
            return
        gap = abs(sum(got - want for want, got in pairs) / len(pairs))
        bound = EXACT_LOGPROB
        if self.mode == "fast":
            bound = FAST_NLL if ref.tokens >= FAST_NLL_TOKENS_MIN else math.inf
        if gap > bound:
            self._problem("%s: nll differs by %.5f, at most %.3g is allowed"
                          % (ref.name, gap, bound))

    def numbers(self):
        """What was measured, for a report."""
        if self.mode == "exact":
            return {"positions": self.positions, "worst_logprob": self.worst}
        count = max(self.positions, 1)
        return {"positions": self.positions, "mean_kl": self.kl_sum / count,
                "same_best": self.clear_same / max(self.clear, 1), "clear": self.clear,
                "unlisted": self.unlisted_sum / count}

    def problems(self):
        """Sentences; an empty list when all is well."""
        found = list(self._problems)
        if self._hidden:
            found.append("and %d more" % self._hidden)
        if self.positions == 0:
            found.append("nothing was compared")
        elif self.mode == "fast":
            n = self.numbers()
            if n["mean_kl"] > FAST_KL:
                found.append("mean KL %.5f, at most %g is allowed" % (n["mean_kl"], FAST_KL))
            if n["same_best"] < FAST_SAME_BEST:
                found.append("same best token in %.2f %% of %d clear positions, %g %% are needed"
                             % (100 * n["same_best"], n["clear"], 100 * FAST_SAME_BEST))
            if n["unlisted"] > FAST_UNLISTED:
                found.append("%.5f of the reference's probability is on ids our rows do not list: "
                             "ask for --top %d" % (n["unlisted"], FAST_ASK_TOP))
        return found


def greedy_problem(name, ids, margin_min=GREEDY_MARGIN):
    """None when ids equal the case's greedy ids up to the first step whose margin is under
    margin_min (ids may be shorter than the reference, not empty); else a sentence."""
    greedy = case(name)["greedy"]
    if not ids:
        return "%s: no ids" % name
    for step, (want, margin) in enumerate(zip(greedy["ids"], greedy["margins"])):
        if step >= len(ids) or margin < margin_min:
            return None
        if ids[step] != want:
            return "%s: step %d chose %d, the reference %d (margin %.4f)" % (
                name, step, ids[step], want, margin)
    return None


def main(words):
    if len(words) == 2 and words[0] == "ids":
        print(json.dumps(case(words[1])["ids"]))
        return 0
    if len(words) not in (2, 3) or words[0] not in ("exact", "fast"):
        print(__doc__.split("\n\n")[-1], file=sys.stderr)
        return 2
    comparison = Comparison(words[0], int(words[2]) if len(words) == 3 else 1)
    line = sys.stdin.readline()
    if not line.strip():
        print("%s: score printed nothing" % words[1], file=sys.stderr)
        return 1
    comparison.add(words[1], line)
    print("%s: %s" % (words[1], json.dumps(comparison.numbers())))
    for text in comparison.problems():
        print("  " + text)
    return 1 if comparison.problems() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
