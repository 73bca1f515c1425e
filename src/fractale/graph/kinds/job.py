"""A `job` step: submits a batch job once, waits for its end, and reads its log.

The graph below the step has these nodes; each is a checkpoint:

- `submit`: submits once, by an idempotency key, so that a killed run finds its job again.
- `wait`: waits until the scheduler or the job's own files show its end. The run may be suspended
  here, and a resumed run waits again. A job that was cancelled together with its run is submitted
  again.
- `ask`: asks the user if nothing shows how the job ended.
- `read`: reads the metrics in the log and the outputs, and decides whether the job succeeded.

An array of jobs has one more node, `item`, for its elements (`fractale.graph.kinds.job_array`).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from langgraph.errors import GraphInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale import questions
from fractale.clock import elapsed, moment
from fractale.durations import format_duration
from fractale.errors import (
    CallError,
    DependencyMissing,
    FractaleError,
    JobError,
    JobInDoubt,
    PolicyError,
    SchedulerUnavailable,
)
from fractale.evidence import Notice
from fractale.graph import job_budget
from fractale.graph.call import Attempt, once
from fractale.graph.interrupts import ask, suspend
from fractale.graph.kinds import Compiler
from fractale.graph.kinds.job_answer import LOGS, OUTPUT, answer_of
from fractale.graph.kinds.job_array import (
    ITEM,
    SUBMIT,
    ArrayElement,
    add_elements,
    alone,
    array_of_step,
    element_of,
    is_open,
    run_array,
    scheduler_of,
    send_elements,
)
from fractale.graph.kinds.job_spec import arguments_of, spec_of
from fractale.graph.kinds.tool import QuietCodec, agree, call_tool
from fractale.graph.outcome import CallResult, Decision
from fractale.graph.state import DecidedBy, ItemState
from fractale.graph.step import StepNode
from fractale.jobs import JobHandle, JobStatus
from fractale.jobs.budget import Size
from fractale.jobs.log_metrics import LogParts, read_metrics
from fractale.policy import allowed_by
from fractale.schedulers.folder import WITHDRAWN
from fractale.store.journal import Call, digest_of
from fractale.text import listing
from fractale.toolbox import ToolResult

if TYPE_CHECKING:
    from fractale.jobs import Jobs

EVIDENCE = "evidence"
"""The verdict if the job itself shows its outcome."""

PATIENCE = 600.0
"""Seconds that the answer "wait" gives a job whose outcome is unknown."""

CANCEL_SECONDS = 60.0
"""Seconds that a cancelled job has to end."""

CANCEL_AGAIN = 20.0
"""Seconds until a second cancellation."""

HANDLE_KEYS: tuple[str, ...] = ("scheduler", "native_id", "key", "job_dir")

LOG_BYTES = 65_536
"""Bytes of the end of a job's log that the outputs contain."""

MAX_LOGS = 16
"""Jobs of a foreach or an array whose outputs have `LOG_BYTES` each. More jobs share them."""

MIN_LOG_BYTES = 1024
MAX_LINE = 200

STDERR_BYTES = 8192
"""Bytes of the end of a script's stderr that its outputs contain if it failed."""

LOG_FILE = "log"
"""In the job's directory: see `fractale.schedulers.folder`."""

MAY_RUN = "it could not be cancelled, and may keep running"
LATE = {"pending": MAY_RUN, "running": MAY_RUN, "unknown": "its outcome is unknown"}
"""State of a job that was cancelled at the step's timeout → its end as text."""


class JobWork(TypedDict, total=False):
    """The state of a job step.

    Keys:
        handle: Of the job, as JSON; empty if it is unknown whether it was submitted.
        since: The submission, in Unix time.
        began: The submission as a moment (`fractale.clock`).
        number: Jobs submitted so far, this one included.
        patience: The end of the wait for a job whose outcome is unknown, in Unix time.
        asked: The moment when that wait began.
        status: `fractale.jobs.JobStatus` as JSON.
        late: Whether the job was cancelled at the step's timeout.
        verdict: The user's answer about a job whose outcome is unknown.
        end: Outputs by reference, and the evidence of a failure. Of a script also `seen`: its exit
            code and the end of its stderr, by reference.
        reserved: Its reservation in the run's budget: `key`, and `fractale.jobs.budget.Size`.
    """

    handle: dict[str, Any]
    since: float
    began: dict[str, Any]
    number: int
    patience: float
    asked: dict[str, Any]
    status: dict[str, Any]
    late: bool
    verdict: str
    end: dict[str, Any]
    reserved: dict[str, Any]


