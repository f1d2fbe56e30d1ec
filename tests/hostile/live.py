"""live.py - a gateway of its own beside a running pipeline, under everything in this folder.

Owns:      start and end of that gateway, what its end and its log must be.
Does not:  start the pipeline (tools/check-hostile.sh does).

    live.py --gateway build/asan/bin/gm-gateway --home DIR [--count 10000] [--seed 1]

Exit status 0: malformed requests and clients that leave did it no harm, and a stop with requests in
every state ended it with status 0 and, from a sanitizer, no word.
"""
import argparse
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import leave  # noqa: E402  (lies beside this file)
import malformed  # noqa: E402
import wire  # noqa: E402

START_S = 60
END_S = 60
WORDS = (b"AddressSanitizer", b"LeakSanitizer", b"runtime error")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(options, address, log):
    """The gateway, answering."""
    home = options.home
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:exitcode=99"}
    child = subprocess.Popen(
        [options.gateway, "--run-dir", home, "--home", home, "--index", "1", "--redis",
         os.path.join(home, "redis.sock"), "--model", malformed.MODEL, "--http", address],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
    end = time.monotonic() + START_S
    while child.poll() is None and time.monotonic() < end:
        try:
            if wire.ask(address, "GET", "/ready").status == 200:
                return child
        except OSError:
            pass
        time.sleep(0.1)
    child.kill()
    sys.exit("the gateway does not come up")


def hold(address):
    """One connection at each point of leave.py."""
    lines = []
    for _name, data, wait in leave.POINTS:
        lines.append(wire.Wire(address, 30))
        lines[-1].send(data(address))
        if wait:
            lines[-1].until(wait)
    return lines


def stop(child):
    """Ends it while it works: drained, then at once. Its exit status."""
    child.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    try:
        return child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return "none within %d s" % END_S


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--home", required=True)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    address = "127.0.0.1:%d" % free_port()
    log_path = os.path.join(options.home, "hostile.log")
    with open(log_path, "wb") as log:
        child, held = start(options, address, log), []
        try:
            wrong = malformed.run(address, child.pid, options.count, options.seed)
            if child.poll() is None:
                leave.run(address, 2)
                held = hold(address)  # until the gateway is gone
        except OSError as trouble:
            wrong.append("clients that leave: %r" % trouble)
        finally:
            status = stop(child)
            for line in held:
                line.close()
    if status != 0:
        wrong.append("the gateway ended with %s" % status)
    with open(log_path, "rb") as log:
        text = log.read()
    if any(word in text for word in WORDS):
        wrong.append(text[-6000:].decode(errors="replace"))
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
