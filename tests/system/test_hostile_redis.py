"""test_hostile_redis.py - foreign values under our keys, and a Redis that refuses.

Owns:      what clients hear of each: an answer, or a status and a sentence; that no process ends
           and other conversations go on; that an orchestrator starts whatever stands in Redis.
Does not:  kill Redis (test_kill.py) or fill its disk (test_hostile_disk.py).
"""
import os
import socket
import struct
import time

import pytest

from conftest import alive

SHORT = ("--seed", "1", "--max-tokens", "6")
LONG = ("--seed", "3", "--temperature", "0", "--max-tokens", "60", "--ignore-eos")
PATIENCE_S = 60


# ---- Redis, in a few lines ---------------------------------------------------------------------

class Refused(Exception):
    """Redis answered with an error."""


class Redis:
    """One connection to the Redis of a home."""

    def __init__(self, home):
        self.link = socket.socket(socket.AF_UNIX)
        self.link.settimeout(PATIENCE_S)
        self.link.connect(os.path.join(home, "redis.sock"))
        self.file = self.link.makefile("rb")

    def __call__(self, *words):
        parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.link.sendall(b"*%d\r\n" % len(parts)
                          + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self._reply()

    def _reply(self):
        line = self.file.readline()[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def put(self, key, kind):
        """Replaces what stands under the key by a value of the kind, or by these bytes."""
        self("DEL", key)
        if isinstance(kind, bytes):
            self("SET", key, kind)
        elif kind == "string":
            self("SET", key, "foreign")
        elif kind == "list":
            self("RPUSH", key, "foreign", "-1")
        elif kind == "hash":
            self("HSET", key, "created", "foreign", "touched", "-7", "raw", "999")
        else:
            self("XADD", key, "*", "a", "b")

    def close(self):
        self.file.close()
        self.link.close()


KINDS = ["string", "list", "hash", "stream"]


@pytest.fixture(scope="module")
def redis(web):
    link = Redis(web.home)
    web.known = web.run("Hi", *SHORT)["ids"]
    web.long = web.run("Tell me of rivers.", *LONG)["text"].encode()
    web.living = web.pids()
    web.model = web.get("/v1/models").json()["data"][0]["id"]
    yield link
    link.close()


def _sentence(done):
    """Exit 0, or 1 and one sentence."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode in (0, 1), done
    if done.returncode:
        assert len(lines) == 1 and len(lines[0].split()) >= 4, done.stderr
        assert "INTERNAL" not in lines[0] and "strange" not in lines[0]
    return done.returncode == 0


def _problem(answer):
    """HTTP: a success, or an error object with a sentence; 500 only for data that is damaged."""
    if answer.status >= 400:
        message = answer.json()["error"]["message"]
        assert len(message.split()) >= 3
        assert answer.status != 500 or "damaged" in message, message
    return answer.status


def _sound(web):
    assert web.pids() == web.living, "a process ended\n" + web.logs()
    assert web.run("Hi", *SHORT)["ids"] == web.known


def _ids(*ids):
    return struct.pack("<%di" % len(ids), *ids)


# ---- conversations -----------------------------------------------------------------------------

FOREIGN = {  # values of the right type, by the end of the key
    ":tokens": [b"odd", _ids(2, -5), _ids(2, 2**31 - 1), _ids(2, 300000), b"\0" * (100 << 20)],
    ":turns": [],
    "": [],
    "lease": [b"somebody", b"\xff" * 70000],
}


@pytest.mark.parametrize("which", ["", ":tokens", ":turns", "lease"])
def test_a_conversation(web, redis, which):
    """Each command that reads it says what is wrong; `rm` always works; the others go on."""
    other = "other" + which.strip(":")
    assert web.run("Hi", "--session", other, *SHORT)["ids"] == web.known
    for i, value in enumerate(["list", "string" if which == "" else "hash"] + FOREIGN[which]):
        name = "s%d%s" % (i, which.strip(":"))
        web.run("Hi", "--session", name, *SHORT)
        key = "gm:lease:{local}:" + name
        if which != "lease":
            key = "gm:sess:{local}:" + name + which
        redis.put(key, value)
        _sentence(web.cli("session", "show", name))
        _sentence(web.cli("session", "undo", name))
        redis.put(key, value)
        done = web.cli("run", "--session", name, *SHORT, "Hi")
        went = _sentence(done)
        if value in (b"odd", _ids(2, -5), _ids(2, 300000)):
            assert not went and "remove it" in done.stderr, "%r: %s" % (value[:20], done.stderr)
        if which == "lease":
            assert went, "a lease without an end held the session"
        redis.put(key, value)
        listed = web.cli("session", "list", check=True).stdout
        assert other in listed
        assert _sentence(web.cli("session", "rm", name)), "%s with %r" % (key, value[:20])
    assert web.run("And?", "--session", other, *SHORT)["ids"]
    _sound(web)


def test_turns_that_lie(web, redis):
    """Turns of the transcript that are no protobuf, or not whole."""
    for i, info in enumerate([b"", b"\xff" * 40, b"\x0a\xff\xff\xff\x7f"]):
        name = "lie%d" % i
        web.run("Hi", "--session", name, *SHORT)
        redis("RPUSH", "gm:sess:{local}:%s:turns" % name, info)
        assert not _sentence(web.cli("run", "--session", name, *SHORT, "Hi"))
        assert _sentence(web.cli("session", "rm", name))
    _sound(web)


# ---- what the orchestrator reads when it starts ------------------------------------------------

def test_an_orchestrator_that_starts(web, redis):
    """gm:running names turns whose records are anything; then it is no set at all. A turn that
    runs in earnest goes on through all of it."""
    want = web.long
    for kind in KINDS + [b"", b"\xff" * 100, b"\x0a\x05hello", b"\0" * (1 << 20)]:
        name = "junk%d" % (KINDS + [kind]).index(kind)
        redis("SADD", "gm:running", "local/" + name + str(len(kind)), "nonsense", "/", "a/", "\xff")
        redis.put("gm:turn:{local}:" + name + str(len(kind)), kind)
        redis.put("gm:turn:{local}:" + name + str(len(kind)) + ":out", kind)
    child = web.popen("run", "--stream", *LONG, "--", "Tell me of rivers.", bufsize=0)
    first = child.stdout.read(1)
    web.kill("orchestrator")
    rest, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0 and (first + rest).rstrip(b"\n") == want.rstrip(b"\n"), err
    for kind in KINDS[:2]:  # a role that dies five times in a minute is given up: one kill each
        redis.put("gm:running", kind)
        web.kill("orchestrator")
        web.wait_ready()
        assert web.run("Hi", *SHORT)["ids"] == web.known
        assert redis("TYPE", "gm:running") in (b"set", b"none")
    web.living = web.pids()
    _sound(web)


# ---- what the gateway reads --------------------------------------------------------------------

def _chat(web, **headers):
    body = {"model": web.model, "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 4, "seed": 1}
    return web.post("/v1/chat/completions", body, headers)


@pytest.mark.parametrize("value", KINDS[1:] + [b"", b"{", b"[1,2,3]", b"\xff\xfe", b"-1:-1",
                                               b"9" * 5000, b"null"],
                         ids=lambda value: ascii(value)[:12])
def test_responses_and_idempotency(web, redis, value):
    made = web.post("/v1/responses", {"model": web.model, "input": "Hi", "max_output_tokens": 4})
    assert made.status == 200, made.body
    name = made.json()["id"]
    for key in redis("KEYS", "gm:resp:*"):
        if isinstance(value, bytes):
            for field in redis("HKEYS", key):
                redis("HSET", key, field, value)
        else:
            redis.put(key, value)
    assert _problem(web.get("/v1/responses/" + name)) >= 400
    _problem(web.post("/v1/responses", {"model": web.model, "input": "More", "max_output_tokens": 4,
                                        "previous_response_id": name}))
    _problem(web.ask("DELETE", "/v1/responses/" + name))
    token = "t%d" % abs(hash(value))
    assert _chat(web, **{"Idempotency-Key": token}).status == 200
    for key in redis("KEYS", "gm:idem:*"):
        redis.put(key, value)
    _problem(_chat(web, **{"Idempotency-Key": token}))
    assert _chat(web).status == 200
    assert web.pids() == web.living


def test_api_keys(web, redis):
    """Foreign keys let nobody in, shut the gateway for nobody who has a good one, and can be
    listed and removed; other keys work on."""
    try:
        good = web.cli("key", "add", "good", check=True).stdout.split()[-1]
        keys = [k for k in redis("KEYS", "gm:key:*")]
        bearer = {"Authorization": "Bearer " + good}
        assert _chat(web, **bearer).status == 200
        end = time.monotonic() + PATIENCE_S  # the gateway looks for a first key every five seconds
        while _chat(web).status != 401:
            assert time.monotonic() < end, "a key was made and nobody is asked for one"
            time.sleep(0.2)
        for kind in KINDS:
            redis.put("gm:key:" + "0" * 16, kind)
            _sentence(web.cli("key", "list"))
            assert _problem(_chat(web, Authorization="Bearer gm-" + "0" * 48)) in (401, 403, 503)
        redis("DEL", "gm:key:" + "0" * 16)
        for name in ("gm:keys", "gm:keys:names", "gm:keys:version"):
            was = redis("DUMP", name)
            for kind in KINDS:
                redis.put(name, kind)
                _sentence(web.cli("key", "list"))
                _sentence(web.cli("key", "add", "other" + kind))
                _problem(_chat(web, **bearer))
            redis("DEL", name)
            if was:
                redis("RESTORE", name, 0, was)
        kept = redis("DUMP", keys[0])
        for kind in KINDS:
            redis.put(keys[0], kind)
            assert "damaged" in web.cli("key", "list").stderr
            assert _problem(_chat(web, **bearer)) in (200, 401, 403, 503)  # 200: still remembered
        redis("DEL", keys[0])
        redis("RESTORE", keys[0], 0, kept)
        redis.put(keys[0], "list")
        assert _sentence(web.cli("key", "revoke", "good"))
    finally:
        for key in redis("KEYS", "gm:key*"):
            redis("DEL", key)
    end = time.monotonic() + PATIENCE_S
    while _chat(web).status != 200:
        assert time.monotonic() < end, "the gateway stayed shut after the keys were gone"
        time.sleep(0.2)
    _sound(web)


# ---- a Redis that refuses ----------------------------------------------------------------------

REFUSALS = {
    "out of memory": ([("CONFIG", "SET", "maxmemory", "1")], [("CONFIG", "SET", "maxmemory", "0")]),
    "a replica": ([("REPLICAOF", "127.0.0.1", "1")], [("REPLICAOF", "NO", "ONE")]),
    "a password": ([("CONFIG", "SET", "requirepass", "secret"),
                    ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")],
                   [("CONFIG", "SET", "requirepass", "")]),
    "no scripts": ([("ACL", "SETUSER", "default", "-eval")],
                   [("ACL", "SETUSER", "default", "+eval")]),
}


@pytest.mark.parametrize("how", ["out of memory", "a replica", "a password", "no scripts"])
def test_refusals(web, redis, how):
    """A turn that runs ends with all its bytes; new ones get UNAVAILABLE and a sentence; when Redis
    takes commands again all is as before and nothing that was answered is lost."""
    begin, end = REFUSALS[how]
    want = web.long
    name = "refused-" + how.replace(" ", "-")
    child = web.popen("run", "--stream", "--session", name, *LONG, "--", "Tell me of rivers.",
                      bufsize=0)
    first = child.stdout.read(1)
    try:
        for words in begin:
            redis(*words)
        rest, err = child.communicate(timeout=PATIENCE_S)
        assert (first + rest).rstrip(b"\n") == want.rstrip(b"\n"), err
        done = web.cli("run", *SHORT, "Hi")
        assert not _sentence(done) and "Redis" in done.stderr, done.stderr
        assert _chat(web).status in (200, 503)
    finally:
        for words in end:
            redis(*words)
    until = time.monotonic() + PATIENCE_S
    while web.cli("run", *SHORT, "Hi").returncode != 0:
        assert time.monotonic() < until, "it did not come back"
        time.sleep(0.2)
    while True:
        shown = web.cli("session", "show", name)
        if shown.returncode == 0 or time.monotonic() > until:
            break
        time.sleep(0.2)
    assert shown.returncode == 0, shown.stderr
    _sound(web)


@pytest.mark.parametrize("how", ["FLUSHALL", "CLIENT KILL"])
def test_in_mid_turn(web, redis, how):
    want = web.long
    child = web.popen("run", "--stream", "--session", "mid", *LONG, "--", "Tell me of rivers.",
                      bufsize=0)
    first = child.stdout.read(1)
    redis(*(("FLUSHALL",) if how == "FLUSHALL"
            else ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")))
    rest, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0 and (first + rest).rstrip(b"\n") == want.rstrip(b"\n"), err
    until = time.monotonic() + PATIENCE_S
    while web.cli("session", "rm", "mid").returncode != 0:
        assert time.monotonic() < until, "the turn was not stored"
        time.sleep(0.2)
    _sound(web)


def test_all_processes_are_the_first(web, redis):
    assert web.pids() == web.living and all(alive(pid) for pid in web.living)
