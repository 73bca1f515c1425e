"""Time limits as LSF writes them."""

from __future__ import annotations

import math
import re
from typing import Final


def read_time(text: str) -> int:
    """LSF's run limit: ``M`` or ``H:M``, optionally followed by ``/host``.

    Raises:
        ValueError: The text has neither form.
    """
    match = re.fullmatch(r"(?:([0-9]{1,9}):)?([0-9]{1,9})(?:/\S+)?", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a time such as 90 or 1:30")
    return int(match[1] or 0) * 3600 + int(match[2]) * 60


def write_time(seconds: float) -> str:
    """Seconds as ``H:MM``, rounded up to whole minutes."""
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours}:{minutes:02d}"


KILL_WAIT: Final = 10.0
"""Seconds between SIGTERM and SIGKILL: the default JOB_TERMINATE_INTERVAL of lsb.params(5)."""


def longest(seconds: float) -> float:
    """How long a job with this limit may run before it is killed, in seconds.

    LSF rounds limits up to whole minutes.
    """
    return math.ceil(seconds / 60) * 60 + KILL_WAIT
