"""hostile_peer.py - a process of the same user that speaks to the sockets of a running pipeline.

Owns:      the messages as Python sees them (made by protoc from proto/), calls and frames to any
           socket of the run directory, datagrams to the lanes, a turn of its own on the ring; the
           fixtures `line`, `before` and `peer`: after each case all processes are the same, answer,
           and the pipeline gives the bytes it gave before.
Does not:  judge: the tests do (test_hostile_calls.py, test_hostile_ring.py,
           test_hostile_flood.py).
"""
import importlib
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

import pytest
import zmq

import conftest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
PROTOS = ("envelope", "ring", "service")
ANSWER_S = 60        # what one answer may take
PATIENCE_MS = 120000  # how long a turn of ours goes on by itself
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
INVALID, DEADLINE, NOT_FOUND, EXHAUSTED, PRECONDITION = 3, 4, 5, 8, 9
ABORTED, UNSUPPORTED, UNAVAILABLE, DATA_LOSS = 10, 12, 14, 15


def messages():
    """The modules that protoc makes of proto/, by name."""
    folder = tempfile.mkdtemp(prefix="gemline-proto-")
    try:
        subprocess.run(["protoc", "-I", os.path.join(ROOT, "proto"), "--python_out", folder,
                        *(name + ".proto" for name in PROTOS)], check=True)
        sys.path.insert(0, folder)
        return [importlib.import_module(name + "_pb2") for name in PROTOS]
    finally:
        sys.path.remove(folder)
        shutil.rmtree(folder, ignore_errors=True)


envelope, ring, service = messages()


