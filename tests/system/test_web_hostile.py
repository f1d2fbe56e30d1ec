"""The gateway against clients that mean it no good, and against those that are merely slow.

Owns:      origins and hosts, every limit of a connection, hang-ups, malformed requests, memory and
           idle time of the gateway.
Does not:  test what the API answers, keys, or AddressSanitizer (tools/check-hostile.sh).
"""
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import conftest
from conftest import scaled

sys.path.insert(0, os.path.join(conftest.ROOT, "tests", "hostile"))
import leave  # noqa: E402
import malformed  # noqa: E402
import wire  # noqa: E402

LISTED = "http://app.example:3000"
HELLO = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
LONG = leave.LONG
SMALL = {"connections": 12, "headers-ms": 700, "body-ms": 900, "idle-ms": 1500, "stall-ms": 1500}
BODY_MAX = 8 << 20
RSS_MAX = 120 << 20
IDLE_SHARE = 0.001   # of a core


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Gateway:
    """One gm-gateway: its address and process."""

    def __init__(self, address, pid):
        self.address, self.pid = address, pid

    def ask(self, *args, **options):
        return wire.ask(self.address, *args, **options)

    def wire(self, *args, **options):
        return wire.Wire(self.address, *args, **options)

    def metric(self, name):
        text = self.ask("GET", "/metrics").body.decode()
        return sum(float(v) for v in re.findall(r"^gemline:%s(?:\{[^}]*\})? (\S+)$" % name, text,
                                                re.M))

    def files(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def rss(self):
        with open("/proc/%d/status" % self.pid) as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) << 10

    def cpu_share(self, seconds=3.0):
        """The share of a core that it uses over some seconds."""
        def used():
            with open("/proc/%d/schedstat" % self.pid) as file:
                return int(file.read().split()[0]) / 1e9
        before = used()
        time.sleep(seconds)
        return (used() - before) / seconds

    def calm(self, seconds=15):
        """Waits until nothing runs and only our own connection is there."""
        end = time.monotonic() + scaled(seconds)
        while True:
            state = [self.metric(n) for n in ("num_requests_running", "num_requests_waiting",
                                              "http_streams", "http_connections")]
            if state == [0, 0, 0, 1]:
                return
            assert time.monotonic() < end, "running, waiting, streams, connections: %s" % state
            time.sleep(0.1)


@pytest.fixture(scope="module")
def pipeline(gemline, model_file):
    line = conftest.Pipeline(tempfile.mkdtemp(prefix="gemline-test-"))
    try:
        yield line.up("--http", "127.0.0.1:%d" % free_port(), "--http-origins",
                      "http://other.example, " + LISTED)
    finally:
        line.close()


@pytest.fixture
def gate(pipeline):
    gate = Gateway(pipeline.status()["http"], pipeline.pids("gateway")[0])
    gate.calm()
    return gate


@pytest.fixture
def small(pipeline):
    """A second gateway on the same pipeline with short times and few connections."""
    with open("/proc/%d/cmdline" % pipeline.pids("gateway")[0]) as file:
        args = file.read().split("\0")[:-1]
    address = "127.0.0.1:%d" % free_port()
    args += ["--index", "1", "--http", address]
    args += [text for name, value in SMALL.items() for text in ("--" + name, str(value))]
    with open(os.path.join(pipeline.home, "small.log"), "wb") as log:
        child = subprocess.Popen(args, env=pipeline.env(), stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=log)
    gate = Gateway(address, child.pid)
    try:
        end = time.monotonic() + scaled(20)
        while True:
            try:
                assert gate.ask("GET", "/health").status == 200
                break
            except ConnectionError:
                assert child.poll() is None and time.monotonic() < end, pipeline.logs()
                time.sleep(0.05)
        yield gate
        assert child.poll() in (None, 0), "it ended with %s\n%s" % (child.returncode,
                                                                    pipeline.logs())
    finally:
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGTERM)
        child.wait(scaled(20))


# ---- who may ask ----------------------------------------------------------------------------