class ArrayWork(JobWork, ItemState, total=False):
    """The state of a step that is a job, or an array whose elements are items."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """The context of the nodes."""

    attempt: Attempt

    @property
    def is_script(self) -> bool:
        """Whether the job is the program of a script step, which no budget counts."""
        return self.attempt.step.kind == "script"

    def jobs(self, scheduler: str | None) -> Jobs:
        """The jobs of a scheduler.

        Raises:
            DependencyMissing: The graph was compiled without any scheduler.
        """
        if self.attempt.deps.jobs is None:
            raise DependencyMissing(
                "this graph has no batch jobs", hint="give `jobs` to its Dependencies"
            )
        return self.attempt.deps.jobs(scheduler)


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that submits one job or an array of jobs; with `foreach`, one job per item."""
    del compiler
    one = replace(node, perform=run_job, inside=job_graph().compile())
    if node.step.foreach is not None:
        return one

    async def call(attempt: Attempt) -> CallResult:
        array = array_of_step(attempt)
        return await run_job(attempt) if array is None else await run_array(one, attempt, array)

    builder = job_graph(lambda state: send_elements(state) or "submit")
    add_elements(builder, one)
    return replace(node, perform=call, inside=builder.compile())


async def run_job(attempt: Attempt) -> CallResult:
    """Run one job, or the program of a script step, from its submission to its outputs."""
    after = cast(
        "JobWork",
        await attempt.inside.ainvoke(JobWork(), attempt.config, context=JobRun(attempt)),
    )
    if is_open(after.get("status", {}).get("state")):
        attempt.end_tries()
    end = after.get("end", {})
    store = attempt.deps.outputs
    outputs, by = store.get(end["outputs"]), end["decided_by"]
    if "seen" in end:  # of a script; its JSON may have such a key itself
        seen = cast("dict[str, Any]", store.get(end["seen"]))
        attempt.scope = {**attempt.scope, **{k: v for k, v in seen.items() if k not in outputs}}
    failure = None
    if by is not None:
        failure = Decision(outcome="failure", event="failure", decided_by=by, reason=end["reason"])
    return CallResult(
        outputs=outputs,
        text=str(outputs.get("log", outputs.get("content", ""))),
        failure=failure,
        fault=end["fault"],
        seconds=end["seconds"],
        notices=tuple(Notice(kind="warning", message=words) for words in end.get("notices", ())),
    )


def job_graph(start: Callable[[Any], Any] | None = None) -> Any:
    """The graph below the step.

    Args:
        start: Chooses the first node; None: `submit`.
    """
    schema = JobWork if start is None else ArrayWork
    builder: Any = StateGraph(schema)
    builder.add_node("submit", _submit, input_schema=JobWork)
    builder.add_node("wait", _wait, input_schema=JobWork)
    builder.add_node("ask", _ask, input_schema=JobWork)
    builder.add_node("read", _read, input_schema=JobWork)
    if start is None:
        builder.add_edge(START, "submit")
    else:
        builder.add_conditional_edges(START, start, ["submit", ITEM])
    builder.add_conditional_edges("submit", _after_submit, ["wait", "ask"])
    builder.add_conditional_edges("wait", _after_wait, ["ask", "read", "submit"])
    builder.add_conditional_edges("ask", _after_ask, ["submit", "wait", "read"])
    builder.add_edge("read", END)
    return builder


# -- submit --------------------------------------------------------------------------------------


