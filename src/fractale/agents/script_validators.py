"""Tools that validate batch scripts: the choice of a tool, its call, and its verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fractale.evidence import EXIT_CODE_KEYS, as_number, json_of_text
from fractale.schedulers.homes import MEANT, NAMES
from fractale.toolbox import ToolInfo, ToolResult

SCRIPT_ARGUMENTS = (
    "script",
    "content",
    "jobspec",
    "batch_script",
    "job_script",
    "text",
    "spec",
    "job",
)
TARGET_ARGUMENTS = ("target", "manager", "to_manager", "workload_manager", "scheduler")
ORIGINAL_ARGUMENTS = ("original", "source_script")

VALIDATES = re.compile(r"(?<![a-z])(validat\w*|verif\w+|lint\w*|checks?)(?![a-z])", re.IGNORECASE)
A_SCRIPT = re.compile(r"job ?spec|(batch|job|submission)[ _-]script|batch", re.IGNORECASE)
SOMETHING_ELSE = re.compile(
    r"persona|prompt|expert|submit|cancel|delete|run|launch|execute|create", re.IGNORECASE
)
"""Parts of a tool's name that show that it does not validate scripts."""

FAULTS = ("errors", "error")
VERDICTS = ("valid", "is_valid", "success", "ok", "passed")
REASONS = ("errors", "error", "reasons", "stderr", "message", "issues", "content")

AGAINST = re.compile(r"\b(invalid|not valid|errors?|fail(s|ed|ure)?|unknown|unrecogni[sz]ed)\b")
NOTHING_FOUND = re.compile(r"\b(no|0|without) (errors?|failures?)\b")
IN_FAVOUR = re.compile(r"\b(valid|ok|passed|success(ful)?|no errors?|0 errors)\b")

MAX_REASON = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptVerdict:
    """A validator's verdict.

    Args:
        valid: None if the answer does not say.
        reason: In the validator's words.
    """

    valid: bool | None
    reason: str = ""


def find_validator(tools: Sequence[ToolInfo], target: str) -> ToolInfo | None:
    """The tool that fits best to validate a manager's script; None if no tool fits."""
    fitting = [(rank, tool) for tool in tools if (rank := _rank(tool, target)) > 0]
    fitting.sort(key=lambda pair: (-pair[0], pair[1].name))
    return fitting[0][1] if fitting else None


def _rank(tool: ToolInfo, target: str) -> int:
    """How well a tool fits; 0 if it does not fit."""
    text = f"{tool.name} {tool.description.strip().partition(chr(10))[0]}"
    fits = VALIDATES.search(text) and A_SCRIPT.search(text) and not SOMETHING_ELSE.search(tool.name)
    named = _managers_in(tool.name)
    meant = named or _managers_in(tool.description)
    if not fits or (meant and target not in meant) or arguments_for(tool, "", "", target) is None:
        return 0
    return (
        1
        + 8 * (target in named)
        + 4 * bool(VALIDATES.search(tool.name))
        + 2 * ("batch" in tool.name.lower())
        + bool(tool.annotations.get("readOnlyHint"))
    )


def _managers_in(text: str) -> set[str]:
    words = {*re.findall(r"[a-z]+", text.lower())}
    return {name for name in NAMES if name in words} | (
        {MEANT[word] for word in words & MEANT.keys()}
    )


def arguments_for(tool: ToolInfo, script: str, original: str, target: str) -> dict[str, Any] | None:
    """The arguments to validate a script; None if the tool needs other arguments.

    The original is passed only if the tool requires it: tools that compare both scripts refuse each
    launcher that had to change.
    """
    properties: Mapping[str, Any] = tool.input_schema.get("properties", {})
    required = set(tool.input_schema.get("required", ()))
    scripts = [name for name in SCRIPT_ARGUMENTS if name in properties]
    if not scripts:
        return None
    given = {scripts[0]: script}
    given.update({name: target for name in TARGET_ARGUMENTS if name in properties})
    given.update({name: original for name in ORIGINAL_ARGUMENTS if name in required})
    return given if required <= set(given) else None


def verdict_of(result: ToolResult) -> ScriptVerdict:
    """The verdict in a validator's answer."""
    if result.is_error:
        return ScriptVerdict(valid=False, reason=_clipped(result.text or "the validator failed"))
    data = _data_of(result)
    if isinstance(data, bool):
        return ScriptVerdict(valid=data, reason=_clipped(result.text))
    if not isinstance(data, dict):
        return _verdict_in_words(data if isinstance(data, str) else result.text)
    answer = cast("dict[str, Any]", data)
    if _is_negative(answer):
        return ScriptVerdict(valid=False, reason=_reason_in(answer))
    if _is_positive(answer):
        return ScriptVerdict(valid=True)
    content = answer.get("content")
    return _verdict_in_words(content if isinstance(content, str) else "")


def _data_of(result: ToolResult) -> Any:
    """The structured answer, else the JSON in its text, without a server's wrapper."""
    data: Any = result.structured
    if isinstance(data, Mapping) and list(cast("Mapping[str, Any]", data)) == ["result"]:
        data = cast("Any", data["result"])
    text = data if isinstance(data, str) else result.text if data is None else None
    if text is None:
        return cast("Any", data)
    try:
        return json_of_text(text)
    except ValueError:
        return text


def _is_negative(answer: Mapping[str, Any]) -> bool:
    codes = (as_number(answer.get(key)) for key in EXIT_CODE_KEYS)
    return (
        any(codes)
        or any(answer.get(key) for key in FAULTS)
        or any(_truth(answer.get(key)) is False for key in VERDICTS)
    )


def _is_positive(answer: Mapping[str, Any]) -> bool:
    return (
        any(as_number(answer.get(key)) == 0 for key in EXIT_CODE_KEYS)
        or answer.get("errors") == []
        or any(_truth(answer.get(key)) is True for key in VERDICTS)
    )


def _truth(value: Any) -> bool | None:
    said = str(value).strip().lower()
    return {"true": True, "false": False}.get(said)


def _verdict_in_words(text: str) -> ScriptVerdict:
    said = text.lower()
    if AGAINST.search(NOTHING_FOUND.sub("", said)):
        return ScriptVerdict(valid=False, reason=_clipped(text))
    return ScriptVerdict(valid=True if IN_FAVOUR.search(said) else None, reason=_clipped(text))


def _reason_in(answer: Mapping[str, Any]) -> str:
    reasons = [_as_text(answer[key]) for key in REASONS if answer.get(key)]
    return _clipped("\n".join(reasons) or json.dumps(dict(answer), ensure_ascii=False))


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(_as_text(each) for each in cast("list[Any]", value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clipped(text: str) -> str:
    return text.strip()[:MAX_REASON]
