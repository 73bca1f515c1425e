"""What Slurm writes into the output of a job that it ends, and how to start something after one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fractale.schedulers.job import JobState

NOTICES: Final[Mapping[str, JobState]] = {
    r"slurmstepd\S*: error: .*\bDUE TO TIME LIMIT\b": "timeout",
    r"(?:slurmstepd\S*|srun): error: .*(?:oom[-_ ]kill|out of memory|"
    r"exceeded (?:job |step )?memory limit)": "out_of_memory",
    r"slurmstepd\S*: error: .*\bDUE TO NODE FAILURE\b": "node_failure",
}
NOISE: Final = (
    r"srun: (?:Job step aborted|Force Terminated|forcing job termination|Terminating job step)",
    r"srun: error: .*: tasks? [\d,-]+: (?:Terminated|Killed|Exited with exit code \d+)",
    r"slurmstepd\S*: error: \*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ \*\*\*$",
)
"""Lines that only follow from an end whose cause stands above them."""

AFTER: Final = "sbatch --dependency=afterany:{job} --output=/dev/null --wrap={command}"
