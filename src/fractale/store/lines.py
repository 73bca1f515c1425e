"""Files of one JSON object per line that only grow: a line is appended completely or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

CHUNK = 64 * 1024
"""Bytes that are read at once, from the end of a file."""
ROOM = "check space and permissions, or set FRACTALE_STATE_DIR to another folder"
"""The hint if a run's data cannot be written."""


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line; if the disk is full, the part that was written is removed again.

    Args:
        descriptor: Of a file that is open for appending, by this process alone.

    Raises:
        OSError: It cannot be written; the file is as it was.
    """
    end = os.fstat(descriptor).st_size
    if os.write(descriptor, line) < len(line):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cut_torn_line(descriptor: int) -> None:
    """Cut off a last line that a crash left without its end: the next would be appended to it."""
    end = os.fstat(descriptor).st_size
    place = end
    while place > 0:
        start = max(0, place - CHUNK)
        newline = os.pread(descriptor, place - start, start).rfind(b"\n")
        if newline >= 0:
            place = start + newline + 1
            break
        place = start
    if place < end:
        os.ftruncate(descriptor, place)


def lines_from_end(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last first; none if the file is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        place, rest = file.seek(0, os.SEEK_END), b""
        while place > 0:
            size = min(CHUNK, place)
            place -= size
            file.seek(place)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            rest = first
        if rest:
            yield rest
