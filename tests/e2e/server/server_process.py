"""A running `nanoflow serve`, and a small client that shows exactly what goes over the wire."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time


def default_model():
    path = os.environ.get("NANOFLOW_SMOLLM2_GGUF")
    assert path, "NANOFLOW_SMOLLM2_GGUF is not set; ./test.sh sets it"
    return path


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.json()["error"]


class Server:
    """The process; `args` go behind --model. `wait`: until /health says 200."""

    def __init__(self, binary, *args, model=None, wait=True, env=None, host="127.0.0.1"):
        self.log = []
        self.host = host
        command = [binary, "serve", "--model", model or default_model(), "--host", host, "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *args], stderr=subprocess.PIPE, text=True, errors="replace", env={**os.environ, **(env or {})}
        )
        self.port = None
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._listening.wait(60) or self.port is None:
            raise AssertionError("does not listen:\n" + self.text())
        if wait:
            self.wait_healthy()

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            match = re.search(r"listening on https?://\S*:(\d+)", line)
            if match:
                self.port = int(match.group(1))
                self._listening.set()
        self._listening.set()

    def text(self):
        return "".join(self.log)

    def wait_healthy(self, timeout=120):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError("ended early:\n" + self.text())
            with contextlib.suppress(OSError):
                if self.get("/health").status == 200:
                    return
            time.sleep(0.05)
        raise AssertionError("never healthy:\n" + self.text())

    def connect(self, timeout=60):
        return socket.create_connection((self.host, self.port), timeout)

    def request(self, method, path, body=None, headers=None, timeout=120):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode()
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body, **kw):
        return self.request("POST", path, body, **kw)

    def stream(self, path, body, **kw):
        """The events of a streamed answer, "[DONE]" checked and left out."""
        answer = self.post(path, {**body, "stream": True}, **kw)
        assert answer.status == 200, answer.body
        assert answer.headers["Content-Type"].startswith("text/event-stream"), answer.headers
        return parse_events(answer.body)

    def metric(self, name):
        """Sum of a metric's samples."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            if re.match(re.escape(name) + r"(\{| )", line):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def rss_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))

    def wait_idle(self, timeout=60):
        """Until nothing runs or waits any more."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting") == 0:
                return
            time.sleep(0.02)
        raise AssertionError("still busy:\n" + self.text())

    def stop(self, sig=signal.SIGTERM, timeout=60):
        """Sends the signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.wait(timeout)

    def wait(self, timeout=60):
        """The exit code of a server that is ending."""
        code = self.process.wait(timeout)
        self._reader.join(10)
        self.process.stderr.close()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


def parse_events(body):
    events = body.decode().split("\n\n")
    assert events.pop() == "", "the stream does not end with an event's end"
    assert all(event.startswith("data: ") for event in events), events
    assert events.pop() == "data: [DONE]"
    return [json.loads(event[len("data: "):]) for event in events]