class Peer:
    """A hostile peer of the pipeline `line`. Sockets are closed with it."""

    def __init__(self, line):
        self.run_dir = line.home
        self.context = zmq.Context()
        self.calls = 0
        self.inbox = None
        self.folder = tempfile.mkdtemp(prefix="gemline-peer-")

    def close(self):
        self.context.destroy(linger=0)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- the sockets ----

    def names(self, suffix=".sock"):
        """The processes that listen: "shard-0" and so on."""
        return sorted(f[:-len(suffix)] for f in os.listdir(self.run_dir)
                      if f.endswith(suffix) and "-" in f)

    def endpoint(self, name):
        return "ipc://%s/%s.sock" % (self.run_dir, name)

    def dealer(self, name, routing_id=None, queue=1000):
        """A connection to a process."""
        link = self.context.socket(zmq.DEALER)
        link.linger = 0
        link.sndtimeo = link.rcvtimeo = ANSWER_S * 1000
        link.sndhwm = link.rcvhwm = queue
        if routing_id is not None:
            link.routing_id = routing_id
        link.connect(self.endpoint(name))
        return link

    def lane(self):
        """A datagram socket; send to lane_path()."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        link.setblocking(False)
        return link

    def lane_path(self, name):
        return os.path.join(self.run_dir, name + ".lane")

    def home(self):
        """The endpoint of an inbox of ours, which plays the orchestrator for a turn of ours."""
        if not self.inbox:
            self.inbox = self.context.socket(zmq.ROUTER)
            self.inbox.bind("ipc://%s/home.sock" % self.folder)
        return "ipc://%s/home.sock" % self.folder

    # ---- messages ----

    def frame(self, kind=envelope.CALL, **fields):
        """An envelope's bytes."""
        return envelope.Envelope(version=1, kind=kind, **fields).SerializeToString()

    def call(self, name, method, request=None, link=None, seconds=ANSWER_S, **fields):
        """One call: (envelope, body) of its answer, with any envelope field set."""
        own = link is None
        link = link or self.dealer(name)
        self.calls += 1
        number = fields.pop("call", (os.getpid() << 24) + self.calls)
        body = request if isinstance(request, bytes) else \
            request.SerializeToString() if request is not None else b""
        try:
            link.send_multipart([self.frame(call=number, method=method, **fields), body])
            return self.answer(link, number, seconds)
        finally:
            if own:
                link.close()

    @staticmethod
    def answer(link, number=None, seconds=ANSWER_S):
        """The next answer (to the call `number`): (envelope, body)."""
        end = time.monotonic() + seconds
        while link.poll(max(end - time.monotonic(), 0) * 1000):
            frames = link.recv_multipart()
            got = envelope.Envelope.FromString(frames[0])
            if number is None or got.call == number:
                return got, frames[1]
        pytest.fail("no answer within %d s" % seconds)

    def health(self, name, seconds=ANSWER_S):
        """Health.Check of a process, over a connection of its own."""
        got, body = self.call(name, "Health.Check", seconds=seconds)
        assert got.status == 0, got
        return service.HealthReply.FromString(body)

    def post(self, name, kind, message=b"", rows=None, link=None, **fields):
        """A ring message; `rows` is its payload."""
        own = link is None
        link = link or self.dealer(name)
        body = message if isinstance(message, bytes) else message.SerializeToString()
        frames = [self.frame(kind, **fields), body]
        link.send_multipart(frames + ([rows] if rows is not None else []))
        if own:
            link.close(linger=ANSWER_S * 1000)

    def datagram(self, kind, message=b"", rows=b"", **fields):
        """The same as one datagram of the lane."""
        head = self.frame(kind, **fields)
        body = message if isinstance(message, bytes) else message.SerializeToString()
        return struct.pack("=II", len(head), len(body)) + head + body + rows

    def turn(self, text="Tell a story about a lighthouse.", tokens=5):
        """A good request: the ids of its answer, the same ones each time."""
        self.calls += 1
        request = service.StartRequest(
            turn="peer-%d-%d" % (os.getpid(), time.monotonic_ns()), messages=text.encode(),
            raw=True, ephemeral=True, patience_ms=PATIENCE_MS,  # it sends no sign of life
            sampling=service.Sampling(seed=3, max_tokens=tokens, ignore_eos=True))
        link = self.dealer("orchestrator-0")
        got, body = self.call("orchestrator-0", "Orchestrator.StartTurn", request, link=link,
                              credit=U32)
        ids = []
        while got.kind == envelope.ITEM:
            ids += [token.id for token in service.TurnEvent.FromString(body).tokens]
            got, body = self.answer(link)
        assert got.status == 0, got
        link.close()
        return ids

    def boots(self):
        """{process: its boot}; each answers, and says that it is ready."""
        found = {}
        for name in self.names():
            got = self.health(name)
            assert got.state == "ready", (name, got.state)
            found[name] = got.boot
        return found

    # ---- a turn of our own ----

    def reserve(self, ticket, ids, name="shard-1", **fields):
        """A Shard.Reserve request that is good but for `fields`."""
        numerics = self.health(name).numerics
        last = name == self.last_shard()
        wanted = {"ticket": ticket, "session": "peer/%d" % ticket, "ids": ids,
                  "positions": len(ids) + 32, "prompt_len": len(ids), "numerics": numerics,
                  "next": self.endpoint("sampler-0" if last else self.last_shard()),
                  "home": self.home(), "first": self.endpoint("shard-0"), **fields}
        return service.ReserveRequest(**{k: v for k, v in wanted.items() if v is not None})

    def last_shard(self):
        return [n for n in self.names() if n.startswith("shard-")][-1]

    def open_turn(self, ticket, ids):
        """Opens a ticket of ours on the sampler and all shards, as the orchestrator does."""
        sampling = service.Sampling(temperature=0, max_tokens=32, ignore_eos=True)
        got, _ = self.call("sampler-0", "Sampler.Open", service.OpenRequest(
            ticket=ticket, sampling=sampling, prompt_len=len(ids), credit=1000,
            first=self.endpoint("shard-0"), last=self.endpoint(self.last_shard()),
            home=self.home()))
        assert got.status == 0, got
        for name in (n for n in self.names() if n.startswith("shard-")):
            got, _ = self.call(name, "Shard.Reserve",
                               self.reserve(ticket, ids, name, sampling=sampling))
            assert got.status == 0, got

    def close_turn(self, ticket):
        """Releases it everywhere."""
        request = service.ReleaseRequest(ticket=ticket, keep=False)
        for name in self.names():
            if name.startswith("shard-"):
                assert self.call(name, "Shard.Release", request)[0].status == 0
        assert self.call("sampler-0", "Sampler.Close", request)[0].status == 0

    def heard(self, kind, ticket, seconds=ANSWER_S):
        """Waits at our inbox for a message of this kind about this ticket."""
        made = {envelope.EMITTED: ring.Emitted, envelope.FAULT: ring.Fault}
        end = time.monotonic() + seconds
        while self.inbox.poll(max(end - time.monotonic(), 0) * 1000):
            frames = self.inbox.recv_multipart()
            if envelope.Envelope.FromString(frames[1]).kind != kind:
                continue
            got = made[kind].FromString(frames[2])
            if got.ticket == ticket:
                return got
        pytest.fail("nothing of kind %d about ticket %d within %d s" % (kind, ticket, seconds))

    def start(self, ticket, pos=0):
        """Lets the prompt be computed from `pos` on."""
        span = ring.Span(ticket=ticket, pos=pos, start=True, last=True)
        self.post("shard-0", envelope.TOKEN_ROWS, ring.TokenRows(span=span))


def rss(pid):
    """Bytes of memory that a process has in use, without what it maps from files."""
    with open("/proc/%d/status" % pid) as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    pytest.fail("process %d has no memory" % pid)


def refused(got, *statuses):
    """The status is one of these and comes with a sentence."""
    assert got.status in statuses and len(got.text) > 10, got


def noise(n, seed=7):
    """Bytes that mean nothing, the same ones each time."""
    return random.Random(seed).randbytes(n)


# ---- fixtures ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def line(gemline, model_file):
    line = conftest.Web(tempfile.mkdtemp(prefix="gemline-test-"))
    try:
        line.up("--shards", 2)
        pids, said = line.pids(), line.run("Hello!", "--seed", 3)
        yield line
        assert line.pids() == pids and line.run("Hello!", "--seed", 3)["ids"] == said["ids"]
    finally:
        line.close()


@pytest.fixture(scope="module")
def before(line):
    """The processes and a good answer, before anything was done to them."""
    peer = Peer(line)
    yield peer.boots(), peer.turn()
    peer.close()


@pytest.fixture
def peer(line, before):
    """After each case: the same processes, each answers, a good request gives the known bytes."""
    peer = Peer(line)
    yield peer
    try:
        assert (peer.boots(), peer.turn()) == before, line.logs()
    finally:
        peer.close()
