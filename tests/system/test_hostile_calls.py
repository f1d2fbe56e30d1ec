"""test_hostile_calls.py - frames and calls that no process of ours sends, to every process.

Owns:      malformed frames and bodies, methods and numbers that are none, deadlines, absurd
           requests. What each case must leave as it was: hostile_peer.py.
Does not:  send rows (test_hostile_ring.py) or much of anything (test_hostile_flood.py), or speak
           HTTP (test_web_hostile.py).
"""
import itertools
import os
import time

import pytest

from hostile_peer import (  # noqa: F401  (line, before and peer are fixtures)
    ABORTED, DEADLINE, INVALID, NOT_FOUND, PATIENCE_MS, PRECONDITION, U32, U64, UNSUPPORTED, before,
    envelope, line, noise, peer, refused, ring, service)

IDS = [2, 105, 2364, 107, 3048, 496, 2822, 657, 1515, 532, 8131, 236761, 106, 107, 105, 4368, 107]
TICKETS = itertools.count(0x7E58000000000001)


# ---- frames -----------------------------------------------------------------------------------

def frames():
    """Messages that are none, by name."""
    good = envelope.Envelope(version=1, kind=envelope.CALL, call=1,
                             method="Health.Check").SerializeToString()
    cases = {
        "nothing": [b""],
        "one frame": [good],
        "two empty frames": [b"", b""],
        "empty frames": [b""] * 5,
        "noise": [noise(40), noise(40, 8)],
        "much noise": [noise(60 << 10), noise(1 << 20)],
        "envelope of 1 MiB": [noise(1 << 20), b""],
        "100 frames": [good] * 100,
        "4 frames": [good, b"", b"", b""],
        "10000 frames": [b"x"] * 10000,
        "cut envelope": [good[:-3], b""],
        "no version": [good[2:], b""],
        "no kind": [b"\x08\x01", b""],
        "other version": [b"\x08\x63\x10\x01\x18\x05", b""],
        "call without method": [b"\x08\x01\x10\x01\x18\x05", b""],
        "call without number": [b"\x08\x01\x10\x01\x22\x0cHealth.Check", b""],
        "text that is no text": [good[:-12] + b"\xff" * 12, b""],
        "payload for a call": [good, b"", noise(1 << 20)],
    }
    for kind in (0, 11, 15, 26, 99, (1 << 31) - 1, 1 << 31, U32, U64):
        number = b""
        value = kind
        while value > 127:
            number += bytes([value & 127 | 128])
            value >>= 7
        cases["kind %d" % kind] = [b"\x08\x01\x10" + number + bytes([value]) + b"\x18\x05", b""]
    return cases


@pytest.mark.parametrize("case", frames())
def test_frames_that_are_no_message(peer, case):
    for name in peer.names():
        link = peer.dealer(name)
        for _ in range(3):
            link.send_multipart(frames()[case])
        assert peer.health(name).state == "ready"
        link.close(linger=10000)


KINDS = [kind for kind in envelope.Kind.values() if kind != envelope.CALL]


def test_every_kind_with_every_body(peer):
    """Kinds and bodies that do not belong together; noise as a body; to each process, both ways."""
    span = ring.Span(ticket=1, pos=0, ids=[1, 2])
    bodies = [b"", noise(200), b"\x08" * 1000, b"\x0a\xff\xff\xff\xff\x0f",
              ring.TokenRows(span=span).SerializeToString(),
              ring.HiddenRows(spans=[span], d_model=640).SerializeToString(),
              ring.Chosen(ticket=1, pos=1, id=1).SerializeToString(),
              ring.Fault(ticket=1, status=3, text="x").SerializeToString(),
              ring.Emitted(ticket=1, tokens=[ring.Token(pos=1, id=1)]).SerializeToString(),
              service.StartRequest(turn="x").SerializeToString()]
    lane = peer.lane()
    for name in peer.names():
        link = peer.dealer(name)
        for kind, body in itertools.product(KINDS, bodies):
            peer.post(name, kind, body, link=link, call=kind)
            if os.path.exists(peer.lane_path(name)):
                try:
                    lane.sendto(peer.datagram(kind, body), peer.lane_path(name))
                except BlockingIOError:
                    pass  # its queue is full
        link.close(linger=10000)
        assert peer.health(name).state == "ready"


