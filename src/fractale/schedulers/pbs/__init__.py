"""PBS Professional, OpenPBS and Torque."""

from typing import Final

from fractale.schedulers import Declaration

SCHEDULER: Final = Declaration(
    title="PBS",
    rank=20,
    aliases=("torque",),
    job_variable="PBS_JOBID",
    variables=("PBS_*",),
    found_by=("PBS_CONF_FILE",),
)
