"""Files of one JSON object a line, to which lines are only added: whole ones, or none."""

from __future__ import annotations

import errno
import os

CHUNK = 4096
ROOM = "check space and permissions, or set FRACTALE_STATE_DIR to another folder"
"""What to do where something of a run cannot be written."""


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line; what a full disk took of it is taken back.

    Args:
        descriptor: Of a file that is open for appending, and that nobody else appends to.

    Raises:
        OSError: It cannot be written; the file is as it was.
    """
    end = os.fstat(descriptor).st_size
    if os.write(descriptor, line) < len(line):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cut_torn_line(descriptor: int) -> None:
    """Cut off a last line that a crash left without its end: the next would be glued to it."""
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