METHODS = [m.full_name.replace("gm.", "") for s in service.DESCRIPTOR.services_by_name.values()
           for m in s.methods]


def test_every_method_with_noise(peer):
    """Each method, of each process, with bodies that are no request: a status and a sentence."""
    for name in peer.names():
        link = peer.dealer(name)
        for method in METHODS:
            for body in (b"\xff" * 50, b"\x0a\x05ab", b"\x0f" * 3000):
                got, _ = peer.call(name, method, body, link=link, credit=1)
                if method != "Health.Check" and not method.startswith("Orchestrator.Info"):
                    refused(got, INVALID, UNSUPPORTED)
        link.close()


@pytest.mark.parametrize("method", ["", "X", "Health.Check\0x", "Health", ".", "%s%n%s%n" * 20,
                                    "é" * 1000, "m" * (60 << 10)])
def test_methods_that_are_none(peer, method):
    for name in peer.names():
        got, _ = peer.call(name, method)
        if got.status or "\0" not in method:
            refused(got, UNSUPPORTED)


def test_a_method_name_of_64_kib(peer):
    """Its envelope is larger than any: it is dropped, and the connection serves on."""
    for name in peer.names():
        link = peer.dealer(name)
        link.send_multipart([peer.frame(call=1, method="m" * (64 << 10)), b""])
        assert peer.call(name, "Health.Check", link=link)[0].status == 0
        link.close()


def test_calls_that_are_controlled_oddly(peer):
    """Numbers used again, credit without end, CANCEL and PING of calls that nobody made."""
    for name in peer.names():
        link = peer.dealer(name)
        for call in (0, 1, U64):
            for kind in (envelope.CANCEL, envelope.CREDIT, envelope.SEND, envelope.DONE,
                         envelope.REPLY, envelope.ITEM, envelope.END, envelope.PONG):
                peer.post(name, kind, link=link, call=call, credit=U32)
            peer.post(name, envelope.PING, link=link, call=call)
            refused(peer.answer(link, call)[0], NOT_FOUND)
            for _ in range(3):
                assert peer.call(name, "Health.Check", link=link, call=call,
                                 credit=U32)[0].status == 0
        link.close()


@pytest.mark.parametrize("timeout", [0, 1, (1 << 63) - 1, 1 << 63, U64])
def test_deadlines(peer, timeout):
    """A time that is over ends the call with a status; one without end is none."""
    for name in peer.names():
        got, _ = peer.call(name, "Health.Check", timeout_us=timeout)
        assert got.status in (0, DEADLINE), got
    request = service.StartRequest(turn="peer-%d" % timeout, messages=b"hi", raw=True,
                                   ephemeral=True, patience_ms=PATIENCE_MS,
                                   sampling=service.Sampling(max_tokens=2, ignore_eos=True))
    link = peer.dealer("orchestrator-0")
    got, _ = peer.call("orchestrator-0", "Orchestrator.StartTurn", request, link=link,
                       timeout_us=timeout, credit=U32)
    while got.kind == envelope.ITEM:
        got, _ = peer.answer(link)
    assert got.status == (DEADLINE if timeout == 1 else 0), got
    link.close()


