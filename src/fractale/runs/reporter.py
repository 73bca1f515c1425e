"""The reports of a run: its events, its usage, and its result.

`RunReporter` receives every event of one process's work on a run. It stores the event in the run's
record, passes it to the listeners, and makes the `RunResult` from all events. Secrets were masked
before an event gets here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from fractale.audit import AuditLog
from fractale.errors import StoreError
from fractale.events import Event, EventLog, Status
from fractale.graph.context import Dependencies, Meter, RunContext, limits_set, with_limits
from fractale.graph.handlers import GAVE_UP
from fractale.graph.state import Record, Spent
from fractale.models import Usage
from fractale.plan.model import Limits, Plan
from fractale.plan.needs import models_of
from fractale.record.follow import OF_MODELS, TextFile
from fractale.record.jobs import JobHistory
from fractale.runs.notify import RunNotifications
from fractale.runs.options import RunOptions
from fractale.runs.result import CANCEL_REQUEST, RunResult, finished_data, why_command
from fractale.store.outputs import FileOutputs, divided, has_large
from fractale.store.run_record import RunRecord

LONG_TEXT_LINES = 10
MOST_JOBS = 3
"""The most failed jobs that the end of a run names."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a listener that writes to a full disk."""
FOR_ALL = ("steps", "time", "tokens", "cost", "node_hours", "core_hours", "gpu_hours", "jobs")
"""The limits of the whole run."""
FOR_STEPS = ("attempts", "depth")
"""The limits on the attempts of a step, and on the nesting of plans."""

End: TypeAlias = dict[str, Any]
"""How one process's work on a run ends: the keywords of `RunReporter.ended`."""


