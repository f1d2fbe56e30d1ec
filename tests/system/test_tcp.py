"""test_tcp.py - `gemline up --tcp`: the same pipeline over TCP with CURVE, and who is kept out.

Owns:      the bytes, deaths and restarts over TCP; strangers with no key, another key, and a
           client's key where a shard's is needed; what lies on disk and which ports are open.
Does not:  check each role's table (tests/unit/test_curve.c) or several machines.
"""
import glob
import json
import os
import signal
import stat
import time

import pytest
import zmq

from test_kill import stream

CALL, HIDDEN_ROWS, CHOSEN, HELLO = 1, 17, 19, 25
OK, DENIED = 0, 7
SILENCE_MS = 800
PATIENCE_S = 60
SHORT = ("--max-tokens", "80")


# ---- the home -----------------------------------------------------------------------------------

def book_of(line):
    """{name: (endpoint, public key)} of the running pipeline."""
    with open(os.path.join(line.home, "net.book"), encoding="ascii") as file:
        rows = [row.split() for row in file if not row.startswith("#")]
    return {name: (endpoint, key) for name, endpoint, key in rows}


def secret_of(line, name):
    with open(os.path.join(line.home, "keys", name + ".key"), encoding="ascii") as file:
        return file.read().strip()


def wait_logged(line, name, *words):
    """Waits for a line of the process's log that has all the words."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with open(os.path.join(line.home, "logs", name + ".log"), encoding="utf-8") as file:
            if any(all(word in row for word in words) for row in file):
                return
        time.sleep(0.05)
    pytest.fail("%s did not log %s\n%s" % (name, words, line.logs()))


def listening(pids):
    """[(address in hex, port)] of every TCP port that these processes listen on."""
    inodes = set()
    for pid in pids:
        for link in glob.glob("/proc/%d/fd/*" % pid):
            try:
                inodes.add(os.readlink(link))
            except OSError:
                continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table, encoding="ascii") as file:
            for row in list(file)[1:]:
                field = row.split()
                if field[3] == "0A" and "socket:[%s]" % field[9] in inodes:
                    address, port = field[1].split(":")
                    found.append((address, int(port, 16)))
    return found


# ---- messages -----------------------------------------------------------------------------------

def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def envelope(kind, method=b""):
    head = b"\x08\x01\x10" + varint(kind) + b"\x18\x05"
    return head + (b"\x22" + varint(len(method)) + method if method else b"")


def fields(data):
    """{number: value} of a message: numbers and byte strings."""
    found, at = {}, 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte, at = data[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            found[tag >> 3] = number()
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            size = number() if size is None else size
            found[tag >> 3] = data[at:at + size]
            at += size
    return found


class Stranger:
    """A client of ZeroMQ that is none of ours. secret None: without CURVE."""

    def __init__(self, endpoint, server_key=None, secret=None):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if secret is not None:
            self.socket.curve_serverkey = server_key.encode()
            self.socket.curve_secretkey = secret.encode()
            self.socket.curve_publickey = zmq.curve_public(secret.encode())
        self.socket.connect(endpoint)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.context.term()

    def send(self, *frames):
        self.socket.send_multipart(frames, zmq.DONTWAIT)

    def hears(self, patience_ms):
        """The envelope's fields of what comes; None: nothing does."""
        if not self.socket.poll(patience_ms):
            return None
        return fields(self.socket.recv_multipart()[0])

    def status(self, method):
        """The status of a call with an empty body."""
        self.send(envelope(CALL, method), b"")
        heard = self.hears(PATIENCE_S * 1000)
        assert heard is not None, "no answer to %s" % method
        return heard.get(6, OK), heard.get(7, b"").decode()


# ---- tests --------------------------------------------------------------------------------------

