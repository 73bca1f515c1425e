"""Job steps: submit a batch job, wait for its end without holding anything, read its log.

The inside of such a step is a graph of its own, and each of its nodes a checkpoint:

- `submit`: once, by a key of its own, so that a run that was killed finds its job again.
- `wait`: until the scheduler or the job's own files show its end. The run may leave here, and
  whoever goes on with it waits again. A job that was cancelled with the run is submitted again.
- `ask`: where nothing shows how it ended, a person says what to do.
- `read`: the figures, and what the end means.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

from langgraph.errors import GraphInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from fractale import questions
from fractale.clock import elapsed, moment
from fractale.errors import (
    DependencyMissing,
    FractaleError,
    JobInDoubt,
    PolicyError,
    SchedulerUnavailable,
)
from fractale.evidence import Notice
from fractale.graph import job_budget
from fractale.graph.call import Attempt, once
from fractale.graph.consent import agree
from fractale.graph.figures import Log, read_figures
from fractale.graph.interrupts import ask
from fractale.graph.job_arrays import (
    ITEM,
    SUBMIT,
    add_elements,
    alone,
    array_of_step,
    part_of,
    run_array,
    scheduler_of,
    send_elements,
    submit_job,
)
from fractale.graph.job_end import JobEnd, end_of, outputs_of_job
from fractale.graph.job_spec import arguments_of, spec_of
from fractale.graph.job_wait import Waiter, job_told, tell
from fractale.graph.kinds import Compiler, Perform
from fractale.graph.kinds.tool import QuietCodec, call_tool
from fractale.graph.outcome import CallResult, Decision
from fractale.graph.state import ItemState
from fractale.graph.step import StepNode
from fractale.jobs import JobHandle, JobStatus
from fractale.jobs.budget import Budget, Size
from fractale.policy import allowed_by
from fractale.schedulers.folder import WITHDRAWN
from fractale.store.journal import Call, digest_of
from fractale.toolbox import ToolResult

if TYPE_CHECKING:
    from fractale.jobs import Jobs

EVIDENCE = "evidence"
"""The verdict where the job answers the question itself."""

PATIENCE = 600.0
"""Seconds that a person who says "wait on" gives a job that nobody knows of."""

HANDLE_KEYS: tuple[str, ...] = ("scheduler", "native_id", "key", "job_dir")


class Work(TypedDict, total=False):
    """The state of a job step.

    Keys:
        handle: Of the job, as JSON; empty where nobody knows whether it was submitted.
        since: When it was submitted, in Unix time.
        began: The same as a moment (`fractale.clock`).
        number: How many jobs were submitted, this one included.
        patience: Until when a job that nobody knows of is waited for all the same, in Unix time.
        asked: The moment since when it is.
        status: How it ended, as JSON.
        late: Whether it was cancelled because the step's time was up.
        verdict: What a person says of a job that nobody knows of: ``success`` or ``failure``.
        end: What it gave: the outputs as a reference, the fault in words.
        reserved: What the run's budget has set aside for it: `key`, and `fractale.jobs.Size`.
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


class Inside(Work, ItemState, total=False):
    """The state of a step that is a job, or an array whose elements are items."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """What the nodes of a job step work with."""

    attempt: Attempt

    def jobs(self, scheduler: str | None) -> Jobs:
        """The jobs of a scheduler.

        Raises:
            DependencyMissing: The graph was compiled without any.
        """
        if self.attempt.deps.jobs is None:
            raise DependencyMissing(
                "this graph has no batch jobs", hint="give `jobs` to its Dependencies"
            )
        return self.attempt.deps.jobs(scheduler)


def job(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that submits a batch job and waits for it: one, an array, or one per item."""
    del compiler
    return job_leaf(node) if node.step.foreach else job_step(node)


def job_leaf(node: StepNode) -> StepNode:
    """A step, or an item of a foreach, that submits one job and waits for it."""
    return replace(node, perform=one_job(node), inside=_graph().compile())


