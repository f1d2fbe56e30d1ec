"""test_openai.py - the official Python client, unchanged, against the real pipeline.

Owns:      chat and text completions, models, errors, timeouts and cancelling as the client's
           users see them; what they get is what `gemline run` with the same options gets.
Does not:  look at bytes on the wire (test_web_api.py), use responses (test_openai_responses.py) or
           kill anything (test_web_kill.py).
"""
import asyncio
import http.client
import inspect
import json
import time

import openai
import pytest

from conftest import scaled

MODEL = "gemma3-270m"
QUESTION = "Which vitamins does the sun give us?"
ASK = [{"role": "user", "content": QUESTION}]
COLOUR = [{"role": "user", "content": "Name a colour."}]
STORY = [{"role": "user", "content": "Tell a long story about a lighthouse."}]
CAPITAL = [2, 818, 5279, 529, 7001, 563]  # <bos>The capital of France is


def chat(client, messages, **options):
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def streamed(client, messages, **options):
    """The chunks of a streamed chat."""
    return list(chat(client, messages, stream=True, **options))


def text_of(chunks, index=0):
    return "".join(c.choices[0].delta.content or "" for c in chunks
                   if c.choices and c.choices[0].index == index)


def tokens(web, text):
    return web.post("/v1/tokenize", {"text": text}).json()["tokens"]


# ---- chat -------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, words", [
    ({"temperature": 0}, ("--temperature", 0)),
    ({"seed": 7}, ("--seed", 7)),
    ({"seed": 8, "temperature": 1.7, "top_p": 0.8}, ("--seed", 8, "--temperature", "1.7",
                                                     "--top-p", "0.8")),
    ({"seed": 4, "top_p": 1, "extra_body": {"top_k": 0, "min_p": 0.05}},
     ("--seed", 4, "--top-k", 0, "--top-p", 1, "--min-p", "0.05")),
    ({"seed": 5, "extra_body": {"top_k": 3, "repetition_penalty": 1.3}},
     ("--seed", 5, "--top-k", 3, "--repeat-penalty", "1.3")),
    ({"temperature": 0, "presence_penalty": 1, "frequency_penalty": 0.5},
     ("--temperature", 0, "--presence-penalty", 1, "--frequency-penalty", "0.5")),
    ({"temperature": 0, "extra_body": {"ignore_eos": True}}, ("--temperature", 0, "--ignore-eos")),
], ids=lambda o: " ".join(map(str, o)) if isinstance(o, tuple) else "")
def test_plain_streamed_and_run_are_equal(web, client, options, words):
    want = web.run(QUESTION, *words, "--max-tokens", 24)
    plain = chat(client, ASK, max_tokens=24, **options)
    chunks = streamed(client, ASK, max_tokens=24, **options)
    assert plain.choices[0].message.content == want["text"] == text_of(chunks)
    assert plain.choices[0].finish_reason == want["finish_reason"]
    assert chunks[-1].choices[0].finish_reason == want["finish_reason"]
    assert plain.usage.prompt_tokens == want["usage"]["prompt_tokens"]
    assert plain.usage.completion_tokens == len(want["ids"])
    assert plain.choices[0].message.role == chunks[0].choices[0].delta.role == "assistant"
    assert plain.object == "chat.completion" and chunks[0].object == "chat.completion.chunk"
    assert plain.model == MODEL and plain.id.startswith("chatcmpl-")
    assert plain.system_fingerprint == chunks[0].system_fingerprint
    assert len({c.id for c in chunks}) == 1


def test_usage_of_a_stream(client):
    without = streamed(client, ASK, max_tokens=4)
    assert all(c.usage is None and c.choices for c in without)
    chunks = streamed(client, ASK, max_tokens=4, extra_body={"ignore_eos": True},
                      stream_options={"include_usage": True})
    assert all(c.usage is None for c in chunks[:-1]) and chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage.completion_tokens == 4
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens is not None


def test_the_default_length_and_both_names_of_it(web, client):
    want = web.run(QUESTION, "--temperature", 0)
    assert chat(client, ASK, temperature=0).choices[0].message.content == want["text"]
    for name in ("max_tokens", "max_completion_tokens"):
        got = chat(client, ASK, temperature=0, **{name: 3})
        assert got.usage.completion_tokens == 3 and got.choices[0].finish_reason == "length"


def test_n(client):
    one = chat(client, STORY, seed=5, max_tokens=20)
    many = chat(client, STORY, seed=5, max_tokens=20, n=4)
    texts = [c.message.content for c in many.choices]
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    assert texts[0] == one.choices[0].message.content and len(set(texts)) > 1
    assert many.usage.prompt_tokens == one.usage.prompt_tokens
    assert many.usage.completion_tokens == 4 * 20
    chunks = streamed(client, STORY, seed=5, max_tokens=20, n=4)
    assert [text_of(chunks, i) for i in range(4)] == texts
    ends = [c.choices[0].index for c in chunks if c.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2, 3]


