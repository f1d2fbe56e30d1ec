"""wire.py - HTTP/1.1 by hand over a socket, for requests that no client library would send.

Owns:      connecting, sending any bytes, reading one answer or all of a stream.
Does not:  judge an answer.
"""
import json
import os
import re
import socket
import struct
import time

ANSWER_BYTES_MAX = 64 << 20
SLOWNESS = float(os.environ.get("TEST_SLOWNESS", "1"))  # of a sanitizer's build
HEAD = re.compile(rb"^HTTP/1\.[01] (\d{3}) [^\r\n]*\r\n", re.S)


class Answer:
    """status (0: none came), headers (lower-case names), body (chunks joined), whole."""

    def __init__(self):
        self.status, self.headers, self.body, self.whole = 0, {}, b"", False

    def json(self):
        return json.loads(self.body)

    def message(self):
        return self.json()["error"]["message"]


class Wire:
    """One connection. Everything raises OSError as sockets do."""

    def __init__(self, address, timeout=10.0, receive_buffer=None):
        host, port = address.rsplit(":", 1)
        self.address = address
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout * SLOWNESS)
        self.sock.connect((host, int(port)))
        self.have = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST: the other side's next read fails."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def request(self, method, target, body=None, headers=(), version="HTTP/1.1"):
        """Sends a request; the Host is ours unless headers has one. body: bytes or a JSON value."""
        self.send(make(self.address, method, target, body, headers, version))
        return self

    def more(self):
        """Reads once. False: the other side has ended."""
        data = self.sock.recv(65536)
        self.have += data
        return bool(data)

    def head(self):
        """The status line and headers of the next answer; status 0 when the connection ended."""
        answer = Answer()
        while b"\r\n\r\n" not in self.have:
            if len(self.have) > ANSWER_BYTES_MAX or not self.more():
                return answer
        head, self.have = self.have.split(b"\r\n\r\n", 1)
        match = HEAD.match(head + b"\r\n")
        if not match:
            raise ValueError("no status line: %r" % head[:200])
        answer.status = int(match.group(1))
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.decode("latin-1").partition(":")
            answer.headers[name.lower()] = value.strip()
        return answer

    def answer(self, method="GET"):
        """The next answer with its body; `whole` is False when the connection ended inside it."""
        answer = self.head()
        while answer.status == 100:
            answer = self.head()
        if answer.status == 0:
            return answer
        if method == "HEAD" or answer.status in (204, 304):
            answer.whole = True
        elif answer.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks(answer)
        else:
            want = int(answer.headers["content-length"]) if "content-length" in answer.headers \
                else None
            while want is None or len(self.have) < want:
                if not self.more():
                    break
            if want is None:
                answer.body, self.have, answer.whole = self.have, b"", True
            else:
                answer.body, self.have = self.have[:want], self.have[want:]
                answer.whole = len(answer.body) == want
        return answer

    def _line(self):
        while b"\r\n" not in self.have:
            if not self.more():
                return None
        line, self.have = self.have.split(b"\r\n", 1)
        return line

    def _chunks(self, answer):
        while True:
            line = self._line()
            if line is None:
                return
            size = int(line.split(b";")[0], 16)
            while len(self.have) < size + 2:
                if not self.more():
                    answer.body += self.have[:size]
                    self.have = b""
                    return
            answer.body += self.have[:size]
            self.have = self.have[size + 2:]
            if size == 0:
                answer.whole = True
                return

    def until(self, text, timeout=30.0):
        """Reads until the bytes `text` have come (they stay in `have`)."""
        end = time.monotonic() + timeout * SLOWNESS
        while text not in self.have:
            if time.monotonic() > end or not self.more():
                raise TimeoutError("%r did not come; %r did" % (text, self.have[-300:]))

    def ended(self, timeout=10.0):
        """True when the other side closes within the time."""
        end = time.monotonic() + timeout * SLOWNESS
        try:
            while time.monotonic() < end:
                self.sock.settimeout(max(end - time.monotonic(), 0.01))
                if not self.more():
                    return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return False


def make(address, method, target, body=None, headers=(), version="HTTP/1.1"):
    """The bytes of a request."""
    names = {name.lower() for name, _ in headers}
    lines = ["%s %s %s" % (method, target, version)]
    if "host" not in names:
        lines.append("Host: " + address)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append("Content-Length: %d" % len(body))
    lines += ["%s: %s" % pair for pair in headers if pair[1] is not None]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (body or b"")


def ask(address, method, target, body=None, headers=(), timeout=30.0):
    """One request on a connection of its own: its Answer."""
    with Wire(address, timeout) as wire:
        return wire.request(method, target, body, headers).answer(method)
