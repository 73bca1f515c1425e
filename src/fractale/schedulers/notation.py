"""Amounts, counts, names and host lists, as schedulers write them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from fractale.errors import JobError

UNITS: Final = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
MOST_HOSTS: Final = 100_000


def bytes_of(text: str) -> int:
    """Convert an amount of memory to bytes: ``4G``, ``512M``; a bare number is in megabytes.

    Slurm reads amounts the same way.

    Raises:
        JobError: The text is not an amount.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise JobError(f"`{text}` is not an amount of memory such as 4G or 512M")
    return math.ceil(float(found[1]) * UNITS[found[2].upper()])


def megabytes(text: str) -> int:
    """Convert an amount of memory to whole megabytes, rounded up.

    Raises:
        JobError: The text is not an amount.
    """
    return math.ceil(bytes_of(text) / 2**20)


def figure(text: str) -> int | None:
    """Read the whole number at the head of a text: ``64`` of ``64+``; None for ``infinite``."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def if_written(read: Callable[[str], int], value: Any) -> int | None:
    """Read a value with a scheduler's own reader; None for others, such as ``infinite``."""
    try:
        return read(str(value))
    except ValueError:
        return None


def plain_name(name: str, most: int = 64) -> str:
    """Rewrite a job's name in letters that every scheduler accepts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:most] or "job"


def hosts_of(text: str) -> tuple[str, ...]:
    """List the hosts of a host list of Slurm or Flux: ``n[1-3,07-08],m7`` has six."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[\]\s]|\[[^\]]*\])+", text):
        found += _spread(part, MOST_HOSTS - len(found))
    return tuple(dict.fromkeys(found))


def _spread(part: str, most: int) -> list[str]:
    before, bracket, rest = part.partition("[")
    if not bracket or most <= 0:
        return [part][:most]
    inside, _, after = rest.partition("]")
    ends = _spread(after, most) if after else [""]
    return [f"{before}{each}{end}" for each in _numbers(inside, most) for end in ends][:most]


def _numbers(text: str, most: int) -> list[str]:
    """Expand ``1-3,07-08``; text that is not a range is kept unchanged."""
    found: list[str] = []
    for each in text.split(","):
        first, dash, last = each.partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            end = min(int(last), int(first) + most)
            found += [str(number).zfill(len(first)) for number in range(int(first), end + 1)]
        else:
            found.append(each)
    return found[:most]
