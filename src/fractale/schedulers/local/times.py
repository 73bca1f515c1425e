"""Time limits of local jobs."""

from __future__ import annotations

from fractale.schedulers.local.supervisor import GRACE, LOOK


def longest(seconds: float) -> float:
    """How long a job with this limit may run before it is killed, in seconds."""
    return seconds + GRACE + LOOK
