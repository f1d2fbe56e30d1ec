"""test_web_api.py - HTTP as it is on the wire: plain connections, raw sockets, curl.

Owns:      Gemline's own calls, sessions, event streams byte by byte, headers, methods, origins,
           where the gateway listens, draining and its restart.
Does not:  use the official client (test_openai.py) or kill the pipeline (test_web_kill.py).
"""
import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import scaled

MODEL = "gemma3-270m"
CAPITAL = [2, 818, 5279, 529, 7001, 563]  # <bos>The capital of France is
STORY = [{"role": "user", "content": "Tell a long story about a lighthouse."}]
CHAT = "/v1/chat/completions"
SAMPLE = re.compile(r'([a-z0-9_:]+(?:\{(?:[^"}]|"[^"]*")*\})?) (\S+)')  # a line of /metrics


def said(text):
    return [{"role": "user", "content": text}]


def answer(web, messages, headers=None, **options):
    got = web.post(CHAT, {"messages": messages, "temperature": 0, **options}, headers)
    assert got.status == 200, got.body
    return got


def text_of(got):
    return got.json()["choices"][0]["message"]["content"]


def error_of(got, status):
    """The error object of an answer that has this status."""
    assert got.status == status, got.body
    assert got.headers["X-Request-Id"] and got.headers["Content-Type"] == "application/json"
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


def send(web, method, path, body=None, headers=()):
    """A socket on which this request was sent."""
    data = json.dumps(body).encode() if body is not None else b""
    link = socket.create_connection(web.address, timeout=scaled(60))
    lines = ["%s %s HTTP/1.1" % (method, path), "Host: %s:%d" % web.address,
             "Content-Length: %d" % len(data), *headers]
    link.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    return link


def chunks_of(file):
    """The chunks of a chunked body, as they were cut by the server."""
    while True:
        size = int(file.readline(), 16)
        data = file.read(size)
        assert file.readline() == b"\r\n"
        if size == 0:
            return
        yield data


def head_of(file):
    """(status, {name: value}) of an answer."""
    status = int(file.readline().split()[1])
    fields = {}
    while (line := file.readline().strip()):
        name, value = line.decode().split(": ", 1)
        fields[name.lower()] = value
    return status, fields


# ---- score, tokens ----------------------------------------------------------------------------

def test_score(web):
    want = web.score(CAPITAL, "--top", 2)
    got = web.post("/v1/score", {"model": MODEL, "ids": CAPITAL, "top": 2}).json()
    (one,) = got["data"]
    assert one["logprobs"] == pytest.approx(want["logprobs"], abs=1e-7)
    assert len(one["top_ids"]) == len(CAPITAL) and all(len(t) == 2 for t in one["top_ids"])
    assert got["usage"]["prompt_tokens"] == len(CAPITAL)
    by_text = web.post("/v1/score", {"text": "The capital of France is"}).json()["data"][0]
    assert by_text["logprobs"] == one["logprobs"]
    assert by_text["perplexity"] == pytest.approx(one["perplexity"])
    two = web.post("/v1/score", {"ids": [CAPITAL, CAPITAL[:3]], "every": 2}).json()["data"]
    assert [d["index"] for d in two] == [0, 1] and None in two[0]["logprobs"]
    for body in ({}, {"ids": [300000]}, {"ids": CAPITAL, "text": "x"}, {"ids": CAPITAL, "top": -1}):
        error_of(web.post("/v1/score", body), 400)


@pytest.mark.parametrize("text", ["The capital of France is", "", "naïve 🦊\n\n  x",
                                  "<start_of_turn>user"])
def test_tokenize_and_back(web, text):
    got = web.post("/v1/tokenize", {"text": text, "with_pieces": True}).json()
    assert got["count"] == len(got["tokens"]) == len(got["token_strs"])
    assert got["max_model_len"] == 8192
    assert 105 not in got["tokens"], "typed text became a control token"
    if got["tokens"]:
        back = web.post("/v1/detokenize", {"tokens": got["tokens"]}).json()
        assert back["text"] == text
    special = web.post("/v1/tokenize", {"content": text, "add_special": True}).json()
    assert special["tokens"] == [2] + got["tokens"]


