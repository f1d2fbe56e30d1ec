"""test_conformance.py - the Python client of the calls: the C client's table, and real processes.

Owns:      running tests/conformance/table.json with proto/python/gemline_rpc.py against the server
           that test_conformance.c is; Watch, Describe and a turn of a running pipeline.
Does not:  serve (tests/unit/conform_serve.c).
"""
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from conftest import ROOT

SERVER = os.path.join(ROOT, "build", "release", "tests", "test_conformance")
TABLE = os.path.join(ROOT, "tests", "conformance", "table.json")

with open(TABLE, encoding="utf-8") as _file:
    CASES = json.load(_file)


@pytest.fixture(scope="module")
def rpc(tmp_path_factory):
    """The client's module, with the messages of conform.proto too."""
    subprocess.run(["make", "-s", "python"], cwd=ROOT, check=True)
    folder = str(tmp_path_factory.mktemp("python"))
    subprocess.run(["protoc", "--proto_path=tests/conformance", "--python_out=" + folder,
                    "conform.proto"], cwd=ROOT, check=True)
    sys.path[:0] = [os.path.join(ROOT, "build", "python"), folder]
    import gemline_rpc
    return gemline_rpc


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The folder of the Conform service's socket."""
    if not os.path.exists(SERVER):
        subprocess.run(["make", "-s", "build/release/tests/test_conformance"], cwd=ROOT, check=True)
    folder = str(tmp_path_factory.mktemp("conform"))
    child = subprocess.Popen([SERVER, "serve", folder], cwd=ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"serving\n"
    yield folder
    child.stdin.close()
    assert child.wait(20) == 0


@pytest.fixture(scope="module")
def conform(rpc, server):
    import conform_pb2
    with rpc.Client(server, services=conform_pb2) as client:
        yield client


def plain(word):
    """A Word as the table writes it."""
    out = {}
    for field, value in word.ListFields():
        out[field.name] = list(value) if field.label == field.LABEL_REPEATED else value
    if "blob" in out:
        out["blob_bytes"] = len(out.pop("blob"))
    return out


def heard(rpc, conform, case):
    """(items, error or None, trailing metadata) of a case's call."""
    fields = dict(case.get("request", {}))
    if "request_bytes" in case:
        fields["blob"] = bytes(case["request_bytes"])
    meta = [(k, v.encode()) for k, v in case.get("meta", {}).items()]
    meta += [("k%d" % i, b"") for i in range(case.get("meta_n", 0))]
    meta += [("k", bytes(case["meta_bytes"] - 1))] if "meta_bytes" in case else []
    items, call = [], None
    try:
        call = conform.open("conform-0", case["method"], meta=meta,
                            timeout_s=case["timeout_ms"] / 1000 if "timeout_ms" in case else None,
                            traceparent=case.get("traceparent"), **fields)
        if case.get("cancel"):
            threading.Event().wait(0.05)
            call.cancel()
        for fields in case.get("send", ({"count": i} for i in range(case.get("send_n", 0)))):
            call.send(**fields)
        if "send" in case or "send_n" in case:
            call.done()
        for item in call:
            items.append(plain(item))
        return items, None, call.meta
    except rpc.RpcError as error:
        return items, error, call.meta if call else []


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_table(rpc, conform, case):
    if case["method"].startswith("Shard."):
        import service_pb2
        with rpc.Client(services=service_pb2, address=conform.address) as other:
            items, error, meta = heard(rpc, other, case)
    else:
        items, error, meta = heard(rpc, conform, case)
    assert (error.status if error else 0) == case.get("status", 0), error
    if error:
        assert case["says"] in error.text
        assert error.retry_ms == case.get("retry_ms", 0)
    if "answer" in case:
        assert items == [case["answer"]]
    if "items" in case:
        assert items == case["items"]
    if "n_items" in case:
        assert len(items) == case["n_items"]
    if "blob_bytes" in case:
        assert items[0]["blob_bytes"] == case["blob_bytes"]
    if "trailer" in case:
        assert {k: v.decode() for k, v in meta} == case["trailer"]
    if "trace" in case:
        assert dict(meta)["trace"].decode().split("-")[1] == case["trace"]


# ---- real processes ---------------------------------------------------------------------------

PROCESSES = ["orchestrator-0", "tokenizer-0", "sampler-0", "shard-0", "gateway-0"]


@pytest.fixture(scope="module")
def home_client(rpc, web):
    with rpc.Client(web.home) as client:
        yield client


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_describes_itself(home_client, name):
    from google.protobuf import descriptor_pb2
    said = home_client.call(name, "Reflection.Describe", timeout_s=10)
    declared = descriptor_pb2.FileDescriptorSet.FromString(said.set)
    methods = {"%s.%s" % (s.name, m.name) for f in declared.file for s in f.service
               for m in s.method}
    assert {"Health.Check", "Health.Watch", "Reflection.Describe"} <= set(said.methods) <= methods
    assert said.release and 1 <= said.version_min <= said.version_max
    health = home_client.call(name, "Health.Check", timeout_s=10)
    assert "%s-%d" % (health.role, health.index) == name and health.state == "ready"


def test_a_turn(home_client, web):
    import service_pb2
    sampling = service_pb2.Sampling(temperature=0, max_tokens=160, ignore_eos=True)
    call = home_client.open("orchestrator-0", "Orchestrator.StartTurn", turn="from-python",
                            raw=True, messages=b"Once upon a time", sampling=sampling,
                            timeout_s=100)
    ids, finished = [], None
    for event in call:
        ids += [token.id for token in event.tokens]
        finished = event.finished if event.HasField("finished") else finished
    want = json.loads(web.cli("run", "--raw", "--temperature", "0", "--max-tokens", "160",
                              "--ignore-eos", "--json", "--", "Once upon a time",
                              check=True).stdout)
    assert ids == want["ids"] and finished.reason == "length"


def test_watch(rpc, up_web):
    """One item at once, the next when the state changes: a gateway that drains says so."""
    line = up_web()
    reading = line.connect()
    reading.request("POST", "/v1/chat/completions", json.dumps({
        "messages": [{"role": "user", "content": "Tell a long story."}], "stream": True,
        "ignore_eos": True, "max_tokens": 2000}))
    answer = reading.getresponse()
    assert answer.read(10)
    with rpc.Client(line.home) as client:
        watching = client.open("gateway-0", "Health.Watch", timeout_s=60)
        assert next(watching).state == "ready"
        os.kill(line.pids("gateway")[0], signal.SIGTERM)
        assert next(watching).state == "draining"
        still = client.open("shard-0", "Health.Watch", timeout_s=1)
        assert next(still).state == "ready"
        with pytest.raises(rpc.RpcError) as ended:
            next(still)
        assert ended.value.status == rpc.DEADLINE_EXCEEDED
    reading.close()


def test_over_tcp(rpc, up):
    """The same over TCP with a client's key; what the key may not do is refused."""
    import service_pb2
    line = up("--tcp")
    with rpc.Client(**rpc.over_tcp(os.path.join(line.home, "net.book"),
                                   os.path.join(line.home, "keys", "client-0.key"))) as client:
        assert client.call("orchestrator-0", "Orchestrator.Info", timeout_s=20).ready
        ids = []
        for event in client.open("orchestrator-0", "Orchestrator.StartTurn", turn="over-tcp",
                                 raw=True, messages=b"Once upon a time", timeout_s=60,
                                 sampling=service_pb2.Sampling(max_tokens=8, ignore_eos=True)):
            ids += [token.id for token in event.tokens]
        assert len(ids) == 8
        with pytest.raises(rpc.RpcError) as denied:
            client.call("shard-0", "Shard.Forget", session="local/x", timeout_s=20)
        assert denied.value.status == rpc.PERMISSION_DENIED
        with pytest.raises(rpc.RpcError) as unknown:
            client.call("shard-9", "Health.Check", timeout_s=20)
        assert unknown.value.status == rpc.NOT_FOUND
