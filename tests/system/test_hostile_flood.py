"""test_hostile_flood.py - peers that send too much, too large, never read, or never begin to speak.

Owns:      floods beside a turn that streams: its bytes are those it has alone, and memory stays
           bounded; connections that are opened and left. What each case must leave as it was:
           hostile_peer.py.
Does not:  say anything clever: test_hostile_calls.py and test_hostile_ring.py do.
"""
import os
import resource
import socket
import struct
import threading
import time

import pytest
import zmq

from hostile_peer import (  # noqa: F401  (line, before and peer are fixtures)
    INVALID, NOT_FOUND, before, envelope, line, peer, refused, ring, rss, service)

MIB = 1 << 20
FLOOD = 100000             # messages of one peer
GROWTH_MAX = 256 * MIB     # of a process's memory, for queues that are full on both sides
STREAM = ("run", "--stream", "--seed", "5", "--max-tokens", "100", "--ignore-eos", "--", "Go on.")


@pytest.fixture(scope="module")
def alone(line):
    """What STREAM prints where nobody disturbs it."""
    return line.cli(*STREAM, check=True).stdout


@pytest.fixture
def pids(line):
    """{process: pid} of those that listen."""
    return {"%s-%d" % (p["role"], p["index"]): p["pid"] for p in line.status()["processes"]}


@pytest.fixture
def beside(line, alone):
    """A turn that streams while the test runs; it must print what it prints alone."""
    child = line.popen(*STREAM, bufsize=0)
    head = child.stdout.read(10)
    yield child
    rest, said = child.communicate(timeout=150)
    assert child.returncode == 0, said
    assert (head + rest).decode() == alone


