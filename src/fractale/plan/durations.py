"""Durations as people write them: ``90s``, ``10m``, ``1h30m``."""

from __future__ import annotations

import re
from typing import Final

MOST_SECONDS: Final = 1e9
"""Thirty years: no duration is as long."""

_UNITS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_UNIT_PATTERNS = "".join(rf"([0-9]+(\.[0-9]+)?{unit})?" for unit in _UNITS)
DURATION_PATTERN: Final = rf"^({_UNIT_PATTERNS}|[0-9]+(\.[0-9]+)?)$"
"""The same for JSON Schema; a plain number of seconds is a number there."""

_DURATION = re.compile(
    "".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in _UNITS)
)


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``10m``, ``1.5h``, ``1h30m``, ``250ms``.

    Args:
        text: Numbers with a unit (d, h, m, s, ms), each unit once, the largest first; or a
            plain number of seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: It is not a duration, or one of more than thirty years.
    """
    word = text.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", word):
        return float(word)
    match = _DURATION.fullmatch(word)
    if not word or match is None:
        raise ValueError(f"`{text}` is not a duration")
    seconds = sum(float(count) * _UNITS[unit] for unit, count in match.groupdict("0").items())
    if seconds >= MOST_SECONDS:
        raise ValueError(f"`{text}` is longer than thirty years")
    return seconds


def format_duration(seconds: float) -> str | float:
    """A duration as `parse_duration` reads it: in hours, minutes and seconds if it is whole.

    Args:
        seconds: How long it is.
    """
    if not float(seconds).is_integer() or not 0 < seconds < MOST_SECONDS:
        return seconds
    rest, parts = int(seconds), ""
    for unit in ("h", "m", "s"):
        count, rest = divmod(rest, int(_UNITS[unit]))
        parts += f"{count}{unit}" if count else ""
    return parts