async def _submit(state: JobWork, runtime: Runtime[JobRun]) -> JobWork:
    """Submit the job, or find it if an earlier process has submitted it.

    Raises:
        PolicyError: The job may not be submitted.
        TemplateError: The rendered values are not a valid job.
        CallError: The scheduler refused the job.
    """
    run, number = runtime.context, state.get("number", 0) + 1
    attempt = run.attempt
    if state.get("verdict") == "again" or state.get("status", {}).get("again"):
        await _settle(state, attempt)
    wanted = arguments_of(attempt)
    if attempt.context.mask(wanted) != wanted:
        raise PolicyError(
            f"the {attempt.step.kind} was not submitted: there is a secret in it, and it is "
            "written to disk",
            hint=f"have the {attempt.step.kind} read the secret from a file of yours",
        )
    if not all(allowed_by(globs, SUBMIT) for globs in attempt.context.within):
        raise PolicyError(
            "no job was submitted: `job_submit` is not one of the planned step's tools"
        )
    chosen_by = "model" if attempt.context.drafted else "plan"
    spec, scheduler = spec_of(attempt, wanted)
    name = scheduler or scheduler_of(attempt)
    cost = "" if run.is_script else job_budget.cost_of(attempt, spec, name)
    agreed = agree(attempt, SUBMIT, wanted, chosen_by, cost=cost)
    spec, scheduler = spec_of(attempt, agreed)
    first = number == 1 and not attempt.repetition
    element = element_of(attempt, agreed, wanted) if first else None
    key = _key_of_try(attempt, number, element)
    size = Size.of(spec, scheduler or name)
    counts = element is None and not run.is_script
    if counts:
        await job_budget.reserve(attempt, key, size)

    async def make() -> ToolResult:
        jobs = run.jobs(scheduler)
        if element is not None:
            handle = await element.submitted(jobs, attempt.tries)
        else:
            own, index = alone(attempt, jobs, spec)
            handle = replace(await jobs.submit(own, key=key), index=index)
        began = moment(attempt.context.clock)
        data = {**handle.as_dict(), "since": began["wall"], "began": began}
        return ToolResult(text=f"{handle.scheduler} job {handle.native_id}", structured=data)

    budget = attempt.context.meter.jobs
    reserved = {} if run.is_script else {"key": key, **asdict(size)}
    try:
        with budget.watched(key):
            result = await call_tool(attempt, SUBMIT, agreed, make=make)
    except JobInDoubt as error:
        status = JobStatus(state="unknown", reason=f"{error} ({error.hint})").as_dict()
        kept = attempt.context.mask(status)
        return JobWork(handle={}, number=number, verdict="", status=kept, reserved=reserved)
    except FractaleError as error:
        await _not_submitted(attempt, error, key, element, counts=counts)
        raise
    handle, since = JobHandle.from_dict(result.structured), float(result.structured["since"])
    began = dict(result.structured.get("began") or {"wall": since})
    # From here on, the run's record keeps the job even if this process is killed.
    pending = JobStatus(state="pending", reason="was submitted")
    waiting = _waiting(attempt, handle, pending, began)
    attempt.context.jobs_waited_for[attempt.path] = waiting
    _emit(attempt, waiting)
    return JobWork(
        handle=handle.as_dict(),
        since=since,
        began=began,
        number=number,
        verdict="",
        status={},
        reserved=reserved,
    )


def _after_submit(state: JobWork) -> str:
    return "wait" if state.get("handle") else "ask"


def _key(attempt: Attempt, number: int) -> str:
    """The job's idempotency key: unique, and the same if the run comes here again.

    LangGraph names a task by its checkpoint. A retry, a kill and a resume keep that name, and
    another attempt changes it. The rest of the key is for users who look at the queue.
    """
    task = str(attempt.config.get("configurable", {}).get("checkpoint_ns", ""))
    unique = f"{attempt.context.run_id}#{task}#{attempt.path}#{attempt.attempts}#{number}"
    digest = hashlib.sha256(unique.encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9_]+", "-", attempt.path).strip("-")[:40]
    return f"{attempt.context.run_id}-{words}-{digest}"


