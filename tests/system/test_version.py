"""test_version.py - processes of two releases in one ring: they work, or are refused by name.

Owns:      pipelines in which one shard speaks other versions of the protocol (GM_PROTOCOL).
Does not:  check envelopes (tests/unit/test_version.c does).
"""
import os
import shutil
import time

import conftest
import pytest

PROMPT = "Name three rivers."
OPTIONS = ("--seed", "7", "--max-tokens", "40", "--ignore-eos")
REFUSED = ("shard-1 speaks version 2 of the protocol and orchestrator-0 1; "
           "start both from one release")

# Stands for gm-shard; shard 1 speaks what the file `protocol` of the home says, if there is one.
SHARD = """#!/bin/sh
case " $* " in
*" --index 1 "*)
    if [ -f "$GEMLINE_HOME/protocol" ]; then
        GM_PROTOCOL=$(cat "$GEMLINE_HOME/protocol")
        export GM_PROTOCOL
    fi ;;
esac
exec "%s" "$@"
"""


@pytest.fixture
def mixed(tmp_path, home, model_file, monkeypatch):
    """A Pipeline, not started, whose shard 1 speaks what speaks() says when it starts next."""
    real = os.path.dirname(os.path.realpath(conftest.GEMLINE))
    bins = tmp_path / "build" / "any" / "bin"  # as deep as the real one: adapters lie beside build
    bins.mkdir(parents=True)
    os.symlink(os.path.join(conftest.ROOT, "models"), tmp_path / "models")
    for name in os.listdir(real):
        if name == "gemline":  # it looks for the others beside itself
            shutil.copy(os.path.join(real, name), bins / name)
        elif name != "gm-shard":
            os.symlink(os.path.join(real, name), bins / name)
    (bins / "gm-shard").write_text(SHARD % os.path.join(real, "gm-shard"))
    (bins / "gm-shard").chmod(0o700)
    monkeypatch.setattr(conftest, "GEMLINE", str(bins / "gemline"))
    return home


def speaks(line, versions):
    path = os.path.join(line.home, "protocol")
    if versions is None:
        os.unlink(path)
        return
    with open(path, "w", encoding="ascii") as file:
        file.write(versions)


def told(status):
    """What the orchestrator says of itself while it is not ready."""
    return next(p.get("text", "") for p in status["processes"] if p["role"] == "orchestrator")


def test_older_and_newer(mixed):
    """A shard that speaks 1 to 2 beside processes that speak 1 computes the same bytes; when it
    comes back with 2 alone it is named, and when it comes back with 1 all goes on."""
    mixed.up("--shards", 2)
    want = mixed.run(PROMPT, *OPTIONS)["text"]
    speaks(mixed, "1:2")
    mixed.kill("shard:1")
    mixed.wait(lambda status: status["ready"] and _restarts(status) == 1)
    assert mixed.run(PROMPT, *OPTIONS)["text"] == want

    speaks(mixed, "2:2")
    mixed.kill("shard:1")
    mixed.wait(lambda status: told(status) == REFUSED)
    assert REFUSED in mixed.cli("status").stdout
    done = mixed.cli("run", *OPTIONS, "--", PROMPT)
    assert done.returncode != 0 and REFUSED in done.stderr

    speaks(mixed, None)
    mixed.kill("shard:1")
    mixed.wait_ready()
    assert mixed.run(PROMPT, *OPTIONS)["text"] == want


def _restarts(status):
    return next(p["restarts"] for p in status["processes"]
                if p["role"] == "shard" and p["index"] == 1)


def test_start_says_so(mixed):
    """`gemline up` ends with the sentence instead of waiting for ever."""
    speaks(mixed, "2:2")
    begin = time.monotonic()
    done = mixed.cli("up", "--detach", "--shards", 2, "--http", "off")
    assert done.returncode != 0 and REFUSED in done.stderr
    assert time.monotonic() - begin < conftest.COMMAND_S / 2


def test_malformed(mixed):
    """A variable that is no range is refused by the process, in words."""
    done = mixed.cli("up", "--detach", "--http", "off", env={"GM_PROTOCOL": "2"})
    assert done.returncode != 0
    assert 'GM_PROTOCOL is "2"; give MIN:MAX' in done.stderr
