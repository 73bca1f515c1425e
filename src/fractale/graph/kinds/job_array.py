"""Many jobs in few submissions: a job array, or a `foreach` over jobs as arrays.

Each element, or item, is a separate task: it is rendered, waited for, judged by the step's rules
and recorded. Elements share only the submission. Before the first submission, the run's notes
record which jobs are submitted together. So a killed run submits the same arrays again, and thereby
finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END
from langgraph.runtime import Runtime
from langgraph.types import Send

from fractale.errors import (
    CallError,
    FractaleError,
    JobInDoubt,
    SchedulerUnavailable,
    TemplateError,
)
from fractale.evidence import Notice
from fractale.graph import job_budget
from fractale.graph.call import Attempt, labels_of
from fractale.graph.kinds.foreach import item_outputs
from fractale.graph.kinds.job_spec import arguments_of, read_array, spec_of
from fractale.graph.kinds.tool import is_allowed
from fractale.graph.outcome import DEFAULT_SUCCESS, CallResult, Decision, failed_by
from fractale.graph.state import ItemState
from fractale.graph.step import StepNode, item_node, prepare, retry_policy
from fractale.jobs.arrays import in_order, numbered, words_of_states
from fractale.jobs.budget import Size
from fractale.plan.expressions import render
from fractale.plan.job import MOST_ELEMENTS
from fractale.plan.model import FAILURE, SUCCESS
from fractale.schedulers.asked import array_of, script_of
from fractale.schedulers.dialects import schedulers_of
from fractale.schedulers.folder import digest
from fractale.schedulers.job import Element, JobHandle, JobSpec, JobState
from fractale.schedulers.request import Array
from fractale.toolbox import ToolInfo

if TYPE_CHECKING:
    from fractale.jobs import Jobs

ITEM: Final = "item"
"""The node of an element in the graph of a job step."""

SUBMIT = ToolInfo(
    name="job_submit",
    server="jobs",
    description="Submit a batch job.",
    annotations={"readOnlyHint": False, "destructiveHint": False},
)
"""The call that the policy sees: the equivalent tool of `fractale.tools.jobs`."""

MOST_TOGETHER: Final = 1000
"""Elements of one array of a `foreach`: the schedulers' default limit.

Slurm's ``MaxArraySize`` is 1001, LSF's ``MAX_JOB_ARRAY_SIZE`` is 1000.
"""


def is_open(state: object) -> bool:
    """Whether a job in this state is not known to be over."""
    return state in ("pending", "running", "unknown")


class Tally:
    """Counts the jobs of a foreach, or of an array, by state.

    Args:
        total: Number of jobs.
        is_array: Whether they are the elements of an array in the plan.
    """

    def __init__(self, total: int, *, is_array: bool = False) -> None:
        self.total = total
        self.is_array = is_array
        self._states: dict[str, JobState] = {}
        self._counts = Counter[JobState]()

    def at(self, path: str, state: JobState) -> dict[str, int]:
        """Record the state of a job. Returns the counts by state."""
        before = self._states.get(path)
        if before is not None:
            self._counts[before] -= 1
        self._states[path] = state
        self._counts[state] += 1
        return in_order(self._counts)

    @property
    def has_open(self) -> bool:
        """Whether the last known state of a job is not an end."""
        return any(map(is_open, self._states.values()))


@dataclass(slots=True)
class ArrayJob:
    """One submission for several jobs. The first element that needs it submits it.

    Args:
        attempt: Of the step.
        key: Idempotency key of the submission.
    """

    attempt: Attempt
    spec: JobSpec
    key: str
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _handle: JobHandle | None = None
    _fault: FractaleError | None = None
    _tries: int = 0

    @property
    def may_run(self) -> bool:
        """Whether it is not known that nothing was submitted."""
        return self._handle is None and isinstance(self._fault, SchedulerUnavailable)

    async def submitted(self, jobs: Jobs, tries: int) -> JobHandle:
        """Submit the array once.

        Args:
            tries: The try of the step's `retry`. A failed submission is repeated once per try, for
                all elements together.

        Raises:
            JobError: The scheduler refuses it.
            SchedulerUnavailable: The scheduler does not answer.
            JobInDoubt: It is unknown whether the array was submitted.
            LimitReached: The array does not fit within the run's limits.
        """
        async with self._lock:
            if self._fault is not None and tries <= self._tries:
                raise self._fault
            if self._handle is None:
                self._tries = tries
                try:
                    self._handle = await self._submitted(jobs)
                except FractaleError as error:
                    self._fault = error
                    raise
        return self._handle

    async def _submitted(self, jobs: Jobs) -> JobHandle:
        size = Size.of(self.spec, jobs.scheduler)
        await job_budget.reserve(self.attempt, self.key, size, self.spec.array)
        try:
            return await jobs.submit(self.spec, key=self.key)
        except (SchedulerUnavailable, JobInDoubt):
            raise
        except FractaleError:  # the array was refused
            await self.attempt.context.meter.jobs.release(self.key, self.spec.array)
            raise


@dataclass(frozen=True, slots=True)
class ArrayElement:
    """The job of an item, as an element of an array."""

    array: ArrayJob
    index: int

    @property
    def key(self) -> str:
        """The budget's key of the element."""
        return job_budget.element_key(self.array.key, self.index)

    async def submitted(self, jobs: Jobs, tries: int) -> JobHandle:
        """Submit the array once. Returns the handle of the element.

        Raises:
            FractaleError: As `ArrayJob.submitted`.
        """
        return replace(await self.array.submitted(jobs, tries), index=self.index)