def test_one_number_for_two_calls(peer):
    """The second is refused or both are answered; no process ends of it."""
    link = peer.dealer("orchestrator-0")
    for turn in ("peer-a", "peer-b"):
        request = service.StartRequest(turn=turn, messages=b"hi", raw=True, ephemeral=True,
                                       patience_ms=PATIENCE_MS,
                                       sampling=service.Sampling(max_tokens=3, ignore_eos=True))
        link.send_multipart([peer.frame(call=9, method="Orchestrator.StartTurn", credit=U32),
                             request.SerializeToString()])
    link.send_multipart([peer.frame(envelope.CREDIT, call=9, credit=U32), b""])
    ends = 0
    while ends < 2:
        got, _ = peer.answer(link)
        ends += got.kind != envelope.ITEM
    link.close()


# ---- absurd requests to shard and sampler -----------------------------------------------------

RESERVES = {
    "2^31 positions": ({"positions": 1 << 31}, PRECONDITION),
    "2^32-1 positions": ({"positions": U32}, PRECONDITION),
    "more than the cache": ({"positions": 8193}, PRECONDITION),
    "no positions": ({"positions": 0}, PRECONDITION),
    "no ids": ({"ids": [], "positions": 10}, INVALID),
    "ids beyond the vocabulary": ({"ids": [2, 262144]}, INVALID),
    "negative ids": ({"ids": [2, -1]}, INVALID),
    "least id": ({"ids": [-(1 << 31)]}, INVALID),
    "8 MiB of ids": ({"ids": [5] * (7 << 20)}, PRECONDITION),
    "no session": ({"session": ""}, INVALID),
    "session of 64 KB": ({"session": "s" * 65536}, INVALID),
    "prompt longer than its positions": ({"prompt_len": U32}, INVALID),
    "other numerics": ({"numerics": "x" * 65536}, ABORTED),
    "no home": ({"home": None}, INVALID),
    "home that is no endpoint": ({"home": "nowhere"}, INVALID),
    "home of 64 KB": ({"home": "ipc:///" + "h" * 65536}, INVALID),
    "next that is no endpoint": ({"next": "tcp://:::::"}, INVALID),
    "too many alternatives": ({"top_n": U32}, INVALID),
    "bans beyond the vocabulary": ({"banned": [-1, 1 << 30]}, INVALID),
    "a million bans": ({"banned": [5] * 1000000}, INVALID),
}
SAMPLINGS = {
    "a million biases": {"bias": [service.Bias(id=1, value=1.0)] * 600000},
    "bias of an id that is none": {"bias": [service.Bias(id=-1, value=1.0)]},
    "bias NaN": {"bias": [service.Bias(id=1, value=float("nan"))]},
    "bias infinite": {"bias": [service.Bias(id=1, value=float("inf"))]},
    "temperature NaN": {"temperature": float("nan")},
    "temperature infinite": {"temperature": float("inf")},
    "temperature negative": {"temperature": -1.0},
    "top-k 2^31-1": {"top_k": (1 << 31) - 1},
    "top-k negative": {"top_k": -(1 << 31)},
    "repeat penalty 0": {"repeat_penalty": 0.0},
    "repeat penalty NaN": {"repeat_penalty": float("nan")},
    "presence infinite": {"presence_penalty": float("inf")},
    "frequency NaN": {"frequency_penalty": float("nan")},
}
OPENS = {
    **SAMPLINGS,
    "stop of 1 MB": {"stops": [b"s" * 1000000]},
    "empty stop": {"stops": [b""]},
    "a million stops": {"stops": [b"s"] * 1000000},
    "top-p NaN": {"top_p": float("nan")},
    "min-p negative": {"min_p": -1.0},
    "no tokens": {"max_tokens": 0},
    "negative tokens": {"max_tokens": -5},
    "alternatives 2^31-1": {"logprobs": (1 << 31) - 1},
}


@pytest.mark.parametrize("case", RESERVES)
def test_reserve_of_absurd_sizes(peer, case):
    fields, status = RESERVES[case]
    fields = dict(fields)
    ids = fields.pop("ids", IDS)
    for name in ("shard-0", "shard-1"):
        request = peer.reserve(next(TICKETS), ids, name, **fields)
        got, _ = peer.call(name, "Shard.Reserve", request)
        refused(got, status)