def test_tokenize_a_conversation(web):
    ids = web.post("/v1/tokenize", {"messages": said("Hello")}).json()["tokens"]
    assert ids[:2] == [2, 105] and len(ids) == answer(
        web, said("Hello"), max_tokens=1).json()["usage"]["prompt_tokens"]
    error_of(web.post("/v1/detokenize", {"tokens": [-1]}), 400)


# ---- sessions ---------------------------------------------------------------------------------

def test_a_named_session_goes_on(web):
    first = answer(web, said("My name is Ada. Remember it."), session="memo", max_tokens=24)
    assert first.headers["X-Session-Id"] == "memo" and first.json()["session"] == "memo"
    second = answer(web, said("What is my name?"), {"X-Session-Id": "memo"}, max_tokens=24)
    usage = second.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first.json()["usage"][
        "prompt_tokens"]
    shown = web.get("/v1/sessions/memo").json()
    assert shown["turn_count"] == 2 and not shown["busy"] and shown["object"] == "session"
    assert shown["turns"][0]["messages"] == said("My name is Ada. Remember it.")
    assert [t["answer"]["content"] for t in shown["turns"]] == [text_of(first), text_of(second)]
    assert "memo" in [s["id"] for s in web.get("/v1/sessions").json()["data"]]
    assert web.ask("POST", "/v1/sessions/memo/undo").json()["turn_count"] == 1
    again = answer(web, said("What is my name?"), session="memo", max_tokens=24)
    assert text_of(again) == text_of(second)
    assert web.ask("DELETE", "/v1/sessions/memo").json()["deleted"] is True
    for method, path in (("GET", ""), ("POST", "/undo"), ("GET", "/stream")):
        error_of(web.ask(method, "/v1/sessions/memo" + path), 404)


def test_a_stateless_request_leaves_no_session(web):
    before = web.get("/v1/sessions").json()["data"]
    got = answer(web, said("Hello"), max_tokens=2)
    assert got.headers["X-Session-Id"] and "session" not in got.json()
    assert web.get("/v1/sessions").json()["data"] == before


def test_a_busy_session_is_409(web):
    link = send(web, "POST", CHAT, {"messages": STORY, "session": "busy", "stream": True,
                                    "max_tokens": 4000, "ignore_eos": True})
    file = link.makefile("rb")
    assert head_of(file)[0] == 200
    got = web.post(CHAT, {"messages": said("x"), "session": "busy"})
    assert error_of(got, 409)["type"] == "conflict_error" and int(got.headers["Retry-After"]) > 0
    file.close()
    link.close()
    assert web.wait_idle() < 1


def test_wrong_sessions(web):
    got = web.post(CHAT, {"messages": STORY, "session": "a b"})
    assert error_of(got, 400)["param"] == "session"
    assert error_of(web.post(CHAT, {"messages": STORY}, {"X-Session-Id": "a b"}), 400)
    assert error_of(web.post(CHAT, {"messages": STORY, "session": "s", "n": 2}),
                    400)["param"] == "n"


# ---- event streams ----------------------------------------------------------------------------

