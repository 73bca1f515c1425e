"""A worker's side of `parsl_executor`: performs one run after another in a warm process of a node.

Parsl's worker imports this module by its name and calls `perform` with the bytes of one `message`.
Messages and answers are JSON: nothing of fractale's is pickled.

At SIGTERM, with which a scheduler announces the end of a block, the present run stops at the next
boundary of a step, and the process ends. Its answer may be lost then: the run's record is not.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

from fractale.plain import to_json
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.task import RunReport, RunTask

PERFORM: Final = f"{__name__}.perform"
"""How Parsl finds `perform`."""

CLOSE_SECONDS: Final = 5.0
"""How long the servers of a worker may take to end."""


def message(task: RunTask, environment: Mapping[str, str], withdrawn: Path) -> bytes:
    """A task for a worker.

    Args:
        environment: Variables that the run needs from the driver's environment, such as keys. They
            cross the network encrypted, and are written nowhere.
        withdrawn: A file that the driver makes once no task is to begin any more.
    """
    content = {
        "task": task.as_dict(),
        "environment": dict(environment),
        "withdrawn": str(withdrawn),
    }
    return to_json(content, compact=True).encode()


def report_of(content: bytes) -> RunReport:
    """The report in a worker's answer.

    Raises:
        WorkerLost: The worker raised it, or its answer is not one of a worker.
    """
    try:
        answer = json.loads(content)
        if "lost" in answer:
            lost = WorkerLost(str(answer["lost"]), cannot_start=bool(answer["cannot_start"]))
        else:
            return RunReport.from_dict(answer["report"])
    except (TypeError, KeyError, ValueError) as error:
        raise WorkerLost(f"a worker's answer cannot be read: {error}") from error
    raise lost


def perform(content: bytes) -> bytes:
    """Perform the task of a message; returns what `report_of` reads."""
    data = cast("dict[str, Any]", json.loads(content))
    task = RunTask.from_dict(data["task"])
    answer: dict[str, Any]
    if Path(data["withdrawn"]).exists():
        answer = {"report": RunReport(run=task.run, status="stopped").as_dict()}
    else:
        os.environ.update(data["environment"])
        try:
            answer = {"report": _node_worker().perform(task).as_dict()}
        except WorkerLost as lost:
            answer = {"lost": lost.reason, "cannot_start": lost.cannot_start}
    return to_json(answer, compact=True).encode()


@cache
def _node_worker() -> _NodeWorker:
    """The worker of this process, made at its first task."""
    return _NodeWorker()


class _NodeWorker:
    """A `worker.Worker` whose event loop keeps running between tasks, in a thread.

    The servers of its plan are used between tasks, too: to keep their connections.
    """

    def __init__(self) -> None:
        from fractale.sweeps.worker import Worker

        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._worker = self._run(Worker().__aenter__())
        self._busy = False
        self._leaving = False
        signal.signal(signal.SIGTERM, self._leave)

    def perform(self, task: RunTask) -> RunReport:
        """See `worker.Worker.perform`. The process ends after it if it was asked to."""
        self._busy = True
        try:
            return self._run(self._worker.perform(task))
        finally:
            self._busy = False
            if self._leaving:
                self._end()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self._leaving = True
        if self._busy:
            self._loop.call_soon_threadsafe(self._worker.stop)
        else:
            self._end()

    def _end(self) -> None:
        """End the process at once: Parsl's loop has no other way out."""
        closing = asyncio.run_coroutine_threadsafe(
            self._worker.__aexit__(None, None, None), self._loop
        )
        try:
            closing.result(CLOSE_SECONDS)
        finally:
            os._exit(0)