class RunReporter:
    """Reports one run: stores its events, passes them on, and makes its result from them.

    Args:
        record: The run's record; None: without a record.

    Attributes:
        context: The run; set once it is known.
        audit: The log of what the user agreed to.
        log: The log of events, while it is open.
        texts: The file of the texts that models are writing, while the log is open.
        notifications: Those of the run, while the log is open.
        count_answer: Called with each event `answered` of this process.
        steps: One entry for each time a step was entered, in that order.
        jobs: Its batch jobs, also of earlier processes of the run.
    """

    def __init__(
        self,
        plan: Plan,
        dependencies: Dependencies,
        options: RunOptions,
        record: RunRecord | None,
    ) -> None:
        self._plan = plan
        self._handlers = frozenset(plan.handlers)
        self._dependencies = dependencies
        self._options = options
        self._record = record
        self._decided: dict[str, Any] | None = None
        self._notices: dict[str, list[dict[str, Any]]] = {}
        self.context = RunContext()
        self.audit = AuditLog()
        self.log: EventLog | None = None
        self.texts: TextFile | None = None
        self.notifications: RunNotifications | None = None
        self.count_answer: Callable[[Mapping[str, Any]], None] | None = None
        self.steps: list[dict[str, Any]] = []
        self.jobs = JobHistory()

    # -- events -----------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Keep an event and pass it on to the listeners."""
        if event.kind == "answered" or event.data.get("agreed"):
            self.audit.listen(event)  # before the call is made
        self._count(event)
        if self.log:
            self._write_down(self.log, event)
        self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        if self.notifications:
            self.notifications.hear(event)
        if self.texts and event.kind in OF_MODELS:
            self.texts(event)
        for listener in self._options.listeners:
            try:
                listener(event)
            except OSError as error:
                if not isinstance(error, BrokenPipeError) and error.errno not in NO_ROOM:
                    raise
                # The output is closed, or its disk is full: stop here, so that nothing is lost.
                self._options.control.request_drain("its output was closed")

    def _count(self, event: Event) -> None:
        """Keep what the result of the run has of an event."""
        if event.kind == "step_finished":
            self.step_finished(event.data)
        elif event.kind == "job_state":
            self.jobs.add(event.data, event.time)
        elif event.kind == "warning":
            self.warned(event.data)
        elif event.kind == "answered" and self.count_answer:
            self.count_answer(event.data)

    def _write_down(self, log: EventLog, event: Event) -> None:
        """Store an event. If the disk is full, the run ends, and only its end is not stored.

        Large texts are stored beside the events, see `fractale.store.outputs`.
        """
        try:
            if self._record and has_large(event.data):
                store = FileOutputs(self._record.outputs)
                short, parts = divided(event.data, store.put_text)
                event = replace(event, data={**short, "parts": parts})
            log(event)
        except StoreError:
            if event.kind != "run_finished":
                raise

    def step_finished(self, data: Mapping[str, Any]) -> None:
        """Record a step's end, now or in an earlier process of the run."""
        handler = self._handler_of(data["step"])
        inside, _, _ = data["step"].rpartition("/")
        is_handlers = data.get("handler") and inside.endswith(data["handler"])
        of_handler = {"handler": data.get("handler") or handler} if handler or is_handlers else {}
        self.steps.append(
            {
                "name": data["step"],
                "attempt": data["attempt"],
                "outcome": data["outcome"],
                "event": data.get("event_name"),
                "decided_by": data["decided_by"],
                "error": data["error"],
                **of_handler,
            }
        )
        self._notices[data["step"]] = [
            {"step": data["step"], **notice, **of_handler} for notice in data.get("notices") or ()
        ]
        if is_handlers and data["outcome"] == "failure":  # it decides nothing, but must be seen
            self._handler_failed(data["step"], data["handler"], data["error"] or data["reason"])
        if handler:
            return
        self._decided = {
            "step": data["step"],
            "by": data["decided_by"],
            "reason": data["reason"],
            "code": data.get("code"),
        }

    def warned(self, data: Mapping[str, Any]) -> None:
        """Record that a handler of the plan could not continue."""
        handler = self._handler_of(str(data.get("step") or ""))
        if handler and data.get("code") == GAVE_UP:
            self._handler_failed(data["step"], handler, data["message"])

    def _handler_of(self, path: str) -> str:
        """The handler of the plan that has a step; empty for any other step."""
        first = path.partition("/")[0]
        return first if first in self._handlers else ""

    def _handler_failed(self, step: str, handler: str, message: str) -> None:
        notice = {"step": step, "kind": "failed", "message": message, "handler": handler}
        self._notices[step] = [notice]

    def remember(self, records: Mapping[str, Record]) -> None:
        """Restore the steps of earlier processes from the state of a run without events.

        The state has the latest attempt of each step only.
        """
        for name, record in records.items():
            data: dict[str, Any] = {"decided_by": None, "reason": "", "error": None, **record}
            attempt, event = record.get("attempts", 1), record.get("event")
            self.step_finished({**data, "step": name, "attempt": attempt, "event_name": event})

    # -- its start and its end ------------------------------------------------------------------

    def started(
        self,
        *,
        resumed: bool,
        parent: Mapping[str, Any] | None,
        notices: Sequence[tuple[str, str]],
    ) -> None:
        """Report the start of the run.

        Args:
            parent: For a fork, the run and the step that it comes from.
            notices: Code and text of the warnings before anything runs.
        """
        plan, limits = self._plan, limits_of(self._plan, self._options)
        lists = {"": plan.steps, **{f"{k}/": each.steps for k, each in plan.handlers.items()}}
        steps = [
            {"name": f"{prefix}{step.name}", "type": step.kind, "target": step.target}
            for prefix, own in lists.items()
            for outer in own
            for step in (outer, *outer.steps)
        ]
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
        """Report how the run ended, or what it waits for.

        Args:
            gave_up: The step whose attempts were used up.
        """
        decided = {**(self._decided or {}), "gave_up": gave_up} if gave_up else self._decided
        if status == "failed" and decided:
            decided = {**decided, **self._failed_jobs(gave_up or str(decided.get("step")))}
        for words in self.notifications.faults() if self.notifications else ():
            self.context.emit("warning", step="", code="notify", message=words)
        usage = usage_data(self.context.meter)
        ended = status in ("failed", "limit")
        left_out = [name for name in self._plan.outputs if ended and name not in (outputs or {})]
        result = RunResult(
            run=self.context.run_id,
            status=status,
            outputs=outputs or {},
            steps=self.steps,
            error=self.context.mask(error),
            hint=hint,
            decided=decided,
            usage={**usage, **self.jobs.usage(usage["seconds"], self.context.clock.wall())},
            record=self._record.path if self._record else None,
            waiting=waiting or [],
            notices=_each_once([n for notices in self._notices.values() for n in notices]),
            output_files=self._keep_long_texts(outputs or {}),
            left_out=left_out,
        )
        by_cancel = self._options.control.drain_reason == CANCEL_REQUEST
        has_finally = "finally" in self._handlers
        data = finished_data(result, by_cancel=by_cancel, has_finally=has_finally)
        if status == "failed" and data["next"] and self._record and _has_succeeded(self._record):
            data["next"] = [*data["next"], why_command(result.run)]
        self.context.emit("run_finished", **data)
        return result

    def _failed_jobs(self, step: str) -> dict[str, Any]:
        """The latest failed jobs of the step, if it had any."""
        jobs = self.jobs.failed_in(step)
        return {"jobs": jobs[:MOST_JOBS]} if jobs else {}

    def _keep_long_texts(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        """Outputs that are too long for a screen, as files that the user can open."""
        if self._record is None:
            return {}
        return {
            name: str(self._record.write_output(name, value))
            for name, value in outputs.items()
            if isinstance(value, str) and value.count("\n") > LONG_TEXT_LINES
        }


def _each_once(notices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The notices without duplicates: a step repeats those of the steps inside it."""

    def is_reported_inside(notice: dict[str, Any]) -> bool:
        begin = f"{notice['step']}/"
        return any(
            each["step"].startswith(begin)
            and each["kind"] == notice["kind"]
            and notice["message"]
            in (each["message"], f"{each['step'].removeprefix(begin)}: {each['message']}")
            for each in notices
        )

    return [notice for notice in notices if not is_reported_inside(notice)]


# -- limits and usage -----------------------------------------------------------------------------


def limits_of(plan: Plan, options: RunOptions) -> Limits:
    """The plan's limits, replaced by those of the options."""
    return with_limits(plan.limits, options.limits)


def used_in(event: Mapping[str, Any]) -> Usage:
    """The usage of a model's call, from its event. Zero if a recorded answer was used."""
    if event.get("recorded"):
        return Usage()
    return Usage(
        input_tokens=event["input_tokens"],
        output_tokens=event["output_tokens"],
        cost=event["cost"],
    )


def spent_by(state: Spent | None, used: Usage) -> Spent:
    """The usage of a run: the total of its state, or more if a step was cut off in the middle."""
    known = state or Spent()
    return Spent(
        steps=known.get("steps", 0),
        seconds=known.get("seconds", 0.0),
        input_tokens=max(known.get("input_tokens", 0), used.input_tokens),
        output_tokens=max(known.get("output_tokens", 0), used.output_tokens),
        cost=max(known.get("cost", 0.0), used.cost),
    )


def usage_data(meter: Meter) -> dict[str, Any]:
    """The usage of a run in the form of its result; see `RunResult`."""
    total = meter.total
    used = {k: total.get(k, 0) for k in ("input_tokens", "output_tokens")}
    return {
        **used,
        "total_tokens": sum(used.values()),
        "cost": round(total.get("cost", 0.0), 6),
        "seconds": round(meter.seconds, 3),
        **_jobs_data(meter),
    }


def _jobs_data(meter: Meter) -> dict[str, Any]:
    """The usage and the reservations of batch jobs. Empty for a run without jobs."""
    used, reserved = meter.jobs.used.as_dict(), meter.jobs.reserved.as_dict()
    data = {name: amount for name, amount in used.items() if amount or reserved["jobs"]}
    if reserved["jobs"]:
        data["reserved"] = reserved
    return data


def _has_succeeded(record: RunRecord) -> bool:
    """Whether an earlier run of the same plan succeeded. A sweep compares its rows itself."""
    from fractale.record.drift import success_before  # few runs fail

    try:
        head = record.read_head()
        return not head.get("sweep") and success_before(record, head) is not None
    except (StoreError, OSError):
        return False