async def _not_submitted(
    attempt: Attempt, error: FractaleError, key: str, element: ArrayElement | None, *, counts: bool
) -> None:
    """Release a job that was refused, or let the next try find it if it may have been submitted.

    Args:
        key: Of the job.
        counts: Whether the job has a reservation of its own.
    """
    if not isinstance(error, SchedulerUnavailable):
        if counts:
            await attempt.context.meter.jobs.release(key)
    elif element is not None:
        attempt.end_tries()
    elif attempt.consents is not None:
        known = {"key": key, "repetition": attempt.repetition}
        attempt.context.notes.put(_unsure(attempt), known)


def _key_of_try(attempt: Attempt, number: int, element: ArrayElement | None) -> str:
    """The job's key. It is that of the try before if that one may have submitted the job."""
    if element is not None:
        return element.key
    known = attempt.context.notes.get(_unsure(attempt)) if attempt.repetition else None
    if number == 1 and known and known["repetition"] == attempt.repetition - 1:
        return str(known["key"])
    return _key(attempt, number)


def _unsure(attempt: Attempt) -> str:
    return f"submitting {attempt.path} {attempt.attempts}"


# -- wait ----------------------------------------------------------------------------------------


async def _wait(state: JobWork, runtime: Runtime[JobRun]) -> JobWork:
    """Wait for the end of the job, or suspend the run."""
    run = runtime.context
    attempt, handle = run.attempt, JobHandle.from_dict(state.get("handle", {}))
    asked = state.get("asked") or {"wall": state.get("patience", 0.0) - PATIENCE}
    patience = (asked, PATIENCE) if state.get("patience") else None
    call = Call(kind="tool", name="jobs.job_wait", digest=digest_of(handle.label), safe=True)

    async def make() -> ToolResult:
        jobs = run.jobs(handle.scheduler)
        waiter = _Waiter(attempt, jobs, handle, began=_began(state), patience=patience)
        meter = attempt.context.meter
        pause = nullcontext() if run.is_script else meter.paused()
        with pause, meter.jobs.watched(_reserved_key(state)):
            status, late = await waiter.wait()
        again = _was_withdrawn(handle, status) and not late
        data = {**status.as_dict(), "late": late, "again": again}
        return ToolResult(text=status.reason, structured=data)

    try:
        result = await once(attempt, attempt.journal.next_site(), call, make, QuietCodec(attempt))
    except CallError:  # the job keeps running
        attempt.end_tries()
        raise
    status = cast("dict[str, Any]", result.structured)
    if status["state"] == "unknown":  # the user decides, while other jobs continue
        attempt.context.meter.jobs.unwatch(_reserved_key(state))
    return JobWork(status=status, late=status["late"])


