"""Detect tool calls that a model wrote as text, because its server did not parse them.

They are typical of vLLM without a tool parser, and of llama.cpp without ``--jinja``. Such a text
is neither an answer nor a call. No tool is called from it, because its end is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, cast

from fractale.models.json_text import final_json, whole_json

MARKS = re.compile(
    r"<tool_call>|<\|tool_call\|?>|<\|tool_calls_section_begin\|>|<seed:tool_call>"
    r"|<minimax:tool_call>|\[TOOL_CALLS\]|<\|python_tag\|>|<function[=_]|<invoke name="
    r"|<\|tools_prefix\|>|<\|START_ACTION\|>|<\|channel\|>commentary to="
    "|<\uff5ctool▁calls▁begin\uff5c>"
)
"""Starts of a call in the texts of Hermes, Qwen, Granite, Kimi, DeepSeek, Seed, MiniMax, Mistral,
Llama, Apertus, Command and gpt-oss."""

BEGINS_LINE = re.compile(
    rf"^[ \t]*(?:{MARKS.pattern})(?=\s*(?:[{{\[<\"]|[\w.:-]+\s*[{{\[(<>=\"]))", re.MULTILINE
)
"""Such a mark at the start of a line, followed by text that looks like a call."""

NAMED = re.compile(
    r'(?:"name"\s*:\s*"|function[=_]|invoke name="|functions\.'
    r"|\uff5ctool▁sep\uff5c>|\[TOOL_CALLS\]|python_tag\|>)"
    r"([\w./:-]{1,200})"
)

CALL = r"[A-Za-z_][\w.]*\((?:\s*\w+\s*=[^()]*)?\)"
PYTHONIC = re.compile(rf"\s*\[\s*({CALL})(?:\s*,\s*{CALL})*\s*\]\s*")
"""The form in which Llama 3.2 and 4 write calls: `[look(where="/")]`."""

FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)

NAMES = ("name", "function", "tool", "tool_name", "action")
ARGUMENTS = ("arguments", "parameters", "args", "input", "tool_input", "action_input")


def called_in_text(text: str, tools: Collection[str]) -> str | None:
    """Return the tool that a text calls.

    A mark at the start of a line begins a call of any tool, because models also call tools that
    they were not offered. Within a line, and in bare JSON, only an offered tool counts.

    Args:
        text: A model's whole answer.
        tools: The names of the tools, as the model saw them.

    Returns:
        The tool's name, `a tool` if the text breaks off before it, or None for an answer.
    """
    if name := _called_in_json(text, tools) or _called_in_python(text, tools):
        return name
    prose = FENCED.sub("", text)
    mark = MARKS.search(prose)
    if mark is None:
        return None
    after = prose[mark.start() :]
    named = {name: found.start() for name in tools if (found := _name(name).search(after))}
    if named:
        return min(named, key=lambda name: named[name])
    begun = BEGINS_LINE.search(prose)
    return None if begun is None else _first_name(prose[begun.start() :])


def _first_name(text: str) -> str:
    found = NAMED.search(text)
    return found[1] if found else "a tool"


def _called_in_python(text: str, tools: Collection[str]) -> str | None:
    called = PYTHONIC.fullmatch(text)
    name = called[1].partition("(")[0] if called else ""
    return name if name in tools else None


def _name(tool: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(tool)}(?![\w-])")


def _called_in_json(text: str, tools: Collection[str]) -> str | None:
    """Find a call in a text that is JSON, or that ends with a line or a fence of JSON."""
    try:
        value = whole_json(text)
    except ValueError:
        value = final_json(text)
    calls = cast("list[Any]", value if isinstance(value, list) else [value])
    names = [_called(call) for call in calls]
    return str(names[0]) if names and all(name in tools for name in names) else None


def _called(call: Any) -> str | None:
    """The name in ``{name, arguments}`` and similar forms, also one level deeper as in OpenAI's."""
    if not isinstance(call, dict):
        return None
    table = cast("dict[str, Any]", call)
    inner = table.get("function")
    if isinstance(inner, dict):
        return _called(inner)
    name = next((table[key] for key in NAMES if isinstance(table.get(key), str)), None)
    has_arguments = any(isinstance(table.get(key), (dict, str)) for key in ARGUMENTS)
    others = set(table) - {"id", "type", *NAMES, *ARGUMENTS}
    return str(name) if name and has_arguments and not others else None
