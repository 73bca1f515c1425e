"""Signs of a job's end in its output, and commands that start after a job."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from fractale.schedulers.homes import NAMES, home
from fractale.schedulers.job import JobState

MOST_LINES: Final = 20
"""Number of lines above the end of a log in which fractale looks for a failure's cause."""

_CAUSE: Final = re.compile(r"\bMPI_Abort\b|\bDUE TO TIME LIMIT\b", re.IGNORECASE)
_NOISE: Final = (
    r"(?:Terminated|Killed|Hangup|Aborted)(?: \(core dumped\))?$",
    r"\S+: line \d+: +\d+ (?:Terminated|Killed|Hangup) ",
    r"[-=*#~ ]+$",
    r"mpi(?:run|exec) noticed that process rank .* exited on signal",
)
"""Lines of shells and MPI launchers that follow from an end, and do not explain it."""


@dataclass(frozen=True, slots=True)
class EndNotice:
    """A line in which a scheduler says why it ended a job."""

    state: JobState
    line: str


def notice_in(lines: Sequence[str]) -> EndNotice | None:
    """Find the last notice of a scheduler or its launcher about the job's end in an output."""
    for line in reversed(lines):
        for pattern, state in _notices():
            if pattern.search(line):
                return EndNotice(state, line)
    return None


def telling_line(lines: Sequence[str]) -> int:
    """Find the index of the line that best explains why the job failed.

    This is a line that names a cause, within the last `MOST_LINES`. Without one, it is the last
    line that does not merely follow from the end, such as ``Terminated``; else the last line.

    Args:
        lines: At least one, none of them empty.
    """
    least = max(0, len(lines) - MOST_LINES)
    numbers = range(len(lines) - 1, least - 1, -1)
    for number in numbers:
        if _CAUSE.search(lines[number]) or notice_in([lines[number]]):
            return number
    noise = _noise()
    return next((each for each in numbers if not noise.match(lines[each])), len(lines) - 1)


def after(scheduler: str, job: str, command: str) -> str | None:
    """Write the command line by which a scheduler runs a shell command after a job.

    None for local jobs, because ``local`` has no such command line.
    """
    if scheduler not in NAMES:
        return None
    form = cast("str", home(scheduler, "jobs").AFTER)
    return form.format(job=job, command=shlex.quote(command))


@functools.cache
def _notices() -> tuple[tuple[re.Pattern[str], JobState], ...]:
    return tuple(
        (re.compile(pattern, re.IGNORECASE), cast("JobState", state))
        for name in NAMES
        for pattern, state in home(name, "jobs").NOTICES.items()
    )


@functools.cache
def _noise() -> re.Pattern[str]:
    own = (pattern for name in NAMES for pattern in home(name, "jobs").NOISE)
    return re.compile("|".join(f"(?:{pattern})" for pattern in (*_NOISE, *own)))
