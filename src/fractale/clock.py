"""How long something has taken, even if the wall clock jumps meanwhile.

A wall clock jumps if an administrator sets it, or a time server after a day without one. So
durations that may last for days are measured by the time since the machine started. That time
cannot be set and counts while the machine sleeps. Another process of the same boot reads the same
clock. After a restart, or on another machine, only the wall clocks can be compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """The readings of a clock; a test may pass one that jumps."""

    def wall(self) -> float:
        """Unix time in seconds."""
        ...

    def boot(self) -> float:
        """Seconds since the machine started."""
        ...

    def boot_id(self) -> str:
        """Which start of which machine: readings of `boot` can be compared if it is the same."""
        ...


class SystemClock:
    """This machine's `Clock`."""

    def wall(self) -> float:
        return time.time()

    def boot(self) -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def boot_id(self) -> str:
        """The kernel's ID of this start; without one, an ID that only this process can compare."""
        try:
            return _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            return f"process {os.getpid()}"


def moment(clock: Clock) -> dict[str, Any]:
    """Now, as JSON."""
    return {"wall": clock.wall(), "boot": clock.boot(), "boot_id": clock.boot_id()}


def elapsed(clock: Clock, began: Mapping[str, Any]) -> float:
    """Seconds since a moment, at least 0.

    Args:
        began: As `moment` returns it, or only its ``wall``.
    """
    return between(began, moment(clock))


def between(began: Mapping[str, Any], ended: Mapping[str, Any]) -> float:
    """Seconds from one moment to another, at least 0.

    Args:
        began: As `moment` returns it, or only its ``wall``.
        ended: As `moment` returns it.
    """
    if began.get("boot_id") == ended["boot_id"]:
        return max(0.0, float(ended["boot"]) - float(began["boot"]))
    return max(0.0, float(ended["wall"]) - float(began["wall"]))
