"""test_house.py - the command line's manners and the house rules; no model is loaded here.

Owns:      --help and --version, exit codes and the one sentence, lint, set-up, `make run`'s prompt.
Does not:  start a pipeline.
"""
import os
import shutil
import subprocess

import pytest

from conftest import ROOT

COMMANDS = ["up", "down", "status", "run", "chat", "session", "key", "tokenize", "score",
            "plan", "kill"]

HELP_NAMES = {
    "up": ["--detach", "--shards", "--layers", "--model", "--adapter", "--threads", "--context",
           "--kv-tokens", "--kv"],
    "status": ["--json"],
    "run": ["--raw", "--system", "--session", "--file", "--temperature", "--top-k", "--top-p",
            "--min-p", "--repeat-penalty", "--presence-penalty", "--frequency-penalty", "--seed",
            "--max-tokens", "--stop", "--ignore-eos", "--logprobs", "--timeout", "--json",
            "--stream", "--verbose"],
    "session": ["list", "show", "undo", "retry", "rm", "--json"],
    "key": ["add", "list", "revoke", "--tenant", "--rate", "--tokens", "--scope", "--json"],
    "tokenize": ["--no-bos", "--decode", "--json"],
    "score": ["--tokens", "--top", "--json"],
    "plan": ["--shards"],
}

WRONG_USE = [
    ["nosuchcommand"],
    ["--nosuchoption"],
    ["run", "--nosuchoption", "Hi"],
    ["run", "--temperature", "warm", "Hi"],
    ["run", "--temperature", "-1", "Hi"],
    ["run", "--top-k", "1.5", "Hi"],
    ["run", "--max-tokens", "99999999999999999999", "Hi"],
    ["run", "--seed"],
    ["run", "--session", "../x", "Hi"],
    ["run", "--session", "a" * 65, "Hi"],
    ["run", "--json", "--stream", "Hi"],
    ["up", "--shards", "0"],
    ["up", "--shards", "many"],
    ["up", "--kv", "f63"],
    ["up", "--context", "-5"],
    ["up", "--layers", "6:0"],
    ["up", "--layers", "0:6,7:18"],
    ["session"],
    ["session", "eat", "x"],
    ["session", "show"],
    ["tokenize", "--bogus"],
    ["score", "--top", "x"],
    ["plan"],
    ["plan", "--shards", "-1"],
    ["kill"],
    ["kill", "nosuchrole"],
]

FAILURES = [
    ["run", "--model", "/nonexistent/model.gguf", "Hi"],
    ["up", "--detach", "--model", "/nonexistent/model.gguf"],
    ["tokenize", "/nonexistent/file"],
    ["score", "/nonexistent/file"],
    ["run", "--file", "/nonexistent/file"],
    ["kill", "shard:0"],
]

PROMPT = "a \"b\" $c $(d) $$ `e` \\ 'f'\n#g %s ü 日本\n\n--h \\"


def _sentence(done):
    """The rule for an error: nothing on stdout, one line on stderr that is no stack trace."""
    lines = done.stderr.strip().splitlines()
    assert done.stdout == ""
    assert len(lines) == 1 and len(lines[0].split()) >= 4, done.stderr


@pytest.mark.parametrize("words", [["--help"]] + [[name, "--help"] for name in COMMANDS],
                         ids=" ".join)
def test_help(home, words):
    done = home.cli(*words)
    assert (done.returncode, done.stderr) == (0, "")
    for name in (COMMANDS if len(words) == 1 else HELP_NAMES.get(words[0], [])):
        assert name in done.stdout, "the help does not name %s" % name


def test_version(home):
    done = home.cli("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gemline ") and any(c.isdigit() for c in done.stdout)


def test_programs_help(gemline):
    folder = os.path.dirname(gemline)
    names = sorted(os.listdir(folder))
    assert len(names) >= 5
    for name in names:
        done = subprocess.run([os.path.join(folder, name), "--help"], capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, timeout=20)
        assert done.returncode == 0 and name in done.stdout, "%s: %s" % (name, done.stderr)


@pytest.mark.parametrize("words", WRONG_USE, ids=lambda words: " ".join(words)[:40])
def test_wrong_use(home, words):
    done = home.cli(*words)
    assert done.returncode == 2, done.stderr
    _sentence(done)


@pytest.mark.parametrize("words", FAILURES, ids=" ".join)
def test_failure(home, words):
    done = home.cli(*words)
    assert done.returncode == 1, done.stderr
    _sentence(done)


def test_down_of_nothing(home):
    done = home.cli("down")
    assert (done.returncode, done.stderr) == (0, "")


def test_lint():
    done = subprocess.run(["make", "lint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_setup_does_nothing_twice():
    done = subprocess.run(["bash", "tools/setup.sh"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "http_proxy": "http://127.0.0.1:9"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_model_fetch_does_nothing_twice(model_file):
    done = subprocess.run(["bash", "tools/fetch-model.sh"], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_make_run_passes_the_prompt_unchanged(tmp_path, way):
    """`make run PROMPT=...` with a program in gemline's place that writes down its arguments."""
    shutil.copytree(os.path.join(ROOT, "tools"), tmp_path / "tools")
    shutil.copy(os.path.join(ROOT, "Makefile"), tmp_path)
    program = tmp_path / "build" / "release" / "bin" / "gemline"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\" >args\n")
    program.chmod(0o755)
    words, env = ["make", "run", "MODEL=a b.gguf"], {**os.environ}
    for name in [name for name in env if name.startswith(("MAKE", "MFLAGS"))]:
        del env[name]
    if way == "argument":
        words.append("PROMPT=" + PROMPT)
    else:
        env["PROMPT"] = PROMPT
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    args = (tmp_path / "args").read_bytes().decode().split("\0")
    assert args == ["run", "--model", "a b.gguf", "--", PROMPT, ""]
