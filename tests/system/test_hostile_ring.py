"""test_hostile_ring.py - ring messages that no process of ours sends.

Owns:      hidden rows, tokens and candidates that lie, replays, news of tickets that are none,
           false HELLOs, datagrams. What each case must leave as it was: hostile_peer.py.
Does not:  make calls (test_hostile_calls.py) or send much of anything (test_hostile_flood.py).
"""
import itertools
import os
import struct
import time

import pytest

from hostile_peer import (  # noqa: F401  (line, before and peer are fixtures)
    DATA_LOSS, INVALID, U32, U64, before, envelope, line, noise, peer, ring, service)

IDS = [2, 105, 2364, 107, 3048, 496, 2822, 657, 1515, 532, 8131, 236761, 106, 107, 105, 4368, 107]
TICKETS = itertools.count(0x7E57000000000001)


@pytest.fixture
def ticket(peer):
    """A turn of the peer's own, opened on the sampler and the shards; its prompt is IDS."""
    ticket = next(TICKETS)
    peer.open_turn(ticket, IDS)
    yield ticket
    peer.close_turn(ticket)


# ---- rows that lie ----------------------------------------------------------------------------

D_MODEL = 640


def hidden(spans, d_model=D_MODEL):
    return ring.HiddenRows(spans=spans, d_model=d_model)


def floats(value, rows, d_model=D_MODEL):
    return struct.pack("<f", value) * rows * d_model


def span(ticket, pos=0, n=4, **more):
    return ring.Span(ticket=ticket, pos=pos, ids=IDS[:n], **more)


def send_rows(peer, way, message, rows):
    """Hidden rows to shard 1, by socket or by lane."""
    if way == "socket":
        peer.post("shard-1", envelope.HIDDEN_ROWS, message, rows)
        return
    lane = peer.lane()
    lane.setblocking(True)
    lane.settimeout(60)
    lane.sendto(peer.datagram(envelope.HIDDEN_ROWS, message, rows), peer.lane_path("shard-1"))
    lane.close()


@pytest.mark.parametrize("way", ["socket", "lane"])
def test_rows_whose_sizes_disagree(peer, ticket, way):
    one = span(ticket, start=True)
    for message, rows in [
            (hidden([one]), b""), (hidden([one]), None), (hidden([one]), floats(0, 3)),
            (hidden([one]), floats(0, 4)[:-1]), (hidden([one]), floats(0, 5)),
            (hidden([one], 641), floats(0, 4, 641)), (hidden([one], 0), b""),
            (hidden([one], U32), floats(0, 4)), (hidden([]), b""), (hidden([]), floats(0, 1)),
            (hidden([span(ticket, n=0)]), b""), (hidden([one, span(ticket, n=0)]), floats(0, 4)),
            (hidden([span(ticket, drafts=4)]), floats(0, 4)),
            (hidden([span(ticket, drafts=U32)]), floats(0, 4)),
            (hidden([ring.Span(ticket=ticket, pos=0, ids=[1] * 600)]), floats(0, 15))]:
        send_rows(peer, way, message, rows if rows is not None else b"")
    assert peer.health("shard-1").state == "ready"


@pytest.mark.parametrize("way", ["socket", "lane"])
@pytest.mark.parametrize("pos", [1, 5, 511, 8191, (1 << 31) - 1, 1 << 31, U32])
def test_rows_of_a_wrong_position(peer, ticket, way, pos):
    """They are told of by a FAULT to who opened the ticket."""
    send_rows(peer, way, hidden([span(ticket, pos)]), floats(0.5, 4))
    fault = peer.heard(envelope.FAULT, ticket)
    assert fault.status == DATA_LOSS and fault.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_no_numbers(line, peer, value):
    """Several turns in one message, all bad: each hears of it, and no row of them stays behind."""
    tickets = [next(TICKETS) for _ in range(3)]
    for ticket in tickets:
        peer.open_turn(ticket, IDS)
    spans = [span(ticket, start=True, last=True) for ticket in tickets]
    send_rows(peer, "socket", hidden(spans), floats(value, 12))
    for ticket in tickets:
        fault = peer.heard(envelope.FAULT, ticket)
        assert fault.status == DATA_LOSS and fault.text
        request = service.ReleaseRequest(ticket=ticket, keep=True)
        assert peer.call("shard-1", "Shard.Release", request)[0].status == 0
        _, body = peer.call("shard-1", "Shard.Reserve", peer.reserve(ticket, IDS, "shard-1"))
        assert service.ReserveReply.FromString(body).have == 0
        peer.close_turn(ticket)


def test_rows_of_ids_that_are_none(peer, ticket):
    """Penalties and prefixes look at ids: none of these may lead them anywhere."""
    ids = [-1, 262144, (1 << 31) - 1, -(1 << 31)]
    bad = ring.Span(ticket=ticket, pos=0, ids=ids, start=True, last=True)
    send_rows(peer, "socket", hidden([bad]), floats(0.5, 4))
    assert peer.heard(envelope.FAULT, ticket).status in (INVALID, DATA_LOSS)


