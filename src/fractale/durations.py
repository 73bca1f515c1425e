"""Durations as plans and options write them; durations and times as messages show them.

Each scheduler's own way to write a time limit is in `fractale.schedulers.NAME.times`.
"""

from __future__ import annotations

import re
import time
from typing import Final

MOST_SECONDS: Final = 1e9
"""Thirty years: the longest duration that is accepted."""

_UNITS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_UNIT_PATTERNS = "".join(rf"([0-9]+(\.[0-9]+)?{unit})?" for unit in _UNITS)
_CLOCK_PATTERN = "([0-9]+-)?[0-9]+:[0-5][0-9]:[0-5][0-9]|[0-9]+-[0-9]+(:[0-5][0-9])?"
DURATION_PATTERN: Final = rf"^({_UNIT_PATTERNS}|[0-9]+(\.[0-9]+)?|{_CLOCK_PATTERN})$"
"""The same for JSON Schema, in which a plain number of seconds is a number."""

_DURATION = re.compile(
    "".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in _UNITS)
)


_CLOCK = re.compile(
    r"(?:(?P<days>[0-9]{1,5})-)?(?P<hours>[0-9]{1,7})(?::(?P<minutes>[0-5][0-9]))?"
    r"(?::(?P<seconds>[0-5][0-9]))?"
)
AMBIGUOUS: Final = re.compile(r"([0-9]{1,6}):([0-9]{1,6})")
"""Some schedulers read ``1:30`` as minutes and seconds, others as hours and minutes."""


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``10m``, ``1.5h``, ``1h30m``, ``250ms``.

    Args:
        text: Numbers with a unit (d, h, m, s, ms), each unit once, the largest first; hours,
            minutes and seconds (``1:00:00``), with days in front of them (``2-00:00:00``, ``2-12``
            or ``2-12:30``); or a plain number of seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: It is not a duration, or is longer than thirty years. ``1:30`` is refused: it
            is minutes and seconds for some schedulers, and hours and minutes for others.
    """
    word = text.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", word):
        return float(word)
    if AMBIGUOUS.fullmatch(word):
        raise ValueError(f"`{text}` may be hours and minutes, or minutes and seconds")
    seconds = _clock(word)
    if seconds is None:
        match = _DURATION.fullmatch(word)
        if not word or match is None:
            raise ValueError(f"`{text}` is not a duration")
        seconds = sum(float(count) * _UNITS[unit] for unit, count in match.groupdict("0").items())
    if seconds >= MOST_SECONDS:
        raise ValueError(f"`{text}` is longer than thirty years")
    return seconds


def seconds_in(value: object) -> float | None:
    """The seconds of a number, or of a text that `parse_duration` reads; None for other values."""
    if isinstance(value, (int, float)):
        return None if isinstance(value, bool) else float(value)
    try:
        return parse_duration(str(value))
    except ValueError:
        return None


def _clock(word: str) -> float | None:
    """Seconds of hours, minutes and seconds with colons; None if the text has another form."""
    match = _CLOCK.fullmatch(word)
    if match is None or (match["days"] is None and match["seconds"] is None):
        return None
    days, hours, minutes, seconds = (int(match[name] or 0) for name in _CLOCK.groupindex)
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def format_duration(seconds: float) -> str | float:
    """A duration as `parse_duration` reads it: in hours, minutes and seconds if it is whole."""
    if not float(seconds).is_integer() or not 0 < seconds < MOST_SECONDS:
        return seconds
    rest, parts = int(seconds), ""
    for unit in ("h", "m", "s"):
        count, rest = divmod(rest, int(_UNITS[unit]))
        parts += f"{count}{unit}" if count else ""
    return parts


def in_words(seconds: float) -> str:
    """A duration for a sentence: ``0.1 s``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """A running time: ``0:08``, ``12:30``, ``1:02:03``."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def limit_text(seconds: float) -> str:
    """A time limit, to the second: ``45 s``, ``10:00``, ``2:00:00``."""
    return f"{seconds:.2g} s" if round(seconds) < 60 else clock(round(seconds))


def when(moment: float | None) -> str:
    """A Unix time in the local time zone: ``2026-11-23 14:02``."""
    if not moment:
        return "?"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def exactly(moment: float | None) -> str:
    """A Unix time with its seconds."""
    if not moment:
        return "?"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
