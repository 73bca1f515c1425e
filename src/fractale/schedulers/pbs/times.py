"""Time limits as PBS writes them."""

from __future__ import annotations

import math
import re
from typing import Final

KILL_WAIT: Final = 10.0
"""Seconds between SIGTERM and SIGKILL: the default `kill_delay` of a queue."""


def read_time(text: str) -> int:
    """PBS's walltime: ``S``, ``M:S`` or ``H:M:S``.

    Raises:
        ValueError: The text is none of these.
    """
    if not re.fullmatch(r"\d+(:\d+){0,2}", text.strip()):
        raise ValueError(f"`{text}` is not a time such as 3600 or 01:00:00")
    total = 0
    for part in text.strip().split(":"):
        total = total * 60 + int(part)
    return total


def longest(seconds: float) -> float:
    """How long a job may run that has this limit, until it is killed."""
    return math.ceil(seconds) + KILL_WAIT