def test_an_event_is_a_chunk(web):
    link = send(web, "POST", CHAT, {"messages": STORY, "stream": True, "temperature": 0,
                                    "max_tokens": 30, "ignore_eos": True})
    with link, link.makefile("rb") as file:
        status, fields = head_of(file)
        assert status == 200 and fields["content-type"].startswith("text/event-stream")
        assert fields["cache-control"] == "no-cache" and fields["x-accel-buffering"] == "no"
        assert fields["x-request-id"] and fields["x-session-id"]
        chunks = list(chunks_of(file))
        assert chunks[-1] == b"data: [DONE]\n\n"
        ids, text = [], ""
        for chunk in chunks[:-1]:
            assert len(chunk) <= 4096 and chunk.endswith(b"\n\n") and chunk.count(b"\n\n") == 1
            found = re.fullmatch(rb"id: (\d+)\ndata: (\{.*\})\n\n", chunk)
            ids.append(int(found[1]))
            text += json.loads(found[2])["choices"][0]["delta"].get("content") or ""
        assert ids == sorted(ids) and ids[0] == 0 and ids[-1] == 30
        link.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % web.address[1])
        assert head_of(file)[0] == 200  # the connection is still good
    assert text == text_of(answer(web, STORY, max_tokens=30, ignore_eos=True))


def test_big_events_are_cut(web):
    """20 alternatives of each token, and an echo with 40 of each."""
    echo = {"prompt": "sun and moon " * 60, "echo": True, "stream": True, "max_tokens": 0,
            "logprobs": 40}
    whole = web.post("/v1/completions", {**echo, "stream": False}).json()["choices"][0]
    for path, ask in ((CHAT, {"messages": STORY, "stream": True, "max_tokens": 12, "seed": 1,
                              "logprobs": True, "top_logprobs": 20}), ("/v1/completions", echo)):
        link = send(web, "POST", path, ask)
        with link, link.makefile("rb") as file:
            assert head_of(file)[0] == 200
            chunks = list(chunks_of(file))
        assert all(len(c) <= 4096 for c in chunks)
        events = b"".join(chunks).split(b"\n\n")
        assert events[-2:] == [b"data: [DONE]", b""]
        parts = [json.loads(event.split(b"data: ", 1)[1])["choices"][0] for event in events[:-2]]
    assert "".join(p["text"] for p in parts) == whole["text"] == echo["prompt"]
    for name, values in whole["logprobs"].items():
        assert [v for p in parts if p["logprobs"] for v in p["logprobs"][name]] == values, name


def test_silence_is_filled_with_pings(up_web):
    line = up_web()
    shard = line.pids("shard")[0]
    link = send(line, "POST", CHAT, {"messages": STORY, "stream": True, "max_tokens": 40,
                                     "ignore_eos": True, "seed": 3})
    with link, link.makefile("rb") as file:
        assert head_of(file)[0] == 200
        chunks = chunks_of(file)
        got = [next(chunks) for _ in range(5)]
        os.kill(shard, signal.SIGSTOP)
        begin = time.monotonic()
        try:
            while got[-1] != b": ping\n\n":
                got.append(next(chunks))
            assert 9 < time.monotonic() - begin < scaled(14)
        finally:
            os.kill(shard, signal.SIGCONT)
        got += chunks
    assert got[-1] == b"data: [DONE]\n\n"
    text = "".join(json.loads(c.split(b"data: ")[1])["choices"][0]["delta"].get("content") or ""
                   for c in got[:-1] if not c.startswith(b":"))
    want = line.run(STORY[0]["content"], "--seed", 3, "--max-tokens", 40, "--ignore-eos")
    assert text == want["text"]


# ---- HTTP -------------------------------------------------------------------------------------

def test_request_ids(web):
    given = web.get("/health", {"X-Request-Id": "mine-1.2_3"})
    assert given.headers["X-Request-Id"] == "mine-1.2_3"
    made = [web.get("/health").headers["X-Request-Id"] for _ in range(2)]
    assert made[0] != made[1] and made[0].startswith("req-")
    for bad in ("a b", "x" * 65, "<x>"):
        assert web.get("/health", {"X-Request-Id": bad}).headers["X-Request-Id"] != bad


def test_health_ready_openapi(web):
    assert web.get("/health").json() == {"status": "ok"}
    assert web.get("/ready").json() == {"status": "ready"}
    described = web.get("/openapi.json").json()
    assert described["openapi"].startswith("3.") and CHAT in described["paths"]


