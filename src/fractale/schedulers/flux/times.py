"""Time limits as Flux writes them."""

from __future__ import annotations

import math
import re
from typing import Final

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


_FIGURE: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ms|s|m|h|d)?")


def read_limit(text: str) -> float:
    """A time limit as flux batch reads it, in seconds; infinity for 0, which means no limit.

    Raises:
        ValueError: flux batch refuses the text.
    """
    return _seconds(text, "m") or math.inf


def read_duration(text: str) -> float:
    """A Flux standard duration in seconds: a number with a unit, by default seconds.

    Raises:
        ValueError: The text is not a duration.
    """
    return _seconds(text, "s")


def read_time(text: str) -> int:
    """Flux's time limit in seconds: a number with ``s``, ``m``, ``h`` or ``d``; else in minutes.

    Raises:
        ValueError: The text is not a time limit.
    """
    return round(_seconds(text, "m"))


def _seconds(text: str, unit: str) -> float:
    match = _FIGURE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time such as 90s, 5m or 1.5h")
    return float(match[1]) * UNITS[match[2] or unit]


def write_time(seconds: float) -> str:
    """Seconds as Flux writes them, in the largest whole unit: ``100s``, ``5m``, ``2h``.

    Infinity is written as 0, which means no limit for Flux.
    """
    if math.isinf(seconds):
        return "0"
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{int(seconds // UNITS[unit])}{unit}"
    return f"{int(seconds) if seconds == int(seconds) else seconds}s"


KILL_WAIT: Final = 5.0
"""Seconds between SIGTERM and SIGKILL: the default `kill-timeout` of flux-config-exec(5)."""


def longest(seconds: float) -> float:
    """How long a job with this limit may run before it is killed, in seconds."""
    return seconds + KILL_WAIT
