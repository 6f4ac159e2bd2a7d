#!/usr/bin/env python3
"""Keeps a server saturated for a while and checks that it is as well afterwards as before.

Usage: soak.py NANOFLOW MODEL [--seconds N] [--streams N] [--json FILE] [-- serve options]

Streams of random sizes run all the time; a share of them is given up halfway, as by clients that close their browser, and some
are wrong. At the end no request may run, no page may be in use, the next request must be served, and neither the memory nor
the time that a token takes may have grown. Exit code 0: all of that holds.
"""

import argparse
import http.client
import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

CANCELLED = 0.2  # share of the streams that are given up
WRONG = 0.02  # share of requests that must be refused
SAMPLE_S = 1.0
MAX_RSS_GROWTH = 0.10  # of the last sixth against the second one, by when caches and buffers are full
MAX_SLOWDOWN = 0.15  # of the last sixth against the first
VOCAB = range(1000, 30000)


class Served:
    """`nanoflow serve` as a process."""

    def __init__(self, binary, model, options):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [binary, "serve", "--model", model, "--host", "127.0.0.1", "--port", str(self.port), *options]
        self.process = subprocess.Popen(command)
        end = time.monotonic() + 120
        while self.status("/health") != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit("soak: the server does not start")
            time.sleep(0.1)

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def get(self, path):
        connection = self.connect()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def status(self, path):
        try:
            return self.get(path)[0]
        except OSError:
            return None

    def metrics(self):
        """Sums of all samples by name."""
        sums = {}
        for line in self.get("/metrics")[1].splitlines():
            match = re.match(r"([a-zA-Z_:]+)(?:\{.*\})? (\S+)$", line)
            if match:
                sums[match[1]] = sums.get(match[1], 0.0) + float(match[2])
        return sums

    def rss_mib(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


class Counts:
    def __init__(self):
        self.lock = threading.Lock()
        self.values = dict.fromkeys(("finished", "cancelled", "refused", "unexpected"), 0)
        self.surprises = []

    def add(self, name, surprise=None):
        with self.lock:
            self.values[name] += 1
            if surprise and len(self.surprises) < 5:
                self.surprises.append(surprise)


def one_request(server, dice, counts):
    """Sends a request and reads its stream, perhaps not to its end."""
    wrong = dice.random() < WRONG
    length = int(dice.lognormvariate(3.5, 1))
    body = {
        "prompt": dice.choices(VOCAB, k=max(1, min(length, 400))),
        "max_tokens": -1 if wrong else dice.randint(1, 200),
        "temperature": dice.choice((0, 0.8)),
        "ignore_eos": True,
        "stream": True,
    }
    connection = server.connect()
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if wrong or answer.status != 200:
            expected = wrong and answer.status == 400
            counts.add("refused" if expected else "unexpected", None if expected else f"HTTP {answer.status}")
            return
        lines_wanted = dice.randint(0, 100) if dice.random() < CANCELLED else None
        last = b""
        for number, line in enumerate(answer):
            if lines_wanted is not None and number >= lines_wanted:
                counts.add("cancelled")
                return
            last = line.strip() or last
        whole = last == b"data: [DONE]"
        counts.add("finished" if whole else "unexpected", None if whole else f"ends with {last[:200]!r}")
    except (OSError, http.client.HTTPException) as error:
        counts.add("unexpected", repr(error))
    finally:
        connection.close()


def keep_busy(server, seed, end, counts):
    dice = random.Random(seed)
    while time.monotonic() < end:
        one_request(server, dice, counts)


def watch(server, seconds):
    """Samples of (time since the start, generated tokens, MiB) until `seconds` have passed."""
    begin = time.monotonic()
    samples = []
    while (now := time.monotonic() - begin) < seconds:
        samples.append((now, server.metrics()["vllm:generation_tokens_total"], server.rss_mib()))
        time.sleep(SAMPLE_S)
    return samples


def sixths(samples):
    """Tokens per second and the largest MiB of each sixth of the time."""
    size = len(samples) // 6
    parts = [samples[i * size : (i + 1) * size + 1] for i in range(6)]
    return [((p[-1][1] - p[0][1]) / (p[-1][0] - p[0][0]), max(mib for _, _, mib in p)) for p in parts]


def wait_idle(server, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        metrics = server.metrics()
        if metrics["vllm:num_requests_running"] + metrics["vllm:num_requests_waiting"] == 0:
            return True
        time.sleep(0.2)
    return False


def serves(server):
    connection = server.connect()
    try:
        body = json.dumps({"prompt": [1000, 1001], "max_tokens": 5, "ignore_eos": True})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status == 200 and json.loads(answer.read())["usage"]["completion_tokens"] == 5
    finally:
        connection.close()


def check(server, samples, counts):
    """Name -> whether it holds; and the figures behind it."""
    parts = sixths(samples)
    (first_rate, _), (last_rate, last_mib) = parts[0], parts[-1]
    idle = wait_idle(server)
    checks = {
        "every answer was as expected": counts.values["unexpected"] == 0,
        "no request runs or waits": idle,
        "no page is in use": server.metrics()["vllm:kv_cache_usage_perc"] == 0,
        "the next request is served": serves(server),
        "memory has not grown": last_mib <= parts[1][1] * (1 + MAX_RSS_GROWTH),
        "tokens are as fast as at first": last_rate >= first_rate * (1 - MAX_SLOWDOWN),
    }
    server.process.send_signal(signal.SIGTERM)
    checks["the server ends in order"] = server.process.wait(60) == 0
    return checks, parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanoflow")
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    options = sys.argv[1:]
    at = options.index("--") if "--" in options else len(options)
    arguments = parser.parse_args(options[:at])
    if arguments.seconds < 12 * SAMPLE_S:
        parser.error(f"--seconds must be at least {12 * SAMPLE_S:.0f}")

    server = Served(arguments.nanoflow, arguments.model, options[at + 1 :])
    counts = Counts()
    end = time.monotonic() + arguments.seconds
    clients = [
        threading.Thread(target=keep_busy, args=(server, arguments.seed * 10000 + i, end, counts), daemon=True)
        for i in range(arguments.streams)
    ]
    try:
        for client in clients:
            client.start()
        samples = watch(server, arguments.seconds)
        for client in clients:
            client.join(150)
        checks, parts = check(server, samples, counts)
    finally:
        if server.process.poll() is None:
            server.process.kill()

    print(f"{'sixth':<8}{'tok/s':>10}{'MiB':>10}")
    for number, (rate, mib) in enumerate(parts, 1):
        print(f"{number:<8}{rate:>10.1f}{mib:>10.1f}")
    print("  ".join(f"{name} {count}" for name, count in counts.values.items()))
    for surprise in counts.surprises:
        print("unexpected:", surprise)
    for name, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED':<8}{name}")
    if arguments.json:
        report = {"seconds": arguments.seconds, "streams": arguments.streams, "requests": counts.values, "checks": checks,
                  "sixths": [{"tok_per_s": rate, "rss_mib": mib} for rate, mib in parts], "surprises": counts.surprises}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
