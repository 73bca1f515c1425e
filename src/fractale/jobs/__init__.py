"""Batch jobs: submitted once, waited for, judged by evidence.

- `service`: `Jobs`, through which all else is reached.
- `model`: what is known of a job, and a part of its log.
- `judging`: how a job is, from its own files and its scheduler's record.
- `arrays`: the same of each element of an array, and of the whole.
- `polling`: one question to a scheduler for all jobs that wait, and no more than one in a while.
- `logs`: a log, read in parts. `removal`: of the folders of jobs that are over.

What one scheduler does differently from another is in `fractale.schedulers`.
"""

from fractale.jobs.model import JobLog, JobStatus
from fractale.jobs.service import Jobs
from fractale.schedulers.adapter import Scheduler
from fractale.schedulers.job import Confine, JobHandle, JobSpec, JobState, Queue

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
