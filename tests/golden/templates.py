#!/usr/bin/env python3
"""Writes daemon/crates/model/tests/fixtures/templates/*.json: conversations and what `transformers` makes of them.

Run with transformers 5.23 and jinja2 3.1.6 (`pip install transformers jinja2`); needs ../shared/templates beside the
project for the third-party templates. `render_jinja_template` is what `apply_chat_template` calls; time is frozen.
"""

import datetime
import json
import pathlib

import jinja2
from transformers.utils import chat_template_utils as reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "daemon/crates/model/tests/fixtures/templates"
SHARED = ROOT.parent / "shared/templates"
NOW = 1_772_454_896  # 2026-03-02 12:34:56 UTC, a Monday


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


reference.datetime = Frozen


def tool(name, description, properties, **more):
    parameters = {"type": "object", "properties": properties, **more}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool(
        "get_weather",
        "The weather in a city, in \"°C\" & <b>words</b>.",
        {
            "city": {"type": "string", "description": "City, like Zürich"},
            "unit": {"type": "string", "enum": ["celsius", "kelvin"], "description": "Unit", "default": "celsius"},
            "days": {"type": ["integer", "string"], "description": "How many"},
        },
        required=["city"],
    ),
    tool(
        "sum",
        "Adds numbers.",
        {
            "numbers": {"type": "array", "items": {"type": "number"}, "description": "What to add"},
            "exact": {"type": "boolean", "description": "No rounding", "default": False},
            "options": {"type": "object", "properties": {"base": {"type": "integer"}}, "description": "More"},
        },
        required=["numbers"],
    ),
]

CALL = {
    "id": "abc123xyz",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "share": 0.5, "now": True, "x": None}},
}
CALL_2 = {"id": "def456uvw", "type": "function", "function": {"name": "sum", "arguments": {"numbers": [1, 2.0, "a\nb"]}}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


CHATS = {
    "user": [say("user", "Hello, wörld! 🦙\n  two\t\"lines\" <b>&</b>  ")],
    "system": [say("system", "  Be kind.\n"), say("user", "Hi")],
    "no_think": [say("system", "Be kind. /no_think"), say("user", "Hi")],
    "turns": [
        say("system", "Be kind."),
        say("user", "One"),
        say("assistant", "<think>\nhm\n</think>\n\nTwo"),
        say("user", " Three "),
        say("assistant", "Four"),
        say("user", "Five"),
    ],
    "ends_with_answer": [say("user", "One"), say("assistant", "\nTwo")],
    "reasoning": [
        say("user", "One"),
        say("assistant", "Two", reasoning_content="\nbecause\n"),
        say("user", "Three"),
        say("assistant", "Four", reasoning_content="so"),
    ],
    "call": [
        say("system", "Use tools."),
        say("user", "Weather?"),
        say("assistant", "", tool_calls=[CALL]),
        say("tool", '{"temperature": 12, "sky": "naß"}', tool_call_id="abc123xyz", name="get_weather"),
    ],
    "call_then_answer": [
        say("user", "Weather?"),
        say("assistant", "I look.", tool_calls=[CALL]),
        say("tool", "12 °C", tool_call_id="abc123xyz", name="get_weather"),
        say("assistant", "It is 12 °C."),
        say("user", "Thanks"),
    ],
    "two_calls": [
        say("user", "Both?"),
        say("assistant", "", tool_calls=[CALL, CALL_2]),
        say("tool", "12", tool_call_id="abc123xyz", name="get_weather"),
        say("tool", "3", tool_call_id="def456uvw", name="sum"),
    ],
    "wrong_order": [say("assistant", "I begin"), say("user", "No"), say("user", "Twice")],
    "wrong_role": [say("user", "Hi"), say("clown", "Ho")],
    "late_system": [say("user", "Hi"), say("system", "Late"), say("user", "Ho")],
    "parts": [say("user", [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}])],
    "empty": [],
}


def variants():
    for chat in CHATS:
        yield chat, 0, True, {}
        yield chat, 2, True, {}
    # One template fails on the second tool, whose parameter is an array.
    for chat in ["user", "system", "turns", "call", "call_then_answer", "two_calls"]:
        yield chat, 1, True, {}
    for chat in ["user", "turns", "ends_with_answer", "reasoning", "call", "call_then_answer"]:
        yield chat, 0, False, {}
    for chat in ["user", "turns", "no_think"]:
        yield chat, 0, True, {"enable_thinking": False}
    yield "reasoning", 0, True, {"enable_thinking": True}
    yield "user", 0, True, {"reasoning_effort": "high", "model_identity": "You are hyp."}
    yield "user", 0, True, {"builtin_tools": ["browser", "python", "code_interpreter"]}
    yield "call", 2, True, {"tools_in_user_message": False, "date_string": "1 Jan 2026"}


def render(source, chat, tools, prompt, extra):
    call = dict(conversations=[CHATS[chat]], tools=TOOLS[:tools] or None, chat_template=source)
    call |= dict(add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
    try:
        try:
            return {"text": reference.render_jinja_template(**call, **extra)[0][0]}
        except TypeError as e:
            # A template that wants a list of tools, even an empty one.
            if tools or "'NoneType' object is not iterable" not in str(e):
                raise
            call["tools"] = []
            return {"text": reference.render_jinja_template(**call, **extra)[0][0]}
    except jinja2.exceptions.UndefinedError as e:
        return {"fails": str(e)}
    except jinja2.exceptions.TemplateError as e:
        return {"raises": str(e)}
    except Exception as e:  # TypeErrors of Python's own; any failure of ours matches
        return {"fails": f"{type(e).__name__}: {e}"}


def main():
    inputs = {"now": NOW, "bos_token": "<s>", "eos_token": "</s>", "tools": TOOLS, "chats": CHATS}
    (OUT / "inputs.json").write_text(json.dumps(inputs, ensure_ascii=False, indent=1) + "\n")
    for path in sorted(OUT.glob("*.jinja")) + sorted(SHARED.glob("*.jinja")):
        cases = []
        for chat, tools, prompt, extra in variants():
            expected = render(path.read_text(), chat, tools, prompt, extra)
            cases.append({"chat": chat, "tools": tools, "prompt": prompt, "vars": extra, **expected})
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        (OUT / f"{path.stem}.cases.json").write_text(f"[\n{lines}\n]\n")
        print(path.stem, *(sum(kind in case for case in cases) for kind in ("text", "raises", "fails")))


if __name__ == "__main__":
    main()
