"""Wall-time limits as the workload managers write them, in seconds."""

from __future__ import annotations

import re

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def slurm_seconds(text: str) -> int:
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


def pbs_seconds(text: str) -> int:
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


def lsf_seconds(text: str) -> int:
    """LSF's run limit: ``M`` or ``H:M``, perhaps with ``/host`` after it.

    Raises:
        ValueError: The text is neither.
    """
    match = re.fullmatch(r"(?:(\d+):)?(\d+)(?:/\S+)?", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time such as 90 or 1:30")
    return int(match[1] or 0) * 3600 + int(match[2]) * 60


def flux_seconds(text: str) -> int:
    """Flux's time limit: a number with ``s``, ``m``, ``h`` or ``d``; without one, minutes.

    Raises:
        ValueError: The text is no such number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time such as 90s, 5m or 1.5h")
    return round(float(match[1]) * UNITS[match[2] or "m"])


def flux_duration(seconds: int) -> str:
    """Seconds as Flux writes them, in the largest whole unit: ``100s``, ``5m``, ``2h``."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{seconds // int(UNITS[unit])}{unit}"
    return f"{seconds}s"


def slurm_duration(seconds: int) -> str:
    """Seconds as ``H:MM:SS``, with days in front where there are any."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock
