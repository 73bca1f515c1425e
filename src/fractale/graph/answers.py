"""A tool's answer as a run takes it: bytes become files, and its own schema is evidence."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from fractale.errors import ToolError
from fractale.evidence import misfit_of
from fractale.masking import Masker
from fractale.store.outputs import OutputStore
from fractale.toolbox import ToolInfo, ToolResult

UNKNOWN_TYPE = "application/octet-stream"


def taken(
    result: ToolResult, outputs: OutputStore, masker: Masker, tool: ToolInfo | None = None
) -> ToolResult:
    """The answer with its bytes kept as files, and checked against the tool's output schema.

    Args:
        masker: Takes secrets out of files that are text.

    Raises:
        ToolError: The bytes are not the base64 that MCP prescribes.
        StoreError: A file cannot be written.
    """
    misfit = misfit_of(result, tool) if tool else None
    return replace(result, files=tuple(_files(result, outputs, masker)), misfit=misfit)


def _files(result: ToolResult, outputs: OutputStore, masker: Masker) -> Iterator[dict[str, Any]]:
    for part in result.content:
        if (found := _bytes_in(part)) is None:
            continue
        data, mime_type = found
        data = masker.data(data)
        path = outputs.put_file(data, mimetypes.guess_extension(mime_type) or ".bin")
        known = {"path": str(path)} if path else {}
        yield {**known, "mime_type": mime_type, "bytes": len(data)}


def _bytes_in(part: Mapping[str, Any]) -> tuple[bytes, str] | None:
    """The bytes of a part and their type; None of a part that is text."""
    inner = part.get("resource")
    source = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else part
    text = source.get("blob") if "blob" in source else source.get("data")
    if not isinstance(text, str):
        return None
    mime_type = str(source.get("mimeType") or UNKNOWN_TYPE)
    try:
        return base64.b64decode(text, validate=True), mime_type
    except (binascii.Error, ValueError) as error:
        raise ToolError(f"the tool answered with {mime_type} that is not base64") from error
