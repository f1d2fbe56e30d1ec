"""peer.py - the peer's side: llama-bench and llama-server of llama.cpp.

Owns:      their options, a server's life, its streamed answers and their times.
Does not:  build them (peer.sh).
"""
import functools
import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time

from base import ROOT, Failed, command_json, shown

START_S = 120
REQUEST_S = 600


@functools.lru_cache(maxsize=None)
def built():
    """What peer.sh prints: asked once, so that a build that fails is not tried for every row."""
    done = subprocess.run(["bash", os.path.join(ROOT, "tools", "bench", "peer.sh")],
                          stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def folder():
    """The folder of the programs; builds them when they are not there yet."""
    where = built()
    if not where:
        raise Failed("the peer could not be built (its message is above)")
    return os.path.join(where.splitlines()[-1], "bin")


def bench_words(model, threads, *options):
    return [os.path.join(folder(), "llama-bench"), "-m", model, "-t", threads, "-r", 1, "-o",
            "json"] + list(options)


def decode(model, threads, contexts, tokens):
    """{context: tokens a second} of one llama-bench call."""
    rows = command_json(bench_words(model, threads, "-p", 0, "-n", tokens, "-d",
                                    ",".join(map(str, contexts))))
    return {row["n_depth"]: row["avg_ts"] for row in rows}


def prefill(model, threads, sizes):
    """{tokens of the prompt: tokens a second} of one llama-bench call."""
    rows = command_json(bench_words(model, threads, "-n", 0, "-p", ",".join(map(str, sizes))))
    return {row["n_prompt"]: row["avg_ts"] for row in rows}


class Server:
    """A llama-server with `slots` conversations of `context` tokens each; use it in a `with`.
    cache_mib: what it may keep of prompts beside its slots."""

    def __init__(self, model, threads, slots, context, *options, cache_mib=0):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.words = [str(w) for w in (
            os.path.join(folder(), "llama-server"), "-m", model, "-t", threads, "-np", slots, "-c",
            slots * context, "--host", "127.0.0.1", "--port", self.port, "--offline", "-cram",
            cache_mib) + options]
        self._log = tempfile.TemporaryFile("w+")
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=self._log,
                                        stderr=self._log)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self):
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                self._log.seek(0)
                last = (self._log.read().strip().splitlines() or ["no word"])[-1]
                raise Failed("llama-server ended: " + last)
            try:
                link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
                link.request("GET", "/health")
                if link.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.002)
        raise Failed("llama-server was not ready within %d s" % START_S)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def shown(self):
        return shown(self.words)

    def url(self):
        return "http://127.0.0.1:%d" % self.port

    def ask(self, body):
        """The whole reply of one /completion."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_S)
        link.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        reply = link.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise Failed("llama-server: %d: %s" % (reply.status, text[:200]))
        return json.loads(text)

    def stream(self, text, tokens):
        """(time of the first token, time of the last, number) of one streamed answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_S)
        link.request("POST", "/completion", json.dumps(completion(text, tokens, stream=True)),
                     {"Content-Type": "application/json"})
        reply = link.getresponse()
        if reply.status != 200:
            raise Failed("llama-server: %d: %s" % (reply.status, reply.read()[:200]))
        first, count = None, 0
        while True:
            line = reply.readline()
            if not line:
                raise Failed("llama-server ended a stream early")
            if not line.startswith(b"data: "):
                continue
            now = time.monotonic()
            first = first or now
            event = json.loads(line[6:])
            if event.get("stop"):
                return first, now, event.get("tokens_predicted", count)
            count += 1

    def together(self, texts, tokens):
        """As ours: {"rate", "wall"} of one stream each, at once."""
        results = [None] * len(texts)

        def one(at):
            try:
                results[at] = self.stream(texts[at], tokens)
            except (Failed, OSError, ValueError) as problem:
                results[at] = problem

        threads = [threading.Thread(target=one, args=(at,)) for at in range(len(texts))]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            if not isinstance(result, tuple):
                raise Failed("llama-server: %s" % result)
        first = min(r[0] for r in results)
        last = max(r[1] for r in results)
        return {"rate": sum(r[2] for r in results) / (last - first), "wall": last - began}


def completion(text, tokens, **more):
    """The body of a greedy /completion that no cache serves."""
    return dict({"prompt": text, "n_predict": tokens, "temperature": 0, "ignore_eos": True,
                 "cache_prompt": False}, **more)


def version():
    """What the peer says of itself, on its first line."""
    done = subprocess.run([os.path.join(folder(), "llama-bench"), "--version"], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return "llama.cpp " + (done.stdout.strip().splitlines() or ["of unknown version"])[0]
