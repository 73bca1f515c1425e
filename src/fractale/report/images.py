"""Pictures that tools returned, as `data:` addresses for an ``<img>``.

The type is read from the content, not from what the tool says. SVG is left out: as a document of
its own it could run scripts.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.render.text import count, inert

MOST_BYTES: Final = 1024 * 1024
"""The largest picture on a page."""
MOST_IN_ALL: Final = 12 * 1024 * 1024
"""The most bytes of all pictures of one page."""
MOST_PIXELS: Final = 40_000_000
"""The largest PNG, so that a small file can't fill the memory of a browser."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture, or why it is not shown.

    Args:
        address: ``data:image/png;base64,…``; empty if it is not shown.
        words: Describes it, or says why it is not shown.
    """

    address: str
    words: str


class Pictures:
    """Makes pictures until they have `MOST_IN_ALL` bytes together."""

    def __init__(self) -> None:
        self._room = MOST_IN_ALL

    def of(self, result: Any) -> tuple[Picture, ...]:
        """The pictures in a call's result as the run's journal keeps it."""
        if not isinstance(result, Mapping):
            return ()
        parts = cast("Mapping[str, Any]", result).get("content")
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            return ()
        found = [_encoded(part) for part in cast("Sequence[Any]", parts)]
        return tuple(self._picture(*each) for each in found if each is not None)

    def _picture(self, said: str, encoded: str) -> Picture:
        named = f"picture {inert(said, 40)}"
        if len(encoded) > MOST_BYTES * 4 / 3 + 4:
            size = len(encoded) * 3 // 4
            return Picture(address="", words=f"{named}, not shown: {size:,} bytes, over 1 MiB")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return Picture(address="", words=f"{named}, not shown: it is not valid base64")
        kind = type_of(data)
        if not kind:
            words = f"{named}, not shown: it is not a PNG, JPEG, GIF or WebP picture"
            return Picture(address="", words=f"{words}, or it is too large")
        if len(data) > self._room:
            words = f"{named}, not shown: the page has {count(MOST_IN_ALL, 'byte')} of pictures"
            return Picture(address="", words=words)
        self._room -= len(data)
        address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return Picture(address=address, words=f"{named}, {count(len(data), 'byte')}")


def type_of(data: bytes) -> str:
    """The MIME type by the first bytes; empty for any other content."""
    if data.startswith(_PNG):
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        return "image/png" if width * height <= MOST_PIXELS else ""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _encoded(part: Any) -> tuple[str, str] | None:
    """The type that a tool named, and the base64 text; None for any other part."""
    if not isinstance(part, Mapping):
        return None
    table = cast("Mapping[str, Any]", part)
    if table.get("type") == "image" and isinstance(table.get("data"), str):
        return str(table.get("mimeType") or ""), table["data"]
    resource = table.get("resource")
    if not isinstance(resource, Mapping):
        return None
    held = cast("Mapping[str, Any]", resource)
    kind = str(held.get("mimeType") or "")
    if kind.startswith("image/") and isinstance(held.get("blob"), str):
        return kind, held["blob"]
    return None