def job_step(node: StepNode) -> StepNode:
    """A step that submits a job, or an array of jobs, and waits for it."""
    one = one_job(node)
    leaf = replace(node, perform=one, inside=_graph().compile())

    async def call(attempt: Attempt) -> CallResult:
        array = array_of_step(attempt)
        return await one(attempt) if array is None else await run_array(leaf, attempt, array)

    builder = _graph(start=_first)
    add_elements(builder, leaf)
    return replace(node, perform=call, inside=builder.compile())


def _first(state: Any) -> Any:
    return send_elements(state) or "submit"


def one_job(node: StepNode) -> Perform:
    """The call of one job."""

    async def call(attempt: Attempt) -> CallResult:
        after = cast(
            "Work", await attempt.inside.ainvoke(Work(), attempt.config, context=JobRun(attempt))
        )
        end = after.get("end", {})
        outputs = attempt.deps.outputs.get(end["outputs"])
        by = end["decided_by"]
        failure = None
        if by is not None:
            failure = Decision(
                outcome="failure", event="failure", decided_by=by, reason=end["reason"]
            )
        return CallResult(
            outputs=outputs,
            text=str(outputs["log"]),
            failure=failure,
            fault=end["fault"],
            seconds=end["seconds"],
            notices=tuple(
                Notice(kind="warning", message=words) for words in end.get("notices", ())
            ),
        )

    del node
    return call


def _graph(start: Callable[[Any], Any] | None = None) -> Any:
    """The inside of a job step.

    Args:
        start: Where it begins, where that is not always the submission.
    """
    schema = Work if start is None else Inside
    builder: Any = StateGraph(schema, context_schema=JobRun)
    builder.add_node("submit", _submit, input_schema=Work)
    builder.add_node("wait", _wait, input_schema=Work)
    builder.add_node("ask", _ask, input_schema=Work)
    builder.add_node("read", _read, input_schema=Work)
    if start is None:
        builder.add_edge(START, "submit")
    else:
        builder.add_conditional_edges(START, start, ["submit", ITEM])
    builder.add_conditional_edges("submit", _after_submit, ["wait", "ask"])
    builder.add_conditional_edges("wait", _after_wait, ["ask", "read", "submit"])
    builder.add_conditional_edges("ask", _after_ask, ["submit", "wait", "read"])
    builder.add_edge("read", END)
    return builder


# Submit


async def _submit(state: Work, runtime: Runtime[JobRun]) -> Work:
    """Submit the job, where it was not before.

    Raises:
        PolicyError: It may not be submitted.
        TemplateError: What was rendered is no job.
        CallError: The scheduler refused it.
    """
    run, number = runtime.context, state.get("number", 0) + 1
    attempt = run.attempt
    if state.get("verdict") == "again" or state.get("status", {}).get("again"):
        await _settle(state, attempt)
    wanted = arguments_of(attempt)
    if attempt.context.mask(wanted) != wanted:
        raise PolicyError(
            "the job was not submitted: there is a secret in it, and a job is written to disk",
            hint="have the job read the secret from a file of yours",
        )
    if not all(allowed_by(globs, SUBMIT) for globs in attempt.context.within):
        raise PolicyError("no job was submitted: `job_submit` is none of the planned step's tools")
    chosen_by = "model" if attempt.context.drafted else "plan"
    spec, scheduler = spec_of(attempt, wanted)
    name = scheduler or scheduler_of(attempt)
    cost = job_budget.words_of(attempt, spec, name)
    agreed = agree(attempt, SUBMIT, wanted, chosen_by, cost=cost)
    spec, scheduler = spec_of(attempt, agreed)
    part = part_of(attempt, agreed, wanted) if number == 1 else None
    key, size = (
        part.key if part else _key(attempt, number),
        job_budget.size_of(spec, scheduler or name),
    )
    if part is None:
        await job_budget.reserve(attempt, key, size)

    async def make() -> ToolResult:
        jobs = run.jobs(scheduler)
        if part is not None:
            handle = await part.submitted(jobs, attempt.tries)
        else:
            own, index = alone(attempt, jobs, spec)
            handle = await submit_job(attempt, jobs, own, key, index)
        began = moment(attempt.context.clock)
        told = {**handle.as_dict(), "since": began["wall"], "began": began}
        return ToolResult(text=f"{handle.scheduler} job {handle.native_id}", structured=told)

    budget, reserved = attempt.context.meter.jobs, {"key": key, **asdict(size)}
    try:
        with budget.watched(key):
            result = await call_tool(attempt, SUBMIT, agreed, make=make)
    except JobInDoubt as error:
        status = JobStatus(state="unknown", reason=f"{error} ({error.hint})").as_dict()
        told = attempt.context.mask(status)
        return Work(handle={}, number=number, verdict="", status=told, reserved=reserved)
    except FractaleError as error:
        if part is None:
            await _release(budget, key, error)
        raise
    handle, since = JobHandle.from_dict(result.structured), float(result.structured["since"])
    began = dict(result.structured.get("began") or {"wall": since})
    # Whoever looks for runs that wait finds this one from here on, whatever happens to us.
    told = job_told(attempt, handle, JobStatus(state="pending", reason="was submitted"), began)
    attempt.context.jobs_waited_for[attempt.path] = told
    tell(attempt, told)
    return Work(
        handle=handle.as_dict(),
        since=since,
        began=began,
        number=number,
        verdict="",
        status={},
        reserved=reserved,
    )


