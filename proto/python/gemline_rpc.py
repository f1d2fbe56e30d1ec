"""gemline_rpc.py - calls to Gemline's processes from Python: gRPC's meaning over ZeroMQ.

Owns:      one socket a process, the calls on it (unary; client, server and both-way streams), their
           credit, deadlines, cancellation, metadata and trace context.
Does not:  follow a turn through a death of the orchestrator (the HTTP API does), retry, or read in
           the background: messages are taken while one of its calls waits. For one thread.
Needs:     pyzmq, protobuf, and the modules that `make python` generates (build/python).

    from gemline_rpc import Client, RpcError
    with Client("/home/me/.gemline/run") as gm:
        print(gm.call("orchestrator-0", "Orchestrator.Info").model)
        for event in gm.open("orchestrator-0", "Orchestrator.StartTurn", turn="t1", raw=True,
                             messages=b"Once upon a time"):
            print(event.tokens)
        call = gm.open("tools-0", "Some.Chat")       # a stream both ways
        call.send(text="hello")
        call.done()
        print(list(call), call.meta)

A failure raises RpcError: status (gRPC's number), text (a sentence), retry_ms, meta.
"""
import collections
import itertools
import os
import time

import zmq

import envelope_pb2 as wire

VERSION_MIN, VERSION_MAX = 1, 1  # of the protocol, that this file speaks
CREDIT = 256                     # items on their way at most; given anew when half are taken
BODY_BYTES_MAX = 8 << 20         # of one message
META_MAX, META_BYTES_MAX = 32, 8 << 10
GRACE_S = 0.2                    # the server's own sentence on a deadline may take so long
PING_S, LOST_S = 1.0, 15.0       # silence after which a sign of life is asked for; and it is lost
LINGER_MS, QUEUE_MAX, HEARTBEAT_MS = 500, 8192, 5000

(OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS,
 PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED,
 INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED) = range(17)


class RpcError(Exception):
    """A call that failed. retry_ms > 0: the same call may work after so long."""

    def __init__(self, status, text, retry_ms=0, meta=()):
        super().__init__("%s (status %d)" % (text, status))
        self.status, self.text, self.retry_ms, self.meta = status, text, retry_ms, list(meta)