class _Waiter:
    """Waits for one job of a step, and keeps the run's record of it up to date.

    Args:
        began: The moment when the job was submitted.
        patience: Moment and seconds: how long to wait for a job whose outcome is unknown.
    """

    def __init__(
        self,
        attempt: Attempt,
        jobs: Jobs,
        handle: JobHandle,
        *,
        began: Mapping[str, Any],
        patience: tuple[Mapping[str, Any], float] | None = None,
    ) -> None:
        self._attempt = attempt
        self._jobs = jobs
        self._handle = handle
        self._began = began
        self._patience = patience
        self._over = False
        self._waiting: dict[str, Any] = {}
        self._emitted: tuple[Any, ...] = ()

    async def wait(self) -> tuple[JobStatus, bool]:
        """The job's end, and whether it was cancelled at the step's timeout."""
        status = await self._jobs.wait(self._handle, until=self._look, glance=self._suspend)
        late = not self._over
        if late:
            status = await self._cancelled()
        self._attempt.context.jobs_waited_for.pop(self._attempt.path, None)
        return status, late

    async def _look(self, status: JobStatus) -> bool:
        """Report the status. Returns whether to stop waiting."""
        context, timeout = self._attempt.context, self._attempt.step.timeout
        self._over = self._is_over(status)
        await self._report(status, over=self._over)
        if self._over:
            return True
        context.jobs_waited_for[self._attempt.path] = self._waiting
        return bool(timeout and elapsed(context.clock, self._began) >= timeout)

    def _is_over(self, status: JobStatus) -> bool:
        if status.state == "unknown" and self._patience is not None:
            began, seconds = self._patience
            return elapsed(self._attempt.context.clock, began) >= seconds
        return status.over

    def _suspend(self) -> None:
        if self._attempt.context.leave_jobs():
            suspend(self._waiting)

    async def _cancelled(self) -> JobStatus:
        """Cancel the job. Returns its end, if it ends within `CANCEL_SECONDS`."""
        until = time.monotonic() + CANCEL_SECONDS
        status = await self._cancel()
        while not status.over and (left := until - time.monotonic()) > 0:
            timeout = min(left, CANCEL_AGAIN)
            status = await self._jobs.wait(self._handle, timeout=timeout, intervals=(1.0,))
            if not status.over and time.monotonic() < until:
                status = await self._cancel()
        await self._report(status, over=True)
        return status

    async def _cancel(self) -> JobStatus:
        try:
            return await self._jobs.cancel(self._handle)
        except JobError as error:
            self._attempt.emit("warning", code=error.code, message=f"not cancelled: {error}")
            return await self._jobs.status(self._handle)

    async def _report(self, status: JobStatus, *, over: bool) -> None:
        """Emit the job's state if it has changed."""
        line = ""
        if status.state != "pending":
            line = (await self._jobs.logs(self._handle, tail_lines=1)).text.strip()[-200:]
        began, seconds = self._patience or ({"wall": 0.0}, 0.0)
        until = began["wall"] + seconds
        self._waiting = _waiting(self._attempt, self._handle, status, self._began, until)
        last = {"last_lines": status.last_lines} if over and status.last_lines else {}
        state = (status.state, status.reason, line, over)
        if state != self._emitted:
            self._emitted = state
            _emit(self._attempt, {**self._waiting, "line": line, "over": over, **last})


def _waiting(
    attempt: Attempt,
    handle: JobHandle,
    status: JobStatus,
    began: Mapping[str, Any],
    patience: float = 0.0,
) -> dict[str, Any]:
    """The run's record of a job that it waits for.

    Args:
        began: The moment when the job was submitted.
        patience: The end of the wait for a job whose outcome is unknown, in Unix time.
    """
    timeout = attempt.step.timeout
    known = {
        "job": handle.native_id,
        **({} if handle.index is None else {"index": handle.index}),
        "scheduler": handle.scheduler,
        **({"confined": handle.confined} if handle.confined else {}),
        "state": status.state,
        "reason": status.reason,
        "line": "",
        "nodes": list(status.nodes),
        "submitted": status.submitted,
        "started": status.started,
        "ended": status.ended,
        "over": False,
        "handle": handle.as_dict(),
        "deadline": began["wall"] + timeout if timeout else None,
        "began": dict(began),
        "timeout": timeout,
        "patience": patience,
    }
    if attempt.step.kind == "script":
        known["script"] = True
    if attempt.context.tally is not None:
        known["jobs"] = attempt.context.tally.at(attempt.path, status.state)
    return questions.job(attempt.path, attempt.context.mask(known))


def _emit(attempt: Attempt, waiting: Mapping[str, Any]) -> None:
    attempt.emit("job_state", **{k: v for k, v in waiting.items() if k not in ("kind", "step")})


def _reserved_key(state: JobWork) -> str:
    return str(state.get("reserved", {}).get("key", ""))


async def _settle(state: JobWork, attempt: Attempt) -> None:
    """Replace the job's reservation in the budget by its usage."""
    if known := state.get("reserved"):
        size = {name: value for name, value in known.items() if name != "key"}
        status = state.get("status", {})
        await job_budget.settle(attempt, known["key"], Size(**size), status)


def _began(state: JobWork) -> Mapping[str, Any]:
    """The moment when the job was submitted. Runs of older versions have only the time."""
    return state.get("began") or {"wall": state.get("since", 0.0)}


def _was_withdrawn(handle: JobHandle, status: JobStatus) -> bool:
    """Whether the job was cancelled together with its whole run."""
    ended = status.state not in ("completed", "unknown")
    return ended and (handle.job_dir / WITHDRAWN).exists()


