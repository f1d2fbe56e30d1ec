"""load.py - the load of a soak: many clients of every kind that go on until told to stop.

Owns:      the kinds of clients, their shares, the count of what they did and of what went wrong.
Does not:  start a pipeline, sample it, or judge.
"""
import collections
import http.client
import json
import random
import subprocess
import threading
import time

TIMEOUT_S = 300
SESSION_NAMES = 24      # bounded, since what a session holds is kept by design
CLI_SESSION = "soak-cli"
SESSION_TURNS = 6       # then it is forgotten and begun anew
HISTORY_TURNS = 4       # of a conversation that the client sends whole
FILL_WORDS = 350        # of a prompt that is shorter than any window of attention
CLI_EVERY_S = 1.0       # a command's start costs more CPU time than its turn
BUSY_S = 0.2            # after a refusal
WORDS = ("river stone light morning engine garden letter winter copper music table forest "
         "harbour silver question answer bridge window market thunder").split()


class Trouble(Exception):
    """An answer that no client should get."""


class Load:
    """Threads of clients on the gateway at `address`; `command` runs `gemline ARGS` in the home."""

    def __init__(self, address, command, clients, seed):
        self._address, self._command = address, command
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.done, self.troubles = collections.Counter(), []
        self._cli_turns = 0  # of its session; one thread runs commands
        kinds = [self._fresh, self._session, self._history, self._session, self._score,
                 self._leave, self._wrong, self._choices, self._response]
        self._threads = [self._thread(kinds[i % len(kinds)], seed + i) for i in range(clients)]
        self._threads.append(self._thread(self._cli, seed + clients))

    def _thread(self, kind, seed):
        return threading.Thread(target=self._client, args=(kind, random.Random(seed)), daemon=True)

    def fill(self, tokens):
        """Prompts of so many tokens in all, one after the other. Their rows stay in the KV cache
        until they are pushed out, so that each page of a pool of fewer tokens is written once."""
        rng = random.Random(0)
        for _ in range(tokens // FILL_WORDS + 1):
            self._chat([self._user(rng, FILL_WORDS)], max_tokens=1)
        return self

    def start(self):
        for thread in self._threads:
            thread.start()
        return self

    def stop(self):
        """Lets every client end what it does."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        if any(thread.is_alive() for thread in self._threads):
            self._note("a client did not end within %d s" % TIMEOUT_S)

    def _note(self, text):
        with self._lock:
            self.troubles.append(text[:300])

    def _count(self, name, n=1):
        with self._lock:
            self.done[name] += n

    def _client(self, kind, rng):
        name = kind.__name__[1:]
        while not self._stop.is_set():
            try:
                kind(rng)
                self._count(name)
            except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError,
                    subprocess.SubprocessError, Trouble) as failure:
                self._note("%s: %s: %s" % (name, type(failure).__name__, failure))
                self._stop.wait(BUSY_S)

    # ---- one request ----------------------------------------------------------------------------
    def _open(self, method, path, body):
        link = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        link.request(method, path, json.dumps(body) if body is not None else None,
                     {"Content-Type": "application/json"})
        return link, link.getresponse()

    def _ask(self, method, path, body=None, wanted=(200,)):
        """The parsed answer; a full server is asked again."""
        while True:
            link, answer = self._open(method, path, body)
            try:
                text = answer.read()
            finally:
                link.close()
            if answer.status in (429, 503) and answer.status not in wanted:
                self._count("refused")
                if self._stop.wait(BUSY_S):
                    return {}
                continue
            if answer.status not in wanted:
                raise Trouble("%s %s: %d %s" % (method, path, answer.status, text[:200]))
            return json.loads(text) if text else {}

    def _chat(self, messages, **more):
        got = self._ask("POST", "/v1/chat/completions", {"messages": messages, **more})
        self._count("tokens", got.get("usage", {}).get("completion_tokens", 0))
        return got["choices"][0]["message"]["content"] if got else ""

    @staticmethod
    def _user(rng, words):
        return {"role": "user", "content": " ".join(rng.choice(WORDS) for _ in range(words))}

    # ---- kinds of clients -----------------------------------------------------------------------
    def _fresh(self, rng):
        self._chat([self._user(rng, rng.randint(5, 200))], max_tokens=rng.randint(1, 48))

    def _session(self, rng):
        """A named conversation of a few turns. Two clients may meet in one: that is refused (409)
        and counted."""
        path = "/v1/sessions/soak-%d" % rng.randrange(SESSION_NAMES)
        body = {"messages": [self._user(rng, rng.randint(3, 40))], "session": path[13:],
                "max_tokens": rng.randint(1, 32)}
        got = self._ask("POST", "/v1/chat/completions", body, wanted=(200, 409))
        if "error" in got:
            self._count("met in a session")
        shown = self._ask("GET", path, wanted=(200, 404))
        if len(shown.get("turns", ())) >= SESSION_TURNS:
            self._ask("DELETE", path, wanted=(200, 204, 404, 409))

    def _history(self, rng):
        messages = []
        for _ in range(HISTORY_TURNS):
            if self._stop.is_set():
                return
            messages.append(self._user(rng, rng.randint(5, 60)))
            text = self._chat(messages, max_tokens=24)
            messages.append({"role": "assistant", "content": text or "-"})

    def _score(self, rng):
        self._ask("POST", "/v1/score", {"text": self._user(rng, rng.randint(5, 200))["content"]})

    def _leave(self, rng):
        """A stream whose reader hangs up, at once or after some of it."""
        body = {"messages": [self._user(rng, 20)], "max_tokens": 400, "ignore_eos": True,
                "stream": True}
        link, answer = self._open("POST", "/v1/chat/completions", body)
        try:
            if answer.status == 200:
                answer.read(rng.choice((1, 300, 3000)))
        finally:
            answer.close()
            link.close()
        self._stop.wait(0.05)

    def _wrong(self, rng):
        """Requests that are refused, each with its own sentence."""
        bodies = ({"messages": "none"}, {"messages": []}, {"messages": [self._user(rng, 3)],
                  "temperature": -1}, {"messages": [self._user(rng, 3)], "session": "../x"},
                  {"messages": [self._user(rng, 20000)]})
        self._ask("POST", "/v1/chat/completions", rng.choice(bodies), wanted=(400, 413, 422))
        self._ask("GET", "/v1/sessions/soak-absent", wanted=(404,))
        self._stop.wait(0.1)

    def _choices(self, rng):
        self._chat([self._user(rng, 10)], n=3, max_tokens=16, logprobs=True, top_logprobs=3)

    def _response(self, rng):
        """A stored response, one that goes on from it, and both forgotten."""
        last = None
        for _ in range(2):
            body = {"input": self._user(rng, 15)["content"], "max_output_tokens": 16}
            if last:
                body["previous_response_id"] = last
            got = self._ask("POST", "/v1/responses", body)
            if last:
                self._ask("DELETE", "/v1/responses/" + last)
            last = got.get("id")
            if not last:
                return
        self._ask("DELETE", "/v1/responses/" + last)

    def _cli(self, rng):
        """New processes, each with an identity of its own on the bus."""
        begin = time.monotonic()
        words = self._user(rng, 12)["content"]
        if rng.random() < 0.3:
            self._command(["score"], words)
        elif self._cli_turns < SESSION_TURNS:
            self._command(["run", "--session", CLI_SESSION, "--max-tokens", "8", "--", words])
            self._cli_turns += 1
        else:
            self._command(["session", "rm", CLI_SESSION])
            self._cli_turns = 0
        self._stop.wait(max(CLI_EVERY_S - (time.monotonic() - begin), 0))