def spoilt():
    """Orders of the spans of one ticket, all in one message."""
    def at(pos, n, **more):
        return lambda t: ring.Span(ticket=t, pos=pos, ids=(IDS * 20)[:n], **more)
    begin = at(0, 8, start=True)
    return {
        "twice": [begin, begin],
        "begun again shorter": [begin, at(8, 150), at(0, 2, start=True)],
        "reordered": [at(8, 4), begin],
        "many ends": [at(0, 8, start=True, last=True)] +
                     [at(8 + i, 1, last=True) for i in range(60)] +
                     [at(68, 8, last=True, decode=True, drafts=7)],
        "many guesses": [at(0, 8, start=True, last=True)] +
                        [at(8 + i, 8, last=True, decode=True, drafts=7) for i in range(40)],
        "backwards": [at(0, 40, start=True)] + [at(p, 1, start=True) for p in range(39, 0, -1)],
    }


def send_spoilt(peer, case):
    """A ticket of the peer's own on shard 1 gets the spans of the case, three times."""
    ticket = next(TICKETS)
    request = peer.reserve(ticket, IDS * 20, positions=500,
                           sampling=service.Sampling(temperature=0))
    assert peer.call("shard-1", "Shard.Reserve", request)[0].status == 0
    spans = [make(ticket) for make in spoilt()[case]]
    rows = sum(len(s.ids) for s in spans)
    for _ in range(3):
        send_rows(peer, "socket", hidden(spans), floats(0.25, rows))
    return ticket


@pytest.mark.parametrize("case", spoilt())
def test_replayed_and_reordered_rows(peer, case):
    """Rows that contradict each other and come together: the ticket hears of it."""
    time.sleep(0.3)  # no decode row before: all of them are one batch
    ticket = send_spoilt(peer, case)
    assert peer.heard(envelope.FAULT, ticket).text
    peer.call("shard-1", "Shard.Release", service.ReleaseRequest(ticket=ticket))


STREAM = ("run", "--stream", "--seed", "5", "--max-tokens", "100", "--ignore-eos", "--", "Go on.")


@pytest.fixture(scope="module")
def alone(line):
    """What STREAM prints where nobody disturbs it."""
    return line.cli(*STREAM, check=True).stdout


class Streaming:
    """STREAM, running; `same` waits for its end."""

    def __init__(self, line):
        self.child = line.popen(*STREAM, bufsize=0)
        self.head = self.child.stdout.read(10)

    def going(self):
        return self.child.poll() is None

    def same(self, alone):
        rest, said = self.child.communicate(timeout=150)
        assert self.child.returncode == 0, said
        assert (self.head + rest).decode() == alone


@pytest.mark.timeout_s(170)
def test_replayed_and_reordered_rows_beside_a_turn(line, peer, alone):
    """The same in the batches of a turn that streams: it has the bytes it has alone."""
    streaming = Streaming(line)
    for case in spoilt():
        ticket = send_spoilt(peer, case)
        peer.health("shard-1")
        peer.call("shard-1", "Shard.Release", service.ReleaseRequest(ticket=ticket))
    streaming.same(alone)


def test_tokens_that_were_not_asked_for(peer, ticket):
    """CHOSEN, MORE and CHUNK_DONE of a living ticket with any position, id and count."""
    for pos, number in itertools.product((0, 3, 8191, (1 << 31) - 1, 1 << 31, U32),
                                         (-1, 0, 262144, -(1 << 31), (1 << 31) - 1)):
        for name in ("shard-0", "shard-1"):
            peer.post(name, envelope.CHOSEN, ring.Chosen(ticket=ticket, pos=pos, id=number))
            peer.post(name, envelope.MORE, ring.More(ticket=ticket, pos=pos, k=number & U32))
            peer.post(name, envelope.CHUNK_DONE, ring.ChunkDone(ticket=ticket, pos=pos))
            peer.post(name, envelope.TOKEN_ROWS, ring.TokenRows(
                span=ring.Span(ticket=ticket, pos=max(pos, 100))))
    peer.start(ticket)
    assert peer.heard(envelope.EMITTED, ticket, 60).tokens


def candidates(ticket, pos, **more):
    fields = {"ids": [5, 6], "logits": [2.0, 1.0], "raw": [2.0, 1.0], "lse_raw": 2.5, "lse_t": 2.5,
              "vocab": 262144, **more}
    return ring.Candidates(ticket=ticket, pos=pos, **fields)