def _after_wait(state: JobWork) -> str:
    if state.get("status", {}).get("again"):
        return "submit"
    return "ask" if state.get("status", {}).get("state") == "unknown" else "read"


# -- ask -----------------------------------------------------------------------------------------


async def _ask(state: JobWork, runtime: Runtime[JobRun]) -> JobWork:
    """Ask the user about a job whose outcome is unknown. No other work may precede the question.

    Evidence that appears before the user answers is an answer, too.
    """
    attempt, handle = runtime.context.attempt, state.get("handle", {})
    question = questions.job_unknown(
        attempt.path,
        str(handle.get("native_id", "")),
        str(handle.get("scheduler", "")),
        str(state.get("status", {}).get("reason", "")),
        str(handle.get("job_dir", "")),
    )
    try:
        answer = ask(attempt, question)
    except GraphInterrupt:
        if handle and attempt.deps.patient and await _is_known(runtime.context, handle):
            return JobWork(verdict=EVIDENCE, status={})
        raise
    if answer != "wait":
        return JobWork(verdict=answer)
    # If the job may not have been submitted, submitting it again by its key finds it.
    number = state.get("number", 1) - (0 if handle else 1)
    asked = moment(attempt.context.clock)
    return JobWork(verdict="wait", patience=asked["wall"] + PATIENCE, asked=asked, number=number)


async def _is_known(run: JobRun, handle: Mapping[str, Any]) -> bool:
    """Whether the outcome of the job is known by now."""
    job = JobHandle.from_dict(handle)
    status = await run.jobs(job.scheduler).status(job)
    return status.state != "unknown"


def _after_ask(state: JobWork) -> str:
    verdict = state.get("verdict", "")
    if verdict == "again" or (verdict == "wait" and not state.get("handle")):
        return "submit"
    return "wait" if verdict in ("wait", EVIDENCE) else "read"


# -- read ----------------------------------------------------------------------------------------


async def _read(state: JobWork, runtime: Runtime[JobRun]) -> JobWork:
    """Read the outputs, and decide whether the job succeeded."""
    attempt, handle = runtime.context.attempt, state.get("handle")
    label = JobHandle.from_dict(handle).label if handle else str(None)
    await _settle(state, attempt)
    answer = attempt.step.job.answer if attempt.step.job else None
    # A replay reads the log again if it exists, and nothing else.
    is_log = not runtime.context.is_script and not (answer and answer.file is not None)
    name = LOGS if is_log else OUTPUT
    call = Call(kind="tool", name=name, digest=digest_of(label), safe=True)

    async def make() -> ToolResult:
        return ToolResult(text="", structured=await _end(state, runtime.context))

    result = await once(attempt, attempt.journal.next_site(), call, make, QuietCodec(attempt))
    return JobWork(end=result.structured)


async def _end(state: JobWork, run: JobRun) -> dict[str, Any]:
    """The outputs by reference, and the evidence of a failure."""
    attempt, known = run.attempt, state.get("handle")
    step_job = attempt.step.job
    assert step_job is not None  # noqa: S101 - only job steps come here
    nowhere: dict[str, Any] = dict.fromkeys(HANDLE_KEYS, "")
    handle = JobHandle.from_dict(known or nowhere)
    log = await LogParts.of(handle, run.jobs(handle.scheduler) if known else None)
    status, tally = state.get("status", {}), attempt.context.tally
    notices = list(status.get("notices", ()))
    if step_job.answer is not None or run.is_script:
        found, faults = await answer_of(attempt, handle if known else None, log)
    else:
        found, faults = await read_metrics(step_job.metrics, log)
    end = _judged(state, handle, faults, attempt)
    seen: dict[str, Any] = {}
    if run.is_script:
        tail = await log.part(max(log.size - STDERR_BYTES, 0), log.size)
        seen = {"exit_code": status.get("exit_code"), "stderr": tail}
        failed = {**seen, "error": end.fault} if end.fault else {}
        outputs = {**found, **failed}
    else:
        outputs = await _outputs(status, handle, log, 1 if tally is None else tally.total)
        if tally is not None and tally.is_array:
            outputs = {"index": handle.index, **outputs}
        if end.fault:
            outputs["error"] = end.fault
        if hidden := sorted(found.keys() & outputs.keys()):  # a metric never has such a name
            notices.append(f"the job's own outputs hide these keys of its JSON: {listing(hidden)}")
        outputs |= {name: value for name, value in found.items() if name not in outputs}
    return {
        "outputs": attempt.deps.outputs.put(outputs),
        "decided_by": end.decided_by,
        "reason": end.reason,
        "fault": end.fault,
        "seconds": elapsed(attempt.context.clock, _began(state)) if "since" in state else 0.0,
        **({"seen": attempt.deps.outputs.put(seen)} if seen else {}),
        **({"notices": notices} if notices else {}),
    }


