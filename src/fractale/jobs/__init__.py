"""Batch jobs: submitted once, waited for, judged by evidence.

- `service`: `Jobs`, the one way to batch jobs: submit, find, status, wait, log, cancel.
- `status`: the status of a job, from its own files, its scheduler's record and its log.
- `arrays`: the same for the elements of an array, and for the whole.
- `polling`: one question to a scheduler for all jobs, at most one per `poll_seconds`.
- `logs`: a log, read in parts. `log_metrics`: the metrics in it.
- `budget`: the amounts that a run's jobs may use, have reserved and have used.
- `removal`: removes the directories of jobs that are over.

Differences between schedulers are in `fractale.schedulers`.
"""

from fractale.jobs.logs import JobLog
from fractale.jobs.service import Jobs
from fractale.jobs.status import JobStatus
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
