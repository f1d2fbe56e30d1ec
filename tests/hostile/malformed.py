"""malformed.py - throws seeded malformed requests at a live gateway.

Owns:      the generator of cases (one function per kind), what an answer to one may be.
Does not:  start anything: the caller has the gateway's address and process id.

    malformed.py --address 127.0.0.1:8080 --pid PID [--count 10000] [--seed 1]

Exit status 0: the process lives, none was answered with 500, what was answered was HTTP, our own
refusals were OpenAI's JSON, and good requests between and after them were served.
"""
import argparse
import collections
import json
import os
import queue
import random
import string
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire  # noqa: E402  (lies beside this file)

THREADS = 24
PATIENCE_S = 0.25     # for the answer to what may have none
GOOD_EVERY = 250      # cases between two good requests
GOOD_S = 60
MUST_NOT = {500, 502, 504}

MODEL = "gemma3-270m"
HELLO = [{"role": "user", "content": "Hi"}]
BODIES = {
    "/v1/chat/completions": {"model": MODEL, "messages": HELLO, "max_tokens": 1},
    "/v1/completions": {"model": MODEL, "prompt": "Hi", "max_tokens": 1},
    "/v1/responses": {"model": MODEL, "input": "Hi", "max_output_tokens": 16},
    "/v1/score": {"model": MODEL, "ids": [2, 3, 4]},
    "/v1/tokenize": {"prompt": "Hi"},
    "/v1/detokenize": {"tokens": [2, 3]},
}
POSTS = sorted(BODIES)
OTHERS = ["/", "/health", "/ready", "/metrics", "/openapi.json", "/v1/models",
          "/v1/models/" + MODEL, "/v1/sessions", "/v1/sessions/x", "/v1/responses/resp_x",
          "/v1/sessions/x/stream?from=0", "/app.js", "/style.css"]
FIELDS = ["model", "messages", "prompt", "input", "max_tokens", "max_completion_tokens",
          "max_output_tokens", "temperature", "top_p", "n", "stop", "stream", "stream_options",
          "seed", "logprobs", "top_logprobs", "logit_bias", "presence_penalty",
          "frequency_penalty", "top_k", "min_p", "repetition_penalty", "ignore_eos", "echo",
          "best_of", "suffix", "user", "metadata", "store", "service_tier", "modalities",
          "response_format", "tools", "tool_choice", "parallel_tool_calls", "session",
          "instructions", "previous_response_id", "ids", "text", "tokens", "top", "every",
          "add_special", "add_special_tokens", "with_pieces", "truncation", "include", "audio"]
NASTY = ["null", "true", "false", "0", "-1", "-0", "1e400", "-1e400", "1e-400", "NaN", "Infinity",
         "9223372036854775807", "9223372036854775808", "-9223372036854775809",
         "123456789012345678901234567890", "0.1", "01", "1.", ".5", "+1", "0x10", "''", '""',
         '"x"', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\uZZZZ"', '"\\x"', '"\t"',
         "[]", "{}", "[null]", "[[]]", "[{}]", '{"":""}', '{"role":"user"}', '[{"role":"user"}]',
         '[{"role":"user","content":null}]', '[{"role":1,"content":"x"}]',
         '[{"role":"user","content":[{"type":"image_url"}]}]', '[{"content":"x"}]',
         '[{"role":"tool","content":"x"}]', '{"type":"json_object"}', '[1,2,"x"]', "[-1]",
         "[999999999]", '{"5":1e9}', '{"x":1}', '{"-1":1}', '["a","b","c","d","e","f"]',
         '"' + "a" * 300 + '"', "[" * 50 + "]" * 50, '{"a":' * 70 + "1" + "}" * 70]


# ---- JSON ---------------------------------------------------------------------------------------

def put(body, name, value):
    """The JSON text of body with one more member, whose value is text that need not be JSON."""
    rest = {k: v for k, v in body.items() if k != name}
    text = json.dumps(rest)
    return text[:-1] + (", " if rest else "") + json.dumps(name) + ": " + value + "}"


def json_wrong_value(r, body):
    for _ in range(r.randint(0, 2)):
        body = json.loads(put(body, r.choice(FIELDS), r.choice(["null", "true", '"x"', "7"])))
    return put(body, r.choice(FIELDS), r.choice(NASTY)).encode()


