"""leave.py - clients that hang up at every point of a request and of its answer.

Owns:      the list of points and of ways to go.
Does not:  start anything, or look at the gateway afterwards (the caller does).

    leave.py --address 127.0.0.1:8080 [--rounds 3]
"""
import argparse
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire  # noqa: E402  (lies beside this file)

LONG = {"messages": [{"role": "user", "content": "Count from one to a thousand."}],
        "max_tokens": 2000, "ignore_eos": True}
WAYS = ("close", "reset", "half")


def _chat(address, **more):
    return wire.make(address, "POST", "/v1/chat/completions", {**LONG, **more})


def _cut(data, where):
    """The part of a request before b"where", or of its body: half of it."""
    head = data.index(b"\r\n\r\n") + 4
    return {"line": data[:10], "headers": data[:head - 20], "body": data[:head],
            "half": data[:head + (len(data) - head) // 2], "whole": data}[where]


# What is sent, and what is waited for before leaving.
POINTS = [
    ("connected", lambda a: b"", None),
    ("request line", lambda a: _cut(_chat(a), "line"), None),
    ("headers", lambda a: _cut(_chat(a), "headers"), None),
    ("body not begun", lambda a: _cut(_chat(a), "body"), None),
    ("half a body", lambda a: _cut(_chat(a), "half"), None),
    ("chunked body", lambda a: wire.make(a, "POST", "/v1/tokenize", b"5\r\n{\"pro\r\n",
                                         [("Transfer-Encoding", "chunked")]), None),
    ("100-continue", lambda a: wire.make(a, "POST", "/v1/tokenize", b"", [
        ("Content-Length", "20"), ("Expect", "100-continue")]), None),
    ("plain request", _chat, None),
    ("several choices", lambda a: _chat(a, n=4), None),
    ("stream not begun", lambda a: _chat(a, stream=True), None),
    ("stream with headers", lambda a: _chat(a, stream=True), b"\r\n\r\n"),
    ("stream running", lambda a: _chat(a, stream=True), b'"content":'),
    ("between requests", lambda a: wire.make(a, "GET", "/health"), b"ok"),
    ("after a refusal", lambda a: wire.make(a, "POST", "/v1/tokenize", b"{}"), b"error"),
    ("behind a second request", lambda a: _chat(a, stream=True) + wire.make(a, "GET", "/health"),
     b'"content":'),
    ("too large a body", lambda a: wire.make(a, "POST", "/v1/tokenize", b"x" * 1000, [
        ("Content-Length", "9000000")]), b"413"),
    ("the list of metrics", lambda a: wire.make(a, "GET", "/metrics"), None),
    ("a large answer", lambda a: wire.make(a, "GET", "/openapi.json") * 20, None),
]


def leave(address, point, way):
    """Goes to one point and leaves. Half: only our sending side ends, and we wait for the end."""
    _name, data, wait = point
    line = wire.Wire(address, 20)
    line.send(data(address))
    if wait:
        line.until(wait)
    if way == "reset":
        line.reset()
    elif way == "close":
        line.close()
    else:
        line.sock.shutdown(socket.SHUT_WR)
        if not line.ended(10):
            raise TimeoutError("the other side does not end after: " + point[0])
        line.close()


def run(address, rounds):
    for _ in range(rounds):
        for point in POINTS:
            for way in WAYS:
                leave(address, point, way)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    run(options.address, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
