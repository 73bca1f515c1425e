"""A job's log: read in parts, never whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fractale.jobs.model import JobLog

MOST: Final = 1024 * 1024
"""Bytes that are read at once, at most."""

LONGEST_TAIL: Final = 64 * 1024


def read_log(path: Path, offset: int, limit: int) -> JobLog:
    """A part of a log; of one that is not there, nothing.

    Args:
        offset: In bytes; a negative one counts from the end.
        limit: The most bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return JobLog(text="", offset=0, next_offset=0, size=0)
    try:
        size = os.fstat(descriptor).st_size
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        data = os.pread(descriptor, max(0, min(limit, MOST)), start)
    finally:
        os.close(descriptor)
    whole = _whole(data) if start + len(data) < size else data
    text = whole.decode("utf-8", errors="replace")
    return JobLog(text=text, offset=start, next_offset=start + len(whole), size=size)


def read_tail(path: Path, lines: int, limit: int) -> JobLog:
    """The last lines of a log, as far as they are within so many bytes of its end."""
    end = read_log(path, -min(limit, MOST), limit)
    parts = end.text.splitlines(keepends=True)
    kept = "".join(parts[len(parts) - lines :] if lines < len(parts) else parts)
    size = len(kept.encode("utf-8", errors="replace"))
    return JobLog(
        text=kept,
        offset=max(end.offset, end.next_offset - size),
        next_offset=end.next_offset,
        size=end.size,
    )


def last_lines(path: Path, lines: int) -> str:
    """The last lines that say something; each cut where it is very long."""
    text = read_log(path, -LONGEST_TAIL, LONGEST_TAIL).text
    said = [line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").splitlines()]
    return "\n".join([line[:300] for line in said if line][-lines:])


def _whole(data: bytes) -> bytes:
    """Without a character at the end of which only the beginning is there."""
    for back in range(1, min(4, len(data)) + 1):
        if (byte := data[-back]) & 0xC0 != 0x80:
            wanted = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return data[:-back] if wanted > back and len(data) > back else data
    return data
