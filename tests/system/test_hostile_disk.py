"""test_hostile_disk.py - disks that are full, folders that are read-only, files that are cut, written
to or replaced while the pipeline has them mapped.

Owns:      what clients hear of each: the same bytes, or a status and a sentence; that no process
           ends; that the next good request is served once the disk is in order.
Does not:  damage files before the start (test_input.py) or Redis's data (test_hostile_redis.py).

A small disk is a tmpfs; mounting it needs root, as the checks have it.
"""
import os
import shutil
import subprocess
import tempfile
import time

import pytest

from conftest import Pipeline, processes_of

ASK = ("Tell me about rivers.", "--temperature", "0", "--max-tokens", "150", "--ignore-eos")
SHORT = ("--seed", "1", "--max-tokens", "8")
SMALL = 32 << 20    # bytes of a small disk
PATIENCE_S = 60     # for a shard to open its files again


# ---- a pipeline whose files we may damage -------------------------------------------------------

class Damaged(Pipeline):
    """A pipeline with a model file and packs of its own."""

    def __init__(self, home, model, packs):
        super().__init__(home)
        self.model, self.packs, self.original = model, packs, model + ".whole"

    def env(self, **more):
        return super().env(GEMLINE_PACK=self.packs, **more)

    def pack_files(self):
        return sorted(os.path.join(folder, name) for folder, _dirs, names in os.walk(self.packs)
                      for name in names if name.endswith(".pack"))

    def restore(self):
        """The whole file back in one step."""
        shutil.copyfile(self.original, self.model + ".new")
        os.rename(self.model + ".new", self.model)
        self.wait_ready(PATIENCE_S)

    def failed_text(self):
        """What the shards say in `status` once one has failed."""
        status = self.wait(lambda s: any(p["state"] == "failed" for p in s["processes"]
                                         if p["role"] == "shard"), PATIENCE_S)
        assert not status["ready"]
        return " ".join(p.get("text", "") for p in status["processes"] if p["role"] == "shard")


@pytest.fixture(scope="module")
def line(gemline, model_file):
    folder = tempfile.mkdtemp(prefix="gemline-test-")
    made = Damaged(tempfile.mkdtemp(prefix="gemline-test-"), os.path.join(folder, "model.gguf"),
                   os.path.join(folder, "packs"))
    shutil.copyfile(model_file, made.model)
    os.symlink(model_file, made.original)
    try:
        made.up("--model", made.model, "--shards", "2", "--threads", "1")
        answer = made.run(*ASK)
        made.answer, made.text = answer["ids"], answer["text"].encode() + b"\n"
        assert len(made.answer) == 150
        made.short = made.run("Hi", *SHORT)["ids"]
        made.living = made.pids()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def _while_it_answers(line, damage):
    """Runs ASK with `damage` done after its first bytes: (exit status, bytes, stderr)."""
    child = line.popen("run", "--stream", *ASK[1:], "--", ASK[0], bufsize=0)
    first = child.stdout.read(1)
    assert first, child.stderr.read()
    damage()
    rest, err = child.communicate(timeout=PATIENCE_S + 60)
    return child.returncode, first + rest, err.decode()


def _cut(path, part=0.5):
    os.truncate(path, int(os.path.getsize(path) * part))


def _flip(path, part=0.5):
    with open(path, "r+b") as file:
        file.seek(int(os.path.getsize(path) * part))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))


def _sound(line):
    """Every process is the one it was, and answers as it did."""
    assert line.pids() == line.living, "a process ended"
    assert line.run("Hi", *SHORT)["ids"] == line.short


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_packs_damaged_in_mid_answer(line, how):
    """Packs are made again from the model file; the client notices nothing."""
    def damage():
        for path in line.pack_files():
            if how == "flipped":
                _flip(path)
            else:
                _cut(path, 0.3)
    code, out, err = _while_it_answers(line, damage)
    assert code == 0, err
    assert out == line.text
    _sound(line)


def test_model_touched_in_mid_answer(line):
    code, out, err = _while_it_answers(line, lambda: os.utime(line.model))
    assert code == 0, err
    assert out == line.text
    _sound(line)


def test_model_cut_in_mid_answer(line):
    try:
        code, _out, err = _while_it_answers(line, lambda: _cut(line.model))
        assert code == 1 and len(err.strip().splitlines()) == 1, err
        assert "model.gguf" in err and "put" in err
        assert "model.gguf" in line.failed_text()
        refused = line.cli("run", "Hello")
        assert refused.returncode == 1 and "model.gguf" in refused.stderr
        assert line.pids() == line.living
    finally:
        line.restore()
    _sound(line)


