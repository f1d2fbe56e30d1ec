"""test_key.py - `gemline key`: keys are made, listed and revoked, and their secrets lie nowhere.

Owns:      the command line of keys, what Redis and the home hold of them.
Does not:  speak HTTP (the gateway's tests do).
"""
import json
import os
import re
import stat
import subprocess

import pytest

TOKEN = re.compile(r"gm-[0-9a-f]{16}-[0-9a-f]{64}\n")

WRONG_USE = [
    [], ["add"], ["list", "x"], ["revoke"], ["eat", "x"], ["add", "a", "b"],
    ["add", "a b"], ["add", ""], ["add", "a" * 65], ["add", "../x"], ["add", "0123456789abcdef"],
    ["add", "local"], ["add", "web-x"], ["add", "x", "--tenant", "web-1"],
    ["add", "x", "--tenant", "a/b"], ["add", "x", "--rate", "0"], ["add", "x", "--rate", "5/day"],
    ["add", "x", "--rate", "-1/min"], ["add", "x", "--tokens", "many"],
    ["add", "x", "--scope", "root"], ["list", "--rate", "5"], ["revoke", "x", "--scope", "chat"],
]


def redis(line, *words):
    """What redis-cli prints for a command in the Redis of this home."""
    return subprocess.run(["redis-cli", "-s", os.path.join(line.home, "redis.sock"), *words],
                          capture_output=True, check=True, timeout=30).stdout


def everything(line):
    """Each key of Redis as it would be dumped and as its values read."""
    parts = []
    for name in redis(line, "KEYS", "*").splitlines():
        kind = redis(line, "TYPE", name).strip()
        read = {b"hash": ["HGETALL", name], b"set": ["SMEMBERS", name], b"string": ["GET", name],
                b"list": ["LRANGE", name, "0", "-1"]}[kind]
        parts += [name, redis(line, *read)]
    return b"\n".join(parts)


def listed(line):
    """{name: record} of `gemline key list --json`."""
    done = line.cli("key", "list", "--json", check=True)
    assert len(done.stdout.splitlines()) == 1
    return {key["name"]: key for key in json.loads(done.stdout)["keys"]}


def test_keys(up):
    line = up()
    assert line.cli("key", "list", "--json", check=True).stdout == '{"keys": []}\n'
    done = line.cli("key", "add", "alice", check=True)
    assert TOKEN.fullmatch(done.stdout) and "alice" in done.stderr
    alice = done.stdout.strip()
    assert alice.split("-")[2] not in done.stderr
    bob = json.loads(line.cli("key", "add", "bob", "--tenant", "team", "--rate", "60/min",
                              "--tokens", "5000/day", "--scope", "metrics", "--scope", "chat",
                              "--json", check=True).stdout)
    assert TOKEN.fullmatch(bob["key"] + "\n") and bob["id"] == bob["key"].split("-")[1]
    assert (bob["tenant"], bob["scopes"], bob["rate_per_min"], bob["tokens_per_day"]) == \
        ("team", ["chat", "metrics"], 60, 5000)

    again = line.cli("key", "add", "alice")
    assert again.returncode == 1 and not again.stdout and "revoke" in again.stderr

    keys = listed(line)
    assert list(keys) == ["alice", "bob"]  # in the order of their making
    assert keys["alice"]["tenant"] == "alice" and keys["alice"]["scopes"] == ["chat"]
    assert keys["alice"]["rate_per_min"] is None and keys["alice"]["revoked_ms"] is None
    assert "key" not in keys["bob"]
    assert {k: v for k, v in bob.items() if k != "key"} == keys["bob"]

    # The file beside Redis, and no secret anywhere: not in Redis, its files, logs or state.
    info = os.stat(os.path.join(line.home, "key-secret"))
    assert stat.S_IMODE(info.st_mode) == 0o600 and info.st_size == 32
    secrets = [token.split("-")[2].encode() for token in (alice, bob["key"])]
    raw = [bytes.fromhex(secret.decode()) for secret in secrets]
    held = everything(line)
    assert alice.split("-")[1].encode() in held
    for folder, _dirs, files in os.walk(line.home):
        for name in files:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as file:
                    held += file.read()
    for secret in secrets + raw:
        assert secret not in held

    # Revoking: by name, by ID; not twice; the name is free again and the key stays in the list.
    version = int(redis(line, "GET", "gm:keys:version"))
    line.cli("key", "revoke", "alice", check=True)
    told = json.loads(line.cli("key", "revoke", bob["id"], "--json", check=True).stdout)
    assert told == {"id": bob["id"]}
    assert int(redis(line, "GET", "gm:keys:version")) == version + 2
    for who in ("alice", bob["id"], "nobody", "0123456789abcdef"):
        refused = line.cli("key", "revoke", who)
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    keys = listed(line)
    assert keys["alice"]["revoked_ms"] > 0 and keys["bob"]["revoked_ms"] > 0
    assert not redis(line, "HGET", "gm:key:" + bob["id"], "hash").strip()
    fresh = line.cli("key", "add", "alice", check=True).stdout
    assert TOKEN.fullmatch(fresh) and fresh.strip() != alice
    assert redis(line, "SCARD", "gm:keys").strip() == b"3"

    # A damaged record lets nobody in, is told of, and can be revoked.
    redis(line, "HSET", "gm:key:" + fresh.split("-")[1], "scopes", "root")
    told = line.cli("key", "list")
    assert told.returncode == 1 and "damaged" in told.stderr
    line.cli("key", "revoke", "alice", check=True)

    # A Redis that is killed in between comes back, and so does the answer.
    line.cli("kill", "redis", check=True)
    assert TOKEN.fullmatch(line.cli("key", "add", "carol", check=True).stdout)
    assert listed(line)["carol"]["tenant"] == "carol"


def test_key_that_cannot_be_printed(up):
    """Nobody has it, so it must not stay alive."""
    line = up()
    with open("/dev/full", "w", encoding="ascii") as full:
        child = line.popen("key", "add", "lost", stdout=full)
        assert child.wait(timeout=60) == 1
    assert listed(line)["lost"]["revoked_ms"] > 0


def test_keys_without_a_pipeline(home, model_file):
    """The home's own Redis keeps them, though no pipeline ran."""
    made = home.cli("key", "add", "alice", "--tenant", "local", check=True).stdout
    assert TOKEN.fullmatch(made)
    assert listed(home)["alice"]["id"] == made.split("-")[1]


def test_a_secret_file_that_others_read_is_refused(up):
    line = up()
    line.cli("key", "add", "alice", check=True)
    os.chmod(os.path.join(line.home, "key-secret"), 0o644)
    done = line.cli("key", "add", "bob")
    assert done.returncode == 1 and not done.stdout and "chmod" in done.stderr
    assert list(listed(line)) == ["alice"]


@pytest.mark.parametrize("words", WRONG_USE, ids=" ".join)
def test_wrong_use(home, words):
    done = home.cli("key", *words)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("gemline: ")
    assert os.listdir(home.home) == []  # nothing was started