@pytest.mark.parametrize("many", [False, True])
def test_stop(client, many):
    plain = chat(client, ASK, temperature=0).choices[0].message.content
    word = " " + plain.split()[4]  # with its blank it is whole tokens
    stop = ["no such text", word] if many else word
    got = chat(client, ASK, temperature=0, stop=stop)
    assert got.choices[0].message.content == plain[:plain.index(word)]
    assert got.choices[0].finish_reason == "stop"
    assert text_of(streamed(client, ASK, temperature=0, stop=stop)) == plain[:plain.index(word)]


def test_logprobs_are_what_score_says(web, client):
    got = chat(client, ASK, temperature=0.8, seed=3, max_tokens=12, logprobs=True, top_logprobs=5)
    ids = web.run(QUESTION, "--temperature", "0.8", "--seed", 3, "--max-tokens", 12)["ids"]
    prompt = web.post("/v1/tokenize", {"messages": ASK}).json()["tokens"]
    score = web.post("/v1/score", {"ids": prompt + ids, "top": 5}).json()["data"][0]
    content = got.choices[0].logprobs.content
    assert len(content) == len(ids) == 12
    assert b"".join(bytes(t.bytes) for t in content).decode() == got.choices[0].message.content
    for i, one in enumerate(content):
        at = len(prompt) + i - 1
        assert one.logprob == pytest.approx(score["logprobs"][at], abs=2e-6)
        assert [t.logprob for t in one.top_logprobs] == pytest.approx(score["top_logprobs"][at],
                                                                      abs=2e-6)
        if ids[i] in score["top_ids"][at]:
            assert one.token == one.top_logprobs[score["top_ids"][at].index(ids[i])].token
    chunks = streamed(client, ASK, temperature=0.8, seed=3, max_tokens=12, logprobs=True,
                      top_logprobs=5)
    assert [t for c in chunks if c.choices[0].logprobs
            for t in c.choices[0].logprobs.content] == content
    bare = chat(client, ASK, temperature=0, max_tokens=2, logprobs=True)
    assert all(t.top_logprobs == [] for t in bare.choices[0].logprobs.content)
    assert chat(client, ASK, max_tokens=2).choices[0].logprobs is None


def test_the_end_token_is_not_listed(client):
    got = chat(client, COLOUR, temperature=0, logprobs=True)
    assert got.choices[0].finish_reason == "stop"
    listed = b"".join(bytes(t.bytes) for t in got.choices[0].logprobs.content)
    assert listed.decode() == got.choices[0].message.content


def test_logit_bias(web, client):
    (blue,) = tokens(web, "Blue")
    forced = chat(client, COLOUR, temperature=0, max_tokens=3, logit_bias={str(blue): 100})
    assert forced.choices[0].message.content == "BlueBlueBlue"
    plain = chat(client, COLOUR, temperature=0, max_tokens=6, logprobs=True)
    first = plain.choices[0].logprobs.content[0].token
    banned = {str(i): -100 for i in tokens(web, first)}
    without = chat(client, COLOUR, temperature=0, max_tokens=6, logit_bias=banned, logprobs=True)
    assert first not in [t.token for t in without.choices[0].logprobs.content]


def test_forms_of_messages(client):
    def of(messages):
        got = chat(client, messages, temperature=0, max_tokens=16)
        return got.choices[0].message.content, got.usage.prompt_tokens
    system = of([{"role": "system", "content": "Answer in French."}, *ASK])
    assert system == of([{"role": "developer", "content": "Answer in French."}, *ASK])
    assert system != of(ASK)
    parts = [{"type": "text", "text": QUESTION[:10]}, {"type": "text", "text": QUESTION[10:]}]
    whole = of([{"role": "user", "content": parts[:1]}])
    assert whole == of([{"role": "user", "content": QUESTION[:10]}])
    assert of([{"role": "user", "content": parts, "name": None}])[1] > 0


def test_a_whole_history_each_time(web, client):
    first = chat(client, [{"role": "user", "content": "My name is Ada. Remember it."}],
                 temperature=0, max_tokens=24)
    history = [{"role": "user", "content": "My name is Ada. Remember it."},
               {"role": "assistant", "content": first.choices[0].message.content},
               {"role": "user", "content": "What is my name?"}]
    second = chat(client, history, temperature=0, max_tokens=24)
    ids = web.post("/v1/tokenize", {"messages": history}).json()["tokens"]
    assert second.usage.prompt_tokens == len(ids) > first.usage.prompt_tokens
    assert second.usage.prompt_tokens_details.cached_tokens > 0
    again = chat(client, history, temperature=0, max_tokens=24)
    assert again.choices[0].message.content == second.choices[0].message.content


