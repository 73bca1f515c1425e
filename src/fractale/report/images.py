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
"""The largest picture, so that a small file can't fill the memory of a browser."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN: Final = 0xDA
_14_BITS: Final = 0x3FFF


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
    """The MIME type by the first bytes; empty for other content and a size over `MOST_PIXELS`."""
    if data.startswith(_PNG):
        kind, size = "image/png", (_big(data, 16, 4), _big(data, 20, 4))
    elif data.startswith(b"\xff\xd8\xff"):
        kind, size = "image/jpeg", _jpeg_size(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        kind, size = "image/gif", (_little(data, 6, 2), _little(data, 8, 2))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind, size = "image/webp", _webp_size(data)
    else:
        return ""
    return kind if 0 < size[0] * size[1] <= MOST_PIXELS else ""


def _big(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def _little(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "little")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height by the frame's header; the largest if there are several, 0 if none."""
    at, found = 2, (0, 0)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _JPEG_SCAN:
            break
        if marker in _JPEG_FRAMES:
            size = _big(data, at + 7, 2), _big(data, at + 5, 2)
            found = max(found, size, key=lambda each: each[0] * each[1])
        at += 2 + _big(data, at + 2, 2)
    return found


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by the first chunk, which is of one of three kinds; 0 for another."""
    match data[12:16]:
        case b"VP8X":
            return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
        case b"VP8L":
            bits = _little(data, 21, 4)
            return (bits & _14_BITS) + 1, (bits >> 14 & _14_BITS) + 1
        case b"VP8 ":
            return _little(data, 26, 2) & _14_BITS, _little(data, 28, 2) & _14_BITS
        case _:
            return 0, 0


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
