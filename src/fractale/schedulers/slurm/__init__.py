"""Slurm."""

from typing import Final

from fractale.schedulers import Declaration

SCHEDULER: Final = Declaration(
    title="Slurm",
    rank=10,
    aliases=("sbatch",),
    job_variable="SLURM_JOB_ID",
    variables=("SLURM_*", "SBATCH_*", "SALLOC_*", "SRUN_*", "SQUEUE_*"),
    found_by=("SLURM_CONF",),
)
