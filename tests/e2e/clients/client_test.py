#!/usr/bin/env python3
"""Clients that others wrote, unmodified, against `nanoflow serve` with the default model: openai,
LangChain, curl, and lm-evaluation-harness where it is installed.

Usage: client_test.py NANOFLOW [SUITE...]. Exit code 77: the packages are not installed.
"""

import asyncio
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "server"))

try:
    import langchain_core.messages
    import langchain_core.tools
    import langchain_openai
    import openai
    import pydantic
except ImportError:
    own = os.path.join(os.environ.get("NANOFLOW_TEST_PYTHON", ""), "python")
    if os.path.exists(own) and not os.environ.get("NANOFLOW_TEST_PYTHON_RUNS"):
        os.execve(own, [own, *sys.argv], {**os.environ, "NANOFLOW_TEST_PYTHON_RUNS": "1"})
    print("skipped: openai or langchain-openai is not installed; .ci/run installs the versions of deps.lock")
    sys.exit(77)

from server_process import Server

NANOFLOW = None
KEY = "sk-of-this-test"
CHAT = [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": "What is the capital of France?"}]


class City(pydantic.BaseModel):
    """A city and how many people live there."""

    name: str = pydantic.Field(max_length=20)
    people: int = pydantic.Field(ge=0, le=99_999_999)


class Shared(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(NANOFLOW, "--max-model-len", "1024", "--kv-cache-gib", "0.5", "--max-num-seqs", "16",
                            "--served-model-name", "smol", "--api-key", KEY)
        cls.url = f"http://127.0.0.1:{cls.server.port}/v1"

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, cls.server.text()


class OpenAI(Shared):
    def setUp(self):
        self.client = openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["smol"])
        self.assertEqual(self.client.models.retrieve("smol").id, "smol")

    def test_a_streamed_chat_is_the_whole_one(self):
        fields = {"model": "smol", "messages": CHAT, "max_completion_tokens": 24, "temperature": 0}
        whole = self.client.chat.completions.create(**fields)
        self.assertGreater(len(whole.choices[0].message.content), 20)
        self.assertEqual(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
        chunks = list(self.client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertEqual({c.id for c in chunks}, {chunks[0].id})
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        self.assertEqual(reasons[-1], whole.choices[0].finish_reason)
        with self.client.chat.completions.stream(**fields) as stream:  # the helper that turns deltas into events
            self.assertEqual("".join(event.delta for event in stream if event.type == "content.delta"), text)

    def test_choices_stop_and_logprobs(self):
        answer = self.client.chat.completions.create(
            model="smol", messages=CHAT, n=3, max_tokens=8, temperature=1, seed=7, logprobs=True, top_logprobs=4)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2])
        for choice in answer.choices:
            self.assertEqual("".join(t.token for t in choice.logprobs.content), choice.message.content)
            for token in choice.logprobs.content:
                self.assertEqual(len(token.top_logprobs), 4)
                self.assertLessEqual(token.logprob, token.top_logprobs[0].logprob)
        plain = self.client.completions.create(model="smol", prompt="1, 2, 3, 4,", max_tokens=20, temperature=0, stop=["9"],
                                               logprobs=2)
        self.assertTrue(plain.choices[0].text.startswith(" 5, 6, 7, 8"), plain.choices[0].text)
        self.assertEqual((plain.choices[0].finish_reason, "9" in plain.choices[0].text), ("stop", False))
        self.assertEqual(len(plain.choices[0].logprobs.tokens), len(plain.choices[0].logprobs.token_logprobs))

    def test_completions_streamed_with_extra_fields(self):
        fields = {"model": "smol", "prompt": "Once upon", "max_tokens": 8, "extra_body": {"ignore_eos": True, "top_k": 1}}
        whole = self.client.completions.create(**fields)
        chunks = list(self.client.completions.create(**fields, stream=True))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
        self.assertEqual(whole.usage.completion_tokens, 8)

    def test_structured_output(self):
        answer = self.client.chat.completions.parse(model="smol", messages=CHAT, response_format=City, temperature=0,
                                                    max_tokens=200)
        self.assertIsInstance(answer.choices[0].message.parsed, City)

    def test_tools(self):
        tools = [openai.pydantic_function_tool(City, name="report_city")]
        fields = {"model": "smol", "messages": CHAT, "tools": tools, "tool_choice": "required", "temperature": 0, "max_tokens": 300}
        answer = self.client.chat.completions.create(**fields)
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        call = answer.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "report_city")
        City.model_validate_json(call.function.arguments)
        with self.client.chat.completions.stream(**fields) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
        self.assertEqual(streamed.function.arguments, call.function.arguments)
        # The result goes back as clients send it.
        messages = [*CHAT, answer.choices[0].message,
                    {"role": "tool", "tool_call_id": call.id, "content": "reported"}]
        after = self.client.chat.completions.create(model="smol", messages=messages, tools=tools, max_tokens=4)
        self.assertGreater(after.usage.prompt_tokens, answer.usage.prompt_tokens)

    def test_errors_have_their_classes(self):
        def create(client=self.client, **fields):
            return client.chat.completions.create(**{"model": "smol", "messages": CHAT, "max_tokens": 2, **fields})

        with self.assertRaises(openai.BadRequestError) as caught:
            create(temperature=-1)
        self.assertEqual((caught.exception.status_code, caught.exception.param), (400, "temperature"))
        with self.assertRaises(openai.NotFoundError):
            create(model="another")
        with self.assertRaises(openai.BadRequestError):
            create(messages=[{"role": "user", "content": "word " * 5000}])
        other = openai.OpenAI(base_url=self.url, api_key="wrong", max_retries=0)
        with self.assertRaises(openai.AuthenticationError):
            create(client=other)
        other.close()
        with self.assertRaises(openai.BadRequestError):
            create(stream=True, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 3}}})

    def test_closing_a_stream_ends_its_request(self):
        stream = self.client.completions.create(model="smol", prompt="Tell", max_tokens=900, stream=True,
                                                extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.server.wait_idle()
        with self.assertRaises(openai.APITimeoutError):
            self.client.with_options(timeout=0.3).completions.create(
                model="smol", prompt="Tell", max_tokens=900, extra_body={"ignore_eos": True})
        self.server.wait_idle()

    def test_many_at_once_asynchronously(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=self.url, api_key=KEY, max_retries=0) as client:
                async def one(i):
                    fields = {"model": "smol", "prompt": f"{i} and {i} is", "max_tokens": 6, "temperature": 0}
                    whole = await client.completions.create(**fields)
                    text = ""
                    async for chunk in await client.completions.create(**fields, stream=True):
                        text += chunk.choices[0].text
                    return whole.choices[0].text == text
                return await asyncio.gather(*(one(i) for i in range(40)))

        self.assertTrue(all(asyncio.run(ask())))


class LangChain(Shared):
    def model(self, **fields):
        return langchain_openai.ChatOpenAI(base_url=self.url, api_key=KEY, model="smol", temperature=0, max_retries=0,
                                           **{"max_tokens": 24, **fields})

    def test_invoke_stream_and_batch(self):
        question = [langchain_core.messages.HumanMessage("What is the capital of France?")]
        answer = self.model().invoke(question)
        self.assertGreater(len(answer.content), 20)
        self.assertGreater(answer.usage_metadata["output_tokens"], 0)
        pieces = list(self.model(stream_usage=True).stream(question))
        self.assertEqual("".join(piece.content for piece in pieces), answer.content)
        self.assertEqual(sum(p.usage_metadata["output_tokens"] for p in pieces if p.usage_metadata),
                         answer.usage_metadata["output_tokens"])
        self.assertEqual([a.content for a in self.model().batch([question] * 4)], [answer.content] * 4)

    def test_tools_and_structured_output(self):
        @langchain_core.tools.tool
        def add(a: int, b: int) -> int:
            """Adds two numbers."""
            return a + b

        model = self.model(max_tokens=300).bind_tools([add], tool_choice="add")
        answer = model.invoke("What is 2 + 3?")
        self.assertEqual(answer.tool_calls[0]["name"], "add")
        self.assertIsInstance(add.invoke(answer.tool_calls[0]["args"]), int)
        total = None
        for piece in model.stream("What is 2 + 3?"):
            total = piece if total is None else total + piece
        self.assertEqual(total.tool_calls[0]["args"], answer.tool_calls[0]["args"])
        for method in ("json_schema", "function_calling"):
            city = self.model(max_tokens=300).with_structured_output(City, method=method).invoke("Name a city.")
            self.assertIsInstance(city, City, method)


class Curl(Shared):
    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_a_stream_arrives_piece_by_piece(self):
        body = json.dumps({"model": "smol", "messages": CHAT, "max_tokens": 60, "stream": True, "ignore_eos": True})
        process = subprocess.Popen(
            ["curl", "-sSN", "--noproxy", "*", f"{self.url}/chat/completions", "-H", f"Authorization: Bearer {KEY}", "-d", body],
            stdout=subprocess.PIPE, text=True)
        events, times = [], []
        for line in filter(str.strip, process.stdout):
            self.assertTrue(line.startswith("data: "), line)
            events.append(line.strip())
            times.append(time.monotonic())
        self.assertEqual((process.wait(), events[-1]), (0, "data: [DONE]"))
        self.assertGreater(len(times), 55)
        self.assertGreater(times[-1] - times[0], 0.05, "it came at once")


class Harness(unittest.TestCase):
    """lm-evaluation-harness: log-likelihoods, which must be those of transformers."""

    TOLERANCE = 2e-3  # of a whole continuation; both compute in float32, in another order

    @classmethod
    def setUpClass(cls):
        cls.server = Server(NANOFLOW, "--max-model-len", "1024", "--kv-cache-gib", "0.5", "--dtype", "float32",
                            "--served-model-name", "smol")
        path = pathlib.Path(__file__).resolve().parents[2] / "fixtures/models/smollm2/loglikelihoods.json"
        cls.cases = json.loads(path.read_text())["cases"]
        assert len(cls.cases) >= 16 and {case["greedy"] for case in cls.cases} == {True, False}

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()

    def check(self, got):
        for case, (log_likelihood, greedy) in zip(self.cases, got, strict=True):
            self.assertAlmostEqual(log_likelihood, case["log_likelihood"], delta=self.TOLERANCE, msg=case["continuation"])
            self.assertEqual(greedy, case["greedy"], case)

    def test_its_requests(self):
        """As it sends them: token ids, several at once, echoed."""
        answer = self.server.post("/v1/completions", {
            "model": "smol", "prompt": [case["context_ids"] + case["continuation_ids"] for case in self.cases], "temperature": 0,
            "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True})
        self.assertEqual(answer.status, 200, answer.body)
        got = []
        for case, choice in zip(self.cases, sorted(answer.json()["choices"], key=lambda c: c["index"]), strict=True):
            begin = len(case["context_ids"])
            chosen = choice["logprobs"]["token_logprobs"][begin:-1]
            top = choice["logprobs"]["top_logprobs"][begin:-1]
            self.assertEqual(len(chosen), len(case["continuation_ids"]))
            got.append((sum(chosen), all(a == max(b.values()) for a, b in zip(chosen, top))))
        self.check(got)

    def test_the_harness_itself(self):
        try:
            import lm_eval.api.instance
            import lm_eval.models.openai_completions
        except ImportError:
            self.skipTest("lm-eval[api] is not installed; it needs 760 MB")
        model = lm_eval.models.openai_completions.LocalCompletionsAPI(
            base_url=f"http://127.0.0.1:{self.server.port}/v1/completions", model="smol", batch_size=4, num_concurrent=2)
        self.assertEqual(model.tokenizer_backend, "remote")
        requests = [lm_eval.api.instance.Instance("loglikelihood", {}, (case["context"], case["continuation"]), i)
                    for i, case in enumerate(self.cases)]
        self.check(model.loglikelihood(requests))
        greedy = lm_eval.api.instance.Instance("generate_until", {}, ("1, 2, 3, 4,", {"until": ["9"], "max_gen_toks": 20}), 0)
        self.assertTrue(model.generate_until([greedy])[0].startswith(" 5, 6, 7, 8"))


if __name__ == "__main__":
    NANOFLOW = sys.argv[1]
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=1)
