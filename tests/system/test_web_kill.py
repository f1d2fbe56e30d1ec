"""test_web_kill.py - kill -9 under twenty HTTP clients, and of the gateway itself.

Owns:      each role killed in mid-stream: the same bytes as undisturbed; Idempotency-Key; streams
           that are picked up again by their session.
Does not:  kill under `gemline run` (test_kill.py) or drain (test_web_api.py).
"""
import http.client
import json
import tempfile
import threading
import time

import pytest

from conftest import Web, scaled

CLIENTS = 20
TOKENS = 24
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def web(gemline, model_file):
    """One pipeline of two shards for the whole file."""
    line = Web(tempfile.mkdtemp(prefix="gemline-test-"))
    try:
        yield line.up("--shards", 2)
    finally:
        line.close()


def ask(seed, stream=True, tokens=TOKENS):
    return {"messages": [{"role": "user", "content": "Tell story number %d." % seed}],
            "seed": seed, "max_tokens": tokens, "ignore_eos": True, "stream": stream}


class Reader(threading.Thread):
    """A client that streams; `text` and `n` (tokens) grow, `done` says that [DONE] came."""

    def __init__(self, web, body=None, headers=None, path=CHAT):
        super().__init__(daemon=True)
        self.text, self.n, self.done, self.trouble, self.session = "", 0, False, None, None
        self._link = web.connect(timeout=100)
        self._request = ("POST" if body else "GET", path, json.dumps(body) if body else None,
                         headers or {})
        self.start()

    def run(self):
        try:
            self._link.request(*self._request)
            got = self._link.getresponse()
            self.session = got.headers["X-Session-Id"]
            if got.status != 200:
                self.trouble = got.read().decode()
                return
            for line in got:
                self._take(line)
        except (OSError, http.client.HTTPException) as failure:
            self.trouble = repr(failure)
        finally:
            self._link.close()

    def _take(self, line):
        if line.startswith(b"id: "):
            self.n = int(line[4:])
        elif line.startswith(b"data: [DONE]"):
            self.done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                self.trouble = event["error"]
            else:
                self.text += event["choices"][0]["delta"].get("content") or ""


def until(true, what, seconds=60):
    end = time.monotonic() + scaled(seconds)
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(web):
    """The answers that every drill must give."""
    readers = [Reader(web, ask(seed)) for seed in range(CLIENTS)]
    for reader in readers:
        reader.join(100)
        assert reader.done and reader.n == TOKENS, reader.trouble
    assert len({r.text for r in readers}) == CLIENTS
    return [r.text for r in readers]


@pytest.mark.parametrize("role", ["shard:0", "shard:1", "sampler", "tokenizer", "orchestrator",
                                  "redis"])
def test_every_stream_ends_with_the_same_bytes(web, undisturbed, role):
    readers = [Reader(web, ask(seed)) for seed in range(CLIENTS)]
    until(lambda: all(r.n >= 3 or r.trouble for r in readers), "not all streams began")
    assert not any(r.done for r in readers), "the drill came too late"
    web.kill(role)
    for reader in readers:
        reader.join(100)
    assert [r.trouble for r in readers] == [None] * CLIENTS
    assert all(r.done for r in readers) and [r.text for r in readers] == undisturbed
    web.wait_ready()


def test_requests_that_come_while_it_is_away(web, undisturbed):
    """Those that find no orchestrator wait for the next one, or are told 503 with Retry-After."""
    web.kill("orchestrator")
    got = web.post(CHAT, ask(0, stream=False))
    if got.status == 200:
        assert got.json()["choices"][0]["message"]["content"] == undisturbed[0]
    else:
        assert got.status == 503 and int(got.headers["Retry-After"]) > 0, got.body
    web.wait_ready()
    until(lambda: web.get("/ready").status == 200, "not ready again")
    assert web.post(CHAT, ask(0, stream=False)).json()["choices"][0]["message"]["content"] == \
        undisturbed[0]


# ---- the gateway ------------------------------------------------------------------------------

def killed_gateway(web, reader):
    """Kills the gateway once the reader has some tokens; returns when it is back."""
    until(lambda: reader.n >= 5 or reader.trouble, "the stream did not begin")
    assert not reader.done
    web.kill("gateway")
    reader.join(20)
    assert not reader.done

    def back():
        try:
            return web.get("/ready").status == 200
        except OSError:
            return False
    until(back, "the gateway did not come back")


@pytest.mark.parametrize("stream", [True, False])
def test_the_same_key_has_the_same_answer(web, undisturbed, stream):
    key = {"Idempotency-Key": "key-%s" % stream}
    killed_gateway(web, Reader(web, ask(1), key) if stream else plain_then_stream(web, key))
    if stream:
        again = Reader(web, ask(1), key)
        again.join(100)
        assert again.done and again.text == undisturbed[1], again.trouble
    else:
        got = web.post(CHAT, ask(1, stream=False), key)
        assert got.status == 200 and got.json()["choices"][0]["message"]["content"] == \
            undisturbed[1]
        once_more = web.post(CHAT, ask(1, stream=False), key)
        assert once_more.json()["id"] == got.json()["id"]
        assert once_more.json()["choices"] == got.json()["choices"]
    other = web.post(CHAT, ask(2, stream=False), key)
    assert other.status == 422 and other.json()["error"]["code"] == "idempotency_key_reused"


def plain_then_stream(web, key):
    """A plain request with the key, and a stream beside it that tells how far things are."""
    body = json.dumps(ask(1, stream=False))

    def plain():
        link = web.connect()
        try:
            link.request("POST", CHAT, body, key)
            link.getresponse()
        except (OSError, http.client.HTTPException):
            pass  # the gateway is killed
        finally:
            link.close()
    threading.Thread(target=plain, daemon=True).start()
    return Reader(web, ask(3))


def test_a_key_without_a_seed_keeps_the_first_draw(web):
    body = {k: v for k, v in ask(4, stream=False).items() if k != "seed"}
    key = {"Idempotency-Key": "drawn"}
    first, second = web.post(CHAT, body, key), web.post(CHAT, body, key)
    assert first.json()["choices"] == second.json()["choices"]
    for wrong in ("", "x" * 256):
        assert web.post(CHAT, body, {"Idempotency-Key": wrong}).status == 400


def test_a_stream_is_picked_up_by_its_session(web, undisturbed):
    reader = Reader(web, ask(5))
    killed_gateway(web, reader)
    path = "/v1/sessions/%s/stream?from=" % reader.session
    texts = []
    for begin in (reader.n, 0):  # while it runs, then from what is stored
        again = Reader(web, path=path + str(begin))
        again.join(100)
        assert again.done and again.n == TOKENS, again.trouble
        texts.append(again.text)
    assert reader.text + texts[0] == undisturbed[5] == texts[1]
    assert web.get("/v1/sessions/nobody/stream?from=0").status == 404
    assert web.get(path + "-1").status == 400
