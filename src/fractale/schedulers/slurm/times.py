"""Time limits as Slurm writes them."""

from __future__ import annotations

import math
import re
from typing import Final

KILL_WAIT: Final = 30.0
"""Seconds between SIGTERM and SIGKILL at the limit: the default of slurm.conf(5)."""


def read_time(text: str) -> int:
    """Slurm's time: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M`` or ``D-H:M:S``.

    Raises:
        ValueError: The text is none of these.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time such as 90, 01:30:00 or 2-12:00")
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:  # without days the first figure is minutes
        parts = [0, *parts]
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def write_time(seconds: int) -> str:
    """Seconds as ``H:MM:SS``, with days in front where there are any."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def longest(seconds: float) -> float:
    """How long a job may run that has this limit: in whole minutes, and until it is killed."""
    return math.ceil(seconds / 60) * 60 + KILL_WAIT
