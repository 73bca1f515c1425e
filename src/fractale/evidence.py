"""Evidence in an answer: its outputs, and whether they show a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from typing_extensions import TypedDict

from fractale.models import final_json, whole_json
from fractale.plain import to_json
from fractale.schemas import CompiledSchema, UnusableSchema
from fractale.toolbox import ToolInfo, ToolResult

EXIT_CODE_KEYS = (
    "returncode",
    "return_code",
    "exit_code",
    "exitcode",
    "retval",
    "return_value",
)
DETAILS = ("error", "errors", "reason", "stderr", "message", "output")
"""Outputs that describe a failure as text, the clearest first."""

MOST_DETAIL = 2000

BLANK = re.compile(r"\s*+")


class Notice(TypedDict):
    """Something that a step reports although it succeeded.

    Keys:
        kind: ``warning`` or ``lost`` as a tool's answer says it; ``failed`` for items of a foreach,
            or steps of a parallel block, that failed while the step kept running.
        message: The text.
    """

    kind: Literal["warning", "lost", "failed"]
    message: str


NOTICES: Mapping[str, Literal["warning", "lost"]] = {
    "warnings": "warning",
    "not_translated": "lost",
}
"""Outputs whose entries are reported although the step succeeded."""

MOST_NOTICES = 50

WRAPPED = "x-fastmcp-wrap-result"
"""FastMCP's mark in an output schema: the answer itself is under the key `result`."""


def outputs_of(result: ToolResult, tool: ToolInfo | None = None) -> dict[str, Any]:
    """A tool's answer as a mapping.

    This is the structured content, or the result of `outputs_of_text` if there is none. A scalar or
    a list becomes ``{result: …}``. A server on FastMCP wraps answers that need not be mappings as
    ``{"result": …}``. The inner value is used, so that an exit code in it is noticed. Files of the
    answer are listed as ``files``, unless the tool has an output of that name.
    """
    outputs = _said_by(result, tool)
    if result.files and "files" not in outputs:
        return {**outputs, "files": [dict(file) for file in result.files]}
    return outputs


def _said_by(result: ToolResult, tool: ToolInfo | None) -> dict[str, Any]:
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
    """The answer in a tool's text as a mapping: its JSON, else ``{content: text}``."""
    try:
        return as_mapping(json_of_text(text))
    except ValueError:
        return {"content": text}


def json_of_text(text: str) -> Any:
    """The JSON that a tool's text answers with.

    - The text is JSON as a whole, or one fence that contains nothing else: that JSON.
    - It is several JSON documents, one after the other: the list of all of them.
    - It ends with a JSON object, or an array of objects, that begins a line: that JSON. Programs
      print what they do, and their result at the end.

    Raises:
        ValueError: The text is anything else. JSON that is quoted in prose is not an answer.
    """
    try:
        return whole_json(text)
    except ValueError:
        pass
    if documents := _documents(text):
        return documents
    final = final_json(text)
    if final is None:
        raise ValueError("the text does not answer with JSON")
    return final


def _documents(text: str) -> list[Any]:
    """The JSON objects and arrays that a text consists of; none if it has anything else."""
    decoder, found, position = json.JSONDecoder(strict=False), list[Any](), _skip(text, 0)
    while position < len(text):
        if text[position] not in "{[":
            return []
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return []
        found.append(value)
        position = _skip(text, position)
    return found


def _skip(text: str, position: int) -> int:
    blank = BLANK.match(text, position)
    return blank.end() if blank else position


def shown_text(result: ToolResult) -> str:
    """Everything in an answer, as text for a model: its error, text, structure and files.

    Structured content is left out if the text says the same, as MCP asks servers to do.
    """
    parts = [result.text] if result.text.strip() else []
    if result.structured is not None and not _says(result.text, result.structured):
        parts.append(json.dumps(result.structured, ensure_ascii=False))
    parts += [_file_line(file) for file in result.files]
    if result.is_error:
        parts = ["Error: " + "\n".join(parts or [str(result.fault)])]
    elif result.fault:
        parts.insert(0, f"Error: {result.fault}")
    return "\n".join(parts)


def _says(text: str, structured: Any) -> bool:
    """Whether a text is the structured content itself, or the value that FastMCP wraps in it."""
    value = as_mapping(structured)
    if outputs_of_text(text) == value:
        return True
    if list(value) != ["result"]:
        return False
    inner: Any = value["result"]
    return text == (inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False))


def _file_line(file: Mapping[str, Any]) -> str:
    where = f"kept as {file['path']}" if "path" in file else "not kept: the run has no directory"
    return f"[{file['mime_type']}, {file['bytes']:,} bytes, {where}]"


def misfit_of(result: ToolResult, tool: ToolInfo) -> str | None:
    """How an answer breaks the tool's own output schema, as text; None if it does not.

    MCP requires that a tool with an output schema answers with structured content that conforms to
    it. A schema that cannot be used says nothing about the answer.
    """
    if not tool.output_schema or result.is_error:
        return None
    if result.structured is None:
        return f"tool {tool.name} has an output schema but did not return structured content"
    reason = _broken_by(tool.compiled_output_schema, result.structured)
    return reason and f"invalid structured content returned by tool {tool.name}: {reason}"


def _broken_by(schema: CompiledSchema | None, value: Any) -> str | None:
    """The first way in which a value breaks a tool's schema; None if the schema cannot be used."""
    try:
        found = schema.misfits(value) if schema else []
    except UnusableSchema:
        return None
    if not found:
        return None
    place = found[0].place.removeprefix("$").removeprefix(".")
    return f"`{place}`: {found[0].message}" if place else found[0].message


def as_mapping(value: Any) -> dict[str, Any]:
    """A mapping itself; anything else as ``{result: value}``."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"result": value}


def exit_code_evidence(outputs: Mapping[str, Any]) -> str | None:
    """Why the outputs show a failure, or None.

    Evidence is a non-zero exit code (a number, or text that is one), a non-empty `error` or
    `errors`, or ``success: false``.
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
    """A reason, with the details that the outputs give about the failure."""
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
    """A message as it is; several messages joined."""
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