async def _outputs(
    status: Mapping[str, Any], handle: JobHandle, log: LogParts, jobs: int
) -> dict[str, Any]:
    """The outputs of a job, without its metrics.

    Args:
        jobs: Number of jobs that share the space for logs.
    """
    size = max(LOG_BYTES * MAX_LOGS // max(jobs, MAX_LOGS), MIN_LOG_BYTES)
    return {
        "state": status["state"],
        "reason": status["reason"],
        "evidence": status["evidence"],
        "exit_code": status["exit_code"],
        "job_id": handle.title,
        "scheduler": handle.scheduler,
        "nodes": status["nodes"],
        "submitted": status["submitted"],
        "started": status["started"],
        "ended": status["ended"],
        "seconds": status["seconds"],
        "log": await _tail(log, size),
        "log_file": str(handle.own_dir / LOG_FILE) if log.jobs else "",
    }


async def _tail(log: LogParts, size: int) -> str:
    """The last whole lines of the log."""
    start = max(log.size - size, 0)
    text = await log.part(start, log.size)
    return text[text.find("\n") + 1 :] if start else text


@dataclass(frozen=True, slots=True)
class _Judgement:
    """The evidence of a failure. There is none if `decided_by` is None.

    Args:
        reason: The evidence, such as ``scontrol: TIMEOUT``.
        fault: The event, in a sentence.
    """

    decided_by: DecidedBy | None = None
    reason: str = ""
    fault: str | None = None


def _judged(
    state: JobWork, handle: JobHandle, faults: Sequence[str], attempt: Attempt
) -> _Judgement:
    """Judge whether the job's end is success.

    Args:
        faults: Of the metrics in its log.
    """
    status, is_script = state.get("status", {}), attempt.step.kind == "script"
    name = "the script" if is_script else f"job {handle.title}"
    how = str(status["state"])
    if how == "completed" or state.get("verdict") == "success":
        words = "; ".join(faults)
        return _Judgement("schema", words, words) if faults else _Judgement()
    if state.get("late"):
        within = format_duration(attempt.step.timeout or 0)
        words = f"{name} was not over within the step's timeout of {within}"
        words = f"{words}: {LATE.get(how, 'it was cancelled')}"
        return _Judgement("error", words, words)
    if how == "unknown":
        words = f"{name} counts as failed, as a person said: {status['reason']}"
        return _Judgement("error", words, words)
    happened, shown = _split_evidence(status)
    words = happened if happened.startswith("job ") else f"{name} {happened}"
    lines = [line.strip() for line in str(status.get("last_lines") or "").splitlines()]
    said = [line for line in lines if line]
    if is_script and said:
        words = f"{words.partition('; last line: ')[0]}; stderr: {' / '.join(said)}"
    elif said and "last line: " not in words:
        words = f"{words}; last line: {said[-1][:MAX_LINE]}"
    return _Judgement("exit_code", shown, words)


def _split_evidence(status: Mapping[str, Any]) -> tuple[str, str]:
    """The event and its evidence. The reason has the evidence at its end, in brackets."""
    reason, evidence = str(status["reason"]).strip(), str(status["evidence"])
    found = re.search(rf" \((?P<shown>{re.escape(evidence)}(?:: [^()]*)?)\)", reason)
    if not found:
        return reason or f"ended as {status['state']}", evidence
    return reason.replace(found[0], "", 1), found["shown"]
