"""What an answer itself shows: its outputs, and whether they speak of a failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast

from fractale.models import find_json
from fractale.plain import to_json
from fractale.toolbox import ToolInfo, ToolResult

EXIT_CODE_KEYS = (
    "returncode",
    "return_code",
    "exit_code",
    "exitcode",
    "retval",
    "return_value",
)
"""Outputs that are exit codes."""

DETAILS = ("error", "errors", "reason", "stderr", "message", "output")
"""Outputs that say in words what an exit code does not, the plainest first."""

MOST_DETAIL = 2000


class Notice(TypedDict):
    """Something that a success does not hide.

    Keys:
        kind: ``warning`` or ``lost`` as a tool's answer says it; ``failed`` for items of a
            foreach, or steps of a parallel block, that failed while the step kept going.
        message: In words.
    """

    kind: Literal["warning", "lost", "failed"]
    message: str


NOTICES: Mapping[str, Literal["warning", "lost"]] = {
    "warnings": "warning",
    "not_translated": "lost",
}
"""Outputs that list what a success must not hide."""

MOST_NOTICES = 50

WRAPPED = "x-fastmcp-wrap-result"
"""FastMCP's mark in an output schema: the answer itself is under the key `result`."""


def outputs_of(result: ToolResult, tool: ToolInfo | None = None) -> dict[str, Any]:
    """A tool's answer as a mapping.

    The structured content, else the JSON in the text (bare, fenced, or after prose), else
    ``{content: text}``. A scalar or a list is kept as ``{result: …}``. A server on FastMCP
    wraps answers that need not be mappings as ``{"result": …}``: what is in it is meant, so that
    an exit code inside is not overlooked.
    """
    value = result.structured
    if isinstance(value, dict) and list(cast("dict[str, Any]", value)) == ["result"]:
        inner = cast("dict[str, Any]", value)["result"]
        if isinstance(inner, str):
            return outputs_of_text(inner)
        if tool is not None and (tool.output_schema or {}).get(WRAPPED):
            return as_mapping(inner)
    if value is None:
        return outputs_of_text(result.text)
    return as_mapping(value)


def outputs_of_text(text: str) -> dict[str, Any]:
    """The JSON in a text as a mapping, or ``{content: text}`` where there is none."""
    try:
        return as_mapping(find_json(text))
    except ValueError:
        return {"content": text}


def as_mapping(value: Any) -> dict[str, Any]:
    """A mapping itself; anything else as ``{result: value}``."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"result": value}


def exit_code_evidence(outputs: Mapping[str, Any]) -> str | None:
    """Why the outputs speak of a failure, or None.

    A non-zero exit code (a number, or text that is one), a non-empty `error` or `errors`, or
    ``success: false``.
    """
    for key in EXIT_CODE_KEYS:
        number = as_number(outputs.get(key))
        if number:
            return with_detail(f"{key} is {number:g}", outputs)
    for key in ("error", "errors"):
        if value := outputs.get(key):
            return _as_text(value)
    if outputs.get("success") is False:
        return with_detail("success is false", outputs)
    return None


def with_detail(reason: str, outputs: Mapping[str, Any]) -> str:
    """A reason, with what the outputs themselves say about the failure."""
    for key in DETAILS:
        if detail := outputs.get(key):
            return f"{reason}: {_as_text(detail).strip()[:MOST_DETAIL]}"
    return reason


def notices_in(outputs: Mapping[str, Any]) -> list[Notice]:
    """The warnings and losses that an answer names."""
    found: list[Notice] = []
    for key, kind in NOTICES.items():
        value = outputs.get(key)
        listed = cast("list[Any]", value) if isinstance(value, list) else [value]
        texts = [_as_text(each).strip() for each in listed if isinstance(each, (str, dict))]
        found += [Notice(kind=kind, message=text) for text in texts if text]
    return found[:MOST_NOTICES]


def _as_text(value: Any) -> str:
    """What was said, as it was; several sayings one behind the other."""
    if isinstance(value, list):
        said = cast("list[Any]", value)
        if all(isinstance(each, str) for each in said):
            return "; ".join(said)
    return value if isinstance(value, str) else to_json(value)


def as_number(value: Any) -> float | None:
    """A number, or text that is one; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value.strip())
        except ValueError:
            return None
    return None
