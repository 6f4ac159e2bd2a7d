#!/usr/bin/env python3
"""Starts `nanoflow serve` with the default model and talks to it as clients do.

Usage: server_test.py NANOFLOW [SUITE...]
"""

import concurrent.futures
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from server_process import Server, default_model

NANOFLOW = None
PROMPT = "The capital of France is"
GREEDY = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12, "temperature": 0}


class Shared(unittest.TestCase):
    """One server for all tests of a class; what every request must leave behind is checked at the end."""

    ARGS = ("--max-num-seqs", "16", "--kv-cache-gib", "0.5", "--max-model-len", "2048")

    @classmethod
    def setUpClass(cls):
        cls.server = Server(NANOFLOW, *cls.ARGS)

    @classmethod
    def tearDownClass(cls):
        server = cls.server
        server.wait_idle()
        used = server.metric("vllm:kv_cache_usage_perc")
        code = server.stop()
        server.__exit__()
        assert used == 0, f"pages leaked: {used}"
        assert code == 0, server.text()


class Endpoints(Shared):
    ARGS = (*Shared.ARGS, "--served-model-name", "tiny", "smollm2")

    def test_models(self):
        models = self.server.get("/v1/models").json()
        self.assertEqual(models["object"], "list")
        self.assertEqual([m["id"] for m in models["data"]], ["tiny", "smollm2"])
        self.assertEqual(models["data"][0]["max_model_len"], 2048)
        self.assertEqual(self.server.get("/v1/models/smollm2").json()["id"], "smollm2")
        self.assertEqual(self.server.get("/v1/models/other").status, 404)

    def test_health_version_load(self):
        self.assertEqual(self.server.get("/health").status, 200)
        self.assertEqual(self.server.get("/ping").status, 200)
        version = subprocess.run([NANOFLOW, "--version"], capture_output=True, text=True, check=True).stdout
        self.assertIn(self.server.get("/version").json()["version"], version)
        self.assertEqual(self.server.get("/load").json(), {"server_load": 0})

    def test_the_tokenizer_tells_of_itself(self):
        info = self.server.get("/tokenizer_info").json()
        self.assertEqual((info["bos_token"], info["eos_token"], info["add_bos_token"]), ("<|im_start|>", "<|im_end|>", False))
        self.assertIn("message['role']", info["chat_template"])
        for name in ("bos_token", "eos_token"):
            answer = self.server.post("/tokenize", {"prompt": info[name], "add_special_tokens": False}).json()
            self.assertEqual(answer["count"], 1, name)

    def test_tokenize_and_back(self):
        text = "Grüße, 世界 <|im_start|>"
        answer = self.server.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()
        self.assertEqual(answer["count"], len(answer["tokens"]))
        self.assertEqual(answer["count"], len(answer["token_strs"]))
        self.assertEqual(answer["max_model_len"], 2048)
        self.assertEqual(self.server.post("/detokenize", {"tokens": answer["tokens"]}).json(), {"prompt": text})
        chat = self.server.post("/tokenize", {"messages": CHAT["messages"]}).json()
        text = self.server.post("/detokenize", {"tokens": chat["tokens"]}).json()["prompt"]
        self.assertIn("<|im_start|>user\nSay hello.<|im_end|>", text)
        self.assertEqual(self.server.post("/tokenize", {"prompt": ""}).json()["count"], 0)

    def test_metrics_count_what_was_served(self):
        before = self.server.metric("vllm:generation_tokens_total")
        requests = self.server.metric("vllm:request_success_total")
        self.server.post("/v1/completions", {**GREEDY, "ignore_eos": True})
        self.server.wait_idle()
        self.assertEqual(self.server.metric("vllm:generation_tokens_total") - before, 12)
        self.assertEqual(self.server.metric("vllm:request_success_total") - requests, 1)
        self.assertIn('model_name="tiny"', self.server.get("/metrics").body.decode())

    def test_request_ids_and_cors(self):
        answer = self.server.post("/v1/completions", GREEDY, headers={"X-Request-Id": "mine-1", "Origin": "http://a"})
        self.assertEqual(answer.headers["X-Request-Id"], "mine-1")
        self.assertEqual(answer.json()["id"], "cmpl-mine-1")
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "*")
        own = [self.server.get("/v1/models").headers["X-Request-Id"] for _ in range(2)]
        self.assertEqual(len(set(own)), 2)
        preflight = self.server.request("OPTIONS", "/v1/completions", headers={"Origin": "http://a"})
        self.assertIn("POST", preflight.headers["Access-Control-Allow-Methods"])

    def test_names_of_the_model(self):
        for name in ("tiny", "smollm2"):
            answer = self.server.post("/v1/completions", {**GREEDY, "model": name})
            self.assertEqual((answer.status, answer.json()["model"]), (200, "tiny"))

    def test_methods_and_paths(self):
        self.assertEqual(self.server.get("/nothing").status, 404)
        answer = self.server.get("/v1/completions")
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "POST"))
        self.assertEqual(self.server.request("HEAD", "/health").status, 200)


