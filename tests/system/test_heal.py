"""test_heal.py - processes that keep dying, supervisors that die, turns that kill.

Owns:      a role marked failed and well again; `up` killed and adopted under streams; what a dead
           orchestrator leaves in the others; a poison turn with real processes.
Does not:  kill at random (tools/chaos).
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT, processes_of

STORY = ("--seed", "5", "--max-tokens", "96", "--ignore-eos")
PROMPT = "Tell a long story about a lighthouse."
REFUSED_S = 10   # "at once", on a machine that is busy
RESTARTS = 5     # of the supervisor: the next death within a minute makes a role a failed one


def stream(line, *options, prompt=PROMPT):
    return line.popen("run", "--stream", *options, "--", prompt, bufsize=0)


def read_all(child):
    out, err = child.communicate(timeout=110)
    assert child.returncode == 0, err
    return out


def state_of(line):
    with open(os.path.join(line.home, "state.json"), encoding="utf-8") as file:
        return json.load(file)


def until(true, what, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def kill_if_there(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def one(status, role, index=0):
    return next(p for p in status["processes"] if p["role"] == role and p["index"] == index)


@pytest.mark.timeout_s(170)
def test_a_shard_without_its_file_fails_and_heals(home, model_file):
    """Its model goes away and it is killed: failed, with the sentence, and new turns are told so at
    once. The file comes back: it heals by itself, and the stream that was running goes on."""
    model, away = (os.path.join(home.home, name) for name in ("model.gguf", "away.gguf"))
    try:
        os.link(model_file, model)
    except OSError:
        shutil.copyfile(model_file, model)
    home.up("--model", model, "--adapter", "none", "--shards", 2)
    want = read_all(stream(home, *STORY))
    child = stream(home, *STORY)
    head = child.stdout.read(40)
    os.rename(model, away)

    def failed():
        for p in state_of(home)["processes"]:
            if p["role"] == "shard" and p["index"] == 1 and p["pid"] and not p["failed"]:
                kill_if_there(p["pid"])
        return any(p["failed"] for p in state_of(home)["processes"])
    until(failed, "never marked as failed")
    status = home.status()
    shard = one(status, "shard", 1)
    assert not status["ready"] and shard["state"] == "failed" and shard["restarts"] >= RESTARTS
    assert "shard-1" in shard["error"] and "shard-1" in home.cli("status", check=True).stdout
    time.sleep(2.5)  # the supervisor has told the orchestrator
    begin = time.monotonic()
    refused = home.cli("run", "Hi")
    assert time.monotonic() - begin < REFUSED_S
    assert refused.returncode == 1 and "model.gguf" in refused.stderr and not refused.stdout
    os.rename(away, model)
    home.wait_ready(90)
    assert "error" not in one(home.status(), "shard", 1)
    assert head + read_all(child) == want
    assert home.run("Hi", "--max-tokens", 2)["ids"]


@pytest.mark.timeout_s(170)
def test_the_supervisor_dies_and_the_next_adopts(up):
    """While nobody watches, a shard dies too: the next `up` starts it, and the streams go on."""
    options = ("--shards", 2)
    line = up(*options)
    want = [read_all(stream(line, *STORY)), read_all(stream(line, *STORY, "--temperature", 0))]
    children = [stream(line, *STORY), stream(line, *STORY, "--temperature", 0)]
    heads = [child.stdout.read(40) for child in children]
    before = state_of(line)
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: before["pid"] not in processes_of(line.home), "the supervisor lives")
    dead = one(before, "shard", 1)["pid"]
    kill_if_there(dead)
    late = line.popen("run", "--stream", *STORY, "--", PROMPT, bufsize=0)  # it waits for a shard
    time.sleep(0.5)
    line.up(*options)
    after = state_of(line)
    assert after["pid"] != before["pid"] and one(after, "shard", 1)["pid"] not in (0, dead)
    for role in ("orchestrator", "sampler", "tokenizer", "redis"):
        assert one(after, role)["pid"] == one(before, role)["pid"]
    assert [head + read_all(child) for head, child in zip(heads, children)] == want
    assert read_all(late) == want[0]
    known = {p["pid"] for p in after["processes"]} | {after["pid"]}
    assert set(processes_of(line.home)) <= known  # Redis writes its title over its environment
    assert line.wait_ready()["ready"]


@pytest.mark.timeout_s(170)
def test_nothing_of_a_dead_orchestrator_stays(up):
    """Its score ends with it, its turn goes on under the next one: no shard and no sampler keeps
    what it had opened."""
    line = up("--shards", 2)
    score = line.popen("score", "--tokens", "--json", stdin=-1)
    score.stdin.write(json.dumps([2] + [1000 + i for i in range(3000)]).encode() + b"\n")
    score.stdin.close()
    score.stdin = None
    child = stream(line, *STORY)
    head = child.stdout.read(20)
    until(lambda: one(line.status(), "shard")["sessions"] == 2, "the score did not begin")
    line.kill("orchestrator")
    score.wait(timeout=110)
    assert head + read_all(child) == read_all(stream(line, *STORY))

    def empty():
        return not any(p["sessions"] for p in line.status()["processes"])
    until(empty, "somebody still holds a turn: %s" % line.status())


@pytest.mark.timeout_s(170)
def test_a_turn_that_kills_ends(up):
    """Three times a shard dies of the same prompt: its turn ends with a sentence, the next runs."""
    subprocess.run(["make", "-s", "python"], cwd=ROOT, check=True)
    sys.path.insert(0, os.path.join(ROOT, "build", "python"))
    import gemline_rpc
    line = up("--shards", 2)
    poison = " ".join("Word number %d." % i for i in range(600))
    child = line.popen("run", "--json", "--max-tokens", "4", "--", poison)
    killed = []

    def over():
        """Kills shard 1 as soon as it holds the turn: at the same place each time."""
        if child.poll() is not None:
            return True
        try:
            health = client.call("shard-1", "Health.Check", timeout_s=1)
        except gemline_rpc.RpcError:
            return False  # it is being started
        if health.sessions and health.boot not in killed:
            killed.append(health.boot)
            kill_if_there(one(state_of(line), "shard", 1)["pid"])
        return False
    with gemline_rpc.Client(line.home) as client:
        until(over, "the turn goes on for ever", 120)
    out, err = child.communicate()
    assert child.returncode == 1 and b"given up" in err, (out, err)
    assert len(killed) == 3
    line.wait_ready()
    assert line.run("Hi", "--max-tokens", 2)["ids"]