class Call:
    """One call. Iterate over it for the items of a stream; result() is the answer of the others."""

    def __init__(self, client, link, method, deadline):
        self.id = next(client.ids)
        self.method, self.deadline = method, deadline
        self.meta = []            # that came with the end, [(key, bytes)]
        self.credit = 0           # messages that the server takes now
        self._client, self._link = client, link
        self._items = collections.deque()
        self._taken = 0           # items taken since credit was given
        self._ahead = 0           # items not taken yet for which it was given
        self._heard = self._asked = time.monotonic()
        self._error, self._ended, self._half_closed = None, False, not method.client_streaming

    # ---- sending

    def send(self, message=None, **fields):
        """One message of a client stream; waits for the server's credit. Items that come meanwhile
        are kept: a server may have to be rid of them before it takes more."""
        if self._half_closed:
            raise RpcError(FAILED_PRECONDITION, "no message may follow done()")
        body = self._client.body_of(self.method.input_type, message, fields)
        while self.credit == 0 and not self._ended:
            if len(self._items) - self._ahead >= CREDIT // 2:
                self._link.put(wire.CREDIT, self, credit=len(self._items) - self._ahead)
                self._ahead = len(self._items)
            self._client.wait(self)
        if self._ended:
            raise self._error or RpcError(CANCELLED, "the server ended the call before it had all")
        self.credit -= 1
        self._link.put(wire.SEND, self, body)

    def done(self):
        """No further message comes."""
        if not self._half_closed and not self._ended:
            self._link.put(wire.DONE, self)
        self._half_closed = True

    def cancel(self):
        """Ends the call here and tells the server."""
        if not self._ended:
            self._link.put(wire.CANCEL, self)
            self.end(RpcError(CANCELLED, "cancelled by the caller"))

    # ---- receiving

    def __iter__(self):
        return self

    def __next__(self):
        while not self._items and not self._ended:
            self._client.wait(self)
        if not self._items:
            if self._error:
                raise self._error
            raise StopIteration
        self._taken += self._ahead == 0
        self._ahead -= self._ahead > 0
        if self._taken >= CREDIT // 2 and not self._ended:
            self._link.put(wire.CREDIT, self, credit=self._taken)
            self._taken = 0
        return self._items.popleft()

    def result(self):
        """The one answer of a unary call or of a client stream (which this closes)."""
        self.done()
        try:
            return next(self)
        except StopIteration:
            raise RpcError(INTERNAL, "the call ended without an answer") from None

    # ---- what the client tells it

    def heard(self, env, body):
        """A message of the server about this call."""
        self._heard = time.monotonic()
        if env.kind == wire.PONG and env.status != OK:
            return self.end(RpcError(UNAVAILABLE, self._link.name + " does not know the call"))
        if env.kind == wire.CREDIT:
            self.credit += env.credit
        elif env.kind in (wire.REPLY, wire.ITEM, wire.END):
            self.meta = [(m.key, m.value) for m in env.meta] or self.meta
            if env.status != OK:
                return self.end(RpcError(env.status if env.status <= UNAUTHENTICATED else UNKNOWN,
                                         env.text, env.retry_ms, self.meta))
            if env.kind != wire.END:
                self._items.append(self._client.message_of(self.method.output_type, body))
            if env.kind != wire.ITEM:
                self.end(None)
        return None

    def end(self, error):
        """The call is over; its items can still be taken."""
        self._ended, self._error = True, error
        self._link.calls.pop(self.id, None)

    def look(self, now):
        """Ends the call when its time or its server is gone, else shows the server that the client
        is there. Seconds until the next look."""
        left = PING_S if self.deadline is None else self.deadline + GRACE_S - now
        if left <= 0:
            self.end(RpcError(DEADLINE_EXCEEDED, "no answer in time from " + self._link.name))
        elif now - self._heard > LOST_S:
            self.end(RpcError(UNAVAILABLE, "no sign of life from " + self._link.name))
        elif now - self._asked >= PING_S:
            self._asked = now
            self._link.put(wire.PING, self)
        return max(min(left, PING_S), 0)


class Link:
    """The socket to one process, and the calls on it."""

    def __init__(self, client, name, socket):
        self.client, self.name, self.socket, self.calls = client, name, socket, {}

    def put(self, kind, call, body=b"", **fields):
        """Sends one message about a call."""
        env = wire.Envelope(version=VERSION_MAX, version_min=VERSION_MIN, kind=kind, call=call.id,
                            sender="python", **fields)
        try:
            self.socket.send_multipart([env.SerializeToString(), body], zmq.DONTWAIT)
        except zmq.Again:
            raise RpcError(UNAVAILABLE, self.name + " takes no message now", 200) from None

    def take(self):
        """Gives what has arrived to its calls."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            env = wire.Envelope()
            try:
                env.ParseFromString(frames[0])
            except Exception:  # not ours, and so nobody's: the call's deadline ends it
                continue
            call = self.calls.get(env.call)
            if call and len(frames) > 1:
                call.heard(env, frames[1])


def over_tcp(book, key_file):
    """Client's address and dress for a pipeline over TCP: its address book, and the file of this
    program's secret key (`gemline netkey`), whose public half the book lists."""
    with open(book, encoding="ascii") as lines:
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    with open(key_file, "rb") as file:
        secret = file.read().strip()
    known = {row[0]: (row[1], row[-1].encode()) for row in rows if row[1].startswith("tcp:")}

    def find(name):
        if name not in known:
            raise RpcError(NOT_FOUND, "the address book has no endpoint of %s" % name)
        return known[name]

    def dress(socket, name):
        socket.curve_secretkey, socket.curve_publickey = secret, zmq.curve_public(secret)
        socket.curve_serverkey = find(name)[1]
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    return {"address": lambda name: find(name)[0], "dress": dress}


