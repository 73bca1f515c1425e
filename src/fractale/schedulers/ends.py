"""How a job's end shows in its output, and how a scheduler starts something after a job."""

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
"""Lines above the end of a log in which the cause of a failure is looked for."""

_CAUSE: Final = re.compile(r"\bMPI_Abort\b|\bDUE TO TIME LIMIT\b", re.IGNORECASE)
_NOISE: Final = (
    r"(?:Terminated|Killed|Hangup|Aborted)(?: \(core dumped\))?$",
    r"\S+: line \d+: +\d+ (?:Terminated|Killed|Hangup) ",
    r"[-=*#~ ]+$",
    r"mpi(?:run|exec) noticed that process rank .* exited on signal",
)
"""Of shells and of MPI's launchers."""


@dataclass(frozen=True, slots=True)
class EndNotice:
    """A line in which a scheduler says why it ended a job."""

    state: JobState
    line: str


def notice_in(lines: Sequence[str]) -> EndNotice | None:
    """What a scheduler, or its launcher, wrote last into an output about the job's end."""
    for line in reversed(lines):
        for pattern, state in _notices():
            if pattern.search(line):
                return EndNotice(state, line)
    return None


def telling_line(lines: Sequence[str]) -> int:
    """Where in the last lines of a log the one is that tells most of why the job failed.

    It is one that names a cause, within the last `MOST_LINES`; else the last one that does not
    just follow from the end, such as ``Terminated``; else the last one.

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
    """The command line by which a scheduler runs a command of the shell when a job is over.

    None where it cannot: for local jobs.
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