def json_cut(r, body):
    text = json.dumps(body).encode()
    return text[:r.randrange(len(text))]


def json_twice(r, body):
    name = r.choice(sorted(body))
    text = json.dumps(body)
    return (text[:-1] + ", " + json.dumps(name) + ": " + r.choice(NASTY) + "}").encode()


def json_deep(r, body):
    n = r.choice([60, 64, 65, 1000, 20000])
    opening, closing = r.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
    text = opening * n + "1" + (closing * n if r.random() < 0.8 else "")
    return put(body, r.choice(FIELDS), text).encode()


def json_wide(r, body):
    n = r.choice([5000, 99990, 100010, 150000])
    value = r.choice(["[" + "0," * n + "0]", "[" * 3 + "[]," * n + "[]" + "]" * 3])
    return put(body, r.choice(FIELDS), value).encode()


def json_bytes(r, body):
    text = bytearray(json.dumps(body).encode())
    for _ in range(r.randint(1, 6)):
        bad = r.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82",
                        b"\x00", b"\x7f", b"\xef\xbb\xbf", b"\n", bytes([r.randrange(256)])])
        at = r.randrange(len(text) + 1)
        text[at:at + r.randint(0, 2)] = bad
    return bytes(text)


def json_none(r, _body):
    return r.choice([b"", b" ", b"null", b"[]", b"0", b'""', b"{", b"}", b"{}", b"{}{}", b"{},",
                     b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"true", b"hello", b"a=b&c=d",
                     b"<xml/>", b"{'a':1}", b'{"a":1,}', b"/**/{}", b"[" * 100000])


def json_long(r, body):
    return put(body, r.choice(FIELDS + ["x" * 5000]),
               '"' + r.choice(["a", "\\u0000", "\u20ac", "\\n"]) * r.randint(1000, 60000)
               + '"').encode()


JSONS = [json_wrong_value] * 6 + [json_cut, json_twice, json_deep, json_wide, json_bytes,
                                  json_bytes, json_none, json_long]


def a_json(r, address):
    target = r.choice(POSTS)
    kind = r.choice(JSONS)
    headers = [("Content-Type", r.choice(["application/json", "text/plain", "", "x" * 200]))]
    return wire.make(address, "POST", target, kind(r, BODIES[target]), headers)


# ---- HTTP ---------------------------------------------------------------------------------------

def good(r, address):
    """A request that is right, as bytes to be spoilt."""
    if r.random() < 0.5:
        return wire.make(address, "GET", r.choice(OTHERS))
    target = r.choice(POSTS)
    return wire.make(address, "POST", target, BODIES[target])


def a_noise(r, _address):
    return bytes(r.randrange(256) for _ in range(r.randint(1, 600)))


def a_line(r, address):
    method = r.choice(["GET", "POST", "", "G" * 3000, "get", "TRACE", "CONNECT", "PRI", "GE T",
                       "\x00", "PUT", "OPTIONS", "HEAD", "PATCH", "DELETE"])
    target = r.choice(OTHERS + POSTS + ["", "*", "//", "/../..", "/%", "/%zz", "/%00", "/%ff%fe",
                                        "/a" * 1000, "/" * 3000, "/" + "x" * 9000, "http://a/b",
                                        "/v1/sessions/%2e%2e%2f", "/v1/models/" + "y" * 1500,
                                        "/?q=1&q=2", "/v1/sessions/a/stream?from=-1", "\\", "/\x01",
                                        "/v1/chat/completions?messages=[]", "/\xe9", "a b c"])
    version = r.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1x",
                        "http/1.1", "", "HTTP/1.1 HTTP/1.1", "FTP/1.1", "HTTP/" + "1" * 50])
    end = r.choice(["\r\n", "\n", "\r", "\r\r\n"])
    return (method + " " + target + " " + version + end + "Host: " + address + end + end).encode(
        "latin-1")


HEADERS = ["X-Request-Id", "Origin", "Idempotency-Key", "X-Session-Id", "Cookie", "Authorization",
           "Host", "Sec-Fetch-Site", "Accept", "Content-Type", "Connection", "Expect", "Range",
           "Upgrade", "Access-Control-Request-Method", "Transfer-Encoding", "TE", "Trailer"]