class Generation(Shared):
    def test_the_text_of_generate(self):
        done = subprocess.run(
            [NANOFLOW, "generate", "--model", default_model(), "--prompt", PROMPT, "-n", "12", "--temperature", "0"],
            capture_output=True, text=True, check=True)
        choice = self.server.post("/v1/completions", GREEDY).json()["choices"][0]
        self.assertEqual(PROMPT + choice["text"] if done.stdout.startswith(PROMPT) else choice["text"], done.stdout[:-1])
        self.assertEqual(choice["finish_reason"], "length")

    def test_streamed_or_not_alone_or_among_others(self):
        bodies = [{"prompt": f"{PROMPT} {i}. ", "max_tokens": 24, "temperature": 1.0, "seed": i} for i in range(60)]

        def text(body):
            return self.server.post("/v1/completions", body).json()["choices"][0]["text"]

        def streamed(body):
            events = self.server.stream("/v1/completions", body)
            return "".join(e["choices"][0]["text"] for e in events)

        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            whole, pieces = list(pool.map(text, bodies)), list(pool.map(streamed, bodies))
        # bfloat16 ties may part with the batch; a wrong request would part everywhere.
        equal = sum(a == b for a, b in zip(whole, pieces))
        self.assertGreaterEqual(equal, 0.9 * len(bodies))
        alone = [text(body) for body in bodies[:6]]
        self.assertGreaterEqual(sum(a == b for a, b in zip(alone, whole)), 5)

    def test_chat_stream(self):
        whole = self.server.post("/v1/chat/completions", CHAT).json()
        self.assertEqual(whole["object"], "chat.completion")
        events = self.server.stream("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}})
        usage = events.pop()
        self.assertEqual(usage["choices"], [])
        self.assertEqual(usage["usage"], whole["usage"])
        deltas = [e["choices"][0]["delta"] for e in events]
        self.assertEqual(deltas[0]["role"], "assistant")
        self.assertTrue(deltas[0]["content"])
        self.assertEqual("".join(d.get("content", "") for d in deltas), whole["choices"][0]["message"]["content"])

    def test_choices_and_prompts(self):
        answer = self.server.post("/v1/completions", {**GREEDY, "prompt": [PROMPT, "1 2 3"], "n": 2}).json()
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2, 3])
        self.assertEqual(answer["choices"][0]["text"], answer["choices"][1]["text"])
        ids = self.server.post("/tokenize", {"prompt": PROMPT}).json()["tokens"]
        by_ids = self.server.post("/v1/completions", {**GREEDY, "prompt": ids}).json()
        self.assertEqual(by_ids["choices"][0]["text"], answer["choices"][0]["text"])

    def test_stop(self):
        text = self.server.post("/v1/completions", {**GREEDY, "max_tokens": 30}).json()["choices"][0]["text"]
        stop = text[8:12]
        for stream in (False, True):
            body = {**GREEDY, "max_tokens": 30, "stop": [stop]}
            if stream:
                events = self.server.stream("/v1/completions", body)
                got, last = "".join(e["choices"][0]["text"] for e in events), events[-1]["choices"][0]
            else:
                last = self.server.post("/v1/completions", body).json()["choices"][0]
                got = last["text"]
            self.assertEqual(got, text[: text.index(stop)])
            self.assertEqual((last["finish_reason"], last["stop_reason"]), ("stop", stop))

    def test_scoring_with_echo(self):
        ids = self.server.post("/tokenize", {"prompt": PROMPT}).json()["tokens"]
        body = {"prompt": [ids], "echo": True, "logprobs": 1, "temperature": 0, "seed": 1}
        for max_tokens in (0, 1):
            choice = self.server.post("/v1/completions", {**body, "max_tokens": max_tokens}).json()["choices"][0]
            logprobs = choice["logprobs"]
            self.assertEqual(len(logprobs["token_logprobs"]), len(ids) + max_tokens)
            self.assertIsNone(logprobs["token_logprobs"][0])
            for value, top, token in list(zip(logprobs["token_logprobs"], logprobs["top_logprobs"], logprobs["tokens"]))[1:]:
                self.assertLessEqual(value, 0)
                self.assertIn(token, top)

    def test_large_prompts_go_beside_streams(self):
        ids = [1] * 30000  # 90 kB of JSON, parsed on another thread; too long for the context
        answer = self.server.post("/v1/completions", {"prompt": ids, "max_tokens": 1})
        self.assertEqual(answer.status, 400)
        self.assertEqual(answer.error()["code"], "context_length_exceeded")
        answer = self.server.post("/v1/completions", {"prompt": "a " * 20000, "max_tokens": 1, "truncate_prompt_tokens": 64})
        self.assertEqual((answer.status, answer.json()["usage"]["prompt_tokens"]), (200, 64))