class Client:
    """Connections to the processes of one home, by the sockets of its run directory.

    run_dir:   the folder of the sockets
    address:   instead, a function from "shard-0" to an endpoint
    dress:     called with each new socket and its name before it connects; Client(**over_tcp(..))
    services:  the generated module that declares the services (service_pb2)
    """

    def __init__(self, run_dir=None, address=None, dress=None, services=None):
        if services is None:
            import service_pb2 as services
        self.address = address or (lambda name: "ipc://%s/%s.sock" % (run_dir, name))
        self.dress, self.services = dress or (lambda socket, name: None), services
        self.context, self.poller, self.links = zmq.Context(), zmq.Poller(), {}
        self.ids = itertools.count(int.from_bytes(os.urandom(5), "little"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Cancels what runs and closes the sockets."""
        for link in self.links.values():
            for call in list(link.calls.values()):
                call.cancel()
            link.socket.close()
        self.context.term()

    def call(self, name, method, message=None, **options):
        """A unary call: the answer's message. Options as open()'s."""
        return self.open(name, method, message, **options).result()

    def open(self, name, method, message=None, timeout_s=None, meta=(), traceparent=None, **fields):
        """Starts a call of process `name`. The request is `message`, or made of `fields`; a client
        stream has none. meta: [(key, bytes)]."""
        kind = self._method(method)
        body = b"" if kind.client_streaming else self.body_of(kind.input_type, message, fields)
        if len(meta) > META_MAX or sum(len(k) + len(v) for k, v in meta) > META_BYTES_MAX:
            raise RpcError(RESOURCE_EXHAUSTED, "metadata has at most %d pairs and %d bytes"
                           % (META_MAX, META_BYTES_MAX))
        link = self._link(name)
        now = time.monotonic()
        call = Call(self, link, kind, None if timeout_s is None else now + timeout_s)
        link.calls[call.id] = call
        more = {"meta": [wire.Meta(key=k, value=v) for k, v in meta], "method": method}
        if kind.server_streaming:
            more["credit"] = CREDIT
        if timeout_s is not None:
            more["timeout_us"] = max(1, int(timeout_s * 1e6))
        if traceparent:
            more["traceparent"] = traceparent
        try:
            link.put(wire.CALL, call, body, **more)
        except RpcError as error:
            call.end(error)
            raise
        return call

    # ---- for Call and Link

    def _method(self, name):
        service, _, method = name.partition(".")
        known = self.services.DESCRIPTOR.services_by_name.get(service)
        if known is None or method not in known.methods_by_name:
            raise RpcError(UNIMPLEMENTED, "no method %s is declared" % name)
        return known.methods_by_name[method]

    def _link(self, name):
        if name not in self.links:
            endpoint = self.address(name)
            socket = self.context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, LINGER_MS)
            socket.set_hwm(QUEUE_MAX)
            socket.setsockopt(zmq.ROUTING_ID, b"python-" + os.urandom(8).hex().encode())
            self.dress(socket, name)
            socket.connect(endpoint)
            self.poller.register(socket, zmq.POLLIN)
            self.links[name] = Link(self, name, socket)
        return self.links[name]

    @staticmethod
    def body_of(kind, message, fields):
        """A message, packed. Larger ones than a process takes are refused here."""
        if message is None:
            message = kind._concrete_class(**fields)
        body = message.SerializeToString()
        if len(body) > BODY_BYTES_MAX:
            raise RpcError(RESOURCE_EXHAUSTED, "the message is larger than the limit of %d MiB"
                           % (BODY_BYTES_MAX >> 20))
        return body

    @staticmethod
    def message_of(kind, body):
        """The message of a body."""
        message = kind._concrete_class()
        message.ParseFromString(body)
        return message

    def wait(self, call):
        """Takes messages until there is something new, or it is time to look at the call again."""
        left = call.look(time.monotonic())
        for socket, _ in self.poller.poll(int(left * 1000) + 1):
            for link in self.links.values():
                if link.socket is socket:
                    link.take()
