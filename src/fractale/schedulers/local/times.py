"""Time limits of local jobs."""

from __future__ import annotations

from fractale.schedulers.local.supervisor import GRACE, LOOK


def longest(seconds: float) -> float:
    """How long a job may run that has this limit, until it is killed."""
    return seconds + GRACE + LOOK
