"""Flux."""

from typing import Final

from fractale.schedulers import Declaration

SCHEDULER: Final = Declaration(
    title="Flux",
    rank=90,  # it may be installed only for use inside the jobs of another scheduler
    job_variable="FLUX_JOB_ID",
    variables=("FLUX_*",),
    found_by=("FLUX_URI",),
)
