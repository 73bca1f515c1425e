"""What one process tells of a run: its events, kept and passed on, and how it ended."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

from fractale.errors import StoreError
from fractale.events import Event, Status
from fractale.graph.context import Dependencies, RunContext
from fractale.plan.model import Plan
from fractale.plan.needs import models_of
from fractale.record.jobs import JobHistory
from fractale.runs.budget import FOR_ALL, FOR_STEPS, limits_of, limits_set, usage_data
from fractale.runs.options import RunOptions
from fractale.runs.result import RunResult, finished_data
from fractale.store.run_record import EventLog, RunRecord

LONG_TEXT_LINES = 10
MOST_JOBS = 3
"""Jobs that failed, of which the end of a run tells."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a listener fails with that writes to a full disk."""


class Account:
    """Tells of one run: keeps its events, passes them on, and makes its result of them.

    Args:
        folder: The run's record; None: it has none.

    Attributes:
        context: The run; set once it is known.
        log: Where events are kept, while it is open.
        steps: One entry for each time a step was entered, in that order.
        jobs: Its batch jobs, also of earlier processes of the run.
    """

    def __init__(
        self,
        plan: Plan,
        dependencies: Dependencies,
        options: RunOptions,
        folder: RunRecord | None,
    ) -> None:
        self._plan = plan
        self._dependencies = dependencies
        self._options = options
        self._folder = folder
        self._decided: dict[str, Any] | None = None
        self._notices: dict[str, list[dict[str, Any]]] = {}
        self.context = RunContext()
        self.log: EventLog | None = None
        self.steps: list[dict[str, Any]] = []
        self.jobs = JobHistory()

    # -- what happens ---------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Keep an event and pass it on to whoever listens."""
        if event.kind == "step_finished":
            self.step_finished(event.data)
        elif event.kind == "job_state":
            self.jobs.add(event.data, event.time)
        if self.log:
            self._write_down(self.log, event)
        for listener in self._options.listeners:
            try:
                listener(event)
            except OSError as error:
                if not isinstance(error, BrokenPipeError) and error.errno not in NO_ROOM:
                    raise
                # Nobody reads on, or can: stop where nothing is lost.
                self._options.control.request_drain("its output was closed")

    def _write_down(self, log: EventLog, event: Event) -> None:
        """Keep an event; where there is no room, the run ends, and only its end is not kept."""
        try:
            log(event)
        except StoreError:
            if event.kind != "run_finished":
                raise

    def step_finished(self, data: Mapping[str, Any]) -> None:
        """Take note of a step's end, now or in an earlier process of the run."""
        self.steps.append(
            {
                "name": data["step"],
                "attempt": data["attempt"],
                "outcome": data["outcome"],
                "event": data.get("event_name"),
                "decided_by": data["decided_by"],
                "error": data["error"],
            }
        )
        self._notices[data["step"]] = [
            {"step": data["step"], **notice} for notice in data.get("notices") or ()
        ]
        self._decided = {
            "step": data["step"],
            "by": data["decided_by"],
            "reason": data["reason"],
            "code": data.get("code"),
        }

    # -- its start and its end ------------------------------------------------------------------

    def started(
        self,
        *,
        resumed: bool,
        parent: Mapping[str, Any] | None,
        notices: Sequence[tuple[str, str]],
    ) -> None:
        """Tell what is about to run.

        Args:
            parent: What run and step it was forked from, where it was.
            notices: Code and words of what to warn of before anything runs.
        """
        plan, limits = self._plan, limits_of(self._plan, self._options)
        steps = [{"name": s.name, "type": s.kind, "target": s.target} for s in plan.walk()]
        model = self._dependencies.models.spec(None) if models_of(plan) else None
        title = plan.description.strip().split("\n")[0] or plan.name
        forked: dict[str, Any] = {}
        if parent and self.context.entry:
            forked["parent"] = {**parent, "kept": list(self.context.entry.records)}
        self.context.emit(
            "run_started",
            plan=plan.name,
            file=plan.file,
            title=title,
            steps=steps,
            model=model,
            resumed=resumed,
            limits=limits_set(limits, FOR_ALL),
            bounds={
                "max_attempts": self._dependencies.max_attempts,
                **limits_set(limits, FOR_STEPS),
            },
            **forked,
        )
        for code, message in notices:
            self.context.emit("warning", step="", code=code, message=message)

    def ended(
        self,
        status: Status,
        *,
        outputs: dict[str, Any] | None = None,
        error: str | None = None,
        hint: str | None = None,
        gave_up: str | None = None,
        waiting: list[dict[str, Any]] | None = None,
    ) -> RunResult:
        """Tell how the run ended, or where it stands.

        Args:
            gave_up: The step whose attempts were used up.
        """
        decided = {**(self._decided or {}), "gave_up": gave_up} if gave_up else self._decided
        if status == "failed" and decided:
            decided = {**decided, **self._failed_jobs(gave_up or str(decided.get("step")))}
        usage = usage_data(self.context.meter)
        result = RunResult(
            run=self.context.run_id,
            status=status,
            outputs=outputs or {},
            steps=self.steps,
            error=self.context.mask(error),
            hint=hint,
            decided=decided,
            usage={**usage, **self.jobs.usage(usage["seconds"], self.context.clock.wall())},
            record=self._folder.path if self._folder else None,
            waiting=waiting or [],
            notices=_each_once([n for notices in self._notices.values() for n in notices]),
            output_files=self._keep_long_texts(outputs or {}),
        )
        self.context.emit("run_finished", **finished_data(result))
        return result

    def _failed_jobs(self, step: str) -> dict[str, Any]:
        """The latest jobs of the step that failed, if it had any that did."""
        jobs = self.jobs.failed_in(step)
        return {"jobs": jobs[:MOST_JOBS]} if jobs else {}

    def _keep_long_texts(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        """Outputs that are too long for a screen, as files that a person can use."""
        if self._folder is None:
            return {}
        return {
            name: str(self._folder.write_output(name, value))
            for name, value in outputs.items()
            if isinstance(value, str) and value.count("\n") > LONG_TEXT_LINES
        }


def _each_once(notices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those of a step that are also told by the step inside of it that they come from."""

    def is_told_inside(notice: dict[str, Any]) -> bool:
        begin = f"{notice['step']}/"
        return any(
            each["step"].startswith(begin)
            and each["kind"] == notice["kind"]
            and notice["message"]
            in (each["message"], f"{each['step'].removeprefix(begin)}: {each['message']}")
            for each in notices
        )

    return [notice for notice in notices if not is_told_inside(notice)]
