"""What the events of a run told of its batch jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fractale.schedulers.job import JobHandle

LOG = "log"
"""In a job's folder: see `fractale.schedulers.folder`."""


class JobsTold:
    """How long the jobs took, and which of them failed."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[str, Any]] = {}

    def hear(self, event: Mapping[str, Any], at: float) -> None:
        """Take in an event `job_state`.

        Args:
            at: When it happened, in Unix time.
        """
        handle: Mapping[str, Any] = event.get("handle") or {}
        if key := str(handle.get("key") or ""):
            key = f"{key} {event['step']}"  # the elements of an array have one key
            before = self._jobs.pop(key, {})
            self._jobs[key] = {
                "started": None,
                **before,
                **{k: v for k, v in event.items() if v is not None},
            } | {"at": at}

    @property
    def known(self) -> bool:
        """Whether there was any."""
        return bool(self._jobs)

    def usage(self, seconds: float, now: float | None = None) -> dict[str, float]:
        """The times of the jobs, in seconds; empty for a run without any.

        Args:
            seconds: That the run itself took: while a job is waited for, none pass.
            now: Until when jobs count that are not over, in Unix time; None: as far as was told.

        Returns:
            `elapsed`: how long the run or a job of it was in progress. `job_seconds`: how long
            the jobs ran, all together; `queue_seconds`: how long they waited to start.
        """
        ran, waited, spans = 0.0, 0.0, list[tuple[float, float]]()
        for job in self._jobs.values():
            began, started, ended = _times(job, job["at"] if now is None else now)
            ran += max(0.0, ended - started) if started is not None else 0.0
            waited += max(0.0, (ended if started is None else started) - began)
            spans.append((began, max(began, ended)))
        if not spans:
            return {}
        times = {
            "elapsed": seconds + _union(spans),
            "job_seconds": ran,
            "queue_seconds": waited,
        }
        return {name: round(value, 3) for name, value in times.items()}

    def failed_in(self, step: str) -> list[dict[str, Any]]:
        """The jobs of a step, its items and the steps inside of it, that did not complete.

        Only the latest job of each path counts; the latest comes last.
        """
        latest = {str(job["step"]): job for job in self._jobs.values()}
        found: list[dict[str, Any]] = []
        for path, job in latest.items():
            inside = path == step or step in around(path)
            if not inside or not job.get("over") or job.get("state") == "completed":
                continue
            _, started, ended = _times(job, job["at"])
            told = {name: job.get(name, "") for name in ("step", "job", "scheduler", "state")}
            found.append(
                {
                    **told,
                    "reason": str(job.get("reason") or ""),
                    "seconds": None if started is None else round(max(0.0, ended - started), 3),
                    "log": str(JobHandle.from_dict(job["handle"]).own_dir / LOG),
                    "last_lines": str(job.get("last_lines") or ""),
                }
            )
        return found


def _times(job: Mapping[str, Any], now: float) -> tuple[float, float | None, float]:
    """When a job was submitted, began and ended, in Unix time; the last one at most now."""
    ended = float(job.get("ended") or job["at"]) if job.get("over") else now
    told: Mapping[str, Any] = job.get("began") or {}
    began = float(job.get("submitted") or told.get("wall") or job["at"])
    started = job.get("started")
    return began, None if started is None else float(started), ended


def _union(spans: list[tuple[float, float]]) -> float:
    """How much time some spans cover together."""
    total, end = 0.0, float("-inf")
    for begin, stop in sorted(spans):
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total


def around(path: str) -> list[str]:
    """The paths of the steps and items around one: of ``a[1]/b``, ``a[1]`` and ``a``."""
    found: list[str] = []
    while path := path[: max(path.rfind("["), path.rfind("/"), 0)]:
        found.append(path)
    return found