# Name: (path, body, status, param, code); None: not checked. As vLLM answers, where it does well.
BAD = {
    "no json": ("/v1/completions", "{oops", 400, None, 400),
    "empty body": ("/v1/completions", "", 400, None, 400),
    "not an object": ("/v1/completions", "[1]", 400, None, 400),
    "invalid utf-8": ("/v1/completions", b'{"prompt": "\xff"}', 400, None, 400),
    "lone surrogate": ("/v1/completions", '{"prompt": "\\ud800"}', 400, None, 400),
    "deep json": ("/v1/completions", '{"prompt":' + "[" * 5000 + "]" * 5000 + "}", 400, None, 400),
    "missing prompt": ("/v1/completions", {}, 400, "prompt", 400),
    "null prompt": ("/v1/completions", {"prompt": None}, 400, "prompt", 400),
    "empty list": ("/v1/completions", {"prompt": []}, 400, "prompt", 400),
    "empty ids": ("/v1/completions", {"prompt": [[]]}, 400, "prompt", 400),
    "missing messages": ("/v1/chat/completions", {}, 400, "messages", 400),
    "empty messages": ("/v1/chat/completions", {"messages": []}, 400, "messages", 400),
    "too long": ("/v1/completions", {"prompt": [1] * 2000, "max_tokens": 100}, 400, None, "context_length_exceeded"),
    "max_tokens 0": ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens", 400),
    "max_tokens -1": ("/v1/completions", {"prompt": "a", "max_tokens": -1}, 400, "max_tokens", 400),
    "n 0": ("/v1/completions", {"prompt": "a", "n": 0}, 400, "n", 400),
    "n huge": ("/v1/completions", {"prompt": "a", "n": 100000}, 400, "n", 400),
    "many prompts": ("/v1/completions", {"prompt": ["a"] * 2000}, 400, "prompt", 400),
    "logprobs text": ("/v1/completions", {"prompt": "a", "logprobs": "1"}, 400, "logprobs", 400),
    "stream_options": ("/v1/completions", {"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options", 400),
    "prompt_logprobs and stream": ("/v1/completions", {"prompt": "a", "stream": True, "prompt_logprobs": 1}, 400, "prompt_logprobs", 400),
    "temperature": ("/v1/completions", {"prompt": "a", "temperature": -1}, 400, "temperature", 400),
    "top_p": ("/v1/completions", {"prompt": "a", "top_p": 0}, 400, "top_p", 400),
    "top_p 2": ("/v1/completions", {"prompt": "a", "top_p": 2}, 400, "top_p", 400),
    "top_k": ("/v1/completions", {"prompt": "a", "top_k": -2}, 400, "top_k", 400),
    "negative id": ("/v1/completions", {"prompt": [-1]}, 400, "prompt", 400),
    "id beyond": ("/v1/completions", {"prompt": [10**9]}, 400, "prompt", 400),
    "unknown model": ("/v1/completions", {"prompt": "a", "model": "gpt"}, 404, "model", 404),
    "unknown role": ("/v1/chat/completions", {"messages": [{"role": 3, "content": "a"}]}, 400, None, 400),
    "empty stop": ("/v1/completions", {"prompt": "a", "stop": ""}, 400, "stop", 400),
    "tokenize nothing": ("/tokenize", {}, 400, "prompt", 400),
    "detokenize beyond": ("/detokenize", {"tokens": [10**9]}, 400, "tokens", 400),
}


class Errors(Shared):
    def test_bad_inputs(self):
        for name, (path, body, status, param, code) in BAD.items():
            with self.subTest(name):
                answer = self.server.post(path, body)
                self.assertEqual(answer.status, status, answer.body)
                error = answer.error()
                self.assertEqual(set(error), {"message", "type", "param", "code"})
                self.assertTrue(error["message"])
                self.assertEqual(error["code"], code)
                if param is not None:
                    self.assertEqual(error["param"], param)
                self.assertEqual(error["type"], {400: "BadRequestError", 404: "NotFoundError"}[status])
                self.assertLess(len(answer.body), 2000)  # no echo of what was sent
        self.assertEqual(self.server.post("/v1/completions", GREEDY).status, 200)

    def test_json_errors_say_where(self):
        self.assertRegex(self.server.post("/v1/completions", '{"prompt": "a",\n oops').error()["message"], r"line 2|byte|column")

    def test_unknown_fields_are_served_and_logged_once(self):
        for _ in range(2):
            self.assertEqual(self.server.post("/v1/completions", {**GREEDY, "frobnicate": 1}).status, 200)
        self.assertEqual(len(re.findall("frobnicate", self.server.text())), 1)

    def test_the_context_error_names_both_numbers(self):
        message = self.server.post("/v1/completions", {"prompt": [1] * 2000, "max_tokens": 100}).error()["message"]
        self.assertIn("2048", message)
        self.assertIn("2000", message)


class Keys(Shared):
    ARGS = (*Shared.ARGS, "--api-key", "alpha", "beta")

    def test_keys(self):
        self.assertEqual(self.server.get("/health").status, 200)
        for headers, status in (({}, 401), ({"Authorization": "Bearer gamma"}, 401), ({"Authorization": "Bearer alpha"}, 200),
                                ({"Authorization": "bearer beta"}, 200), ({"X-Api-Key": "beta"}, 200)):
            self.assertEqual(self.server.get("/v1/models", headers=headers).status, status, headers)
        error = self.server.post("/v1/completions", GREEDY).error()
        self.assertEqual((error["type"], error["code"]), ("AuthenticationError", "invalid_api_key"))


class Disconnects(Shared):
    ARGS = ("--max-num-seqs", "4", "--kv-cache-gib", "0.1", "--max-model-len", "2048")

    def test_clients_that_go_away_free_everything(self):
        body = json.dumps({"prompt": "Tell", "max_tokens": 1500, "ignore_eos": True, "stream": True})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        sockets = []
        for _ in range(12):  # four run, eight wait
            sockets.append(self.server.connect())
            sockets[-1].sendall(head)
        self.assertIn(b"200", sockets[0].recv(15))
        for connection in sockets:
            connection.close()
        self.server.wait_idle(20)
        self.assertEqual(self.server.metric("vllm:kv_cache_usage_perc"), 0)
        self.assertEqual(self.server.post("/v1/completions", GREEDY).status, 200)


class NullDevice(Shared):
    """The server without its model: everything but the computation is real."""

    ARGS = ("--null-step-us", "100", "--max-num-seqs", "64")

    def test_streams_readable_tokens(self):
        body = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "stream_options": {"include_usage": True}}
        events = self.server.stream("/v1/completions", body)
        texts = [e["choices"][0]["text"] for e in events if e["choices"]]
        self.assertGreater(len("".join(texts)), 200)
        self.assertNotIn("\ufffd", "".join(texts))
        self.assertEqual(events[-1]["usage"]["completion_tokens"], 200)
        whole = self.server.post("/v1/completions", {**body, "stream_options": None}).json()
        self.assertEqual(whole["usage"]["completion_tokens"], 200)

    def test_says_so(self):
        self.assertIn("nothing is computed", self.server.text())


