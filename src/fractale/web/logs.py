"""The logs of a run's jobs, by names that its history has: an address never has a path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fractale.jobs.logs import LONGEST_TAIL, open_log, read_tail
from fractale.record.history import RecordedJob, RunHistory
from fractale.render.questions import exact
from fractale.render.text import inert
from fractale.schedulers.folder import JobFolder, name_of

TAIL_LINES: Final = 400
FOLLOWED_LINES: Final = 30
"""The lines of a log on the page of a run."""
PIECE: Final = 2**16
LINE: Final = 2000
"""The most characters of a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log of a job.

    Args:
        name: Names it in an address.
        over: Whether its job has ended.
    """

    name: str
    step: str
    job: str
    path: Path
    over: bool

    def response(self, headers: Mapping[str, str]) -> Response:
        """The whole log, as text; nothing if a job has put a link in its place."""
        descriptor = open_log(self.path)
        if descriptor is None:
            return PlainTextResponse("", headers=headers)
        return StreamingResponse(
            _pieces(descriptor), media_type="text/plain; charset=utf-8", headers=headers
        )


def _pieces(descriptor: int) -> Iterator[bytes]:
    """The content of a log as it is now; a job that still writes does not prolong it."""
    with open(descriptor, "rb") as file:
        left = os.fstat(descriptor).st_size
        while left > 0 and (piece := file.read(min(left, PIECE))):
            left -= len(piece)
            yield piece


def job_logs(history: RunHistory) -> Iterator[Log]:
    """The logs of the jobs of a run, the latest first."""
    for attempt in reversed(history.attempts):
        for job in reversed(attempt.jobs):
            yield log_of(history, job)


def log_of(history: RunHistory, job: RecordedJob) -> Log:
    """The log of a job."""
    folder = JobFolder.of(history.record.jobs.absolute(), job.key)
    name = name_of(job.key)
    if job.index is not None:
        folder, name = folder.element(job.index), f"{name}-{job.index}"
    return Log(
        name=name,
        step=inert(job.step, 200),
        job=inert(job.job, 80),
        path=folder.log,
        over=job.over,
    )


def tail_text(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, with control characters escaped; empty if there is none yet."""
    try:
        text = read_tail(path, lines, LONGEST_TAIL).text
    except OSError:
        return ""
    shown = exact(text.rstrip("\n")).split("\n") if text.strip() else []
    return "\n".join(line if len(line) <= LINE else f"{line[:LINE]}…" for line in shown)
