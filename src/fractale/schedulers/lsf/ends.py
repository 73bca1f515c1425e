"""What LSF writes into the output of a job that it ends, and how to start something after one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fractale.schedulers.job import JobState

NOTICES: Final[Mapping[str, JobState]] = {
    r"TERM_(?:RUNLIMIT|DEADLINE|CPULIMIT): ": "timeout",
    r"TERM_(?:MEMLIMIT|SWAP): ": "out_of_memory",
}
NOISE: Final = (r"Exited with (?:exit code|signal termination)", r"User defined signal")
"""Lines that only follow from an end whose cause stands above them."""

AFTER: Final = "bsub -w 'ended({job})' -o /dev/null {command}"
