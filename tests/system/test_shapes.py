"""test_shapes.py - the running system on small random Gemma 2 and Gemma 3 files of tests/golden:
control tokens by piece text, both dialects, and what another kernel set may take over.

Owns:      prompts, sessions and scores under both families' numbers; the numerics id after a
           restart.
Does not:  judge numbers against the reference (tests/unit/test_shapes.c does).
"""
import os
import signal
import struct

import conftest
import pytest

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "shapes")
EOS, BOS = 1, 2
# file -> <start_of_turn>, <end_of_turn>, newline
NUMBERS = {"g2-caps": (106, 107, 108), "g3-divisor": (105, 106, 107)}
GREEDY = ("--temperature", 0, "--max-tokens", 12, "--ignore-eos")
CLOSE = 1e-4  # the same bits printed and read


@pytest.fixture
def small(tmp_path):
    """small(SHAPE, DIALECT): the path of a whole GGUF file."""
    def join(shape, dialect):
        path = tmp_path / ("%s.%s.gguf" % (shape, dialect))
        data = b""
        for end in (dialect + ".head", "data"):
            with open(os.path.join(FOLDER, "%s.%s" % (shape, end)), "rb") as file:
                data += file.read()
        path.write_bytes(data)
        return str(path)
    return join


def ids_of(line, text):
    done = line.cli("tokenize", "--no-bos", "--json", input='{"text": %s}\n' % quoted(text),
                    check=True)
    return [int(word) for word in done.stdout.strip().strip("[]").split(",")]


def quoted(text):
    return '"%s"' % text.replace("\n", "\\n")


def turn_ids(line, shape, text):
    """A user's turn and the head of the answer, as the template has them."""
    start, end, newline = NUMBERS[shape]
    return [start, *ids_of(line, "user\n" + text), end, newline, start, *ids_of(line, "model\n")]


def check_greedy(line, prompt, answer):
    """Each id of the answer is the best one behind prompt and answer so far: so the prompt had
    exactly these ids."""
    scored = line.score(prompt + answer, "--top", 2)
    for step, token in enumerate(answer):
        at = len(prompt) - 1 + step
        best, second = scored["top_logprobs"][at][:2]
        assert scored["top_ids"][at][0] == token or best - second < CLOSE, step


@pytest.mark.timeout_s(120)
@pytest.mark.parametrize("dialect", ["llama", "ollama"])
@pytest.mark.parametrize("shape", sorted(NUMBERS))
def test_control_tokens_by_their_text(up, small, shape, dialect):
    line = up("--model", small(shape, dialect), "--shards", 2)
    start, end, newline = NUMBERS[shape]
    first = line.run("hello user", "--session", "s", *GREEDY)
    prompt = [BOS, *turn_ids(line, shape, "hello user")]
    assert first["usage"]["prompt_tokens"] == len(prompt)
    check_greedy(line, prompt, first["ids"])

    second = line.run("and the model", "--session", "s", *GREEDY)
    prompt += [*first["ids"], end, newline, *turn_ids(line, shape, "and the model")]
    assert second["usage"]["prompt_tokens"] == len(prompt)
    assert second["usage"]["cached_tokens"] > 0
    check_greedy(line, prompt, second["ids"])
    shown = line.cli("session", "show", "s", check=True).stdout
    assert "hello user" in shown and "and the model" in shown

    typed = ids_of(line, "<start_of_turn>\n<end_of_turn>")
    assert newline in typed and not {start, end, BOS, EOS} & set(typed)