VALUES = ["", " ", "x", "x" * 300, "x" * 3000, "\x00", "a\rb", "a\nb", "a\r\n b", "a\r\nX-B: c",
          "\xff\xfe", "\xe2\x82", "null", "http://evil", "Bearer ", "Bearer gm-x-y", "Basic x",
          "gemline=" + "0" * 32, "gemline=\x01", "100-continue", "close, keep-alive", "h2c",
          "chunked", "identity", "gzip", "a;b=c;;;", "%0d%0aX: y", ",", ",,,,", "=", "\t\t"]


def a_header(r, address):
    lines = []
    for _ in range(r.choice([1, 1, 2, 3, 10, 400])):
        name = r.choice(HEADERS + ["", " ", "A B", "A:", ":", "\x00", "x" * 2000, "(", "\xe9"])
        lines.append(name + r.choice([": ", ":", " : ", "", "\t:"]) + r.choice(VALUES))
    target = r.choice(OTHERS + POSTS)
    body = json.dumps(BODIES[target]) if target in BODIES else ""
    head = ["%s %s HTTP/1.1" % ("POST" if body else "GET", target), "Host: " + address,
            "Content-Length: %d" % len(body)]
    where = r.randint(1, len(head))
    return ("\r\n".join(head[:where] + lines + head[where:]) + "\r\n\r\n" + body).encode("latin-1")


def a_length(r, address):
    target = r.choice(POSTS)
    body = json.dumps(BODIES[target]).encode()
    n = len(body)
    values = r.choice([["-1"], ["+5"], ["0x10"], ["1e3"], ["5, 5"], ["5", "6"], ["9" * 20],
                       ["9223372036854775807"], ["18446744073709551615"], [str(n + 50)],
                       [str(n - 5)], ["0"], ["", str(n)], ["abc"], [" "], [str(n) + " x"],
                       ["8388609"], ["00%d" % n], [str(n), str(n)]])
    headers = [("Content-Length", v) for v in values]
    if r.random() < 0.2:
        headers.append(("Expect", "100-continue"))
    return wire.make(address, r.choice(["POST", "POST", "GET", "DELETE"]), target, body, headers)


def a_chunked(r, address):
    target = r.choice(POSTS)
    body = json.dumps(BODIES[target]).encode()
    size = b"%x" % len(body)
    coded = r.choice([
        size + b"\r\n" + body + b"\r\n0\r\n\r\n", size + b"\r\n" + body, b"-1\r\n" + body,
        b"ffffffffffffffff\r\n" + body, b"fffffffffffffffff\r\n" + body, b"zz\r\n" + body,
        b"\r\n\r\n", b"0\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
        size + b";" + b"e" * 9000 + b"\r\n" + body + b"\r\n0\r\n\r\n",
        b"1\r\n{\r\n" * 300 + b"0\r\n\r\n",
        size + b"\n" + body + b"\n0\n\n", b"5\r\nabc\r\n0\r\n\r\n", b"7fffffff\r\n" + body,
        b"0x5\r\nabcde\r\n0\r\n\r\n", b" 5 \r\nabcde\r\n0\r\n\r\n", b"1" * 5000])
    headers = [("Transfer-Encoding", r.choice(["chunked", "chunked", "Chunked", "chunked, chunked",
                                               "gzip, chunked", "xchunked", "identity",
                                               "\x0bchunked"]))]
    if r.random() < 0.3:
        headers.append(("Content-Length", r.choice(["0", "5", str(len(body)), "x"])))
    return wire.make(address, "POST", target, coded, headers)


def a_flip(r, address):
    data = bytearray(good(r, address))
    for _ in range(r.randint(1, 8)):
        at = r.randrange(len(data))
        if r.random() < 0.5:
            data[at] = r.randrange(256)
        else:
            data[at:at + r.randint(1, 4)] = bytes(r.randrange(256) for _ in range(r.randint(0, 3)))
    return bytes(data)


def a_cut(r, address):
    data = good(r, address)
    return data[:r.randrange(1, len(data))]


def a_row(r, address):
    """Several on one connection, the last ones spoilt."""
    data = wire.make(address, "GET", r.choice(["/health", "/v1/models"])) * r.randint(1, 20)
    return data + r.choice([a_noise, a_line, a_flip, a_length, a_chunked])(r, address)