@pytest.mark.parametrize("case", SAMPLINGS)
def test_reserve_of_absurd_sampling(peer, case):
    for name in ("shard-0", "shard-1"):
        sampling = service.Sampling(**SAMPLINGS[case])
        request = peer.reserve(next(TICKETS), IDS, name, sampling=sampling)
        refused(peer.call(name, "Shard.Reserve", request)[0], INVALID)


@pytest.mark.parametrize("case", OPENS)
def test_open_and_start_of_absurd_sampling(peer, case):
    """The sampler, and the orchestrator that hands them on, refuse."""
    sampling = service.Sampling(**OPENS[case])
    request = service.OpenRequest(ticket=next(TICKETS), sampling=sampling, prompt_len=5,
                                  first=peer.endpoint("shard-0"), last=peer.endpoint("shard-1"),
                                  home=peer.home())
    if not any(word in case for word in ("bias", "repeat", "presence", "frequency")):
        refused(peer.call("sampler-0", "Sampler.Open", request)[0], INVALID)
    request = service.StartRequest(turn="peer-absurd", messages=b"hi", raw=True, ephemeral=True,
                                   sampling=sampling)
    got, _ = peer.call("orchestrator-0", "Orchestrator.StartTurn", request, credit=U32)
    if case != "negative tokens" or got.status:
        refused(got, INVALID)


def test_open_of_absurd_history(peer):
    """Ids of an answer so far that cannot be."""
    for fields in ({"so_far": [-1]}, {"so_far": [1 << 30]}, {"so_far": [5] * 1000000},
                   {"prompt_len": 0}, {"prompt_len": U32, "so_far": [5]},
                   {"end_ids": list(range(100000))}, {"first": "nowhere"}, {"home": "h" * 65536}):
        request = {"ticket": next(TICKETS), "prompt_len": 5, "first": peer.endpoint("shard-0"),
                   "last": peer.endpoint("shard-1"), "home": peer.home(),
                   "sampling": service.Sampling(temperature=0, max_tokens=4), **fields}
        refused(peer.call("sampler-0", "Sampler.Open", service.OpenRequest(**request))[0], INVALID)


def test_credit_and_release_of_unknown_tickets(peer):
    for credit in (0, 1, U32):
        refused(peer.call("sampler-0", "Sampler.Credit",
                          service.CreditRequest(ticket=3, credit=credit))[0], NOT_FOUND)
    for name, method in (("sampler-0", "Sampler.Close"), ("shard-0", "Shard.Release")):
        assert peer.call(name, method, service.ReleaseRequest(ticket=3))[0].status == 0
    assert peer.call("shard-0", "Shard.Forget",
                     service.ForgetRequest(session="s" * 65536))[0].status == 0


def test_endpoints_without_end(peer):
    """Turns that name a new peer each time do not use up the connections of a process."""
    for name in ("shard-0", "shard-1"):
        for i in range(200):
            ticket = next(TICKETS)
            request = peer.reserve(ticket, IDS, name, home="ipc://%s/%d.sock" % (peer.folder, i))
            assert peer.call(name, "Shard.Reserve", request)[0].status == 0
            peer.call(name, "Shard.Release", service.ReleaseRequest(ticket=ticket))
    for i in range(200):
        ticket = next(TICKETS)
        request = service.OpenRequest(
            ticket=ticket, sampling=service.Sampling(temperature=0, max_tokens=4), prompt_len=5,
            first=peer.endpoint("shard-0"), last=peer.endpoint("shard-1"),
            home="ipc://%s/s%d.sock" % (peer.folder, i))
        assert peer.call("sampler-0", "Sampler.Open", request)[0].status == 0
        peer.call("sampler-0", "Sampler.Close", service.ReleaseRequest(ticket=ticket))


