"""prompts.py - the twenty conversations of the drill.

Owns:      their texts and parameters: short and long, greedy and sampled, one turn or two.
Does not:  send them (streams.py does).
"""
import collections

# kind: "cli", "key" (HTTP, sent again with its Idempotency-Key) or "from" (HTTP, picked up by its
# session); turns: the prompts of one conversation; options: parameters by the API's names.
Stream = collections.namedtuple("Stream", "name kind turns options")

TOPICS = ("a lighthouse", "the winter sea", "a clock maker", "bread", "an old map", "two rivers",
          "a quiet library", "the night train", "a garden wall", "rain", "a stray dog",
          "the harbour", "a broken bridge", "paper ships", "a red door", "the last tram",
          "snow on the hills", "a blind sailor", "the market", "an empty theatre")


def long_prompt(topic, sentences):
    """About 18 tokens a sentence, no two alike."""
    return " ".join("Note %d about %s: the keeper wrote that day %d was %s and the tide came in."
                    % (i, topic, i * 7 % 365, ("calm", "wild", "grey", "cold")[i * i % 4])
                    for i in range(sentences)) + " Tell me what happened next."


def _one(i):
    topic = TOPICS[i]
    return "Tell a story about %s." % topic if i % 2 else "Write down facts about %s." % topic


def streams():
    """All twenty."""
    greedy = {"temperature": 0}
    made = []

    def add(kind, tokens, more, turns=None):
        i = len(made)
        options = {"seed": 100 + i, "max_tokens": tokens, "ignore_eos": True, **more}
        made.append(Stream("s%02d" % i, kind, turns or [_one(i)], options))

    add("cli", 1, greedy)
    add("cli", 400, {})
    add("cli", 48, greedy, [long_prompt(TOPICS[2], 60)])
    add("cli", 120, {"temperature": 1.3, "top_k": 200, "top_p": 0.98})
    add("cli", 64, {"min_p": 0.05}, ["Name three ships.", "Which of them is the fastest?"])
    add("cli", 160, {"repetition_penalty": 1.15})
    add("cli", 200, {"presence_penalty": 0.7, "frequency_penalty": 0.4})
    add("cli", 300, {"stop": ["\n\n\n", "the end of all"]})
    add("cli", 24, {"ignore_eos": False, "temperature": 0.8})
    add("cli", 32, {"top_k": 5}, [long_prompt(TOPICS[9], 100)])
    add("key", 8, greedy)
    add("key", 240, {"temperature": 0.9, "top_p": 0.9})
    add("key", 96, {"logit_bias": {"1000": 4, "2000": -100, "3000": 2.5}})
    add("key", 40, greedy, ["Who mends clocks?", "And who winds them?"])
    add("key", 64, {"stop": ["."], "min_p": 0.02}, [long_prompt(TOPICS[14], 80)])
    add("from", 160, {"temperature": 1.1, "top_k": 64})
    add("from", 96, {"presence_penalty": 0.5, "repetition_penalty": 1.05})
    add("from", 16, greedy, [long_prompt(TOPICS[17], 55)])
    add("from", 120, {"logit_bias": {"108": -5}, "top_p": 0.8})
    add("from", 80, {"ignore_eos": False})
    return made