def test_model_written_to(line):
    """One byte in the middle of the weights, of an idle pipeline: found within a second or so, and
    refused even though the file is well-formed. The byte back, and all is as before."""
    try:
        _flip(line.model, 0.9)
        assert "other weights" in line.failed_text()
        refused = line.cli("run", "Hello")
        assert refused.returncode == 1 and "other weights" in refused.stderr
    finally:
        _flip(line.model, 0.9)
        line.wait_ready(PATIENCE_S)
    _sound(line)


def test_vocabulary_damaged(line):
    """Processes have it in memory; a new command says what to do."""
    path = os.path.join(line.home, "vocab.gmv")
    with open(path, "rb") as file:
        whole = file.read()
    try:
        code, _out, err = _while_it_answers(line, lambda: _cut(path))
        assert code == 0, err
        refused = line.cli("run", "Hello")
        assert refused.returncode == 1 and "restart the tokenizer" in refused.stderr
    finally:
        with open(path + ".new", "wb") as file:
            file.write(whole)
        os.rename(path + ".new", path)
    _sound(line)


def test_model_replaced_in_mid_answer(line):
    """By rename: who has the old file mapped goes on with it. (The last of these tests: the others
    damage the file that is mapped.)"""
    def replace():
        shutil.copyfile(line.original, line.model + ".new")
        os.rename(line.model + ".new", line.model)
    code, out, err = _while_it_answers(line, replace)
    assert code == 0, err
    assert out == line.text
    _sound(line)


# ---- small disks ---------------------------------------------------------------------------------

class Disk:
    """A tmpfs of some bytes."""

    def __init__(self, size):
        self.path = tempfile.mkdtemp(prefix="gemline-disk-")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d,mode=0700" % size, "gemline-test",
                        self.path], check=True)

    def fill(self, leave=0):
        """Takes all room but `leave` bytes."""
        room = os.statvfs(self.path)
        with open(os.path.join(self.path, "filler"), "wb", buffering=0) as file:
            left = room.f_bavail * room.f_frsize - leave
            while left > 0:
                try:
                    left -= file.write(bytes(min(left, 1 << 20)))
                except OSError:
                    return self
        return self

    def free(self):
        os.unlink(os.path.join(self.path, "filler"))

    def read_only(self, on):
        subprocess.run(["mount", "-o", "remount,%s" % ("ro" if on else "rw"), self.path],
                       check=True)

    def close(self):
        subprocess.run(["umount", "-l", self.path], check=True)
        os.rmdir(self.path)


@pytest.fixture
def disk():
    disks = []

    def make(size=SMALL):
        disks.append(Disk(size))
        return disks[-1]
    yield make
    for one in disks:
        one.close()


@pytest.fixture
def pipeline_on(disk, gemline, model_file):
    """pipeline_on(folder): a Pipeline whose home is below the folder; not started. It is closed
    before the disks are."""
    lines = []

    def make(folder):
        home = os.path.join(folder, "home")
        os.mkdir(home, 0o700)
        lines.append(Pipeline(home))
        return lines[-1]
    yield make
    for line in lines:
        line.close()
        shutil.rmtree(os.path.dirname(line.home), ignore_errors=True)


def _one_sentence(done, *words):
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and len(lines[0].split()) >= 4, done.stderr
    assert any(word in lines[0] for word in words), lines[0]


def test_no_room_for_a_home(disk, pipeline_on):
    """The disk is full before the start: `up` says so, and leaves nothing running."""
    small = disk(1 << 20)
    line = pipeline_on(small.path)
    small.fill()
    _one_sentence(line.cli("up", "--detach", "--http", "off"), "No space left", "room")
    _one_sentence(line.cli("run", "Hello"), "No space left", "room")
    assert processes_of(line.home) == {}
    small.free()


def test_no_room_for_the_vocabulary(disk, pipeline_on):
    """Room for logs and state, not for the megabytes that the tokenizer writes."""
    small = disk(4 << 20)
    line = pipeline_on(small.path)
    small.fill(leave=1 << 20)
    _one_sentence(line.cli("up", "--detach", "--http", "off"), "vocab.gmv")
    assert processes_of(line.home) == {}
    small.free()


