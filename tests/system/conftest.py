"""conftest.py - what every system test stands on: pipelines in folders of their own, and an alarm.

Owns:      the fixtures gemline, home, up, shared, web, client, golden, model_file; the time limit
           of a test; the proof that `gemline down` leaves no process behind.
Does not:  skip: a missing program, model or golden file fails the test that needs it.

    def test_x(up):                     def test_y(shared):     # one pipeline for the whole file,
        line = up("--shards", "2")          shared.run("Hi")    # for tests that only read
        answer = line.run("Hi", "--seed", "1")["text"]

    def test_z(web, client):            # `shared` with an HTTP gateway, and the official client
        web.get("/health"); client.models.list()

Pipelines have no gateway unless their options say --http.
A test may run TIMEOUT_S seconds; @pytest.mark.timeout_s(300) gives another limit. On a sanitizer's
build every limit is longer, and a report of any process fails the test (sanitized.py).
"""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import openai
import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import golden_compare  # noqa: E402  (lies beside this file)
from sanitized import MODE, Child, Reports, scaled, skip_measures  # noqa: E402

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BIN = os.path.join(ROOT, "build", "bin" if MODE == "release" else os.path.join(MODE, "bin"))
GEMLINE = os.path.join(BIN, "gemline")
MODEL_NAME = "gemma-3-270m-q4_k_m.gguf"
MODEL_BYTES = 253113024

TIMEOUT_S = 180      # a test, its fixtures not counted
FIXTURE_S = 180      # all fixtures of a test, setting up or taking down
COMMAND_S = 120      # one command, unless a test says otherwise
READY_S = 120        # `gemline up --detach`
GONE_S = 20          # what a process may take to vanish after SIGKILL


# ---- the alarm --------------------------------------------------------------------------------

class OutOfTime(BaseException):
    """Raised by the alarm, reported as the test's failure; no `except Exception` swallows it."""


def _within(seconds):
    def ring(_signal, _frame):
        raise OutOfTime("ran longer than %d s" % seconds)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _timed(seconds):
    _within(scaled(seconds))
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    yield from _timed(FIXTURE_S)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    mark = item.get_closest_marker("timeout_s")
    yield from _timed(mark.args[0] if mark else TIMEOUT_S)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item, nextitem):
    yield from _timed(FIXTURE_S)


def pytest_configure(config):
    config.addinivalue_line("markers", "timeout_s(seconds): how long this test may run")
    config.addinivalue_line("markers", "release_only(why, *modes): not on those builds")
    config.reports = Reports()


def pytest_collection_modifyitems(items):
    skip_measures(items)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What a sanitizer reported until the end of its fixtures fails the test."""
    report = (yield).get_result()
    found = item.config.reports.new() if report.when == "teardown" else ""
    if found:
        report.longrepr = "%s\na sanitizer reported:\n%s" % (report.longreprtext, found)
        report.outcome = "failed"


# ---- processes of a home ----------------------------------------------------------------------

def _environment(home=None):
    """The caller's environment without what would steer a pipeline from outside."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GEMLINE_", "GM_", "MAKE"))}
    if home is not None:
        env["GEMLINE_HOME"] = home
    return env


def processes_of(home):
    """{pid: command line} of every living process that was started with GEMLINE_HOME=home."""
    want = b"GEMLINE_HOME=" + os.fsencode(home)
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % entry, "rb") as file:
                if want not in file.read().split(b"\0"):
                    continue
            with open("/proc/%s/stat" % entry, "rb") as file:
                if file.read().rsplit(b")", 1)[1].split()[0] == b"Z":
                    continue
            with open("/proc/%s/cmdline" % entry, "rb") as file:
                found[int(entry)] = file.read().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, IndexError):
            continue  # it ended while we looked
    return found


