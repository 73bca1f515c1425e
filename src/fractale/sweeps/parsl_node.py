"""A worker's side of `parsl_executor`: performs one run after another in a warm process of a node.

Parsl's worker imports this module by its name and calls `perform` with the bytes of one `message`.
Both messages are JSON: nothing of fractale's is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from fractale.sweeps.task import RunReport, RunTask

PERFORM: Final = f"{__name__}.perform"
"""How Parsl finds `perform`."""


def message(task: RunTask, environment: Mapping[str, str], withdrawn: Path) -> bytes:
    """A task for a worker.

    Args:
        environment: Variables that the run needs from the driver's environment, such as keys. They
            cross the network encrypted, and are written nowhere.
        withdrawn: A file that the driver makes if the task must not begin any more.
    """
    content = {
        "task": task.as_dict(),
        "environment": dict(environment),
        "withdrawn": str(withdrawn),
    }
    return json.dumps(content).encode()


def perform(content: bytes) -> bytes:
    """Perform the task of a message, in a worker; returns the report as JSON."""
    data = cast("dict[str, Any]", json.loads(content))
    task = RunTask(**data["task"])
    if Path(data["withdrawn"]).exists():
        report = RunReport(run=task.run, status="stopped", error="the driver withdrew the run")
    else:
        os.environ.update(data["environment"])
        from fractale.sweeps.worker import perform_task

        report = perform_task(task)
    return json.dumps(report.as_dict()).encode()


def report_of(content: bytes) -> RunReport:
    """The report in a worker's answer.

    Raises:
        ValueError: It is none.
    """
    try:
        data = json.loads(content)
        data["waiting"] = tuple(data.get("waiting", ()))
        return RunReport(**data)
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"a worker's report cannot be read: {error}") from error