def test_twenty_streams_at_once(web, client):
    def ask(i):
        return {"model": MODEL, "max_tokens": 12, "seed": i, "messages":
                [{"role": "user", "content": "Story number %d, please." % i}]}
    want = [client.chat.completions.create(**ask(i)).choices[0].message.content
            for i in range(20)]

    async def one(many, i):
        stream = await many.chat.completions.create(stream=True, **ask(i))
        return text_of([chunk async for chunk in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=web.url + "/v1", api_key="none",
                                      max_retries=0) as many:
            return await asyncio.gather(*(one(many, i) for i in range(20)))
    assert asyncio.run(all_of_them()) == want


# ---- text completions -------------------------------------------------------------------------

def test_completion(web, client):
    want = web.run("The capital of France is", "--raw", "--temperature", 0, "--max-tokens", 8)
    ask = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    got = client.completions.create(prompt="The capital of France is", **ask)
    assert got.choices[0].text == want["text"]
    assert got.choices[0].finish_reason == want["finish_reason"]
    assert got.object == "text_completion" and got.usage.prompt_tokens == len(CAPITAL)
    stream = client.completions.create(prompt="The capital of France is", stream=True, **ask)
    assert "".join(c.choices[0].text for c in stream) == want["text"]
    echo = client.completions.create(prompt="The capital of France is", echo=True, **ask)
    assert echo.choices[0].text == "The capital of France is" + want["text"]
    stopped = client.completions.create(prompt="The capital of France is", stop=["."], **ask)
    assert "." not in stopped.choices[0].text


def test_prompts_as_ids_and_batches(web, client):
    want = web.run("The capital of France is", "--raw", "--temperature", 0, "--max-tokens", 8)
    other = web.run("Two and two are", "--raw", "--temperature", 0, "--max-tokens", 8)
    ask = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    assert client.completions.create(prompt=CAPITAL, **ask).choices[0].text == want["text"]
    ids = [2] + tokens(web, "Two and two are")
    for prompt in (["The capital of France is", "Two and two are"], [CAPITAL, ids]):
        got = client.completions.create(prompt=prompt, **ask)
        assert [c.text for c in got.choices] == [want["text"], other["text"]]
        assert [c.index for c in got.choices] == [0, 1]
        assert got.usage.prompt_tokens == len(CAPITAL) + len(ids)
    got = client.completions.create(prompt=[CAPITAL, ids], n=2, seed=1, model=MODEL, max_tokens=5)
    assert [c.index for c in got.choices] == [0, 1, 2, 3]


@pytest.mark.parametrize("most", [0, 1])
def test_as_lm_eval_asks(web, client, most):
    """Log-likelihoods of continuations, as lm-evaluation-harness reads them out of an echo."""
    texts = [(" Paris", "The capital of France is"), (" London", "The capital of France is")]
    batch = [[2] + tokens(web, before + after) for after, before in texts]
    begin = [len(tokens(web, before)) + 1 for _after, before in texts]
    got = client.completions.create(model=MODEL, prompt=batch, max_tokens=most, logprobs=1,
                                    echo=True, temperature=0, seed=1234)
    score = web.post("/v1/score", {"ids": batch, "top": 1}).json()["data"]
    sums = []
    for i, choice in enumerate(sorted(got.choices, key=lambda c: c.index)):
        end = len(choice.logprobs.token_logprobs) - most
        known = choice.logprobs.token_logprobs[begin[i]:end]
        best = choice.logprobs.top_logprobs[begin[i]:end]
        assert end == len(batch[i]) and choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1:end] == pytest.approx(score[i]["logprobs"],
                                                                      abs=2e-6)
        greedy = all(one == max(top.values()) for one, top in zip(known, best))
        assert greedy == all(score[i]["top_ids"][at - 1] == [batch[i][at]]
                             for at in range(begin[i], end))
        assert len(choice.logprobs.text_offset) == len(choice.logprobs.tokens)
        sums.append(sum(known))
    assert sums[0] > sums[1]
    assert got.usage.completion_tokens == most * 2


# ---- models -----------------------------------------------------------------------------------

def test_models(client):
    (model,) = client.models.list().data
    assert model.id == MODEL and model.object == "model" and model.max_model_len == 8192
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


# ---- errors -----------------------------------------------------------------------------------

