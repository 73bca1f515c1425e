"""The batch jobs of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fractale.errors import FractaleError

if TYPE_CHECKING:
    from fractale.jobs import Jobs
    from fractale.settings import Settings

JOBS = "jobs"
"""The folder of the jobs' folders: in a run's own folder, or in that of a run that keeps none."""


class RunJobs:
    """The jobs of one run, by the name of their scheduler.

    Args:
        root: The folder that has a folder for each job.
        environment: Of the process.
        queues, cores, poll_seconds, polls, project, state: As `fractale.jobs.Jobs` takes them.
    """

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        *,
        queues: Path | None = None,
        cores: int | None = None,
        poll_seconds: float = 0.0,
        polls: Path | None = None,
        project: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self._root = root
        self._environment = environment
        self._queues, self._cores = queues, cores
        self._poll_seconds, self._polls = poll_seconds, polls
        self._project, self._state = project, state
        self._doors: dict[str | None, Jobs] = {}

    @classmethod
    def of(cls, root: Path, settings: Settings) -> RunJobs:
        """The jobs in a folder; those of one state folder share the cores of the machine."""
        from fractale.jobs.service import POLLS, QUEUES

        queues = settings.state_dir / QUEUES
        return cls(
            root,
            settings.site_environment,
            queues=queues,
            cores=settings.local_cores,
            poll_seconds=settings.poll_seconds,
            polls=settings.state_dir / POLLS,
            project=settings.project_folder,
            state=settings.state_dir,
        )

    def __call__(self, scheduler: str | None) -> Jobs:
        """The jobs of a scheduler; without a name, of the one there is."""
        from fractale.jobs import Jobs

        if scheduler not in self._doors:
            self._doors[scheduler] = Jobs(
                self._root,
                self._environment,
                scheduler,
                queues=self._queues,
                cores=self._cores,
                poll_seconds=self._poll_seconds,
                polls=self._polls,
                project=self._project,
                state=self._state,
            )
        return self._doors[scheduler]

    async def remove_ended(self) -> None:
        """Remove the folders of the jobs that were submitted here and are known to be over.

        What cannot be removed now is taken by ``fractale runs prune``.
        """
        for door in self._doors.values():
            with contextlib.suppress(FractaleError):
                await door.remove_ended()