def test_the_same_bytes(up):
    ask = ("Tell me about the sea.", "--seed", "11", "--max-tokens", "40", "--logprobs", "2")
    plain, tcp = up("--shards", 2), up("--tcp", "--shards", 2)
    want, got = plain.run(*ask), tcp.run(*ask)
    for name in ("text", "ids", "finish_reason", "logprobs"):
        assert got[name] == want[name]
    assert plain.score([2, 10, 20, 30]) == tcp.score([2, 10, 20, 30])
    assert not glob.glob(os.path.join(tcp.home, "*.lane"))
    assert [os.path.basename(p) for p in glob.glob(os.path.join(tcp.home, "*.sock"))] \
        == ["redis.sock"]


def test_what_lies_open(up):
    """Loopback only, and nobody but the owner reads a key: not from a file, a command line or a
    log."""
    line = up("--tcp", "--shards", 2)
    line.run("Hi", "--max-tokens", "4")
    book, pids = book_of(line), line.pids()
    assert set(book) == {"orchestrator-0", "sampler-0", "tokenizer-0", "shard-0", "shard-1",
                         "client-0"}
    ports = listening(pids)
    assert sorted(port for _, port in ports) \
        == sorted(int(end.rsplit(":", 1)[1]) for end, _ in book.values() if end != "-")
    assert {address for address, _ in ports} == {"0100007F"}
    folder = os.path.join(line.home, "keys")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    shown = line.logs(bytes_max=1 << 20)
    for pid in pids:
        with open("/proc/%d/cmdline" % pid, encoding="utf-8") as file:
            shown += file.read()
    for name in os.listdir(folder):
        assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600
        assert secret_of(line, name[:-4]) not in shown
    keys = {name: secret_of(line, name) for name in book}
    assert len(set(keys.values())) == len(book)

    line.cli("down", check=True)
    assert not os.path.exists(os.path.join(line.home, "net.book"))
    line.up("--tcp", "--shards", 2)
    assert {name: secret_of(line, name) for name in book_of(line)} == keys  # made once

    line.cli("down", check=True)
    os.chmod(os.path.join(folder, "shard-1.key"), 0o644)
    done = line.cli("up", "--detach", "--tcp", "--shards", "2", "--http", "off")
    assert done.returncode == 1 and "chmod 600" in done.stderr


@pytest.mark.timeout_s(170)
def test_streams_go_on(up):
    line = up("--tcp", "--shards", 2)
    want, err = stream(line, *SHORT).communicate(timeout=100)
    assert want, err
    for role in ("shard:1", "orchestrator", "sampler"):
        child = stream(line, *SHORT)
        head = child.stdout.read(60)  # unbuffered: communicate() gets the rest
        line.kill(role)
        rest, err = child.communicate(timeout=100)
        assert child.returncode == 0, err
        assert head + rest == want
        line.wait_ready()


def test_strangers(up):
    line = up("--tcp", "--shards", 2)
    book = book_of(line)
    for name in ("orchestrator-0", "shard-0"):
        endpoint, key = book[name]
        with Stranger(endpoint) as plain:
            plain.send(envelope(CALL, b"Health.Check"), b"")
            wait_logged(line, name, "connection refused", "a plain client", "from=")
            assert plain.hears(SILENCE_MS) is None
        public, secret = (part.decode() for part in zmq.curve_keypair())
        with Stranger(endpoint, key, secret) as unlisted:
            unlisted.send(envelope(CALL, b"Health.Check"), b"")
            wait_logged(line, name, "connection refused", "does not list", public)
            assert unlisted.hears(SILENCE_MS) is None
    with Stranger(book["shard-0"][0], book["shard-1"][1], secret_of(line, "client-0")) as misled:
        misled.send(envelope(CALL, b"Health.Check"), b"")
        wait_logged(line, "shard-0", "connection refused", "another key of this server")
        assert misled.hears(SILENCE_MS) is None
    line.run("Hi", "--max-tokens", "4")