def test_pages_of_strangers_are_refused_before_their_bodies(gate):
    port = gate.address.rsplit(":", 1)[1]
    cases = [
        [("Origin", "http://evil.example")], [("Origin", "null")], [("Origin", "")],
        [("Origin", "http://127.0.0.1:1")], [("Origin", "http://" + gate.address + ".evil")],
        [("Origin", "http://user@" + gate.address)], [("Origin", LISTED + "0")],
        [("Host", "evil.example")], [("Host", "evil.example:" + port)], [("Host", "")],
        [("Host", "127.0.0.1.evil.example:" + port)], [("Host", "127.0.0.1")],
        [("Host", "evil:" + port), ("Origin", "http://evil:" + port)],
        [("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "Cross-Site")],
        [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-origin")],
    ]
    for headers in cases:
        for method, target in (("POST", "/v1/chat/completions"), ("GET", "/v1/sessions"),
                               ("DELETE", "/v1/sessions/x")):
            with gate.wire(timeout=5) as line:  # the body never comes
                line.request(method, target, b"", headers + [("Content-Length", "1000")])
                answer = line.answer()
                assert answer.status == 403, (headers, method, answer.body)
                assert answer.json()["error"]["code"] == "forbidden_origin"
                assert "access-control-allow-origin" not in answer.headers
                assert line.ended()


def test_own_and_listed_pages_pass(gate):
    port = gate.address.rsplit(":", 1)[1]
    for headers in ([("Origin", "http://" + gate.address), ("Sec-Fetch-Site", "same-origin")],
                    [("Host", "localhost:" + port), ("Origin", "http://localhost:" + port)],
                    [("Sec-Fetch-Site", "none")]):
        answer = gate.ask("POST", "/v1/tokenize", {"prompt": "Hi"}, headers)
        assert answer.status == 200, answer.body
        assert "access-control-allow-origin" not in answer.headers
    for headers in ([("Origin", LISTED), ("Sec-Fetch-Site", "cross-site")],
                    [("Origin", "http://other.example")]):
        answer = gate.ask("POST", "/v1/tokenize", {"prompt": "Hi"}, headers)
        assert answer.status == 200, answer.body
        assert answer.headers["access-control-allow-origin"] == headers[0][1]
        assert answer.headers["vary"] == "Origin"
    asks = [("Access-Control-Request-Method", "POST"), ("Origin", LISTED)]
    before = gate.ask("OPTIONS", "/v1/chat/completions", None, asks)
    assert before.status == 204 and "POST" in before.headers["access-control-allow-methods"]
    asks[1] = ("Origin", "http://evil.example")
    assert gate.ask("OPTIONS", "/v1/chat/completions", None, asks).status == 403


def test_no_parameter_of_a_url_submits_a_prompt(gate):
    before = gate.metric("generation_tokens_total")
    query = "?q=Hi&prompt=Hi&message=Hi&messages=%5B%5D&input=Hi&model=gemma3-270m&stream=true"
    for target in ("/", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/score"):
        for method in ("GET", "POST", "HEAD", "PUT"):
            answer = gate.ask(method, target + query)
            assert answer.status in (400, 405) or (target == "/" and answer.status == 200)
    assert gate.metric("generation_tokens_total") == before


# ---- where a request ends -------------------------------------------------------------------

def test_a_request_whose_end_is_not_clear_is_refused(gate):
    inner = wire.make(gate.address, "GET", "/v1/models")
    for headers, body in [
            ([("Content-Length", "5"), ("Transfer-Encoding", "chunked")], b"0\r\n\r\n"),
            ([("Content-Length", "2"), ("Content-Length", str(2 + len(inner)))], b"{}"),
            ([("Content-Length", "2"), ("Content-Length", "2")], b"{}"),
            ([("Transfer-Encoding", "gzip, chunked")], b"0\r\n\r\n"),
            ([("Transfer-Encoding", "identity")], b"0\r\n\r\n"),
            ([("Host", gate.address), ("Host", "evil"), ("Content-Length", "2")], b"{}")]:
        with gate.wire(timeout=5) as line:
            line.request("POST", "/v1/tokenize", body + inner, headers)
            assert line.answer().status == 400, headers
            assert line.ended() and not line.have, headers


def test_a_refused_body_is_no_request(gate):
    inner = wire.make(gate.address, "GET", "/v1/models")
    for method, target in (("GET", "/health"), ("POST", "/v1/tokenize"), ("GET", "/nothing/here")):
        with gate.wire(timeout=5) as line:
            line.request(method, target, inner, [("Origin", "http://evil.example")])
            assert line.answer().status == 403
            assert line.ended() and not line.have


def test_pipelined_requests_are_answered_in_order(gate):
    texts = ["a" * n for n in range(1, 31)]
    with gate.wire() as line:
        line.send(b"".join(wire.make(gate.address, "POST", "/v1/tokenize", {"prompt": t})
                           + wire.make(gate.address, "GET", "/health") for t in texts))
        counts = []
        for _ in texts:
            counts.append(line.answer().json()["count"])
            assert line.answer().json() == {"status": "ok"}
    single = [gate.ask("POST", "/v1/tokenize", {"prompt": t}).json()["count"] for t in texts]
    assert counts == single


# ---- limits ---------------------------------------------------------------------------------

def test_large_bodies(gate):
    with gate.wire(timeout=5) as line:  # at once: no byte of the body is sent
        line.request("POST", "/v1/tokenize", b"", [("Content-Length", str(BODY_MAX + 1))])
        answer = line.answer()
        assert answer.status == 413 and str(BODY_MAX) in answer.message()
    with gate.wire() as line:  # a client that sends everything before it reads hears it too
        line.request("POST", "/v1/tokenize", b"x" * (BODY_MAX + 1))
        assert line.answer().status == 413
        assert line.ended()
    piece = b"%x\r\n%s\r\n" % (1 << 16, b"x" * (1 << 16))
    with gate.wire() as line:
        line.request("POST", "/v1/tokenize", b"", [("Transfer-Encoding", "chunked")])
        for _ in range(BODY_MAX // (1 << 16) + 1):
            line.send(piece)
        answer = line.answer()
        assert answer.status == 413 and str(BODY_MAX) in answer.message()
    text = b'{"prompt": "' + b"a" * 1000000 + b'"}'
    assert gate.ask("POST", "/v1/tokenize", text).status in (200, 400)


def test_bodies_in_flight(gate):
    piece = b"x" * (BODY_MAX - 4096)
    lines = []
    try:
        for _ in range(8):  # 64 MiB less a little
            lines.append(gate.wire(timeout=10).request(
                "POST", "/v1/tokenize", piece, [("Content-Length", str(BODY_MAX))]))
        time.sleep(0.5)
        assert gate.rss() > 64 << 20
        lines.append(gate.wire(timeout=10).request(
            "POST", "/v1/tokenize", piece, [("Content-Length", str(BODY_MAX))]))
        answer = lines[0].answer()  # the oldest goes
        assert answer.status == 503 and "64 MiB" in answer.message()
        assert answer.headers["retry-after"]
        assert gate.ask("POST", "/v1/tokenize", {"prompt": "Hi"}).status == 200
    finally:
        for line in lines:
            line.close()
    gate.calm()
    assert gate.ask("POST", "/v1/chat/completions", HELLO).status == 200


def test_promised_bodies_take_no_room(gate):
    lines = [gate.wire().request("POST", "/v1/tokenize", b"{", [("Content-Length", str(BODY_MAX))])
             for _ in range(100)]
    assert gate.ask("POST", "/v1/tokenize", {"prompt": "Hi"}).status == 200
    for line in lines:
        line.close()


def test_headers_and_json_limits(gate):
    answer = gate.ask("GET", "/health", None, [("X-Long", "x" * 10000)])
    assert answer.status == 431
    assert gate.ask("GET", "/health", None, [("X-%d" % i, "y") for i in range(2000)]).status == 431
    assert gate.ask("GET", "/" + "x" * 3000).status == 414
    wide = b'{"tokens": [' + b"1," * 100001 + b"1]}"
    answer = gate.ask("POST", "/v1/detokenize", wide)
    assert answer.status == 400 and "100000 JSON values" in answer.message()
    answer = gate.ask("POST", "/v1/detokenize", b'{"tokens": ' + b"[" * 65 + b"]" * 65 + b"}")
    assert answer.status == 400 and "64 arrays" in answer.message()


def test_time_for_headers_bodies_and_idling(small):
    cases = [(b"", "time for headers"), (b"GET /hea", "time for headers"),
             (b"GET /health HTTP/1.1\r\nHost: a\r\n", "time for headers"),
             (wire.make(small.address, "POST", "/v1/tokenize", b"{", [("Content-Length", "9")]),
              "time for bodies"),
             (wire.make(small.address, "POST", "/v1/tokenize", b"3\r\n{\"p",
                        [("Transfer-Encoding", "chunked")]), "time for bodies")]
    lines = [small.wire(timeout=5) for _ in cases]
    for line, (data, _) in zip(lines, cases):
        line.send(data)
    for line, (data, text) in zip(lines, cases):
        answer = line.answer()
        assert answer.status == 408 and text in answer.message(), (data, answer.body)
        assert line.ended()
    with small.wire(timeout=5) as line:  # a byte now and then is no progress
        start = time.monotonic()
        with pytest.raises(OSError):
            for byte in wire.make(small.address, "GET", "/health", None, [("X", "y" * 200)]):
                line.send(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - start < scaled(3)
    with small.wire(timeout=5) as line:
        assert line.request("GET", "/health").answer().status == 200
        start = time.monotonic()
        assert line.ended() and not line.have  # silence between requests ends in silence
        assert 1 < time.monotonic() - start < scaled(4)


def test_connections_past_the_limit(small):
    idle = []
    for _ in range(SMALL["connections"]):
        idle.append(small.wire(timeout=5).request("GET", "/health"))
        assert idle[-1].answer().status == 200
    with small.wire(timeout=5) as line:  # the oldest idle one makes room
        assert line.request("GET", "/health").answer().status == 200
        assert idle[0].ended(2)
    for line in idle:
        line.close()
    busy = [small.wire(timeout=30).request("POST", "/v1/chat/completions", LONG)
            for _ in range(SMALL["connections"])]
    time.sleep(0.3)
    for _ in range(3):  # all of them work: the next one hears why
        with small.wire(timeout=5) as line:
            answer = line.request("GET", "/health").answer()
            assert answer.status == 503 and "connections" in answer.message()
            assert answer.headers["retry-after"]
    for line in busy:
        line.close()
    small.calm()


# ---- slow readers ---------------------------------------------------------------------------

def slow_wire(gate, timeout=60):
    """A connection whose socket takes little: small segments, a small window."""
    host, port = gate.address.split(":")
    line = gate.wire(timeout)
    line.sock.close()
    line.sock = socket.socket()
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    line.sock.settimeout(timeout)
    line.sock.connect((host, int(port)))
    return line


WORDY = {**LONG, "max_tokens": 250, "stream": True, "logprobs": True, "top_logprobs": 20}


@pytest.mark.release_only("its reader counts as gone before so slow a turn has ended", "tsan")
def test_a_slow_reader_holds_nothing_of_the_pipeline(gate):
    with slow_wire(gate) as line:
        line.request("POST", "/v1/chat/completions", WORDY)
        line.until(b"\r\n\r\n")
        end = time.monotonic() + scaled(60)
        while gate.metric("num_requests_running") > 0:
            assert time.monotonic() < end, "the turn waits for its reader"
            time.sleep(0.2)
        assert gate.metric("http_streams") == 1, "the answer fitted into the socket"
        assert gate.cpu_share() < IDLE_SHARE * 2  # a reader that stands still costs nothing
        answer = line.answer()
    assert answer.whole and answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.body.count(b'"token":') >= 250


def test_readers_that_stand_still_are_cut_off(small):
    assert small.ask("POST", "/v1/chat/completions", HELLO).status == 200
    small.calm()
    files = small.files()
    with slow_wire(small) as stream, slow_wire(small) as plain:
        stream.request("POST", "/v1/chat/completions", WORDY)
        plain.send(wire.make(small.address, "GET", "/openapi.json") * 30)
        end = time.monotonic() + scaled(40)
        while small.metric("http_connections") > 1 or small.files() > files:
            assert time.monotonic() < end, "%d connections, %d files, %d before" % (
                small.metric("http_connections"), small.files(), files)
            time.sleep(0.2)
        assert small.metric("num_requests_running") == 0
        assert small.metric("http_streams") == 0


# ---- hang-ups -------------------------------------------------------------------------------

@pytest.mark.timeout_s(120)
def test_hanging_up_anywhere_leaves_nothing(gate):
    leave.run(gate.address, 1)
    gate.calm()
    files, rss = gate.files(), gate.rss()
    leave.run(gate.address, 3)
    gate.calm()
    assert gate.files() <= files + 1  # a connection of the pipeline may have come
    if conftest.MODE == "release":  # a sanitizer keeps freed memory back for a while
        assert gate.rss() < rss + (8 << 20)
    assert gate.ask("POST", "/v1/chat/completions", HELLO).status == 200


def test_a_stop_with_requests_in_every_state(pipeline, small):
    lines = [small.wire(timeout=20) for _ in range(5)]
    lines[0].request("POST", "/v1/chat/completions", LONG)
    lines[1].request("POST", "/v1/chat/completions", {**LONG, "stream": True})
    lines[2].request("POST", "/v1/tokenize", b"{", [("Content-Length", "9")])
    lines[3].request("GET", "/health").answer()
    lines[1].until(b'"content":')
    os.kill(small.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert conftest.alive(small.pid), "it ended before its answers"
    os.kill(small.pid, signal.SIGTERM)  # twice: at once
    end = time.monotonic() + scaled(10)
    while conftest.alive(small.pid):  # the fixture looks at its exit status
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.05)
    for line in lines:
        line.close()
    with open(os.path.join(pipeline.home, "small.log")) as log:
        text = log.read()
    assert "rror" not in text.split("draining")[-1], text


# ---- malformed ------------------------------------------------------------------------------

def test_malformed_requests(gate):
    wrong = malformed.run(gate.address, gate.pid, 1000, int(time.time()))
    assert not wrong, "\n".join(wrong)
    gate.calm()


# ---- what it costs --------------------------------------------------------------------------

@pytest.mark.release_only("a sanitizer's own thread wakes up, too")
def test_it_sleeps_while_nothing_happens(pipeline, gate):
    lines = [gate.wire().request("GET", "/health") for _ in range(100)]
    for line in lines:
        assert line.answer().status == 200
    assert gate.cpu_share() < IDLE_SHARE
    lines.append(gate.wire(60).request("POST", "/v1/chat/completions", LONG))
    lines.append(gate.wire(60).request("POST", "/v1/chat/completions", {**LONG, "stream": True}))
    lines.append(gate.wire(60).request("POST", "/v1/tokenize", b"{", [("Content-Length", "9")]))
    lines[-2].until(b'"content":')
    shard = pipeline.pids("shard")[0]
    os.kill(shard, signal.SIGSTOP)  # no token comes for a while
    try:
        time.sleep(0.5)
        share = gate.cpu_share(2)
    finally:
        os.kill(shard, signal.SIGCONT)
        for line in lines:
            line.close()
    assert share < IDLE_SHARE * 2
    pipeline.wait_ready()
    gate.calm()


@pytest.mark.release_only("its memory is the release's, and it needs the release's speed")
@pytest.mark.timeout_s(240)
def test_ten_thousand_idle_connections_and_two_hundred_streams(pipeline, gate):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > 10500, "this test needs 10,500 descriptors; the limit is %d" % hard
    idle, most = [], [0]
    answers = [None] * 200

    def stream(i):
        body = {"messages": [{"role": "user", "content": "Count to %d" % i}], "stream": True,
                "max_tokens": 24, "ignore_eos": True}
        answers[i] = gate.ask("POST", "/v1/chat/completions", body, timeout=200)

    try:
        for _ in range(10000):
            idle.append(gate.wire().request("GET", "/health"))
            assert idle[-1].answer().status == 200
        threads = [threading.Thread(target=stream, args=(i,)) for i in range(200)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most[0] = max(most[0], gate.rss())
            time.sleep(0.1)
        lost = [a.status if a else None for a in answers
                if not a or a.status != 200 or not a.body.endswith(b"data: [DONE]\n\n")]
        assert not lost, lost
        assert most[0] < RSS_MAX, "%d MiB" % (most[0] >> 20)
        for line in idle[::500]:  # they still live
            assert line.request("GET", "/health").answer().status == 200
    finally:
        for line in idle:
            line.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gate.calm()