def refused(call, kind=openai.BadRequestError):
    """The exception that the client raises for `call`."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.request_id and caught.value.body["message"]
    return caught.value


def test_wrong_values(client):
    for name, value in (("temperature", -1), ("top_p", 0), ("n", 0), ("max_tokens", 0),
                        ("seed", 1.5), ("stop", ["x"] * 17), ("logit_bias", {"x": 1}),
                        ("frequency_penalty", 1000), ("top_logprobs", 21)):
        error = refused(lambda: chat(client, ASK, **{name: value}))
        assert error.param and error.param.split(".")[0] == name, name
        assert error.code and error.status_code == 400, name
    error = refused(lambda: chat(client, ASK, extra_body={"temprature": 1}))
    assert error.param == "temprature" and error.code == "unknown_parameter"
    assert "temperature" in error.message
    assert refused(lambda: chat(client, [])).param == "messages"
    error = refused(lambda: chat(client, [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:,"}}]}]))
    assert error.param == "messages[0].content[0]"


def test_another_model(client):
    error = refused(lambda: client.chat.completions.create(model="gpt-4o", messages=ASK),
                    openai.NotFoundError)
    assert error.code == "model_not_found" and error.param == "model"


def test_too_long_a_prompt(client):
    long = [{"role": "user", "content": "word " * 9000}]
    for call in (lambda: chat(client, long), lambda: streamed(client, long),
                 lambda: client.responses.create(model=MODEL, input="word " * 9000),
                 lambda: client.completions.create(model=MODEL, prompt="word " * 9000),
                 lambda: client.completions.create(model=MODEL, prompt="word " * 9000, echo=True,
                                                   max_tokens=0, logprobs=0),
                 lambda: client.post("/score", cast_to=object, body={"text": "word " * 9000})):
        assert refused(call).code == "context_length_exceeded"


@pytest.mark.parametrize("schema, path", [("ChatCompletionRequest", "chat/completions"),
                                          ("CompletionRequest", "completions"),
                                          ("ResponseRequest", "responses")])
def test_every_parameter_is_known_and_refused_ones_name_themselves(web, client, schema, path):
    known = web.get("/openapi.json").json()["components"]["schemas"][schema]["properties"]
    create = {"chat/completions": client.chat.completions, "completions": client.completions,
              "responses": client.responses}[path].create
    own = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    missing = set(inspect.signature(create).parameters) - own - set(known)
    assert not missing, "the client has parameters that the table lacks: %s" % sorted(missing)
    need = {"chat/completions": {"messages": ASK}, "completions": {"prompt": "x"},
            "responses": {"input": "x"}}[path]
    for name, row in known.items():
        if row["x-gemline-use"] != "refused":
            continue
        body = {"model": MODEL, "max_tokens": 1, name: "x", **need}
        error = refused(lambda: client.post("/" + path, cast_to=object, body=body))
        if path == "responses" and error.param == "max_tokens":
            body.pop("max_tokens")
            error = refused(lambda: client.post("/" + path, cast_to=object, body=body))
        assert error.param == name and error.status_code == 400, name
    assert {r["x-gemline-use"] for r in known.values()} == {"honoured", "refused",
                                                            "accepted without effect"}


def test_what_is_accepted_without_effect(client):
    got = chat(client, ASK, temperature=0, max_tokens=3, user="ada", metadata={"a": "b"},
               store=True, service_tier="auto", prompt_cache_key="k", safety_identifier="s",
               modalities=["text"], parallel_tool_calls=True)
    assert got.choices[0].message.content == \
        chat(client, ASK, temperature=0, max_tokens=3).choices[0].message.content
    for name, value in (("service_tier", "flex"), ("modalities", ["text", "audio"])):
        assert refused(lambda: chat(client, ASK, **{name: value})).param == name
    everything = {n: None for n in inspect.signature(client.chat.completions.create).parameters
                  if n not in ("self", "messages", "model") and not n.startswith("extra_")
                  and n != "timeout"}
    body = {"model": MODEL, "messages": COLOUR, **everything, "max_tokens": 2, "ignore_eos": True}
    got = client.post("/chat/completions", cast_to=object, body=body)
    assert got["usage"]["completion_tokens"] == 2


# ---- clients that go away ---------------------------------------------------------------------

LONG = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}


def test_timeout(web, client):
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.4), STORY, **LONG)
    assert web.wait_idle() < scaled(1)
    assert chat(client, COLOUR, max_tokens=2).usage.completion_tokens


def test_closing_the_stream_cancels(web, client):
    stream = chat(client, STORY, stream=True, **LONG)
    for _ in range(5):
        next(stream)
    assert web.running() == 1
    stream.close()
    assert web.wait_idle() < scaled(1)


def test_a_plain_request_whose_client_goes_away(web):
    link = web.connect()
    body = {"model": MODEL, "messages": STORY, "max_tokens": 4000, "ignore_eos": True, "n": 2}
    link.request("POST", "/v1/chat/completions", json.dumps(body))
    end = time.monotonic() + scaled(10)
    while web.running() < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert web.running() == 2
    link.close()
    assert web.wait_idle() < scaled(1)
    with pytest.raises(http.client.HTTPException):
        link.getresponse()