async def _release(budget: Budget, key: str, error: FractaleError) -> None:
    """Give back what was reserved for a job that was refused: there is none."""
    if not isinstance(error, SchedulerUnavailable):
        await budget.release(key)


def _after_submit(state: Work) -> str:
    return "wait" if state.get("handle") else "ask"


def _key(attempt: Attempt, number: int) -> str:
    """A name for the job that no other has: the same when the run comes here again.

    LangGraph names a task by its checkpoint, which a retry, a kill and a resume do not change and
    another attempt does; the rest is for people who look at the queue.
    """
    task = str(attempt.config.get("configurable", {}).get("checkpoint_ns", ""))
    unique = f"{attempt.context.run_id}#{task}#{attempt.path}#{attempt.attempts}#{number}"
    digest = hashlib.sha256(unique.encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9_]+", "-", attempt.path).strip("-")[:40]
    return f"{attempt.context.run_id}-{words}-{digest}"


# Wait


async def _wait(state: Work, runtime: Runtime[JobRun]) -> Work:
    """The end of the job; leaves the run where that is wanted before."""
    run = runtime.context
    attempt, handle = run.attempt, JobHandle.from_dict(state.get("handle", {}))
    asked = state.get("asked") or {"wall": state.get("patience", 0.0) - PATIENCE}
    patience = (asked, PATIENCE) if state.get("patience") else None
    call = Call(kind="tool", name="jobs.job_wait", digest=digest_of(handle.label), safe=True)

    async def make() -> ToolResult:
        jobs = run.jobs(handle.scheduler)
        waiter = Waiter(attempt, jobs, handle, began=_began(state), patience=patience)
        meter = attempt.context.meter
        with meter.paused(), meter.jobs.watched(_reserved_key(state)):
            status, late = await waiter.wait()
        again = _is_withdrawn(handle, status) and not late
        told = {**status.as_dict(), "late": late, "again": again}
        return ToolResult(text=status.reason, structured=told)

    result = await once(attempt, attempt.journal.next_site(), call, make, QuietCodec(attempt))
    told = cast("dict[str, Any]", result.structured)
    if told["state"] == "unknown":  # a person decides, and others do not wait for that
        attempt.context.meter.jobs.leave(_reserved_key(state))
    return Work(status=told, late=told["late"])


def _reserved_key(state: Work) -> str:
    return str(state.get("reserved", {}).get("key", ""))