class Lifecycle(unittest.TestCase):
    def test_loading_then_serving_then_draining(self):
        with Server(NANOFLOW, "--max-model-len", "2048", "--kv-cache-gib", "0.5", wait=False) as server:
            first = server.get("/health").status
            self.assertIn(first, (200, 503))
            if first == 503 and server.get("/health").status == 503:
                answer = server.post("/v1/completions", GREEDY)
                if answer.status != 200:  # it may be ready by now
                    self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "1"))
            server.wait_healthy()
            results = []
            long = {"prompt": "Tell", "max_tokens": 200, "ignore_eos": True}
            threads = [threading.Thread(target=lambda: results.append(server.post("/v1/completions", long))) for _ in range(3)]
            for thread in threads:
                thread.start()
            while server.get("/load").json()["server_load"] < 3:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            while (refused := server.post("/v1/completions", {**GREEDY, "max_tokens": 1})).status == 200:
                pass  # until the signal has arrived
            self.assertEqual((refused.status, refused.headers["Retry-After"]), (503, "1"))
            for thread in threads:
                thread.join()
            self.assertEqual([r.json()["usage"]["completion_tokens"] for r in results], [200] * 3)
            self.assertEqual(server.wait(), 0, server.text())

    def test_what_does_not_end_in_time_is_told_so(self):
        args = ("--max-model-len", "8192", "--kv-cache-gib", "0.5", "--shutdown-timeout", "0.2")
        with Server(NANOFLOW, *args) as server:
            results = []
            body = {"prompt": "Tell", "max_tokens": 6000, "ignore_eos": True}
            thread = threading.Thread(target=lambda: results.append(server.post("/v1/completions", body)))
            thread.start()
            while server.get("/load").json()["server_load"] < 1:
                time.sleep(0.01)
            self.assertEqual(server.stop(), 0, server.text())
            thread.join()
            self.assertEqual(results[0].status, 503)

    def test_an_engine_that_fails_at_once_ends_the_process_under_its_clients(self):
        with Server(NANOFLOW, "--kv-cache-gib", "0.5", "--step-timeout", "1e-6", wait=False) as server:
            health = set()

            def ask():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    while server.process.poll() is None:
                        health.add(server.get("/health").status)
                        server.get("/metrics")
                        server.post("/v1/completions", GREEDY)

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            self.assertEqual(server.wait(), 1, server.text())
            for thread in threads:
                thread.join()
            self.assertNotIn(200, health)
            self.assertIn("--step-timeout is too short", server.text())

    def test_ipv6(self):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            self.skipTest(f"no IPv6 here: {error}")
        with Server(NANOFLOW, "--kv-cache-gib", "0.5", host="::1") as server:
            self.assertIn(f"http://[::1]:{server.port}", server.text())
            self.assertEqual(server.post("/v1/completions", GREEDY).status, 200)
            self.assertEqual(server.stop(), 0)

    def test_a_full_queue_is_told_at_once_and_loses_nobody(self):
        args = ("--max-model-len", "2048", "--kv-cache-gib", "0.5", "--max-num-seqs", "1", "--max-queue-size", "2")
        with Server(NANOFLOW, *args) as server:
            body = {"prompt": "Tell", "max_tokens": 60, "ignore_eos": True}
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                answers = list(pool.map(lambda _: server.post("/v1/completions", body), range(12)))
            refused = [answer for answer in answers if answer.status == 503]
            self.assertTrue(refused and len(refused) < 12, [answer.status for answer in answers])
            for answer in refused:
                self.assertIsNotNone(answer.headers["Retry-After"])
                self.assertIn("wait already", answer.error()["message"])
            for answer in answers:
                if answer.status != 503:
                    self.assertEqual(answer.json()["usage"]["completion_tokens"], 60)
            server.wait_idle()
            self.assertEqual(server.stop(), 0)

    def test_deadlines(self):
        args = ("--max-model-len", "8192", "--kv-cache-gib", "0.5", "--request-timeout", "0.5")
        with Server(NANOFLOW, *args) as server:
            answer = server.post("/v1/completions", {"prompt": "Tell", "max_tokens": 6000, "ignore_eos": True})
            self.assertEqual((answer.status, answer.error()["type"]), (504, "TimeoutError"))
            server.wait_idle()
            self.assertEqual(server.stop(), 0)

    def test_an_address_in_use_is_named(self):
        with Server(NANOFLOW, "--max-model-len", "2048", "--kv-cache-gib", "0.5", wait=False) as server:
            done = subprocess.run([NANOFLOW, "serve", "--model", default_model(), "--host", "127.0.0.1", "--port", str(server.port)],
                                  capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertIn(str(server.port), done.stderr)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)


if __name__ == "__main__":
    NANOFLOW = sys.argv.pop(1)
    unittest.main()
