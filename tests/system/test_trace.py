"""test_trace.py - a client's W3C trace context finds what became of its request in the logs.

Owns:      the header `traceparent` at the gateway, and the log lines of refused turns.
Does not:  check each call of a turn (tests/unit/test_trace.c does).
"""
import re

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
LONG = "river " * 40000  # more tokens than the context has


def refused(web, traceparent):
    """Asks for what the orchestrator refuses."""
    got = web.post("/v1/completions", {"model": "gemma3-270m", "prompt": LONG, "max_tokens": 4},
                   {"traceparent": traceparent} if traceparent is not None else {})
    assert got.status == 400, got.body
    assert got.json()["error"]["code"] == "context_length_exceeded"


def traces(web):
    """The traces that the orchestrator's lines of failed turns and refused calls name, in order."""
    with open(web.home + "/logs/orchestrator-0.log", encoding="utf-8") as file:
        return re.findall(r"(?:turn failed|call refused): .* trace=(\S+)", file.read())


def test_named_in_the_log(web):
    refused(web, "00-%s-%s-01" % (TRACE, SPAN))
    assert traces(web)[-1] == TRACE


def test_malformed_is_ignored(web):
    """A header that is none begins a new trace; it is neither passed on nor a reason to refuse."""
    bad = ["", "nonsense", "00-%s-%s" % (TRACE, SPAN), "ff-%s-%s-01" % (TRACE, SPAN),
           "00-%s-%s-01" % (TRACE.upper(), SPAN), "00-%s-%s-01" % ("0" * 32, SPAN), None]
    for header in bad:
        before = len(traces(web))
        refused(web, header)
        after = traces(web)
        assert len(after) > before
        assert re.fullmatch("[0-9a-f]{32}", after[-1])
        assert after[-1] not in (TRACE, "0" * 32) and after[-1] not in after[:before]