def test_deadlines_of_tickets(peer):
    """A ticket whose time is over computes nothing; a time without end is one."""
    for deadline, fault in ((1, True), (1 << 63, False), (U64, False)):
        ticket = next(TICKETS)
        peer.open_turn(ticket, IDS)
        peer.close_turn(ticket)
        for name in ("shard-0", "shard-1"):
            request = peer.reserve(ticket, IDS, name, deadline_us=deadline,
                                   sampling=service.Sampling(temperature=0))
            assert peer.call(name, "Shard.Reserve", request)[0].status == 0
        peer.call("sampler-0", "Sampler.Open", service.OpenRequest(
            ticket=ticket, sampling=service.Sampling(temperature=0, max_tokens=1), prompt_len=17,
            first=peer.endpoint("shard-0"), last=peer.endpoint("shard-1"), home=peer.home()))
        time.sleep(0.01)
        peer.start(ticket)
        if fault:
            assert peer.heard(envelope.FAULT, ticket).status == DEADLINE
        else:
            assert peer.heard(envelope.EMITTED, ticket).tokens
        peer.close_turn(ticket)


# ---- absurd requests to orchestrator and tokenizer --------------------------------------------

def test_absurd_requests_of_the_orchestrator(peer):
    for method, request, status in [
            ("StartTurn", service.StartRequest(turn="t" * 65536), INVALID),
            ("StartTurn", service.StartRequest(turn="../x"), INVALID),
            ("StartTurn", service.StartRequest(turn="peer-1", tenant="a/b"), INVALID),
            ("StartTurn", service.StartRequest(turn="peer-1", session="*"), INVALID),
            ("StartTurn", service.StartRequest(turn="peer-1", patience_ms=U32), INVALID),
            ("StartTurn", service.StartRequest(turn="peer-2", ids=[-1], ephemeral=True), INVALID),
            ("StartTurn", service.StartRequest(turn="peer-3", ids=[5] * (7 << 20)), PRECONDITION),
            ("StartTurn", service.StartRequest(turn="peer-4", messages=noise(1 << 20)), INVALID),
            ("StartTurn", service.StartRequest(turn="peer-5", messages=b"[" * 1000000), INVALID),
            ("StartTurn", service.StartRequest(turn="peer-6", retry=True), PRECONDITION),
            ("Resume", service.ResumeRequest(turn="nobody", **{"from": U32}), NOT_FOUND),
            ("Resume", service.ResumeRequest(turn="", **{"from": 0}), INVALID),
            ("Cancel", service.CancelRequest(turn="c" * 65536, tenant="\n"), NOT_FOUND),
            ("Score", service.ScoreRequest(ids=[]), PRECONDITION),
            ("Score", service.ScoreRequest(ids=[5] * (7 << 20)), PRECONDITION),
            ("Score", service.ScoreRequest(ids=[2, -1]), INVALID),
            ("Score", service.ScoreRequest(ids=[2, 5], top_n=U32), INVALID),
            ("Session", service.SessionRequest(session="s" * 65536), INVALID),
            ("Session", service.SessionRequest(), INVALID),
            ("Undo", service.SessionRequest(tenant="*", session="x"), INVALID),
            ("Remove", service.SessionRequest(session="a b"), INVALID)]:
        got, _ = peer.call("orchestrator-0", "Orchestrator." + method, request, credit=U32)
        refused(got, status)


def test_absurd_requests_of_the_tokenizer(peer):
    for method, request in [
            ("Decode", service.DecodeRequest(ids=[-1])),
            ("Decode", service.DecodeRequest(ids=[1 << 30])),
            ("EncodeTurn", service.TurnRequest(messages=b"[" * 1000000)),
            ("EncodeTurn", service.TurnRequest(messages=noise(100000))),
            ("EncodeTurn", service.TurnRequest(messages=b"{}", tools=b"[[[")),
            ("EncodeTurn", service.TurnRequest()),
            ("Encode", service.EncodeRequest(text=noise(100000)))]:
        refused(peer.call("tokenizer-0", "Tokenizer." + method, request)[0], INVALID)