def element_of(
    attempt: Attempt, agreed: Mapping[str, Any], wanted: Mapping[str, Any]
) -> ArrayElement | None:
    """The element of an array that an item's job is; None if it is submitted on its own.

    Args:
        agreed: The job after the approval. A job that the user has changed is submitted on its own.
        wanted: The job before the approval.
    """
    element = attempt.context.arrays.get(attempt.scope.get("index", -1))
    return element if dict(agreed) == dict(wanted) else None


def alone(attempt: Attempt, jobs: Jobs, spec: JobSpec) -> tuple[JobSpec, int | None]:
    """A job that is submitted on its own, with its index if it is an element of an array.

    Raises:
        TemplateError: The job is an array inside a foreach.
    """
    tally = attempt.context.tally
    if tally is None:
        return spec, None
    if tally.is_array:
        index = int(attempt.scope["index"])
        return replace(spec, array=Array.of([index])), index
    if array_of(spec, jobs.scheduler) is not None:
        raise TemplateError(
            "the script of an item is a job array itself",
            position=attempt.step.position,
            hint="take the directive out of the script: a `foreach` is submitted as an array",
        )
    return spec, None


# -- which jobs are submitted together ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """The job of an item.

    Args:
        kind: Equal for jobs that can be elements of one array.
    """

    spec: JobSpec
    scheduler: str | None
    kind: str


async def arrays_of_items(
    leaf: StepNode, attempt: Attempt, items: Sequence[Any], most: int | None
) -> dict[str, Any]:
    """The arrays of a foreach over jobs, as fields of the items' `RunContext`.

    Args:
        most: The number of jobs that may run at a time; None: no limit.
    """
    tally = Tally(len(items))
    if leaf.step.creates:  # an item may be up to date, and each job is then submitted on its own
        return {"tally": tally}
    scopes = {
        index: {"item": attempt.context.mask(item), "index": index}
        for index, item in enumerate(items)
    }
    groups = _Groups(leaf, attempt, scopes)
    at_most = await groups.most_elements()
    chunks = groups.found(at_least=2, at_most=at_most) if at_most > 1 else []
    if most is not None and (sum(map(len, chunks)) < len(items) or len(chunks) > most):
        return {"tally": tally}  # schedulers could not apply the limit across several arrays
    arrays: dict[int, ArrayElement] = {}
    for chunk in chunks:
        share = max(1, most * len(chunk) // len(items)) if most is not None else None
        numbers = {item: number for number, item in enumerate(chunk, 1)}
        arrays |= groups.array(numbers, Array.of(numbers.values(), share))
    return {"arrays": arrays, "tally": tally}


class _Groups:
    """Groups the jobs of items that a scheduler can run as one array."""

    def __init__(
        self, leaf: StepNode, attempt: Attempt, scopes: Mapping[int, Mapping[str, Any]]
    ) -> None:
        self._attempt = attempt
        self._leaf = leaf
        task = str(attempt.config.get("configurable", {}).get("checkpoint_ns", ""))
        self._unique = f"{attempt.context.run_id}#{task}#{attempt.path}#{attempt.attempts}#array"
        self._note = f"arrays {hashlib.sha256(self._unique.encode()).hexdigest()[:16]}"
        # A replay has recorded handles, but no scheduler.
        can = attempt.deps.patient and attempt.deps.jobs is not None
        self._known: Any = attempt.context.notes.get(self._note) if can else None
        jobs = {i: self._job(i, scope) for i, scope in scopes.items()} if can else {}
        self._jobs = {index: job for index, job in jobs.items() if job is not None}

    def found(self, *, at_least: int, at_most: int) -> list[list[int]]:
        """The groups of items, as they were when the run first came here."""
        if self._known is not None:
            return [list(Array.parse(str(text)).indices) for text in self._known]
        kinds: dict[str, list[int]] = {}
        for index, job in self._jobs.items():
            kinds.setdefault(job.kind, []).append(index)
        chunks = [
            chunk
            for found in kinds.values()
            for start in range(0, len(found), at_most)
            if len(chunk := found[start : start + at_most]) >= at_least
        ]
        if not self._has_room(chunks):
            chunks = []  # each job waits separately for its place in the budget
        if self._jobs:
            kept = [str(Array.of(chunk)) for chunk in chunks]
            self._attempt.context.notes.put(self._note, kept)
        return chunks

    async def most_elements(self) -> int:
        """The most elements that the schedulers of the jobs allow in one array."""
        names = {job.scheduler for job in self._jobs.values()} if self._known is None else ()
        found = [MOST_TOGETHER]
        for name in names:
            jobs: Any = self._attempt.deps.jobs(name) if self._attempt.deps.jobs else None
            with contextlib.suppress(FractaleError):  # each job reports the error separately
                most = await jobs.most_elements()
                found += [] if most is None else [most]
        return min(found)

    def _has_room(self, chunks: Sequence[Sequence[int]]) -> bool:
        """Whether all of them together fit in the run's budget."""
        jobs = [(self._jobs[chunk[0]], len(chunk)) for chunk in chunks]
        sizes = [
            (Size.of(job.spec, job.scheduler or scheduler_of(self._attempt)), count)
            for job, count in jobs
        ]
        return job_budget.has_room(self._attempt, sizes)

    def array(self, numbers: Mapping[int, int], array: Array) -> dict[int, ArrayElement]:
        """Item → its element of one array.

        Args:
            numbers: Item → index of its element.
        """
        jobs = {number: self._jobs[item].spec for item, number in numbers.items()}
        first = next(iter(jobs.values()))
        elements = {
            number: Element(
                folder=spec.folder,
                script=spec.script,
                command=spec.command,
                env=spec.env,
                stdin=spec.stdin,
            )
            for number, spec in jobs.items()
        }
        are_equal = all(each == next(iter(elements.values())) for each in elements.values())
        spec = replace(first, array=array, elements={} if are_equal else elements)
        if not are_equal:
            spec = replace(spec, env={}, stdin=None)
        unique = f"{self._unique}#{min(numbers)}"
        words = re.sub(r"[^A-Za-z0-9_]+", "-", self._attempt.path).strip("-")[:40]
        name = hashlib.sha256(unique.encode()).hexdigest()[:12]
        job = ArrayJob(self._attempt, spec, f"{self._attempt.context.run_id}-{words}-{name}")
        return {item: ArrayElement(job, number) for item, number in numbers.items()}

    def _job(self, index: int, scope: Mapping[str, Any]) -> _Job | None:
        """The job of an item; None if it must be submitted on its own, or cannot be submitted."""
        attempt = self._attempt
        item = Attempt(
            step=self._leaf.step,
            path=f"{attempt.path}[{index}]",
            deps=self._leaf.deps,
            context=attempt.context,
            config=attempt.config,
            scope={**attempt.scope, **scope},
            flow=attempt.flow,
        )
        try:
            prepare(item, self._leaf.templates)
            wanted = arguments_of(item)
            if attempt.context.mask(wanted) != wanted or not self._is_free(item, wanted):
                return None
            spec, scheduler = spec_of(item, wanted)
            return _Job(spec, scheduler, self._kind(spec, scheduler))
        except (FractaleError, ValueError):
            return None  # the job itself fails, with its own message

    def _is_free(self, item: Attempt, wanted: Mapping[str, Any]) -> bool:
        """Whether the job needs no approval, or got it when an earlier process began it."""
        chosen_by = "model" if item.context.drafted else "plan"
        free = item.step.approve not in ("ask", "always") and not item.context.drafted
        return self._known is not None or (free and is_allowed(item, SUBMIT, wanted, chosen_by))

    def _kind(self, spec: JobSpec, scheduler: str | None) -> str:
        """The values that jobs must have in common to be one array.

        Raises:
            TemplateError: The job is an array itself, and the items are not its elements.
        """
        lines = (spec.script or "").splitlines()
        directives: tuple[str, ...] = ()
        if schedulers_of(lines):
            name = scheduler or scheduler_of(self._attempt)
            script = script_of(spec, name)
            if self._attempt.step.foreach is not None and script and script.request.array:
                raise TemplateError("an array", position=self._attempt.step.position)
            directives = tuple(each.text for each in script.reading.directives) if script else ()
        program = spec.command[:1] if spec.confine else ()
        same = replace(
            spec, script="x", command=(), env={}, folder=Path(), array=None, elements={}, stdin=None
        )
        return repr((scheduler, digest(same), directives, program))


