"""Time limits as PBS writes them."""

from __future__ import annotations

import re


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
