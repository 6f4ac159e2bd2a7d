"""Renders chat templates with transformers, as the text that ours must equal byte for byte.

Writes tests/fixtures/chat_template/snippets.json (the language, from template_snippets.py) and
chats.json (real templates, by file name in .deps/templates, see fetch_test_inputs.sh). Run by
hand with a Python that has transformers and jinja2; the tests need only the written files.
"""

import argparse
import datetime
import json
import pathlib
import warnings

import jinja2
import transformers
from transformers.utils import chat_template_utils

from template_snippets import SNIPPETS

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# Some templates take today's date as a variable, others ask the clock: noon, so that every time zone has the same day.
DATES = {"date_string": "26 Jul 2024"}
NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.timezone.utc)


class FrozenClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW.astimezone(tz).replace(tzinfo=tz)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city, e.g. \"Köln\" <now>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "City & country"},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                    "days": {"type": "integer", "nullable": True, "default": 1.5},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
    },
]
CALL = {
    "id": "abcdef123",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "São Paulo", "days": 2, "deep": [1, {"x": None}]}},
}
SYS = {"role": "system", "content": "You are a careful assistant."}


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


TOOL_TURNS = [
    user("Weather in São Paulo?"),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": '{"temp": 21.5}'},
    bot("It is 21.5 °C."),
    user("Thanks"),
]

# name: (messages, extra arguments of the render)
CASES = {
    "user": ([user("Hello!")], {}),
    "no_prompt": ([user("Hello!"), bot("Hi")], {"add_generation_prompt": False}),
    "system": ([SYS, user("Hello!")], {}),
    "turns": ([SYS, user("One"), bot("Two"), user("Three"), bot("Four"), user("Five")], {}),
    "turns_no_system": ([user("One"), bot("Two"), user("Three")], {}),
    "unicode": ([user("Grüße 世界 👩‍👩‍👧 \u00a0 e\u0301 \u2028 <|im_end|> {{ x }} \\n")], {}),
    "empty": ([user(""), bot(""), user("")], {}),
    "spaces": ([user("  lead and trail \n\n"), bot("\n ok \n"), user("\t tab ")], {}),
    "two_users": ([user("a"), user("b")], {}),
    "bot_first": ([bot("a"), user("b")], {}),
    "late_system": ([user("a"), bot("b"), SYS, user("c")], {}),
    "bad_role": ([{"role": "narrator", "content": "a"}], {}),
    "think": ([user("a"), bot("<think>\nhm\n</think>\n\nb"), user("c")], {}),
    "reasoning": ([user("a"), {**bot("b"), "reasoning_content": "hm"}, user("c")], {}),
    "no_thinking": ([user("a")], {"enable_thinking": False}),
    "thinking": ([user("a")], {"enable_thinking": True}),
    "tools": ([user("Weather?")], {"tools": TOOLS}),
    "tools_system": ([SYS, user("Weather?")], {"tools": TOOLS}),
    "tool_turns": ([SYS, *TOOL_TURNS], {"tools": TOOLS}),
    "tool_turns_no_tools": (TOOL_TURNS, {}),
    "tool_result": ([SYS, *TOOL_TURNS[:3]], {"tools": TOOLS}),
    "two_calls": (
        [user("a"), {"role": "assistant", "content": "both", "tool_calls": [CALL, CALL]}, TOOL_TURNS[2], TOOL_TURNS[2]],
        {"tools": TOOLS},
    ),
    "bad_call_id": (
        [user("a"), {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "1"}]}],
        {"tools": TOOLS},
    ),
    "continue": ([user("a"), bot("The answer is")], {"continue_final_message": True, "add_generation_prompt": False}),
    "continue_spaces": ([user("a"), bot(" The answer: ")], {"continue_final_message": True, "add_generation_prompt": False}),
}
# Templates that walk over parts get these, too.
PARTS = {
    "parts": ([user([{"type": "text", "text": "One"}, {"type": "text", "text": " two"}])], {}),
    "parts_turns": (
        [SYS, user([{"type": "text", "text": " One "}]), bot([{"type": "text", "text": "b"}]), user("c")],
        {},
    ),
}

# Templates that write pages of fixed text get few cases, and near copies none, to keep the file small.
LONG = {"command_a", "command_a_rag", "command_a_tool_use", "exaone4", "falcon_h1", "jamba"}
LONG_CASES = {"user", "system", "turns", "tool_turns", "bad_role"}
SAME_AS_OTHERS = {"gemma4_unified", "command_a_rag", "llava", "mistral_v3_tekken"}


def render_snippet(source, variables):
    try:
        return {"text": chat_template_utils._compile_jinja_template(source).render(**variables)}
    except Exception as error:  # what failed matters less than that it failed
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"error": str(error), "raised": raised, "syntax": isinstance(error, jinja2.TemplateSyntaxError)}


def render_chat(source, messages, arguments):
    arguments = {"add_generation_prompt": True, **TOKENS, **DATES, **arguments}
    try:
        rendered, _ = chat_template_utils.render_jinja_template([messages], chat_template=source, **arguments)
        return {"text": rendered[0]}
    except Exception as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"error": str(error)[:200], "raised": raised}


def make_snippets():
    cases = [{"template": t, "variables": v, **render_snippet(t, v)} for t, v in SNIPPETS]
    return {"made_with": f"jinja2 {jinja2.__version__}, transformers {transformers.__version__}", "cases": cases}


def make_chats(folder):
    cases = {**CASES, **PARTS}
    results = {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        by_case = {}
        if path.stem in SAME_AS_OTHERS:
            continue
        for name, (messages, arguments) in cases.items():
            if path.stem in LONG and name not in LONG_CASES:
                continue
            if name in PARTS and not any(f in source for f in ("type'] == 'text'", "in item", "selectattr", '"text"')):
                continue
            by_case[name] = render_chat(source, messages, arguments)
        results[path.stem] = by_case
    inputs = {name: {"messages": m, "arguments": {"add_generation_prompt": True, **a}} for name, (m, a) in cases.items()}
    return {
        "made_with": f"transformers {transformers.__version__}",
        "special_tokens": TOKENS,
        "kwargs": DATES,
        "now": int(NOW.timestamp()),
        "inputs": inputs,
        "templates": results,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--templates", type=pathlib.Path, default=ROOT / ".deps/templates")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/fixtures/chat_template")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    chat_template_utils.datetime = FrozenClock
    for name, content in (("snippets", make_snippets()), ("chats", make_chats(args.templates))):
        text = json.dumps(content, ensure_ascii=False, indent=None, separators=(",", ":"))
        # One case a line keeps diffs readable.
        text = text.replace('{"template":', '\n{"template":').replace('"},"', '"},\n"')
        (args.out / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