LIES = {
    "NaN": {"logits": [float("nan"), 1.0]},
    "infinite": {"logits": [float("inf"), 1.0]},
    "all forbidden": {"logits": [float("-inf")] * 2},
    "rising": {"logits": [1.0, 2.0]},
    "ids beyond the vocabulary": {"ids": [5, 262144]},
    "negative ids": {"ids": [-1, 6]},
    "other vocabulary": {"vocab": U32},
    "no vocabulary": {"vocab": 0},
    "sizes that disagree": {"logits": [1.0] * 5},
    "nothing": {"ids": [], "logits": [], "raw": []},
    "too many alternatives": {"top": [ring.TopId(id=1, logprob=-1.0)] * 1000},
}


@pytest.mark.parametrize("case", LIES)
def test_candidates_that_lie(peer, ticket, case):
    last = len(IDS) - 1
    for pos in (0, last - 1, last + 1, U32):  # not where the turn stands: dropped
        peer.post("sampler-0", envelope.CANDIDATES, candidates(ticket, pos, **LIES[case]))
    peer.post("sampler-0", envelope.CANDIDATES, candidates(ticket, last, **LIES[case]))
    fault = peer.heard(envelope.FAULT, ticket)
    assert fault.status and fault.text


def test_candidates_with_guesses_that_lie(peer, ticket):
    """Bad rows of guesses are left out; the first row still gives its token."""
    row = ring.AheadRow(id=5, ids=[-1], logits=[float("nan")], raw=[1.0], lse_raw=0, lse_t=0)
    odd = ring.AheadRow(id=-5, ids=[1, 2, 3], logits=[], raw=[1.0], lse_raw=0, lse_t=0)
    peer.post("sampler-0", envelope.CANDIDATES,
              candidates(ticket, len(IDS) - 1, ahead=[row, odd] * 500))
    assert [t.id for t in peer.heard(envelope.EMITTED, ticket).tokens][:1] == [5]


# ---- the orchestrator -------------------------------------------------------------------------

def test_news_of_tickets_that_are_none(peer):
    link = peer.dealer("orchestrator-0")
    tokens = [ring.Token(pos=i, id=-i) for i in range(1000)]
    for ticket in (0, 1, U64):
        for kind, message in (
                (envelope.EMITTED, ring.Emitted(ticket=ticket, tokens=tokens, finish="stop")),
                (envelope.SCORED, ring.Scored(ticket=ticket, rows=[ring.ScoreRow(pos=U32)] * 100)),
                (envelope.FAULT, ring.Fault(ticket=ticket, status=U32, text="x" * 1000000)),
                (envelope.CHUNK_DONE, ring.ChunkDone(ticket=ticket, pos=U32, rows=U32))):
            peer.post("orchestrator-0", kind, message, link=link)
    link.close(linger=10000)


def test_hellos_of_nobody(peer):
    link = peer.dealer("orchestrator-0")
    for role in ("", "shard", "sampler2", "orchestrator", "gateway", "r" * 100000):
        for index in (2, 31, 32, 100, (1 << 31) - 1, U32):
            peer.post("orchestrator-0", envelope.HELLO, ring.Hello(
                role=role, index=index, boot=5, ready=False, failed="x" * 1000000,
                numerics="n" * 100000), link=link)
    link.close(linger=10000)


@pytest.mark.timeout_s(170)
def test_hello_of_another_boot(line, peer, alone):
    """Somebody says again and again that processes came back as others: nobody believes it, and
    the turn that streams has the bytes it has alone."""
    roles = ("shard", "sampler", "tokenizer")
    true = {role: peer.health(role + "-0") for role in roles}
    streaming = Streaming(line)
    link = peer.dealer("orchestrator-0")
    for boot in range(1, 20):
        for role in roles:
            peer.post("orchestrator-0", envelope.HELLO, ring.Hello(
                role=role, index=0, boot=boot, ready=True, begin=true[role].begin,
                end=true[role].end, numerics=true[role].numerics), link=link)
        time.sleep(0.02)
    streaming.same(alone)
    link.close()


# ---- the lane ---------------------------------------------------------------------------------

def test_datagrams_that_are_no_message(peer):
    lane = peer.lane()
    lane.setblocking(True)
    lane.settimeout(60)
    head = peer.frame(envelope.CHOSEN)
    for name in peer.names():
        if not os.path.exists(peer.lane_path(name)):
            continue
        for data in (b"x", noise(7), noise(8), noise(100), struct.pack("=II", U32, U32),
                     struct.pack("=II", U32, U32) + b"y" * 100, struct.pack("=II", 0, 0),
                     struct.pack("=II", len(head), 1) + head, b"\0" * (48 << 10),
                     struct.pack("=II", len(head), 0) + head + b"z" * (60 << 10), b"",
                     struct.pack("=II", 5, (48 << 10) - 13) + b"\0" * (48 << 10),
                     peer.datagram(envelope.CALL, call=1, method="Health.Check"),
                     peer.datagram(envelope.KIND_NONE)):
            lane.sendto(data, peer.lane_path(name))
    lane.close()
