"""What Flux writes into the output of a job that it ends, and how to start something after one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fractale.schedulers.job import JobState

NOTICES: Final[Mapping[str, JobState]] = {
    r"job\.exception \S+ type=timeout": "timeout",
}
NOISE: Final = (
    r"flux-job: task\(s\) exited with exit code",
    r"flux-job: task\(s\) (?:Terminated|Killed|Hangup)",
)
"""Lines that only follow from an end whose cause stands above them."""

AFTER: Final = "flux submit --dependency=afterany:{job} sh -c {command}"
