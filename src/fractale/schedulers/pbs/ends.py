"""What PBS writes into the output of a job that it ends, and how to start something after one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fractale.schedulers.job import JobState

NOTICES: Final[Mapping[str, JobState]] = {
    r"=>> PBS: job killed: (?:walltime|cput) \d+ exceeded limit": "timeout",
    r"=>> PBS: job killed: v?mem \S+ exceeded limit": "out_of_memory",
}
NOISE: Final = ()
"""Lines that only follow from an end whose cause stands above them."""

# PBS starts programs without a PATH and in the home folder: the command has its own `cd`.
AFTER: Final = "echo {command} | qsub -W depend=afterany:{job} -j oe -o /dev/null"
