"""Amounts of memory and counts, as schedulers write them."""

from __future__ import annotations

import math
import re

from fractale.errors import JobError

UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


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
