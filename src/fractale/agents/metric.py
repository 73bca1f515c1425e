"""The metric in a tool's answer: its location, and whether the answer is a success."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from fractale.errors import ToolError
from fractale.evidence import exit_code_evidence, json_of_text
from fractale.regexes import find_value
from fractale.text import clip
from fractale.toolbox import ToolResult

MAX_REASON = 500
"""The most characters of a failure's reason that are kept."""

MAX_SHOWN_KEYS = 12

METRIC_SCHEMA: Mapping[str, Any] = {
    "description": (
        "Where the figure of merit is: a path of keys in the tool's outputs, or {regex} on its "
        "text, or {agent: result_parse, metric_name} to have a sub-agent read it."
    ),
    "oneOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"regex": {"type": "string", "minLength": 1}},
            "required": ["regex"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "agent": {"type": "string", "minLength": 1},
                "metric_name": {"type": "string", "minLength": 1},
            },
            "required": ["agent", "metric_name"],
        },
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSource:
    """The location of a metric: one of `path`, `regex` and `agent` is set.

    Args:
        path: Keys in the outputs, joined by dots. A number is an index of a list.
        regex: An expression with one group. Its last match in the text counts.
        agent: The sub-agent that reads the metric in the text.
        inputs: Further inputs of the sub-agent.
    """

    path: str = ""
    regex: str = ""
    agent: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """The metric's name for users."""
        return str(self.inputs.get("metric_name") or self.path or self.regex)


def read_metric(given: Any) -> MetricSource:
    """The metric in an input that fits `METRIC_SCHEMA`."""
    if isinstance(given, str):
        return MetricSource(path=given)
    each = dict(cast("Mapping[str, Any]", given))
    if "regex" in each:
        return MetricSource(regex=each["regex"])
    return MetricSource(agent=each.pop("agent"), inputs=each)


async def value_of(metric: MetricSource, result: ToolResult) -> float:
    """The value by path or expression.

    Raises:
        ValueError: The value is missing, or not a finite number.
    """
    if metric.path:
        return number(_at(_data_of(result), metric.path))
    # A log inside JSON is also searched as plain text, with its line ends and quotes.
    searched = f"{result.text}\n{text_of(result)}"
    try:
        return number((await asyncio.to_thread(find_value, metric.regex, searched)).value)
    except ValueError as error:
        raise ValueError(f"`{metric.regex}`: {error}") from error


def number(value: Any) -> float:
    """A value as a finite number. The text of a number counts.

    Raises:
        ValueError: It is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"the value is not a number: {_short(value)}")  # noqa: TRY004 - all faults of a value are one kind
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"the value is not a number: {_short(value)}") from None
    if not math.isfinite(found):
        raise ValueError(f"the value is not finite: {value}")
    return found


def failure_in(result: ToolResult) -> str | None:
    """Why a tool's answer is a failure, by the same evidence as for steps; None if it is not."""
    data = _data_of(result)
    none: dict[str, Any] = {}
    outputs = cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else none
    reason = exit_code_evidence(outputs)
    if result.fault and not (reason and result.is_error and not result.text):
        reason = result.fault
    return reason.strip()[:MAX_REASON] if reason else None


def text_of(result: ToolResult) -> str:
    """All texts in an answer's data, joined. The answer's own text if the data has none."""
    data = _data_of(result)
    return "\n".join(_texts(data)) or result.text


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for each in cast("Mapping[str, Any]", data).values():
            yield from _texts(each)
    elif isinstance(data, list):
        for each in cast("list[Any]", data):
            yield from _texts(each)


def _data_of(result: ToolResult) -> Any:
    """The structured answer, else the JSON in its text, without a server's wrapper."""
    data = _unwrapped(result.structured)
    text = data if isinstance(data, str) else result.text if data is None else None
    if text is None:
        return data
    try:
        return json_of_text(text)
    except ValueError:
        return text


def _unwrapped(data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    outputs = cast("Mapping[str, Any]", data)
    inner: Any = outputs["result"] if list(outputs) == ["result"] else None
    return cast("Any", inner) if isinstance(inner, (str, Mapping)) else outputs


def _at(data: Any, path: str) -> Any:
    at, done = data, ""
    for key in path.split("."):
        if isinstance(at, Mapping) and key in at:
            at = cast("Any", at[key])
        elif isinstance(at, list) and key.isdecimal() and int(key) < len(cast("list[Any]", at)):
            at = cast("Any", at[int(key)])
        else:
            raise ValueError(f"the tool's outputs have no `{path}`; {_what_is(at, done)}")
        done = f"{done}.{key}" if done else key
    return at


def _what_is(data: Any, path: str) -> str:
    where = f"`{path}`" if path else "they"
    if not isinstance(data, Mapping):
        return f"{where}: {_short(data)}"
    keys = list(cast("Mapping[str, Any]", data))
    more = ", …" if len(keys) > MAX_SHOWN_KEYS else ""
    named = ", ".join(f"`{key}`" for key in keys[:MAX_SHOWN_KEYS])
    return f"{where} {'has' if path else 'have'} {named or 'nothing'}{more}"


def _short(value: Any) -> str:
    return clip(json.dumps(value, ensure_ascii=False, default=str), 80)


def find_named(name: str, known: Mapping[str, Any], kind: str) -> Any:
    """The value under that name.

    Raises:
        ToolError: The name is unknown.
    """
    if name in known:
        return known[name]
    there = ", ".join(f"`{each}`" for each in sorted(known)[:MAX_SHOWN_KEYS]) or "none"
    raise ToolError(f"this agent has no {kind} `{name}`; it has: {there}")