def test_a_disk_that_fills_up(disk, pipeline_on):
    """Home, logs, state and Redis's file are on it. A turn whose session cannot be stored says so;
    a process that dies is started again; with room again all is as before."""
    small = disk()
    line = pipeline_on(small.path).up("--threads", "1")
    want = line.run("Hi", *SHORT)["text"]
    before = line.pids()
    small.fill()
    done = line.cli("run", "--session", "full", *SHORT, "Hi")
    if done.returncode == 0:  # Redis had buffered room: it must have said so or stored it
        assert done.stdout.rstrip("\n") == want.rstrip("\n")
    else:
        _one_sentence(done, "Redis", "space")
    for _ in range(3):
        done = line.cli("run", *SHORT, "Hi")
        assert done.returncode in (0, 1)
        if done.returncode:
            _one_sentence(done, "Redis", "space")
    assert line.pids() == before, "a process ended on a full disk"
    line.kill("sampler")
    end = time.monotonic() + PATIENCE_S
    while not any("gm-sampler" in command and pid not in before
                  for pid, command in processes_of(line.home).items()):
        assert time.monotonic() < end, "the sampler was not started again"
        time.sleep(0.1)
    small.free()
    line.wait_ready()
    end = time.monotonic() + PATIENCE_S
    while True:
        done = line.cli("run", "--session", "full", *SHORT, "Hi")
        if done.returncode == 0 or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert done.returncode == 0, done.stderr
    after = line.pids()
    assert len(set(before) & set(after)) == len(before) - 1


def test_logs_that_take_nothing(disk, pipeline_on):
    """Every log is /dev/full: what cannot be logged is lost, and that is all."""
    line = pipeline_on(disk().path)
    os.mkdir(os.path.join(line.home, "logs"), 0o700)
    for name in ("up-0", "redis-0", "orchestrator-0", "sampler-0", "tokenizer-0", "shard-0"):
        os.symlink("/dev/full", os.path.join(line.home, "logs", name + ".log"))
    line.up()
    assert line.run("Hi", *SHORT)["ids"]
    line.kill("shard:0")
    assert line.wait_ready()
    assert line.run("Hi", *SHORT)["ids"]


@pytest.mark.parametrize("words", [["run", *SHORT, "Hi"], ["run", "--json", *SHORT, "Hi"],
                                   ["run", "--stream", *SHORT, "Hi"], ["status"], ["session", "list"],
                                   ["--help"], ["run", "--help"]],
                         ids=" ".join)
def test_output_that_takes_nothing(line, words):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([os.path.join(os.path.dirname(__file__), "../../build/bin/gemline"),
                               *words], stdout=full, stderr=subprocess.PIPE, env=line.env(),
                              stdin=subprocess.DEVNULL, timeout=120, text=True)
    _one_sentence(done, "No space left")


@pytest.mark.parametrize("kind", ["full", "read-only", "a file in its way"])
def test_packs_that_cannot_be_kept(disk, pipeline_on, kind):
    """The weights stay as they lie in the model file: a warning, and answers all the same."""
    small = disk(1 << 20)
    folder = tempfile.mkdtemp(prefix="gemline-test-")
    line = pipeline_on(folder)
    packs = os.path.join(small.path, "packs")
    if kind == "full":
        small.fill()
    elif kind == "read-only":
        small.read_only(True)
    else:
        with open(packs, "w") as file:
            file.write("in the way")
    line.up(env={"GEMLINE_PACK": packs})
    assert line.run("Hi", *SHORT)["ids"]
    assert "stay as they lie" in line.logs()
    assert line.cli("pack", env={"GEMLINE_PACK": packs}).returncode in (0, 1)


def test_an_unpacked_model_cut_in_mid_answer(disk, pipeline_on, model_file):
    """Kernels read the model file itself: threads run into pages that are gone (SIGBUS)."""
    folder = disk(900 << 20).path
    model = os.path.join(folder, "model.gguf")
    shutil.copyfile(model_file, model)
    line = pipeline_on(folder).up("--model", model, "--threads", "2",
                                  env={"GEMLINE_PACK": "/dev/null/packs"})
    want = line.run(*ASK)["ids"]
    living = line.pids()
    code, _out, err = _while_it_answers(line, lambda: _cut(model, 0.1))
    assert code == 1 and "model.gguf" in err, err
    assert line.pids() == living
    shutil.copyfile(model_file, model + ".new")
    os.rename(model + ".new", model)
    line.wait_ready(PATIENCE_S)
    assert line.run(*ASK)["ids"] == want
    assert line.pids() == living
