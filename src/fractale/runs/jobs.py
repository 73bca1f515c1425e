"""The batch jobs of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractale.jobs import Jobs


class RunJobs:
    """The jobs of one run, by the name of their scheduler.

    Args:
        root: The folder that has a folder for each job.
        environment: Of the process.
    """

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self._root = root
        self._environment = environment
        self._doors: dict[str | None, Jobs] = {}

    def __call__(self, scheduler: str | None) -> Jobs:
        """The jobs of a scheduler; without a name, of the one there is."""
        from fractale.jobs import Jobs

        if scheduler not in self._doors:
            self._doors[scheduler] = Jobs(self._root, self._environment, scheduler)
        return self._doors[scheduler]
