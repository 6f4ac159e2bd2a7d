#!/usr/bin/env python3
"""Structured output as clients ask for it: `nanoflow serve` with the default model, whose answers must keep to it.

Usage: structured_test.py NANOFLOW
"""

import json
import re
import sys
import unittest

import server_test

PROMPT = "Name a city and say how many people live there."
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "size": {"enum": ["small", "large"]},
        "people": {"type": "integer", "minimum": 0, "maximum": 9999},
    },
    "required": ["city", "size", "people"],
    "additionalProperties": False,
}


def as_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


class Structured(server_test.Shared):
    def texts(self, fields, n=1, seed=1, max_tokens=120):
        """The texts of the n choices of a chat, asked for at once and streamed."""
        body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": max_tokens, "temperature": 1.0,
                "seed": seed, "n": n, **fields}
        answer = self.server.post("/v1/chat/completions", body)
        self.assertEqual(answer.status, 200, answer.body)
        choices = answer.json()["choices"]
        self.assertEqual([c["finish_reason"] for c in choices], ["stop"] * n, choices)
        streamed = [""] * n
        for event in self.server.stream("/v1/chat/completions", body):
            for choice in event["choices"]:
                streamed[choice["index"]] += choice["delta"].get("content") or ""
        return [c["message"]["content"] for c in choices] + streamed

    def check_answer(self, text):
        value = json.loads(text)
        self.assertEqual(list(value), ["city", "size", "people"])
        self.assertLessEqual(len(value["city"]), 20)
        self.assertIn(value["size"], ("small", "large"))
        self.assertIs(type(value["people"]), int)
        self.assertTrue(0 <= value["people"] <= 9999)

    def test_a_schema_is_kept_to_streamed_or_not_by_every_choice(self):
        for fields in ({"response_format": as_format(SCHEMA)}, {"guided_json": json.dumps(SCHEMA)},
                       {"structured_outputs": {"json": SCHEMA}}):
            for text in self.texts(fields, n=2):
                self.check_answer(text)

    def test_regular_expression_choice_and_grammar(self):
        pattern = r"(Paris|Rome): [1-9][0-9]{0,3}"
        for text in self.texts({"structured_outputs": {"regex": pattern}}, n=2):
            self.assertRegex(text, re.compile(f"^{pattern}$"))
        for text in self.texts({"guided_choice": ["yes", "nö \"quoted\"\n"]}, n=2):
            self.assertIn(text, ("yes", "nö \"quoted\"\n"))
        grammar = 'root ::= "[" item ("," item){2} "]"\nitem ::= "up" | "down"'
        for text in self.texts({"structured_outputs": {"grammar": grammar}}, n=2):
            self.assertRegex(text, r"^\[(up|down)(,(up|down)){2}\]$")

    def calls(self, fields):
        """The calls of a chat, which must be the same streamed and not, and its finish_reason."""
        tools = [{"type": "function", "function": {"name": name, "parameters": schema}}
                 for name, schema in (("report", SCHEMA), ("stop", {"type": "object", "properties": {}}))]
        body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 400, "temperature": 0,
                "tools": tools, **fields}
        answer = self.server.post("/v1/chat/completions", body)
        self.assertEqual(answer.status, 200, answer.body)
        choice = answer.json()["choices"][0]
        self.assertIsNone(choice["message"]["content"])
        calls = [(c["function"]["name"], c["function"]["arguments"]) for c in choice["message"]["tool_calls"]]
        self.assertEqual({c["type"] for c in choice["message"]["tool_calls"]}, {"function"})
        streamed, reason, content = [], None, ""
        for event in self.server.stream("/v1/chat/completions", body):
            for part in event["choices"]:
                reason = part["finish_reason"] or reason
                content += part["delta"].get("content") or ""
                for piece in part["delta"].get("tool_calls", []):
                    if piece["index"] == len(streamed):
                        self.assertTrue(piece["id"])
                        streamed.append([piece["function"]["name"], ""])
                    streamed[piece["index"]][1] += piece["function"]["arguments"]
        self.assertEqual(content, "")
        self.assertEqual([tuple(call) for call in streamed], calls)
        self.assertEqual(reason, choice["finish_reason"])
        return calls, reason

    def test_calls_that_are_asked_for_are_valid(self):
        calls, reason = self.calls({"tool_choice": {"type": "function", "function": {"name": "report"}}})
        self.assertEqual(([name for name, _ in calls], reason), (["report"], "tool_calls"))
        self.check_answer(calls[0][1])
        calls, reason = self.calls({"tool_choice": "required", "parallel_tool_calls": False})
        self.assertEqual((len(calls), reason), (1, "tool_calls"))
        name, arguments = calls[0]
        self.assertIn(name, ("report", "stop"))
        if name == "report":
            self.check_answer(arguments)
        refused = self.server.post("/v1/chat/completions", {**server_test.CHAT, "tool_choice": "required"})
        self.assertEqual((refused.status, refused.json()["error"]["param"]), (400, "tool_choice"))

    def test_completions_and_token_limits(self):
        body = {"prompt": "A digit:", "temperature": 0, "max_tokens": 50, "guided_regex": "[0-9]{3}"}
        self.assertRegex(self.server.post("/v1/completions", body).json()["choices"][0]["text"], r"^\d{3}$")
        # The structure ends the output even where more tokens are asked for.
        choice = self.server.post("/v1/completions", {**body, "min_tokens": 30}).json()["choices"][0]
        self.assertRegex(choice["text"], r"^\d{3}$")
        self.assertEqual(choice["finish_reason"], "stop")
        cut = self.server.post("/v1/completions", {**body, "max_tokens": 1}).json()["choices"][0]
        self.assertEqual(cut["finish_reason"], "length")

    def test_json_object_does_not_end_in_blanks(self):
        body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200, "temperature": 0,
                "response_format": {"type": "json_object"}}
        choice = self.server.post("/v1/chat/completions", body).json()["choices"][0]
        self.assertTrue(choice["message"]["content"].lstrip().startswith("{"))
        self.assertNotRegex(choice["message"]["content"], r"\s{40}")
        if choice["finish_reason"] == "stop":
            self.assertIsInstance(json.loads(choice["message"]["content"]), dict)

    def test_a_structure_that_the_vocabulary_cannot_spell_ends_as_the_request_s_error(self):
        body = {"prompt": "a", "temperature": 0, "max_tokens": 20, "guided_regex": "g\U0004363e`"}
        answer = self.server.post("/v1/completions", body)
        self.assertEqual((answer.status, answer.json()["error"]["type"]), (400, "BadRequestError"), answer.body)
        self.assertEqual(self.server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status, 200)

    def test_messages_about_a_grammar_are_text(self):
        answer = self.server.post("/v1/completions", {"prompt": "a", "guided_grammar": "b\U000a403e\u0080fVy"})
        self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, "guided_grammar"))

    def test_what_cannot_be_served_is_refused_by_name(self):
        for fields, param in (
                ({"response_format": as_format({"type": "nonsense"})}, "response_format.json_schema.schema"),
                ({"response_format": as_format({"pattern": "("})}, "response_format.json_schema.schema"),
                ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
                ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
                ({"guided_grammar": "root ::="}, "guided_grammar"),
                ({"guided_choice": []}, "guided_choice"),
                ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex")):
            for stream in (False, True):
                answer = self.server.post("/v1/completions", {"prompt": "a", "stream": stream, **fields})
                self.assertEqual(answer.status, 400, (fields, answer.body))
                self.assertEqual(answer.json()["error"]["param"], param)


if __name__ == "__main__":
    server_test.NANOFLOW = sys.argv.pop(1)
    unittest.main()