def scheduler_of(attempt: Attempt) -> str:
    """The scheduler that jobs go to; ``local`` if it is unknown, as in a replay."""
    jobs: Any = attempt.deps.jobs(None) if attempt.deps.jobs else None
    return str(getattr(jobs, "scheduler", "local"))


# -- an array in the plan, or in its script -------------------------------------------------------


def array_of_step(attempt: Attempt) -> Array | None:
    """The array that a job step is; None if it is one job.

    Raises:
        TemplateError: The rendered value is not an array.
        JobError: The script turns one job into several.
    """
    job = attempt.step.job
    if job is not None and job.array is not None:
        return read_array(attempt, render(job.array, attempt.scope))
    script, scheduler = attempt.inputs.get("script"), attempt.inputs.get("scheduler")
    if not isinstance(script, str) or not schedulers_of(script.splitlines()):
        return None
    spec = JobSpec(name=attempt.step.name, folder=Path(), script=script)
    return array_of(spec, str(scheduler) if scheduler else scheduler_of(attempt))


async def run_array(leaf: StepNode, attempt: Attempt, array: Array) -> CallResult:
    """Run each element as an item of the step, except elements that succeeded before."""
    indices = array.indices
    if len(indices) > MOST_ELEMENTS:
        raise TemplateError(
            f"an array of a step has at most {MOST_ELEMENTS:,} elements, and this one "
            f"{len(indices):,}",
            position=attempt.step.where("array"),
            hint="let each element do several, by its index",
        )
    _render_first(attempt, indices[0], leaf.templates)
    kept = _succeeded_before(attempt, indices)
    rest = [index for index in indices if str(index) not in kept]
    groups = _Groups(leaf, attempt, {index: {"item": index, "index": index} for index in rest})
    elements: dict[int, ArrayElement] = {}
    chunks = groups.found(at_least=1, at_most=len(indices))
    for chunk in chunks:
        most = array.most and max(1, array.most * len(chunk) // len(rest))
        whole = replace(array, most=most) if len(chunk) == len(indices) else None
        own = {index: index for index in chunk}
        elements |= groups.array(own, whole or Array.of(chunk, most))
    tally = Tally(len(indices), is_array=True)
    context = replace(
        attempt.context,
        item_scope=attempt.scope,
        item_flow=attempt.flow,
        item_path=attempt.path,
        arrays=elements,
        tally=tally,
    )
    after = await attempt.inside.ainvoke({"items": rest}, attempt.config, context=context)
    if tally.has_open or any(each.array.may_run for each in elements.values()):
        attempt.end_tries()
    attempt.charge(after.get("spent", {}))
    results = {**kept, **after["results"]}
    found = [results[str(index)] for index in indices]
    attempt.seen.add(labels_of(*found))
    kept_words = (
        f"{numbered(map(int, kept))} kept from attempt {attempt.attempts - 1}" if kept else ""
    )
    return _gather(leaf, dict(zip(indices, found, strict=True)), kept_words)


def _render_first(attempt: Attempt, index: int, templates: Collection[str]) -> None:
    """Set the inputs that the step is recorded with: the job of its first element."""
    job = attempt.step.job
    if job is None or job.array is None:
        return
    scope = attempt.scope
    attempt.scope = {**scope, "item": index, "index": index}
    try:
        prepare(attempt, templates)
    except CallError:
        attempt.inputs = {}  # the element reports the fault
    finally:
        attempt.scope = scope


def _succeeded_before(attempt: Attempt, indices: Sequence[int]) -> dict[str, Any]:
    """The results of the elements that succeeded in the attempt before, if the job is the same.

    They are used only after a failed attempt: after a success the step does all of its work again.
        A
    job whose values differ only by the number of the attempt is the same job.
    """
    before = attempt.state.get("steps", {}).get(attempt.step.name, {})
    store = attempt.deps.outputs
    if before.get("outcome") != "failure" or not attempt.inputs:
        return {}
    outputs = store.get(before.get("outputs"))
    if not isinstance(outputs, list):
        return {}
    found: dict[str, Any] = {}
    for each in cast("list[Any]", outputs):
        if isinstance(each, dict) and "error" not in each:
            element = cast("dict[str, Any]", each)
            found[str(element.get("index"))] = {
                "outcome": SUCCESS,
                "event": SUCCESS,
                "decided_by": "default",
                "reason": "",
                "outputs": store.put(element),
            }
    known = {name: result for name, result in found.items() if int(name) in set(indices)}
    if not known or len(known) == len(indices):
        return {}
    if store.get(before.get("inputs")) != _inputs_before(attempt):
        words = f"the job is not that of attempt {attempt.attempts - 1}: all elements run again"
        attempt.emit("warning", code="array-again", message=words)
        return {}
    words = f"{numbered(map(int, known))}: kept from attempt {attempt.attempts - 1}, not run again"
    attempt.emit("warning", code="array-kept", message=words)
    return known


def _inputs_before(attempt: Attempt) -> Any:
    """The step's inputs as the attempt before would have rendered them; None: unknown."""
    job, name = attempt.step.job, attempt.step.name
    if job is None:
        return None
    number = int(attempt.scope.get("attempts", attempt.attempts)) - 1
    steps = dict(attempt.scope.get("steps", {}))
    own = steps.pop(name, {})
    if number > 1:
        steps[name] = {**own, "attempts": number - 1}
    scope = {**attempt.scope, "attempts": number, "steps": steps}
    try:
        if job.array is not None:
            first = read_array(attempt, render(job.array, scope)).indices[0]
            scope |= {"item": first, "index": first}
        rendered: Any = render(job.values(), scope)
    except CallError:
        return None
    return attempt.context.mask(rendered)


def add_elements(builder: Any, leaf: StepNode) -> None:
    """Add the node of an element to the graph of a job step."""
    leaf = item_node(leaf)
    leaf = replace(leaf, step=replace(leaf.step, creates=(), needs=()))  # those of the whole array
    graph = leaf.inside

    async def item(state: ItemState, runtime: Runtime[Any], config: RunnableConfig) -> ItemState:
        return await leaf(state, runtime, config, graph)

    builder.add_node(ITEM, item, input_schema=ItemState, retry_policy=retry_policy(leaf))
    builder.add_edge(ITEM, END)


def send_elements(state: Mapping[str, Any]) -> list[Send]:
    """The elements to run; empty if the step is one job."""
    items: Iterable[int] = state.get("items") or ()
    total = len(list(items))
    return [Send(ITEM, ItemState(item=index, index=index, total=total)) for index in items]


def _gather(node: StepNode, results: Mapping[int, dict[str, Any]], kept: str) -> CallResult:
    """The outputs of the elements in order, and the outcome of the step, as for a foreach.

    Args:
        kept: A text that names the elements that were not run again.
    """
    outputs = [item_outputs(node, result) for result in results.values()]
    states: dict[int, JobState] = {}
    for (index, result), output in zip(results.items(), outputs, strict=True):
        is_job = isinstance(output, dict) and "state" in output
        state = str(cast("dict[str, Any]", output)["state"]) if is_job else "failed"
        bad = result["outcome"] == FAILURE
        states[index] = cast(
            "JobState", "completed" if not bad else "failed" if state == "completed" else state
        )
    failed = [result for result in results.values() if result["outcome"] == FAILURE]
    words = words_of_states(states) + (f" ({kept})" if kept else "")
    if failed:
        words = f"{words}; first: {failed[0].get('error', '')}"
        if not node.step.keep_going or len(failed) == len(results):
            return CallResult(outputs=outputs, matched=failed_by(failed[0]["decided_by"], words))
    decision = replace(DEFAULT_SUCCESS, reason=words)
    own = [each for each in results.values() if each["event"] not in (SUCCESS, FAILURE)]
    if own:
        decision = Decision(
            outcome="success", event=own[0]["event"], decided_by="rule", reason=own[0]["reason"]
        )
    notices = [Notice(kind="failed", message=words)] if failed else []
    shown = {
        notice["message"]: notice for each in results.values() for notice in each.get("notices", ())
    }
    return CallResult(outputs=outputs, matched=decision, notices=(*notices, *shown.values()))