def alive(pid):
    """Whether this process exists and is no zombie."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] != b"Z"
    except OSError:
        return False


def _kill_leftovers(home):
    """Ends what is left of a home. Returns the command lines of what had to be killed."""
    left = processes_of(home)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    end = time.monotonic() + GONE_S
    while any(alive(pid) for pid in left) and time.monotonic() < end:
        time.sleep(0.02)
    return sorted(left.values())


class Pipeline:
    """One home and the commands of `gemline` in it. `ready` only after up()."""

    def __init__(self, home):
        self.home = home
        self._children = []

    def env(self, **more):
        """The environment of a command of this home; a value of None removes the name."""
        env = {**_environment(self.home), **more}
        return {k: str(v) for k, v in env.items() if v is not None}

    def cli(self, *args, input=None, timeout=COMMAND_S, check=False, env=None, text=True):
        """`gemline ARGS`: a CompletedProcess with its output (text, or bytes with text=False).
        stdin is empty unless `input` is given. check=True fails the test on a non-zero exit."""
        feed = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run([GEMLINE, *map(str, args)], capture_output=True, cwd=self.home,
                              timeout=scaled(timeout), env=self.env(**(env or {})), text=text,
                              **feed)
        if check and done.returncode != 0:
            pytest.fail("gemline %s: exit status %d\n%s"
                        % (" ".join(map(str, args)), done.returncode, done.stderr))
        return done

    def popen(self, *args, env=None, **options):
        """`gemline ARGS` in the background: a Popen with pipes (bytes), killed at the end."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE, "cwd": self.home, **options}
        child = Child([GEMLINE, *map(str, args)], env=self.env(**(env or {})), **options)
        self._children.append(child)
        return child

    def up(self, *options, timeout=READY_S, env=None):
        """`gemline up --detach OPTIONS`; fails the test when it does. Returns self."""
        options = options if "--http" in options else (*options, "--http", "off")
        done = self.cli("up", "--detach", *options, timeout=timeout, env=env)
        if done.returncode != 0:
            pytest.fail("gemline up %s: exit status %d\n%s\n%s"
                        % (" ".join(map(str, options)), done.returncode, done.stderr, self.logs()))
        return self

    def run(self, prompt, *options, timeout=COMMAND_S, env=None):
        """`gemline run --json OPTIONS -- PROMPT`: the parsed object."""
        done = self.cli("run", "--json", *options, "--", prompt, timeout=timeout, check=True,
                        env=env)
        lines = done.stdout.splitlines()
        assert len(lines) == 1, "run --json printed %d lines: %r" % (len(lines), done.stdout)
        return json.loads(lines[0])

    def score(self, ids, *options, timeout=COMMAND_S, env=None):
        """`gemline score --tokens --json OPTIONS` of one array of ids: the parsed object."""
        done = self.cli("score", "--tokens", "--json", *options, input=json.dumps(ids) + "\n",
                        timeout=timeout, check=True, env=env)
        return json.loads(done.stdout)

    def status(self):
        """`gemline status --json`, parsed."""
        return json.loads(self.cli("status", "--json", check=True).stdout)

    def pids(self, role=None):
        """The process ids that status names, of one role when given, by index."""
        rows = [p for p in self.status()["processes"] if role is None or p["role"] == role]
        return [p["pid"] for p in sorted(rows, key=lambda p: (p["role"], p["index"]))]

    def kill(self, role):
        """`gemline kill ROLE[:INDEX]`: SIGKILL."""
        return self.cli("kill", role, check=True)

    def wait(self, true_of_status, timeout=READY_S):
        """Waits until true_of_status(status()) holds; returns that status."""
        end = time.monotonic() + scaled(timeout)
        while True:
            status = self.status()
            if true_of_status(status):
                return status
            if time.monotonic() > end:
                pytest.fail("not within %d s; the last status: %s" % (timeout, json.dumps(status)))
            time.sleep(0.05)

    def wait_ready(self, timeout=READY_S):
        """Waits until the pipeline says ready again."""
        return self.wait(lambda status: status["ready"], timeout)

    def logs(self, bytes_max=4000):
        """The tails of all logs of this home."""
        parts = []
        for folder, _dirs, files in os.walk(self.home):
            for name in sorted(f for f in files if f.endswith(".log")):
                with open(os.path.join(folder, name), "rb") as file:
                    file.seek(max(os.path.getsize(file.name) - bytes_max, 0))
                    parts.append("== %s\n%s" % (name, file.read().decode(errors="replace")))
        return "\n".join(parts)

    def close(self):
        """Ends the children, takes the pipeline down, proves that nothing is left, removes the
        folder. Fails the test when `down` fails or leaves a process."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe:
                    pipe.close()
        trouble = []
        try:
            if processes_of(self.home) or os.listdir(self.home):
                done = self.cli("down")
                if done.returncode != 0:
                    trouble.append("gemline down: exit status %d: %s"
                                   % (done.returncode, done.stderr))
        except (OSError, subprocess.TimeoutExpired) as failure:
            trouble.append("gemline down: %s" % failure)
        finally:
            left = _kill_leftovers(self.home)
            if left:
                trouble.append("still there after gemline down: " + "; ".join(left))
            if trouble:
                trouble.append(self.logs())
            shutil.rmtree(self.home, ignore_errors=True)
        if trouble:
            pytest.fail("\n".join(trouble))


class Answer:
    """A whole HTTP answer: status, headers, body (bytes)."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)


