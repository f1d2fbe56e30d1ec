"""test_ring.py - the ring cannot lock: processes that stand still, clients that do not read.

Owns:      each process stopped in turn under streams and a long prompt; a command whose output
           nobody reads; two hundred conversations on pages for fifty.
Does not:  kill (test_kill.py, test_heal.py), or slow HTTP readers (test_web_hostile.py).
"""
import fcntl
import http.client
import json
import os
import signal
import tempfile
import threading
import time

import pytest

from conftest import Web

STREAMS = 8
TOKENS = 64
STOP_S = 1.0
MOVE_S = 30         # within which others are seen to go on, on a machine that is busy
LONG = " ".join("Day %d was %s." % (i, ("calm", "wild", "grey")[i % 3]) for i in range(570))
CROWD = 200         # conversations
ROOM = 50           # that have pages at once
PAGES_EACH = 256    # positions that a short turn reserves
REFUSED_S = 10      # "at once", on a machine that is busy
PIPE_BYTES = 4096   # the smallest pipe there is,
PIPE_ROOM = 64      # and what is left of it for an answer


@pytest.fixture(scope="module")
def line(gemline, model_file):
    """One pipeline of two shards with a gateway for the whole file."""
    made = Web(tempfile.mkdtemp(prefix="gemline-test-"))
    try:
        yield made.up("--shards", 2)
    finally:
        made.close()


class Reader(threading.Thread):
    """Reads a command's output; `out` grows."""

    def __init__(self, child):
        super().__init__(daemon=True)
        self.child, self.out = child, b""
        self.start()

    def run(self):
        while True:
            data = self.child.stdout.read(4096)
            if not data:
                return
            self.out += data

    def whole(self, seconds=120):
        """The bytes of an answer that ended well."""
        self.join(seconds)
        assert not self.is_alive(), "stuck behind %d bytes" % len(self.out)
        assert self.child.wait(20) == 0, self.child.stderr.read()
        return self.out


def story(line, seed, *options):
    return line.popen("run", "--stream", "--seed", seed, "--max-tokens", TOKENS, "--ignore-eos",
                      *options, "--", "Tell story number %d." % seed, bufsize=0)


def all_of(line):
    """The eight streams and the long prompt, begun."""
    made = [Reader(story(line, seed)) for seed in range(STREAMS)]
    made.append(Reader(line.popen("run", "--stream", "--seed", 9, "--max-tokens", 4,
                                  "--ignore-eos", "--", LONG, bufsize=0)))
    return made


def bytes_of(readers):
    return sum(len(r.out) for r in readers)


def until(true, what, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def stopped(pid, seconds, others=None):
    """Stops a process; with `others`, until they are seen to go on or have ended."""
    os.kill(pid, signal.SIGSTOP)
    try:
        if others:
            before = bytes_of(others)
            until(lambda: bytes_of(others) > before or not any(r.is_alive() for r in others),
                  "the others stand still too", MOVE_S)
        else:
            time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout_s(240)
def test_each_process_stands_still_in_turn(line):
    want = [r.whole() for r in all_of(line)]
    pids = {role: line.pids(role) for role in ("shard", "sampler", "orchestrator", "tokenizer",
                                               "redis", "gateway")}
    readers = all_of(line)
    until(lambda: any(r.out for r in readers[:STREAMS]), "no stream began")
    stopped(pids["shard"][0], STOP_S)        # the ring waits, and loses nothing
    stopped(pids["shard"][1], STOP_S)
    stopped(pids["sampler"][0], STOP_S)
    stopped(pids["orchestrator"][0], STOP_S)
    for role in ("tokenizer", "redis", "gateway"):  # not on the way of a token
        stopped(pids[role][0], STOP_S, readers)
    stopped(readers[0].child.pid, STOP_S, readers[1:])  # a client: its own stream alone waits
    assert [r.whole() for r in readers] == want
    line.wait_ready()
    assert {role: line.pids(role) for role in pids} == pids, "somebody was restarted"


@pytest.mark.timeout_s(200)
def test_nobody_reads_what_a_command_writes(line):
    """Its pipe is full, or it stands still: its turn alone is parked, and ended after its limit."""
    want = [Reader(story(line, seed)).whole() for seed in range(2)]
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.write(ends[1], b"." * (PIPE_BYTES - PIPE_ROOM))
    loud = ("--seed", "3", "--max-tokens", "4000", "--ignore-eos", "--temperature", "8", "--top-k",
            "0", "--top-p", "1")
    unread = line.popen("run", "--stream", *loud, "--", "Write.", stdout=ends[1])
    os.close(ends[1])
    still = line.popen("run", "--stream", *loud, "--", "Write more.", bufsize=0)
    assert still.stdout.read(1)
    os.kill(still.pid, signal.SIGSTOP)
    sampler = line.pids("sampler")[0]
    beside = [Reader(story(line, seed)) for seed in range(2)]
    assert [r.whole() for r in beside] == want
    until(lambda: line.running() == 0, "their turns go on for ever", 120)
    assert unread.poll() is None
    os.kill(still.pid, signal.SIGCONT)
    assert line.pids("sampler")[0] == sampler
    os.close(ends[0])  # the command ends: nobody will read
    assert unread.wait(60) >= 0, "ended by a signal"
    Reader(still).join(60)
    assert still.wait(60) >= 0, "ended by a signal"
    assert Reader(story(line, 0)).whole() == want[0]


class Guest(threading.Thread):
    """Asks over HTTP until it is served, coming again when it is told to."""

    def __init__(self, web, number):
        super().__init__(daemon=True)
        self.web, self.number = web, number
        self.text, self.refused, self.slowest, self.trouble = None, 0, 0.0, None
        self.start()

    def run(self):
        body = json.dumps({"messages": [{"role": "user", "content": "Say %d." % self.number}],
                           "session": "guest-%d" % self.number, "seed": 1, "max_tokens": 4,
                           "temperature": 0, "ignore_eos": True})
        try:
            while self.text is None:
                begin = time.monotonic()
                link = self.web.connect(timeout=170)
                link.request("POST", "/v1/chat/completions", body)
                got = link.getresponse()
                data = got.read()
                link.close()
                if got.status == 200:
                    self.text = json.loads(data)["choices"][0]["message"]["content"]
                    return
                assert got.status in (429, 503), data
                self.refused += 1
                self.slowest = max(self.slowest, time.monotonic() - begin)
                time.sleep(int(got.headers["Retry-After"]))
        except (OSError, http.client.HTTPException, AssertionError, TypeError) as failure:
            self.trouble = repr(failure)


@pytest.mark.timeout_s(240)
def test_two_hundred_conversations_on_pages_for_fifty(up_web):
    """Those who are refused are told at once and when to come again; none starves, and the answer
    is what it is alone."""
    web = up_web("--kv-tokens", ROOM * PAGES_EACH, "--context", 2048)
    alone = Guest(web, 0)
    alone.join(100)
    assert web.ask("DELETE", "/v1/sessions/guest-0").status == 200
    guests = []
    for number in range(CROWD):
        guests.append(Guest(web, number))
        time.sleep(0.015)  # three seconds: longer than a burst that is taken whole
    end = time.monotonic() + 180
    for guest in guests:
        guest.join(max(end - time.monotonic(), 0.1))
    hungry = [g.number for g in guests if g.is_alive()]
    assert not hungry, "not served: %s" % hungry
    assert [g.trouble for g in guests if g.trouble] == []
    assert guests[0].text == alone.text
    assert max(g.slowest for g in guests) < REFUSED_S
    web.wait_idle()
