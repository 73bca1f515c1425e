"""A job's log, always read in parts and never as a whole."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fractale.plain import readable
from fractale.regexes import spans_of
from fractale.schedulers.folder import JobFolder, whole_of

MOST: Final = 1024 * 1024
"""The largest number of bytes that one call reads."""

LONGEST_TAIL: Final = 64 * 1024

MOST_MATCHES: Final = 60
AROUND_MATCH: Final = 120

SEARCH_SECONDS: Final = 10.0
BLOCK_SECONDS: Final = 2.0
"""Time limits of a search in seconds: for the whole log, and for each block of `MOST` bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLog:
    """A part of a job's log.

    Args:
        offset: Offset of the text, in bytes.
        next_offset: Offset of the next part, in bytes.
        size: Size of the whole log at this moment, in bytes.
    """

    text: str
    offset: int
    next_offset: int
    size: int


def read_log(path: Path, offset: int, limit: int) -> JobLog:
    """Read a part of a log; empty if the log does not exist.

    Args:
        offset: In bytes; a negative offset counts from the end.
        limit: Length of the part, in bytes.
    """
    data, start, size = _bytes_of(path, offset, limit)
    whole = _whole(data) if start + len(data) < size else data
    text = whole.decode("utf-8", errors="replace")
    return JobLog(text=text, offset=start, next_offset=start + len(whole), size=size)


def read_ends(path: Path, limit: int) -> JobLog:
    """Read a log, or the two ends of a log that exceeds the limit.

    The last lines get the larger part, because they show the results.

    Args:
        limit: In bytes.

    Returns:
        `next_offset` is the offset of the omitted lines.
    """
    limit = max(0, min(limit, MOST))
    head, _, size = _bytes_of(path, 0, limit)
    if size <= limit:
        return read_log(path, 0, limit)
    head = head[: limit // 3]
    head = head[: head.rfind(b"\n") + 1] or _whole(head)
    tail, start, size = _bytes_of(path, limit // 3 - limit, limit)
    cut = tail.find(b"\n") + 1
    left_out = start + cut - len(head)
    notice = f"[{left_out} of {size} bytes are left out here, from offset {len(head)} on]\n"
    first, last = (part.decode("utf-8", errors="replace") for part in (head, tail[cut:]))
    between = "" if first.endswith("\n") else "\n"
    text = f"{first}{between}{notice}{last}"
    return JobLog(text=text, offset=0, next_offset=len(head), size=size)


def search_log(path: Path, pattern: str) -> JobLog:
    """Find the lines of a whole log that match, each with its offset in bytes.

    Args:
        pattern: A regular expression; it ignores case, and `^` and `$` match at line ends.

    Returns:
        `next_offset` is where the search ended: before the end of the log if its time was up.

    Raises:
        ValueError: The pattern is not valid, or too slow.
    """
    until, lines, found = time.monotonic() + SEARCH_SECONDS, list[str](), 0
    position, size = 0, _bytes_of(path, 0, 0)[2]
    while position < size and time.monotonic() < until:
        data, _, _ = _bytes_of(path, position, MOST)
        if position + len(data) < size:
            data = data[: data.rfind(b"\n") + 1] or data
        if not data:
            break
        for offset, line in _matching_lines(data, pattern):
            found += 1
            if len(lines) < MOST_MATCHES:
                lines.append(f"{position + offset}: {line}")
        position += len(data)
    said = (
        f"{found} matching lines; offset: line" if found else f"nothing in {position} bytes matches"
    )
    if position < size:
        lines.append(f"[the search took too long: it ended at {position} of {size} bytes]")
    return JobLog(text="\n".join([said, *lines]), offset=0, next_offset=position, size=size)


def _matching_lines(data: bytes, pattern: str) -> Iterator[tuple[int, str]]:
    """Yield the offset and the text of each matching line; of a long line, the matching part."""
    text, last_end = data.decode("utf-8", errors="surrogateescape"), -1
    counted, offset = 0, 0
    for start, end in spans_of(f"(?im){pattern}", text, BLOCK_SECONDS):
        if start < last_end:
            continue
        line_end = text.find("\n", end)
        last_end = len(text) if line_end < 0 else line_end
        from_ = max(text.rfind("\n", 0, start) + 1, start - AROUND_MATCH)
        offset += len(text[counted:from_].encode("utf-8", errors="surrogateescape"))
        counted = from_
        yield offset, readable(text[from_ : min(last_end, from_ + 4 * AROUND_MATCH)].strip())


def _bytes_of(path: Path, offset: int, limit: int) -> tuple[bytes, int, int]:
    """Read some bytes of a file; returns them, their offset, and the size of the file."""
    descriptor = open_log(path)
    if descriptor is None:
        return b"", 0, 0
    try:
        size = os.fstat(descriptor).st_size
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        return os.pread(descriptor, max(0, min(limit, MOST)), start), start, size
    finally:
        os.close(descriptor)


def open_log(path: Path) -> int | None:
    """Open a job's log to read.

    A job can put a link in the place of its log or its directory; then it has no log, so that no
    reader shows or sends another file.

    Args:
        path: Of the file ``log`` in the directory of a job or of an element.

    Returns:
        The descriptor; None if the log does not exist.
    """
    above = whole_of(JobFolder(path.parent)).path.parent  # the directory of all jobs
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    folder = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(above, folder)
        for name in path.parent.relative_to(above).parts:
            descriptor = _opened(name, folder | os.O_NOFOLLOW, descriptor)
        descriptor = _opened(path.name, flags, descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _opened(name: str, flags: int, folder: int) -> int:
    """Open a part of a directory, and close the directory."""
    try:
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)


def read_tail(path: Path, lines: int, limit: int) -> JobLog:
    """Read the last lines of a log, within `limit` bytes of its end."""
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
    """Read the last lines that are not empty; long lines are cut."""
    text = read_log(path, -LONGEST_TAIL, LONGEST_TAIL).text
    said = [line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").splitlines()]
    return "\n".join([line[:300] for line in said if line][-lines:])


def _whole(data: bytes) -> bytes:
    """Remove an incomplete character from the end of the bytes."""
    for back in range(1, min(4, len(data)) + 1):
        if (byte := data[-back]) & 0xC0 != 0x80:
            wanted = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return data[:-back] if wanted > back and len(data) > back else data
    return data


def read_last_of_each(array: JobFolder) -> JobLog:
    """Read the last line of the log of each element that has begun."""
    lines = [
        f"[{index}] {line}"
        for index in sorted(array.begun())
        if (line := last_lines(array.element(index).log, 1).strip())
    ]
    text = "".join(f"{line}\n" for line in lines)[-MOST:]
    size = len(text.encode())
    return JobLog(text=text, offset=0, next_offset=size, size=size)