class Memory:
    """The most that processes have in use while this watches, above what they had before."""

    def __init__(self, pids):
        self.pids = pids
        self.first = {name: rss(pid) for name, pid in pids.items()}
        self.most = dict.fromkeys(pids, 0)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.over.wait(0.02):
            for name, pid in self.pids.items():
                self.most[name] = max(self.most[name], rss(pid) - self.first[name])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failure):
        self.over.set()
        self.thread.join()
        if failure[0] is None:
            grown = {name: most // MIB for name, most in self.most.items()}
            assert max(self.most.values()) < GROWTH_MAX, "MiB: %s" % grown


# ---- too large --------------------------------------------------------------------------------

def test_bodies_of_9_mib(peer):
    """Above the soft cap: told so."""
    for name in peer.names():
        got, _ = peer.call(name, "Health.Check", b"\0" * (9 * MIB))
        refused(got, INVALID)
        assert "8 MiB" in got.text


@pytest.mark.timeout_s(170)
def test_bodies_of_200_mib(peer, pids):
    """Above what a socket takes: the connection is cut, nothing of it is kept."""
    body = b"\0" * (200 * MIB)
    with Memory({name: pids[name] for name in peer.names()}):
        for name in peer.names():
            link = peer.dealer(name)
            watch = link.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            link.send_multipart([peer.frame(call=1, method="Health.Check"), body], copy=False)
            assert watch.poll(60000), "%s took it" % name
            link.disable_monitor()
            watch.close()
            link.close()


# ---- too many ---------------------------------------------------------------------------------

def flood(peer, name, frames, n=FLOOD):
    link = peer.dealer(name)
    for i in range(n):
        link.send_multipart(frames[i % len(frames)])
    link.close(linger=60000)


@pytest.mark.timeout_s(170)
@pytest.mark.parametrize("name", ["orchestrator-0", "shard-1"])
def test_100000_messages_of_one_peer(peer, pids, beside, name):
    """Calls whose answers nobody reads, rows and tokens of tickets that are none."""
    span = ring.Span(ticket=5, pos=0, ids=[1])
    post = [(envelope.HIDDEN_ROWS, ring.HiddenRows(spans=[span], d_model=640), bytes(4 * 640)),
            (envelope.CHOSEN, ring.Chosen(ticket=5, pos=1, id=1)),
            (envelope.EMITTED, ring.Emitted(ticket=5, tokens=[ring.Token(pos=1, id=1)])),
            (envelope.CANDIDATES, ring.Candidates(ticket=5, pos=1, lse_raw=0, lse_t=0, vocab=1))]
    frames = [[peer.frame(kind), body.SerializeToString(), *rows] for kind, body, *rows in post]
    frames += [[peer.frame(call=1, method="Health.Check"), b""],
               [peer.frame(envelope.PING, call=7), b""], [b"x"], [peer.frame(envelope.CANCEL), b""]]
    with Memory({name: pids[name]}):
        sender = threading.Thread(target=flood, args=(peer, name, frames))
        sender.start()
        asked = 0
        while sender.is_alive() or asked < 3:  # it answers others all the time
            assert peer.health(name).state == "ready"
            asked += 1
        sender.join()


@pytest.mark.timeout_s(170)
def test_rows_of_no_ticket_take_no_memory(peer, pids, beside):
    """Whole batches of rows, as fast as they go."""
    spans = [ring.Span(ticket=i, pos=0, ids=[1] * 512) for i in range(1, 3)]
    frames = [[peer.frame(envelope.HIDDEN_ROWS),
               ring.HiddenRows(spans=[span], d_model=640).SerializeToString(),
               bytes(512 * 640 * 4)] for span in spans]
    with Memory({"shard-1": pids["shard-1"]}):
        flood(peer, "shard-1", frames, 3000)


@pytest.mark.timeout_s(170)
def test_datagrams_without_end(peer, beside):
    """The lanes are always full: what else comes is taken all the same."""
    over = threading.Event()
    names = peer.names(".lane")
    data = peer.datagram(envelope.CHOSEN, ring.Chosen(ticket=5, pos=1, id=1))

    def send(name):
        lane = peer.lane()
        lane.setblocking(True)
        while not over.is_set():
            lane.sendto(data, peer.lane_path(name))
        lane.close()
    senders = [threading.Thread(target=send, args=(name,)) for name in names]
    for sender in senders:
        sender.start()
    try:
        for name in names * 5:
            assert peer.health(name).state == "ready"
    finally:
        over.set()
        for sender in senders:
            sender.join()


def test_calls_whose_answers_nobody_reads(peer, pids):
    """The queue to a peer that does not read fills up and what follows is dropped."""
    for name in peer.names():
        link = peer.dealer(name, queue=1)
        with Memory({name: pids[name]}):
            for i in range(20000):
                link.send_multipart([peer.frame(call=i, method="Health.Check"), b""])
            assert peer.health(name).state == "ready"
        link.close()


# ---- never begun ------------------------------------------------------------------------------

GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(16) + b"\0" + bytes(31)  # of ZMTP 3.0


def raw(peer, name, n):
    """n connections that speak nothing, half a greeting, a whole one, or nonsense."""
    links = []
    for i in range(n):
        link = socket.socket(socket.AF_UNIX)
        link.connect(peer.endpoint(name)[6:])  # waits while the process has others to take
        link.sendall([b"", GREETING[:5], GREETING[:30], GREETING, GREETING + b"\4\xff\xff\xff",
                      b"GET / HTTP/1.1\r\n\r\n", GREETING + b"\2" + b"\xff" * 8][i % 7])
        links.append(link)
    return links


def test_200_peers_that_never_begin(peer, beside):
    links = [link for name in peer.names() for link in raw(peer, name, 200)]
    for name in peer.names():
        assert peer.health(name).state == "ready"
    for link in links:
        link.close()


def files(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


@pytest.mark.timeout_s(170)
def test_more_peers_than_files(peer, pids, beside):
    """No descriptor is left for another connection: those that are there go on, and when the others
    have gone new ones are taken."""
    for name in peer.names():
        pid = pids[name]
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        link = peer.dealer(name)
        assert peer.call(name, "Health.Check", link=link)[0].status == 0
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files(pid) + 10, before[1]))
        links = []
        try:
            for _ in range(30):
                links.append(socket.socket(socket.AF_UNIX))
                links[-1].connect(peer.endpoint(name)[6:])
            for _ in range(3):
                assert peer.call(name, "Health.Check", link=link)[0].status == 0
                time.sleep(0.1)
        finally:
            for one in links:
                one.close()
            assert peer.health(name).state == "ready"
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        link.close()
