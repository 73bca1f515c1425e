"""What a model is shown of a tool's answer, and how it reads the rest of a long one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, ToolMessage

from fractale.errors import ToolError
from fractale.evidence import shown_text
from fractale.mcp.images import images_of
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


async def content_of(result: ToolResult, host: AgentHost) -> Any:
    """The content of the tool message: text, with images as LangChain's blocks if they are seen.

    A long text is kept whole for `read_result`, and its ends are shown.
    """
    text = _ends(shown_text(result), host)
    profile: Mapping[str, Any] = host.chat_model().profile or {}
    if not profile.get("image_inputs"):
        return text
    images = [each for each in await images_of(result) if len(each["base64"]) <= LARGEST_IMAGE]
    return [{"type": "text", "text": text}, *images] if images else text


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