@pytest.mark.timeout_s(120)
@pytest.mark.parametrize("shape", sorted(NUMBERS))
def test_what_ends_an_answer(up_web, small, shape):
    """Made the sure choice, <eos> and <end_of_turn> end the answer and <start_of_turn> does not."""
    web = up_web("--model", small(shape, "llama"))
    start, end, _newline = NUMBERS[shape]
    for token, reason in ((EOS, "stop"), (end, "stop"), (start, "length")):
        answer = web.post("/v1/chat/completions", {
            "model": shape + ".llama", "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 5, "temperature": 0, "logit_bias": {str(token): 100}})
        assert answer.status == 200, answer.body
        assert answer.json()["choices"][0]["finish_reason"] == reason, (token, answer.body)


def without_last_piece(head):
    """A GGUF header whose three arrays of the vocabulary have one element less. The last piece is
    one byte long and ends its array."""
    head = head.rstrip(b"\0") + b"\0" * 5  # no padding; the last offset has three bytes of eight
    for name, last in ((b"tokenizer.ggml.tokens", 9), (b"tokenizer.ggml.scores", 4),
                       (b"tokenizer.ggml.token_type", 4)):
        at = head.index(name) + len(name) + 8  # behind the types: the count
        count, = struct.unpack_from("<Q", head, at)
        begin = at + 8
        if last == 9:
            end = begin
            for _ in range(count):
                end += 8 + struct.unpack_from("<Q", head, end)[0]
        else:
            end = begin + count * last
        head = head[:at] + struct.pack("<Q", count - 1) + head[begin:end - last] + head[end:]
    return head


@pytest.mark.timeout_s(60)
def test_a_vocabulary_shorter_than_the_embedding(home, small):
    """A row without a piece could be chosen and has no text: refused when the pipeline starts."""
    with open(small("g2-caps", "llama"), "rb") as file:
        whole = file.read()
    with open(os.path.join(FOLDER, "g2-caps.llama.head"), "rb") as file:
        size = len(file.read())
    head = without_last_piece(whole[:size])
    head += b"\0" * (-len(head) % 32)
    path = os.path.join(home.home, "short.gguf")
    with open(path, "wb") as file:
        file.write(head + whole[size:])
    done = home.cli("up", "--detach", "--http", "off", "--model", path, timeout=50)
    assert done.returncode != 0
    said = done.stderr + home.logs()
    assert "582 pieces but the embedding 583 rows" in said, said


# ---- the numerics id ----------------------------------------------------------------------------

STREAM = ("run", "--stream", "--seed", "5", "--max-tokens", "4000", "--ignore-eos", "--", "hello")


def pids_of(line):
    """The processes of the pipeline, the supervisor first."""
    found = conftest.processes_of(line.home)
    return sorted(found, key=lambda pid: " up " not in found[pid])


@pytest.mark.timeout_s(170)
@pytest.mark.parametrize("after", ["avx2", "ref"])
def test_a_running_turn_and_other_kernels(up, small, after):
    """Everything is killed in mid-stream. With the same kernels the turn goes on, with the same
    bytes; others would give other bits, so it is refused by name."""
    model = small("g2-caps", "llama")
    line = up("--model", model, env={"GM_KERNELS": "avx2"})
    want = line.popen(*STREAM).communicate(timeout=100)[0] if after == "avx2" else b""
    pids = pids_of(line)
    child = line.popen(*STREAM, bufsize=0)
    head = child.stdout.read(40)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    line.up("--model", model, env={"GM_KERNELS": after})
    rest, err = child.communicate(timeout=100)
    if after == "avx2":
        assert child.returncode == 0, err
        assert head + rest == want
    else:
        assert child.returncode != 0, "the turn was over before the kill"
        assert b"begun as avx2-" in err and b"compute as ref-" in err, err
        assert b"send it again" in err
    assert line.run("hello", *GREEDY)["ids"]


@pytest.mark.timeout_s(120)
def test_a_session_and_other_kernels(up, small):
    """A conversation goes on under other kernels from its ids alone: no row of the first ones is
    used, and the answer has the bits that the second ones give to the whole text."""
    model = small("g3-divisor", "llama")
    options = ("--session", "s", "--logprobs", 3, *GREEDY)
    line = up("--model", model, env={"GM_KERNELS": "ref"})
    first = line.run("hello user", *options)
    assert line.run("and the model", *options)["usage"]["cached_tokens"] > 0
    line.cli("session", "undo", "s", check=True)
    line.cli("down", check=True)

    line.up("--model", model, env={"GM_KERNELS": "avx2"})
    again = line.run("and the model", *options)
    assert again["usage"]["cached_tokens"] == 0
    prompt = [BOS, *turn_ids(line, "g3-divisor", "hello user"), *first["ids"], 106, 107,
              *turn_ids(line, "g3-divisor", "and the model")]
    assert again["usage"]["prompt_tokens"] == len(prompt)
    scored = line.score(prompt + again["ids"])
    ours = [step["logprob"] for step in again["logprobs"]]
    theirs = scored["logprobs"][len(prompt) - 1:]
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < CLOSE
