"""YAML text → a tree of values that know where they stand.

A file is UTF-8, at most 1 MiB, 40 levels and 100,000 values. Anchors and aliases may be used;
merge keys (``<<``) may not, since a reader cannot see which of two keys wins. All faults of a
file are reported at once, except after one that makes the rest unreadable (a syntax error, a
limit).
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fractale.errors import PlanError, Position, Problem
from fractale.plan.composer import BREAK, MAX_DEPTH, MAX_NODES, Composer
from fractale.plan.node import Node

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Node", "read_file", "read_source"]

MAX_BYTES: Final = 2**20
NO_WRITER, SILENT_WRITER = 2.0, 60.0
"""Seconds to wait for a named pipe that nobody writes to, and for one whose writer is silent."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_file(path: Path | str) -> Node:
    """Read a YAML file.

    Args:
        path: Positions name it as given here.

    Returns:
        The root of the tree.

    Raises:
        PlanError: The file cannot be read, or is not YAML that fractale takes.
    """
    try:
        data = _bytes_of(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal("unreadable-file", f"cannot be read: {reason}", str(path)) from error
    return read_source(data, str(path))


def _bytes_of(path: Path | str) -> bytes:
    """The bytes of a file, one more than it may have at the most.

    A named pipe is read until its writers close it; it must not hold up the command if nobody
    writes to it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return b"".join(_piped(descriptor))
        os.set_blocking(descriptor, True)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _piped(descriptor: int) -> Iterator[bytes]:
    """What is written to a pipe that is read without blocking."""
    left, patience = MAX_BYTES + 1, NO_WRITER
    has_begun = False
    while left > 0:
        try:
            data = os.read(descriptor, left)
        except BlockingIOError:  # it has a writer
            data, patience, has_begun = None, SILENT_WRITER, True
        if data:
            left, has_begun = left - len(data), True
            yield data
        elif data is not None and has_begun:
            return
        elif select.select([descriptor], [], [], patience)[0]:
            has_begun = True
        else:
            raise TimeoutError(errno.ETIMEDOUT, f"nothing was written to it for {patience:g} s")


def read_source(text: str | bytes, file: str) -> Node:
    """Read YAML text of one document.

    Args:
        text: At most 1 MiB; bytes are UTF-8.
        file: What positions are to name.

    Returns:
        The root of the tree.

    Raises:
        PlanError: It is not YAML that fractale takes; all problems.
    """
    if len(text) > MAX_BYTES:
        raise _refusal("too-big", "the file is larger than 1 MiB", file)
    decoded = text if isinstance(text, str) else _decode(text, file)
    decoded = decoded.removeprefix("\ufeff")
    _check_characters(decoded, file)
    return Composer(decoded, file).compose()


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        before = data[: error.start].decode("utf-8")
        raise _refusal("not-utf8", message, file, before) from error


def _check_characters(text: str, file: str) -> None:
    """Refuse what YAML forbids, so that the parser never sees it."""
    match = _UNPRINTABLE.search(text)
    if match is None:
        return
    before = text[: match.start()]
    if match[0] == "\0":
        raise _refusal("nul-byte", "a NUL byte; is this a text file?", file, before)
    message = f"the character U+{ord(match[0]):04X} cannot stand in YAML"
    raise _refusal("control-character", message, file, before)


def _refusal(code: str, message: str, file: str, before: str = "") -> PlanError:
    """The error for a fault that stands after the text `before`."""
    lines = BREAK.split(before)
    return PlanError([Problem(code, message, Position(file, len(lines), len(lines[-1]) + 1))])