def test_a_listed_key_of_another_role(up):
    """A client's key opens the door, and what only a process of the ring may send is refused."""
    line = up("--tcp", "--shards", 2)
    ask = ("Say hello.", "--seed", "3", "--max-tokens", "12")
    want = line.run(*ask)["ids"]
    endpoint, key = book_of(line)["shard-0"]
    with Stranger(endpoint, key, secret_of(line, "client-0")) as client:
        assert client.status(b"Health.Check")[0] == OK
        status, text = client.status(b"Shard.Reserve")
        assert status == DENIED
        assert "client-0" in text and "Shard.Reserve" in text
        for kind in (HIDDEN_ROWS, CHOSEN, HELLO):
            client.send(envelope(kind), b"", b"\0" * 64)
        assert client.status(b"Health.Check")[0] == OK  # and the shard goes on
    wait_logged(line, "shard-0", "message refused", "client-0", "Shard.Reserve", "from=127.0.0.1")
    wait_logged(line, "shard-0", "message refused", "client-0", "HIDDEN_ROWS")
    assert line.run(*ask)["ids"] == want


def test_adopted(up):
    """The supervisor dies, then a shard: the next `up` takes both over, on the same ports."""
    line = up("--tcp", "--shards", 2)
    book = book_of(line)
    with open(os.path.join(line.home, "state.json"), encoding="utf-8") as file:
        supervisor = json.load(file)["pid"]
    os.kill(supervisor, signal.SIGKILL)
    os.kill(line.pids("shard")[1], signal.SIGKILL)
    done = line.cli("up", "--detach", "--shards", "2", "--http", "off")
    assert done.returncode == 1 and "--tcp" in done.stderr
    line.up("--tcp", "--shards", 2).wait_ready()
    assert book_of(line) == book
    assert line.run("Hi", "--seed", "1", "--max-tokens", "4")["ids"]


def test_the_gateway(up_web):
    line = up_web("--tcp", "--shards", 2)
    ask = {"model": "gemma3-270m", "messages": [{"role": "user", "content": "Hi"}], "seed": 4,
           "max_tokens": 8}
    first = line.post("/v1/chat/completions", ask)
    assert first.status == 200
    metrics = line.get("/metrics").body.decode()
    assert 'shard="1"' in metrics
    line.kill("gateway")
    line.wait_ready()
    again = line.post("/v1/chat/completions", ask)
    assert again.json()["choices"] == first.json()["choices"]


def test_idle(up):
    """Heartbeats come every few seconds; nothing spins and nothing asks without end."""
    line = up("--tcp", "--shards", 2)
    line.run("Hi", "--max-tokens", "4")
    pids, seconds = line.pids(), 6

    def used():
        ticks = switches = 0
        for pid in pids:
            with open("/proc/%d/stat" % pid, encoding="utf-8") as file:
                field = file.read().rsplit(")", 1)[1].split()
            ticks += int(field[11]) + int(field[12])
            for path in glob.glob("/proc/%d/task/*/status" % pid):
                with open(path, encoding="utf-8") as file:
                    rows = dict(row.split(":", 1) for row in file)
                switches += int(rows["voluntary_ctxt_switches"])
        return ticks / os.sysconf("SC_CLK_TCK"), switches
    time.sleep(1)
    before = used()
    time.sleep(seconds)
    after = used()
    print("idle: %.3f s of CPU, %d switches in %d s"
          % (after[0] - before[0], after[1] - before[1], seconds))
    assert after[0] - before[0] < 0.04 * seconds
    assert after[1] - before[1] < 200 * seconds


def test_netkey(home):
    path = os.path.join(home.home, "shard-0.key")
    public = home.cli("netkey", path, check=True).stdout
    with open(path, encoding="ascii") as file:
        assert zmq.curve_public(file.read().strip().encode()).decode() + "\n" == public
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert home.cli("netkey", path, check=True).stdout == public  # never another over it
    os.chmod(path, 0o644)
    done = home.cli("netkey", path)
    assert done.returncode == 1 and "chmod 600" in done.stderr
    assert home.cli("netkey").returncode == 2
    assert home.cli("netkey", os.path.join(home.home, "none", "x.key")).returncode == 1
