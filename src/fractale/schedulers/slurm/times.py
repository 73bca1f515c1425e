"""Time limits as Slurm writes them."""

from __future__ import annotations

import math
import re
from typing import Final

_TIME: Final = re.compile(r"(?:(\d+)-)?(\d*)(?::(\d*))?(?::(\d*))?")


def read_limit(text: str) -> float:
    """A time limit as sbatch reads it: a time, or infinity for ``UNLIMITED`` and 0.

    Raises:
        ValueError: sbatch refuses the text.
    """
    if text.lower() in ("unlimited", "infinite", "-1"):
        return math.inf
    return read_time(text) or math.inf


def read_time(text: str) -> int:
    """Slurm's time: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M`` or ``D-H:M:S``, also ``D-``.

    Raises:
        ValueError: The text is not a time in one of these forms.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None or "" in (match[3], match[4]) or (not match[1] and not match[2]):
        raise ValueError(f"`{text}` is not a time such as 90, 01:30:00 or 2-12:00")
    days, *rest = match.groups()
    parts = [int(part or 0) for part in rest if part is not None]
    if days is None and len(parts) < 3:  # without days, the first number is minutes
        parts = [0, *parts]
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def write_time(seconds: float) -> str:
    """Seconds as ``H:MM:SS``, after a number of days if needed; infinity as UNLIMITED.

    For Slurm, 0 means no limit, so a limit below a second is written as one second.
    """
    if math.isinf(seconds):
        return "UNLIMITED"
    days, rest = divmod(max(math.ceil(seconds), 1), 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


KILL_WAIT: Final = 30.0
"""Seconds between SIGTERM and SIGKILL at the limit: the default of slurm.conf(5)."""


def longest(seconds: float) -> float:
    """How long a job with this limit may run before it is killed, in seconds.

    Slurm rounds limits up to whole minutes.
    """
    return math.ceil(seconds / 60) * 60 + KILL_WAIT