def test_metrics(web):
    def read():
        got = web.get("/metrics")
        assert got.status == 200 and got.headers["Content-Type"].startswith("text/plain")
        values = {}
        for line in got.body.decode().splitlines():
            if not line.startswith("#"):
                name, value = SAMPLE.fullmatch(line).groups()
                values[name] = float(value)
        return values
    before = read()
    answer(web, said("Hello"), max_tokens=4, ignore_eos=True)
    after = read()
    assert after["gemline:generation_tokens_total"] == before["gemline:generation_tokens_total"] + 4
    assert after["gemline:prompt_tokens_total"] > before["gemline:prompt_tokens_total"]
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds",
                 "e2e_request_latency_seconds"):
        rows = [v for k, v in after.items() if k.startswith("gemline:%s_bucket" % name)]
        assert rows == sorted(rows) and rows[-1] == after["gemline:%s_count" % name]
    assert after["gemline:e2e_request_latency_seconds_count"] == \
        before["gemline:e2e_request_latency_seconds_count"] + 1
    assert after["gemline:num_requests_running"] == 0 and after["gemline:ready"] == 1
    for name in ("kv_cache_usage_perc", "shard_busy_ratio", "kv_cache_pages"):
        assert any(k.startswith("gemline:" + name) for k in after), name


def test_methods_and_paths(web):
    for path, status in (("/health", 200), ("/v1/models", 200), ("/nothing", 404)):
        got = web.ask("HEAD", path)
        assert got.status == status and got.body == b"" and int(got.headers["Content-Length"]) > 0
    for method, path, allow in (("GET", CHAT, {"POST"}), ("POST", "/v1/models", {"GET", "HEAD"}),
                                ("PUT", "/v1/sessions/x", {"GET", "HEAD", "DELETE"})):
        got = web.ask(method, path)
        assert error_of(got, 405) and set(got.headers["Allow"].split(", ")) >= allow, path
    for path in ("/v1/embeddings", "/v1/messages", "/api/chat", "/v1/nothing", "/v1/chat",
                 "//v1/models", "/v1/models/../models", "/v1/%6dodels%2f"):
        assert CHAT in error_of(web.ask("POST", path, {}), 404)["message"]
    assert error_of(web.post("/v1/completions", "{"), 400)["code"] == "invalid_json"
    error_of(web.post(CHAT, '{"messages": [], "messages": []}'), 400)
    error_of(web.post(CHAT, b"\xff"), 400)
    error_of(web.post(CHAT, '{"messages": %s1%s}' % ("[" * 100, "]" * 100)), 400)
    error_of(web.ask("POST", CHAT, None, {"Content-Length": str(9 << 20)}), 413)


def test_foreign_pages_are_kept_out(web):
    own = {"Origin": web.url, "Sec-Fetch-Site": "same-origin"}
    assert web.get("/v1/models", own).status == 200
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Host": "evil.example"}, {"Origin": "null"}):
        got = web.post(CHAT, {"messages": STORY, "max_tokens": 1}, headers)
        assert error_of(got, 403)["code"] == "forbidden_origin"
        assert "Access-Control-Allow-Origin" not in got.headers
    got = web.ask("OPTIONS", CHAT, None, {"Origin": "https://evil.example",
                                          "Access-Control-Request-Method": "POST"})
    assert got.status == 403


