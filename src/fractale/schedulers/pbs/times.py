"""Time limits as PBS writes them."""

from __future__ import annotations

import math
import re
from typing import Final


def read_time(text: str) -> int:
    """PBS's walltime: ``S``, ``M:S``, ``H:M:S`` or Torque's ``D:H:M:S``, with a decimal part.

    Raises:
        ValueError: The text is not a time in one of these forms.
    """
    match = re.fullmatch(r"([0-9]{1,12}(?::[0-9]{1,12}){0,3})(?:\.([0-9]*))?", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time such as 3600 or 01:00:00")
    parts = [int(part) for part in match[1].split(":")]
    days = parts.pop(0) if len(parts) == 4 else 0
    total = 0
    for part in parts:
        total = total * 60 + part
    return days * 86400 + total + (1 if (match[2] or "0").ljust(3, "0")[:3] >= "500" else 0)


def write_time(seconds: float) -> str:
    """Seconds, rounded up, as ``HH:MM:SS``; the hours may exceed 24."""
    hours, rest = divmod(math.ceil(seconds), 3600)
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"


KILL_WAIT: Final = 10.0
"""Seconds between SIGTERM and SIGKILL: the default `kill_delay` of a queue."""


def longest(seconds: float) -> float:
    """How long a job with this limit may run before it is killed, in seconds."""
    return math.ceil(seconds) + KILL_WAIT