def a_path(r, address):
    part = "".join(r.choice(string.printable[:94] + "%%%%//..") for _ in range(r.randint(1, 200)))
    target = r.choice(["/", "/v1/", "/v1/sessions/", "/v1/responses/", "/v1/models/", "/?"]) \
        + part.replace(" ", "+").replace("#", "%23")
    return wire.make(address, r.choice(["GET", "DELETE", "POST", "HEAD", "OPTIONS", "PUT"]), target)


def a_stranger(r, address):
    headers = r.choice([
        [("Host", "evil.example")], [("Host", "")], [("Host", address + ".evil")],
        [("Origin", "null")], [("Origin", "http://evil.example")],
        [("Origin", "http://" + address + "@evil")], [("Sec-Fetch-Site", "cross-site")],
        [("Host", "evil.example"), ("Origin", "http://evil.example")]])
    target = r.choice(POSTS)
    return wire.make(address, "POST", target, BODIES[target], headers)


KINDS = [a_json] * 10 + [a_noise, a_line, a_line, a_header, a_header, a_length, a_length, a_chunked,
                         a_chunked, a_flip, a_flip, a_cut, a_row, a_path, a_path, a_stranger]


# ---- one case -----------------------------------------------------------------------------------

def case(seed, index, address):
    """(kind, bytes, how it ends): a function of seed and index alone."""
    r = random.Random("%d/%d" % (seed, index))
    kind = r.choice(KINDS)
    return kind.__name__, kind(r, address), r.choice(["read"] * 6 + ["leave", "reset", "half"])


def check_answer(answer):
    """None, or what is wrong with an answer."""
    if answer.status in MUST_NOT:
        return "answered with %d: %r" % (answer.status, answer.body[:300])
    if answer.status >= 400 and answer.whole and answer.body and \
            answer.headers.get("content-type") == "application/json":
        error = json.loads(answer.body)["error"]
        if not error["message"] or set(error) != {"message", "type", "param", "code"}:
            return "no error of OpenAI's form: %r" % answer.body[:300]
    return None


def throw(address, data, end):
    """Sends one case. (status of the first answer or 0, what is wrong or None)"""
    try:
        with wire.Wire(address, PATIENCE_S) as line:
            line.send(data)
            if end == "leave":
                return 0, None
            if end == "reset":
                line.reset()
                return 0, None
            if end == "half":
                line.sock.shutdown(1)
            answer = line.answer("HEAD" if data.startswith(b"HEAD ") else "GET")
            return answer.status, check_answer(answer)
    except (TimeoutError, ConnectionError, BrokenPipeError):
        return 0, None
    except (ValueError, KeyError, TypeError) as wrong:
        return 0, "no HTTP or no JSON: %r" % wrong


def serve_good(address):
    """None, or how a good request was not served."""
    try:
        answer = wire.ask(address, "POST", "/v1/chat/completions", BODIES["/v1/chat/completions"],
                          timeout=GOOD_S)
    except OSError as wrong:
        return "a good request was not served: %r" % wrong
    if answer.status != 200 or not answer.json()["choices"]:
        return "a good request was answered with %d: %r" % (answer.status, answer.body[:300])
    return None


def run(address, pid, count, seed, say=print):
    """Throws count cases. The list of what went wrong (at most 20)."""
    work, wrong, seen = queue.Queue(), [], collections.Counter()
    lock = threading.Lock()
    for index in range(count):
        work.put(index)

    def worker():
        while len(wrong) < 20:
            try:
                index = work.get_nowait()
            except queue.Empty:
                return
            kind, data, end = case(seed, index, address)
            status, problem = throw(address, data, end)
            if index % GOOD_EVERY == GOOD_EVERY - 1 and not problem:
                problem = serve_good(address)
            with lock:
                seen[status] += 1
                if problem:
                    wrong.append("case %d of seed %d (%s, %s, %r...): %s"
                                 % (index, seed, kind, end, data[:120], problem))

    start = time.monotonic()
    threads = [threading.Thread(target=worker) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problem = serve_good(address)
    if problem:
        wrong.append("after all: " + problem)
    if not os.path.exists("/proc/%d" % pid):
        wrong.append("the gateway has ended")
    say("%d cases in %.0f s; answers: %s" % (count, time.monotonic() - start, ", ".join(
        "%s %d" % (status or "none", n) for status, n in sorted(seen.items()))))
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wrong = run(options.address, options.pid, options.count, options.seed)
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
