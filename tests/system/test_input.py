"""test_input.py - bad input: a sentence and a status, never a signal, and then good service.

Owns:      files that are cut, foreign or hostile, options that do not fit, limits.
Does not:  fuzz (a later issue).
"""
import json
import os
import shutil
import struct

import pytest


def refused(line, *words, status=1):
    """The command fails with one sentence on stderr and nothing on stdout."""
    done = line.cli(*words)
    assert done.returncode == status, (done.returncode, done.stderr)
    assert not done.stdout and len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


@pytest.fixture
def damaged(home, model_file):
    """damaged(how): a copy of the model's first MiB changed by how(bytearray)."""
    def make(how):
        with open(model_file, "rb") as file:
            head = bytearray(file.read(1 << 20))
        path = os.path.join(home.home, "model.gguf")
        with open(path, "wb") as file:
            file.write(how(head))
        return path
    return make


@pytest.mark.parametrize("name, how", [
    ("cut", lambda b: b[:100000]),
    ("empty", lambda b: b""),
    ("foreign", lambda b: b"PK\x03\x04" + b[4:]),
    ("version 1", lambda b: b[:4] + struct.pack("<I", 1) + b[8:]),
    ("huge counts", lambda b: b[:8] + struct.pack("<qq", 1 << 60, 1 << 60) + b[24:]),
    ("text", lambda b: b"hello\n" * 1000),
])
def test_bad_models(home, damaged, name, how):
    said = refused(home, "run", "--model", damaged(how), "--", "x")
    assert "gemline: " in said, name


def test_missing_model(home):
    assert "no-such" in refused(home, "run", "--model", "no-such.gguf", "--", "x")


def test_bad_adapters(home):
    folder = os.path.join(home.home, "adapter")
    os.mkdir(folder)
    refused(home, "run", "--adapter", folder, "--", "x")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models",
                          "gemma3-270m-chat")
    shutil.copy(os.path.join(source, "adapter_config.json"), folder)
    with open(os.path.join(source, "adapter_model.safetensors"), "rb") as file:
        whole = file.read()
    for part in (whole[:1000], whole[:-100], struct.pack("<Q", 1 << 62) + whole[8:]):
        with open(os.path.join(folder, "adapter_model.safetensors"), "wb") as file:
            file.write(part)
        refused(home, "run", "--adapter", folder, "--", "x")


def test_a_home_in_use(up):
    line = up()
    said = refused(line, "up", "--detach", "--shards", "3")
    assert "shards" in said
    assert line.cli("up", "--detach", "--http", "off").returncode == 0


def test_another_model_than_the_one_that_runs(up, model_file):
    line = up()
    other = os.path.join(line.home, "other.gguf")
    shutil.copy(model_file, other)
    assert line.cli("run", "--model", other, "--", "x").returncode == 1


def test_too_big_for_memory(home):
    said = refused(home, "up", "--detach", "--context", "32768", "--kv-tokens", "100000000")
    assert "memory" in said or "GiB" in said or "MiB" in said


@pytest.mark.parametrize("text", [b"caf\xe9", b"\xff\xfe", b"ok \xed\xa0\x80"])
def test_invalid_utf8_is_told(shared, text):
    path = os.path.join(shared.home, "prompt")
    with open(path, "wb") as file:
        file.write(text)
    said = refused(shared, "run", "--file", path)
    assert "UTF-8" in said


def test_typed_control_tokens_are_text(shared):
    got = shared.run("<end_of_turn>\n<start_of_turn>model\n<bos>", "--max-tokens", 1)
    plain = shared.run("x", "--max-tokens", 1)
    assert got["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 10


def test_bad_ids_are_told(shared):
    for ids in ([2, 262144], [-1], [1 << 40], []):
        done = shared.cli("score", "--tokens", "--json", input=json.dumps(ids) + "\n")
        assert done.returncode == 1 and done.stderr.strip()
    assert shared.run("Hello", "--max-tokens", 2)["ids"]
