"""Time limits as Flux writes them."""

from __future__ import annotations

import re
from typing import Final

KILL_WAIT: Final = 5.0
"""Seconds between SIGTERM and SIGKILL: the default `kill-timeout` of flux-config-exec(5)."""

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def read_time(text: str) -> int:
    """Flux's time limit: a number with ``s``, ``m``, ``h`` or ``d``; without one, minutes.

    Raises:
        ValueError: The text is no such number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time such as 90s, 5m or 1.5h")
    return round(float(match[1]) * UNITS[match[2] or "m"])


def write_time(seconds: int) -> str:
    """Seconds as Flux writes them, in the largest whole unit: ``100s``, ``5m``, ``2h``."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{seconds // int(UNITS[unit])}{unit}"
    return f"{seconds}s"


def longest(seconds: float) -> float:
    """How long a job may run that has this limit, until it is killed."""
    return seconds + KILL_WAIT
