"""Batch jobs: the same for Slurm, Flux, PBS, LSF and plain processes.

- `model`: what a job, its handle and its status are.
- `door`: `Jobs`, through which all else is reached.
- `scheduler`: what an adapter of a scheduler has to do.
- `local`, `slurm`, `flux`, `pbs`, `lsf`: the adapters. `local_queue`, `minder`: what a scheduler
  does for the others.
- `folder`, `wrapper`: a job's own folder, and the script that says there what happened; `removal`
  removes those of jobs that are over.
"""

from fractale.jobs.door import Jobs
from fractale.jobs.model import Confine, JobHandle, JobLog, JobSpec, JobState, JobStatus, Queue
from fractale.jobs.scheduler import Scheduler

__all__ = [
    "Confine",
    "JobHandle",
    "JobLog",
    "JobSpec",
    "JobState",
    "JobStatus",
    "Jobs",
    "Queue",
    "Scheduler",
]