async def _settle(state: Work, attempt: Attempt) -> None:
    """Count what the job used; of one that nobody knows of, all that was reserved."""
    if known := state.get("reserved"):
        size = {name: value for name, value in known.items() if name != "key"}
        status = state.get("status", {})
        await job_budget.settle(attempt, known["key"], Size(**size), status)


def _began(state: Work) -> Mapping[str, Any]:
    """When the job was submitted; a run of an older version has kept no more than the time."""
    return state.get("began") or {"wall": state.get("since", 0.0)}


def _is_withdrawn(handle: JobHandle, status: JobStatus) -> bool:
    """Whether a job did not end by itself, but was cancelled with its whole run."""
    ended = status.state not in ("completed", "unknown")
    return ended and (handle.job_dir / WITHDRAWN).exists()


def _after_wait(state: Work) -> str:
    if state.get("status", {}).get("again"):
        return "submit"
    return "ask" if state.get("status", {}).get("state") == "unknown" else "read"


# Ask


async def _ask(state: Work, runtime: Runtime[JobRun]) -> Work:
    """Ask what to do about a job that nobody knows of. Nothing comes before the question.

    As long as nobody has answered, evidence that has come meanwhile does so, too.
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
            return Work(verdict=EVIDENCE, status={})
        raise
    if answer != "wait":
        return Work(verdict=answer)
    # One that may not even have been submitted is looked for by its key: that is to submit it.
    number = state.get("number", 1) - (0 if handle else 1)
    asked = moment(attempt.context.clock)
    return Work(verdict="wait", patience=asked["wall"] + PATIENCE, asked=asked, number=number)


async def _is_known(run: JobRun, handle: Mapping[str, Any]) -> bool:
    """Whether something shows by now how a job is of which nothing did."""
    job = JobHandle.from_dict(handle)
    status = await run.jobs(job.scheduler).status(job)
    return status.state != "unknown"


def _after_ask(state: Work) -> str:
    verdict = state.get("verdict", "")
    if verdict == "again" or (verdict == "wait" and not state.get("handle")):
        return "submit"
    return "wait" if verdict in ("wait", EVIDENCE) else "read"


# Read


async def _read(state: Work, runtime: Runtime[JobRun]) -> Work:
    """What the job gave, and whether that is success."""
    attempt, handle = runtime.context.attempt, state.get("handle")
    label = JobHandle.from_dict(handle).label if handle else str(None)
    await _settle(state, attempt)
    call = Call(kind="tool", name="jobs.job_logs", digest=digest_of(label), safe=True)

    async def make() -> ToolResult:
        return ToolResult(text="", structured=await _end(state, runtime.context))

    result = await once(attempt, attempt.journal.next_site(), call, make, QuietCodec(attempt))
    return Work(end=result.structured)


async def _end(state: Work, run: JobRun) -> dict[str, Any]:
    """The outputs by reference, and what decides against success."""
    attempt = run.attempt
    job = attempt.step.job
    assert job is not None  # noqa: S101 - only job steps come here
    known, nothing = state.get("handle"), dict.fromkeys(HANDLE_KEYS, "")
    handle = JobHandle.from_dict(known or nothing)
    log = await Log.of(handle, run.jobs(handle.scheduler) if known else None)
    found, faults = await read_figures(job.outputs, log)
    status, verdict = state.get("status", {}), state.get("verdict", "")
    over = JobEnd(status, handle, verdict, state.get("late", False))
    end = end_of(over, faults, attempt)
    tally = attempt.context.tally
    outputs = await outputs_of_job(
        over,
        log,
        end,
        of=tally.total if tally else 1,
        is_element=tally is not None and tally.is_array,
    )
    kept = attempt.deps.outputs.put(attempt.context.mask({**outputs, **found}))
    told = {
        "outputs": kept,
        "decided_by": end.decided_by,
        "reason": end.reason,
        "fault": end.fault,
        "seconds": elapsed(attempt.context.clock, _began(state)) if "since" in state else 0.0,
        **({"notices": status["notices"]} if status.get("notices") else {}),
    }
    return attempt.context.mask(told)