def test_curl(web):
    """README's line."""
    done = subprocess.run(
        ["curl", "-sN", "--max-time", "60", web.url + CHAT, "-H", "Content-Type: application/json",
         "-d", json.dumps({"messages": said("Hello"), "stream": True, "max_tokens": 4})],
        capture_output=True, text=True, timeout=scaled(70), stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and done.stdout.endswith("data: [DONE]\n\n")
    done = subprocess.run(
        ["curl", "-s", "--max-time", "60", "-H", "Expect: 100-continue", web.url + CHAT, "-d",
         json.dumps({"messages": said("Hello " * 300), "max_tokens": 4, "ignore_eos": True})],
        capture_output=True, text=True, timeout=scaled(70), stdin=subprocess.DEVNULL)
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 4


# ---- where it listens -------------------------------------------------------------------------

def test_a_taken_port(home, model_file):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = home.cli("up", "--detach", "--http", "127.0.0.1:%d" % taken.getsockname()[1])
    assert done.returncode == 1 and "taken" in done.stderr and not done.stdout


def test_listed_origins_the_default_port_and_off(home, model_file):
    page = "https://page.example"
    done = home.cli("up", "--detach", "--http-origins", page, check=True)
    at = re.search(r"http://(127\.0\.0\.1):(\d+)", done.stdout)
    assert home.status()["http"] == "%s:%s" % at.groups() and 8080 <= int(at[2]) < 8180
    got = subprocess.run(
        ["curl", "-si", "--max-time", "20", "-X", "OPTIONS", at[0] + CHAT, "-H", "Origin: " + page,
         "-H", "Access-Control-Request-Method: POST"], capture_output=True, text=True,
        timeout=scaled(30),
        stdin=subprocess.DEVNULL).stdout
    assert got.startswith("HTTP/1.1 204") and "Access-Control-Allow-Origin: " + page in got
    assert "POST" in re.search(r"Access-Control-Allow-Methods: (.*)", got)[1]
    got = subprocess.run(
        ["curl", "-si", "--max-time", "20", at[0] + "/v1/models", "-H", "Origin: " + page, "-H",
         "Sec-Fetch-Site: cross-site"], capture_output=True, text=True, timeout=scaled(30),
        stdin=subprocess.DEVNULL).stdout
    assert got.startswith("HTTP/1.1 200") and "Access-Control-Allow-Origin: " + page in got
    home.cli("down", check=True)
    home.cli("up", "--detach", "--http", "off", check=True)
    status = home.status()
    assert "http" not in status and "gateway" not in [p["role"] for p in status["processes"]]
    done = home.cli("up", "--detach", "--http", "8080")
    assert done.returncode == 2 and "ADDR:PORT" in done.stderr


# ---- its end ----------------------------------------------------------------------------------

def test_draining_and_restart(up_web):
    line = up_web()
    want = line.run(STORY[0]["content"], "--seed", 3, "--max-tokens", 40, "--ignore-eos")["text"]
    link = send(line, "POST", CHAT, {"messages": STORY, "stream": True, "max_tokens": 40,
                                     "ignore_eos": True, "seed": 3})
    idle = line.connect()
    idle.request("GET", "/health")
    idle.getresponse().read()
    (old,) = line.pids("gateway")
    with link, link.makefile("rb") as file:
        assert head_of(file)[0] == 200
        chunks = chunks_of(file)
        got = [next(chunks) for _ in range(5)]
        os.kill(old, signal.SIGTERM)
        time.sleep(0.2)
        try:
            refused = line.post(CHAT, {"messages": STORY})
            assert error_of(refused, 503) and refused.headers["Retry-After"]
        except ConnectionError:
            pass
        got += chunks
    assert got[-1] == b"data: [DONE]\n\n"
    assert "".join(json.loads(c.split(b"data: ")[1])["choices"][0]["delta"].get("content") or ""
                   for c in got[:-1]) == want
    idle.close()
    line.wait(lambda s: s["ready"] and line.pids("gateway") not in ([old], [0]))
    wait_health(line)


def wait_health(line, seconds=20):
    """Until the gateway answers at its old address."""
    end = time.monotonic() + scaled(seconds)
    while True:
        try:
            if line.get("/ready").status == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < end, line.logs()
        time.sleep(0.05)


def test_killed_and_back_at_the_same_address(up_web):
    line = up_web()
    for _ in range(2):
        line.kill("gateway")
        wait_health(line)
        answer(line, said("Hello"), max_tokens=2)
    assert line.status()["http"] == "%s:%d" % line.address