class Web(Pipeline):
    """A Pipeline with a gateway. `address` is ("127.0.0.1", port), `url` the address as text."""

    def up(self, *options, **keywords):
        if "--http" not in options:
            options = (*options, "--http", "127.0.0.1:%d" % free_port())
        super().up(*options, **keywords)
        host, port = self.status()["http"].rsplit(":", 1)
        self.address = (host, int(port))
        self.url = "http://%s:%s" % (host, port)
        return self

    def connect(self, timeout=COMMAND_S):
        """A connection of its own."""
        return http.client.HTTPConnection(*self.address, timeout=scaled(timeout))

    def ask(self, method, path, body=None, headers=None):
        """One request on a connection of its own; a body that is no text becomes JSON."""
        link = self.connect()
        try:
            text = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            link.request(method, path, text, headers or {})
            return Answer(link.getresponse())
        finally:
            link.close()

    def get(self, path, headers=None):
        return self.ask("GET", path, None, headers)

    def post(self, path, body, headers=None):
        return self.ask("POST", path, body, {"Content-Type": "application/json",
                                             **(headers or {})})

    def client(self, **options):
        """The official client; it does not try again by itself unless told."""
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none",
                             **{"max_retries": 0, "timeout": scaled(COMMAND_S), **options})

    def running(self):
        """Turns that hold rows of a shard."""
        return sum(p.get("sessions", 0) for p in self.status()["processes"]
                   if p["role"] == "shard")

    def wait_idle(self, timeout=READY_S):
        """Waits until no shard holds a turn; returns how long that took."""
        begin = time.monotonic()
        while self.running():
            if time.monotonic() - begin > scaled(timeout):
                pytest.fail("turns still hold pages after %d s" % timeout)
            time.sleep(0.02)
        return time.monotonic() - begin


def free_port():
    """A port of the loopback that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- fixtures ---------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def gemline():
    """The path of gemline in the build that is tested."""
    if not os.access(GEMLINE, os.X_OK):
        pytest.fail("%s is missing; run: make MODE=%s" % (GEMLINE, MODE))
    return GEMLINE


@pytest.fixture(scope="session")
def model_file():
    """The path of the default model."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(cache, "gemline", MODEL_NAME)
    if not os.path.isfile(path) or os.path.getsize(path) != MODEL_BYTES:
        pytest.fail("%s is missing or not whole; run: make model" % path)
    return path


@pytest.fixture(scope="session")
def golden():
    """The module golden_compare, with the golden files known to be there and to belong together."""
    for name in ("model.json", "model.bin", "chat.json", "tokenizer.jsonl.gz"):
        if not os.path.isfile(os.path.join(golden_compare.FOLDER, name)):
            pytest.fail("tests/golden/%s is missing; take it from the repository" % name)
    last = max(golden_compare.golden()["tensors"], key=lambda entry: entry["offset"])
    golden_compare.tensor(last["name"])
    return golden_compare


@pytest.fixture
def home(gemline):
    """A Pipeline in a fresh temporary GEMLINE_HOME; nothing is started yet."""
    line = Pipeline(tempfile.mkdtemp(prefix="gemline-test-"))
    yield line
    line.close()


@pytest.fixture
def up(gemline, model_file):
    """up(*options): a started Pipeline, each call in a home of its own."""
    lines = []

    def start(*options, **keywords):
        lines.append(Pipeline(tempfile.mkdtemp(prefix="gemline-test-")))
        return lines[-1].up(*options, **keywords)
    yield start
    trouble = []
    for line in lines:
        try:
            line.close()
        except pytest.fail.Exception as failure:
            trouble.append(str(failure))
    if trouble:
        pytest.fail("\n".join(trouble))


@pytest.fixture(scope="module")
def shared(gemline, model_file):
    """One started Pipeline with the default model for all tests of a file that only read."""
    line = Pipeline(tempfile.mkdtemp(prefix="gemline-test-"))
    try:
        yield line.up()
    finally:
        line.close()


@pytest.fixture(scope="module")
def web(gemline, model_file):
    """A started pipeline with a gateway, for all tests of a file."""
    line = Web(tempfile.mkdtemp(prefix="gemline-test-"))
    try:
        yield line.up()
    finally:
        line.close()


@pytest.fixture(scope="module")
def client(web):
    """The official client of `web`, as anyone would make it."""
    with web.client() as made:
        yield made


@pytest.fixture
def up_web(gemline, model_file):
    """up_web(*options): a started Web of this test alone."""
    lines = []

    def start(*options, **keywords):
        lines.append(Web(tempfile.mkdtemp(prefix="gemline-test-")))
        return lines[-1].up(*options, **keywords)
    yield start
    for line in lines:
        line.close()
