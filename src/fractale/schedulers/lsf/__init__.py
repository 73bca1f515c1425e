"""IBM Spectrum LSF."""

from typing import Final

from fractale.schedulers import Declaration

SCHEDULER: Final = Declaration(
    title="LSF",
    rank=30,
    aliases=("bsub",),
    job_variable="LSB_JOBID",
    variables=("LSB_*", "LSF_*", "LS_*"),
    found_by=("LSF_ENVDIR",),
)
