#!/usr/bin/env python3
"""The page at / in headless Chromium, over its DevTools protocol: what a user sees and clicks.

Usage: page_test.py NANOFLOW [FOLDER], where screenshots go. Exit code 77: Chromium or websockets is not installed.
"""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

try:
    import websockets.sync.client
except ImportError:
    own = os.path.join(os.environ.get("NANOFLOW_TEST_PYTHON", ""), "python")
    if os.path.exists(own) and not os.environ.get("NANOFLOW_TEST_PYTHON_RUNS"):
        os.execve(own, [own, *sys.argv], {**os.environ, "NANOFLOW_TEST_PYTHON_RUNS": "1"})
    print("skipped: websockets is not installed; .ci/run installs the version of deps.lock")
    sys.exit(77)

from server_process import Server

KEY = "sk-of-this-page"


class Browser:
    """One tab. `pictures`: a folder for screenshots, or None."""

    def __init__(self, program, pictures):
        self.pictures = pictures
        self.errors = []  # what the page's scripts threw or logged as errors
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-port=0", f"--user-data-dir={self.profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = pathlib.Path(self.profile.name, "DevToolsActivePort")
        wait(lambda: port_file.exists() and len(port_file.read_text().split()) == 2, "Chromium starts")
        port = port_file.read_text().split()[0]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/json/list") as tabs:
            url = next(tab for tab in json.load(tabs) if tab["type"] == "page")["webSocketDebuggerUrl"]
        self.open = contextlib.ExitStack()
        self.socket = self.open.enter_context(websockets.sync.client.connect(url, max_size=None, proxy=None))
        self.ids = itertools.count(1)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        self.open.close()
        self.process.terminate()
        self.process.wait(30)
        self.profile.cleanup()

    def call(self, method, **params):
        id = next(self.ids)
        self.socket.send(json.dumps({"id": id, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"])
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"])
            if message.get("id") == id:
                assert "error" not in message, message
                return message["result"]

    def value(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, selector):
        return self.value(f"[...document.querySelectorAll({json.dumps(selector)})].map((n) => n.innerText).join('\\n')")

    def click(self, selector):
        """As a mouse does: at its middle, which must be on the screen and not covered."""
        x, y = self.value(
            f"(() => {{ const n = document.querySelector({json.dumps(selector)}); n.scrollIntoView({{block: 'nearest'}});"
            "const r = n.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector, text):
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def press_enter(self):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")

    def show(self, width, height, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        overflow = self.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{overflow} pixels too wide at {width}"

    def picture(self, name):
        if self.pictures is None:
            return
        data = self.call("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(self.pictures, name + ".png").write_bytes(base64.b64decode(data))


def wait(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.05)
    return value


def tile(browser, name):
    return browser.value(f"[...document.querySelectorAll('.tile:not([hidden])')].find((t) => t.firstChild.innerText ==="
                         f" {json.dumps(name)})?.children[1].innerText")


def ask(browser, text):
    browser.type("#prompt", text)
    browser.press_enter()


def answered(browser):
    return wait(lambda: not browser.value("document.querySelector('#send').disabled"), "the answer ends")


def check_chat(browser, server):
    wait(lambda: browser.text("#state") == "serving", "the page sees the server")
    assert browser.text("#model") == "smol", browser.text("#model")
    ask(browser, "Hello")  # without the key
    answered(browser)
    assert "API key" in browser.text(".error"), browser.text("#messages")
    assert browser.value("document.querySelector('#settings').open"), "the field is not shown"
    browser.picture("no_key")
    browser.type("#key", KEY)
    browser.type("#temperature", "0")
    browser.type("#max_tokens", "120")
    ask(browser, "Write a *Markdown* list of three fruits and one line of Python code.")
    answered(browser)
    assert "tok/s" in browser.text("#speed"), browser.text("#speed")
    assert browser.value("document.querySelectorAll('.message.assistant').length") == 1
    assert len(browser.text(".message.assistant")) > 20
    browser.picture("chat_wide")


def check_stop(browser, server):
    browser.type("#max_tokens", "1500")
    ask(browser, "Tell a very long story. Do not stop.")
    wait(lambda: server.metric("vllm:num_requests_running") == 1, "it runs")
    wait(lambda: float((tile(browser, "Generated tok/s") or "0").replace(",", "")) > 0, "the dashboard shows tokens")
    wait(lambda: tile(browser, "Running requests") == "1", "the dashboard shows the request")
    wait(lambda: len(browser.value("document.querySelector('.message.assistant:last-child')?.innerText ?? ''")) > 100,
         "the text streams")
    assert not browser.value("document.querySelector('#stop').disabled"), "the answer has ended"
    browser.show(1280, 800, dark=True)
    browser.picture("streaming_dark")
    browser.click("#stop")
    server.wait_idle()
    answered(browser)
    browser.show(390, 844)
    browser.picture("phone")
    browser.value("window.scrollTo(0, document.body.scrollHeight)")
    browser.picture("phone_end")
    browser.show(1280, 800)
    browser.click("#clear")
    assert browser.text(".message") == ""


def check_markup(browser):
    """What a user or a model writes never becomes markup."""
    browser.type("#max_tokens", "1")
    ask(browser, "<img src=x onerror=alert(1)> <b>bold</b>")
    answered(browser)
    assert browser.value("document.querySelectorAll('#messages img, #messages b').length") == 0
    assert "<b>bold</b>" in browser.text(".message.user")
    assert not browser.errors or all("401" in e.get("text", "") for e in browser.errors), browser.errors


def main():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        print("skipped: chromium is not installed; .ci/run installs it")
        return 77
    args = ("--max-model-len", "2048", "--kv-cache-gib", "0.5", "--served-model-name", "smol", "--api-key", KEY)
    with Server(sys.argv[1], *args) as server:
        browser = Browser(program, sys.argv[2] if len(sys.argv) > 2 else None)
        with contextlib.closing(browser):
            browser.show(1280, 800)
            browser.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
            check_chat(browser, server)
            check_stop(browser, server)
            check_markup(browser)
            assert server.stop() == 0, server.text()
            wait(lambda: "does not answer" in browser.text("#state"), "the page notices")
            ask(browser, "Still there?")
            answered(browser)
            assert browser.text(".error") == "The server cannot be reached.", browser.text(".error")
            browser.picture("dead")
    return 0


if __name__ == "__main__":
    sys.exit(main())
