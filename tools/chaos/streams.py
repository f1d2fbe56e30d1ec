"""streams.py - the clients: one conversation each, as bytes, through whatever happens.

Owns:      `gemline run --stream` and HTTP event streams; asking again as docs/api.md says.
Does not:  judge the bytes (compare.py).

A client that was refused before its first byte comes again. One whose gateway died sends the same
Idempotency-Key, or goes on behind the tokens that it has. Anything else that is no whole answer is
trouble.
"""
import http.client
import json
import re
import subprocess
import threading
import time

PATIENCE_S = 600     # of one conversation: after so long it is given up as stuck
TRIES_MAX = 200      # of one turn
PAUSE_S = 0.2        # before a client comes again, unless it was told
PAUSE_S_MAX = 2.0
READ_BYTES = 4096
CHAT = "/v1/chat/completions"
# What a command says when it was not let in; a sentence behind the first byte is trouble.
REFUSED = re.compile(r"try again|being read from Redis|waits for|does not answer|was restarted|"
                     r"Redis")


class Trouble(Exception):
    """This conversation is no whole answer, and why."""


class Client(threading.Thread):
    """One conversation. `answers` are the bytes of its turns; `trouble` why they are not whole."""

    def __init__(self, line, stream, label):
        super().__init__(daemon=True)
        self.stream, self.answers, self.trouble = stream, [], None
        self.retries, self.resumed = 0, 0
        self.stall_s = self.stall_at = 0.0  # the longest time without a byte, and when it began
        self._line, self._label = line, label
        self._last = self._end = 0.0
        self._child = None
        self._told, self._name = 0, None  # tokens that an event stream gave, its session

    def run(self):
        self._last = time.monotonic()
        self._end = self._last + PATIENCE_S
        try:
            for turn, prompt in enumerate(self.stream.turns):
                self.answers.append(b"")
                ask = {"cli": self._cli, "key": self._key, "from": self._from}[self.stream.kind]
                ask(turn, prompt)
        except (Trouble, OSError, ValueError, KeyError) as failure:
            self.trouble = str(failure) or repr(failure)

    def give_up(self):
        """Ends it from outside: its command is killed."""
        self._end = 0.0
        if self._child:
            self._child.kill()

    # ---- what both kinds do ----------------------------------------------------------------

    def _session(self):
        """Conversations of several turns have a name, another one each round."""
        return "%s-%s" % (self._label, self.stream.name) if len(self.stream.turns) > 1 else None

    def _moved(self):
        """Something came: the time since the last is a stall."""
        now = time.monotonic()
        if now - self._last > self.stall_s:
            self.stall_s, self.stall_at = now - self._last, self._last
        self._last = now

    def _take(self, data):
        self._moved()
        self.answers[-1] += data

    def _again(self, why, seconds=PAUSE_S):
        self.retries += 1
        if self.retries > TRIES_MAX or time.monotonic() > self._end:
            raise Trouble("given up after %d tries: %s" % (self.retries, why))
        time.sleep(min(max(seconds, PAUSE_S), PAUSE_S_MAX))

    # ---- the command -----------------------------------------------------------------------

    def _cli(self, _turn, prompt):
        names = {"repetition_penalty": "repeat-penalty"}
        args = [self._line.gemline, "run", "--stream"]
        for name, value in self.stream.options.items():
            option = "--" + names.get(name, name).replace("_", "-")
            for one in value if isinstance(value, list) else [value]:
                if one is not False:
                    args += [option] if one is True else [option, str(one)]
        if self._session():
            args += ["--session", self._session()]
        while True:
            said = self._command([*args, "--", prompt])
            if said is None:
                return
            if self.answers[-1] or not REFUSED.search(said):
                raise Trouble("gemline run behind %d bytes: %s" % (len(self.answers[-1]), said))
            self._again(said)

    def _command(self, args):
        """None: a whole answer; else what it said on stderr."""
        child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=self._line.env, bufsize=0)
        self._child = child
        try:
            while True:
                data = child.stdout.read(READ_BYTES)
                if not data:
                    break
                self._take(data)
            said = child.stderr.read().decode(errors="replace").strip()
            child.wait()
        finally:
            child.stdout.close()
            child.stderr.close()
            self._child = None
        if child.returncode == 0:
            return None
        return said or "exit status %d" % child.returncode

    # ---- HTTP ------------------------------------------------------------------------------

    def _body(self, prompt):
        body = {"messages": [{"role": "user", "content": prompt}], "stream": True,
                **self.stream.options}
        if self._session():
            body["session"] = self._session()
        return body

    def _key(self, turn, prompt):
        """The same request with the same key until it was told whole; what came before the
        gateway died must be the beginning of what comes after."""
        key = {"Idempotency-Key": "%s-%s-%d" % (self._label, self.stream.name, turn)}
        while True:
            had, self.answers[-1] = self.answers[-1], b""
            done, why, pause = self._events("POST", CHAT, self._body(prompt), key)
            got = self.answers[-1]
            if not (got.startswith(had) or had.startswith(got)):
                raise Trouble("told again, the answer is another one: %r, then %r" % (had, got))
            if done:
                return
            self.answers[-1] = max(got, had, key=len)
            self._again(why, pause)

    def _from(self, _turn, prompt):
        """Begins once; goes on behind the tokens that came."""
        self._told, self._name = 0, None
        while True:
            if self._told > 0:
                self.resumed += 1
                done, why, pause = self._events(
                    "GET", "/v1/sessions/%s/stream?from=%d" % (self._name, self._told))
            else:
                done, why, pause = self._events("POST", CHAT, self._body(prompt))
            if done:
                return
            self._again(why, pause)

    def _events(self, method, path, body=None, headers=None):
        """Reads one stream of events: (it ended well, why not, when to come again)."""
        link = http.client.HTTPConnection("127.0.0.1", self._line.port, timeout=PATIENCE_S)
        try:
            link.request(method, path, json.dumps(body) if body else None, headers or {})
            got = link.getresponse()
            if got.status != 200:
                said = got.read().decode(errors="replace")
                if got.status not in (409, 429, 503):
                    raise Trouble("%s %s: status %d: %s" % (method, path, got.status, said))
                return False, said, float(got.headers["Retry-After"] or PAUSE_S)
            self._name = got.headers["X-Session-Id"] or self._name
            return self._read(got)
        except (OSError, http.client.HTTPException) as failure:
            return False, repr(failure), PAUSE_S
        finally:
            link.close()

    def _read(self, got):
        count = 0
        for row in got:
            if row.startswith(b"id: "):
                count = int(row[4:])
            elif row.startswith(b"data: [DONE]"):
                return True, None, 0
            elif row.startswith(b"data: "):
                event = json.loads(row[6:])
                if "error" in event:
                    said = json.dumps(event["error"])
                    if self.answers[-1] or event["error"].get("code") not in (
                            "unavailable", "rate_limit_exceeded", "conflict"):
                        raise Trouble("behind %d bytes: %s" % (len(self.answers[-1]), said))
                    return False, said, PAUSE_S
                text = event["choices"][0]["delta"].get("content")
                if text:
                    self._take(text.encode())
                self._told = max(count, self._told)  # not before its text was there
        return False, "the connection ended", PAUSE_S
