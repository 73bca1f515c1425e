"""What a model is shown of a tool's answer, and how it reads the rest of a long one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, ToolMessage

from fractale.errors import ToolError
from fractale.models import whole_json
from fractale.plan.regexes import spans_of
from fractale.toolbox import ToolResult

if TYPE_CHECKING:
    from fractale.agents.subagent import AgentHost

READ_RESULT = "read_result"

LONGEST_SHOWN = 24_000
"""Characters of an answer above which only its ends are shown."""

HEAD, TAIL = 10_000, 10_000

LONGEST_READ = 8_000
"""Characters of a kept answer that one `read_result` gives."""

MOST_MATCHES = 60
AROUND_MATCH = 120
SEARCH_SECONDS = 2.0

LARGEST_IMAGE = 5_000_000
"""Characters of an image in base64 that a model is shown."""

KEPT = re.compile(r'kept as result "([0-9a-f]{8})"')

READ_RESULT_WORDS = "Read more of a result that was cut: what matches `search`, or at `offset`."

READ_RESULT_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "result": {"type": "string"},
        "search": {"type": "string", "description": "A regular expression."},
        "offset": {"type": "integer"},
    },
    "required": ["result"],
}


def content_of(result: ToolResult, host: AgentHost, *, sees_images: bool) -> Any:
    """The content of the tool message: text, with images as LangChain's blocks if they are seen.

    A long text is kept whole for `read_result`, and its ends are shown.
    """
    images = list(_images(result)) if sees_images else []
    text = _ends(_words(result, shown=len(images)), host)
    return [{"type": "text", "text": text}, *images] if images else text


def _words(result: ToolResult, shown: int) -> str:
    """All of an answer that is text, and a line for each part that is not.

    Args:
        shown: How many of its images the model is shown.
    """
    parts = [result.text] if result.text.strip() else []
    if result.structured is not None and not _says(result.text, result.structured):
        parts.append(json.dumps(result.structured, ensure_ascii=False))
    if result.fault and result.fault != result.text.strip():
        parts.append(result.fault)
    return "\n\n".join([*parts, *_files(result, shown)])


def _says(text: str, structured: Any) -> bool:
    """Whether a text is the same JSON as the structured content, also as FastMCP wraps it."""
    meant: list[Any] = [structured]
    if isinstance(structured, dict) and list(structured) == ["result"]:  # pyright: ignore[reportUnknownArgumentType] - a server's JSON
        meant.append(structured["result"])
    if text.strip() in [value for value in meant if isinstance(value, str)]:
        return True
    try:
        return json.loads(text) in meant
    except ValueError:
        pass
    try:
        return whole_json(text) in meant
    except ValueError:
        return False


def _files(result: ToolResult, shown: int) -> Iterator[str]:
    for file in result.files:
        if str(file["mime_type"]).startswith("image/") and shown:
            shown -= 1
            continue
        kind = "image" if str(file["mime_type"]).startswith("image/") else "file"
        size = f"{-(-int(file['bytes']) // 1000)} kB"
        path = f", kept as {file['path']}" if file.get("path") else ""
        yield f"[{kind} {file['mime_type']}, {size}: not shown to this model{path}]"


def _images(result: ToolResult) -> Iterator[dict[str, Any]]:
    for part in result.content:
        data = part.get("data")
        if part.get("type") == "image" and isinstance(data, str) and len(data) <= LARGEST_IMAGE:
            mime_type = str(part.get("mimeType") or "image/png")
            yield {"type": "image", "base64": data, "mime_type": mime_type}


def _ends(text: str, host: AgentHost) -> str:
    if len(text) <= LONGEST_SHOWN:
        return text
    name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    host.remember(_key(name), text)
    head = text[:HEAD].rpartition("\n")[0] or text[:HEAD]
    tail = text[-TAIL:].partition("\n")[2] or text[-TAIL:]
    left_out = len(text) - len(head) - len(tail)
    return (
        f"{head}\n"
        f"[{left_out} of {len(text)} characters are left out here, from offset {len(head)} on; "
        f'all of it is kept as result "{name}": use {READ_RESULT} to search and read it]\n'
        f"{tail}"
    )


def _key(name: str) -> str:
    return f"result {name}"


def has_kept(messages: Sequence[BaseMessage]) -> bool:
    """Whether a tool's answer in a conversation was cut, so that `read_result` is of use."""
    return any(isinstance(m, ToolMessage) and KEPT.search(m.text) for m in messages)


def read_result(arguments: Mapping[str, Any], host: AgentHost) -> ToolResult:
    """A part of an answer that was cut.

    Raises:
        ToolError: There is no such result, or the search cannot be made.
    """
    name = str(arguments.get("result") or "")
    text = host.recall(_key(name))
    if not isinstance(text, str):
        raise ToolError(f'there is no result "{name}" in this run: take the name from its notice')
    if pattern := arguments.get("search"):
        return ToolResult(text=_matches(str(pattern), text))
    offset = arguments.get("offset") or 0
    if not isinstance(offset, int) or not 0 <= offset < len(text):
        raise ToolError(f"`offset` must be from 0 to {len(text) - 1}, or give `search`")
    part = text[offset : offset + LONGEST_READ]
    rest = len(text) - offset - len(part)
    return ToolResult(text=f"{part}\n[{rest} more characters]" if rest else part)


def _matches(pattern: str, text: str) -> str:
    """The lines with a match, each with the offset of the match; of a long line, a part."""
    lines, last_end, found = list[str](), -1, 0
    try:
        for start, end in spans_of(f"(?im){pattern}", text, SEARCH_SECONDS):
            found += 1
            if start < last_end or len(lines) == MOST_MATCHES:
                continue
            from_ = max(text.rfind("\n", 0, start) + 1, start - AROUND_MATCH)
            line_end = text.find("\n", end)
            last_end = min(len(text) if line_end < 0 else line_end, end + AROUND_MATCH)
            lines.append(f"{start}: {text[from_:last_end].strip()[: 4 * AROUND_MATCH]}")
    except ValueError as error:
        raise ToolError(f"`search` cannot be used: {error}") from error
    if not lines:
        return f"nothing in the {len(text)} characters matches"
    return "\n".join([f"{found} matches; offset: line", *lines])
