"""fractale from Python: load and check a plan, run and sweep it, continue, fork and cancel runs.

Each function whose name begins with ``a`` is async: `arun`, `aresume`, `afork`, `areplay`,
`acancel`, `astream`, `asweep`, `aresume_sweep`. The function of the same name without the ``a`` is
its twin for code that is not async; it waits for the end.

The functions do what the commands of the same names do. A run is recorded in the state directory
with ``keep=True``; then both `aresume` and ``fractale resume`` can continue it. A run on your own
LangGraph `checkpointer` is continued with its plan and that checkpointer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fractale.errors import Problem, UsageError
from fractale.events import Event
from fractale.lazy import importing
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.model import Limits, Plan
from fractale.settings import Settings, load_settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fractale.replaying.invocation import ReplayKeywords
    from fractale.replaying.replay import Replayed
    from fractale.runs import RunResult
    from fractale.runs.cancelling import Cancelled
    from fractale.runs.invocation import Invocation, PlanSource, RunKeywords
    from fractale.store.index import RunRow
    from fractale.sweeps.driver import Listener as RowListener
    from fractale.sweeps.invocation import SweepKeywords
    from fractale.sweeps.results import SweepView

T = TypeVar("T")

_YAML: Final = re.compile(r"\s*(?:\{|[\w\"'-]+\s*:(?:\s|$))")
"""The beginning of a plan on one line, which is not a path."""


# -- plans ----------------------------------------------------------------------------------------


def load(plan: PlanSource) -> Plan:
    """A plan from a path or from YAML text; a `Plan` is returned.

    Raises:
        PlanError: The plan is invalid; the error lists every problem and its place.
        UsageError: It is something else.
    """
    if isinstance(plan, Plan):
        return plan
    if not isinstance(plan, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance] - a user may not check types
        from fractale.text import shown_value

        raise UsageError(f"`plan` cannot be {shown_value(plan)}", hint="give a path or YAML text")
    return parse_plan(plan) if isinstance(plan, str) and _is_yaml(plan) else load_plan(plan)


def _is_yaml(text: str) -> bool:
    if "\n" in text or _YAML.match(text) is None:
        return "\n" in text
    try:
        return not Path(text).exists()
    except OSError:  # it is too long for the name of a file
        return True


def _load(plan: PlanSource | None) -> Plan | None:
    return None if plan is None else load(plan)


def validate(plan: PlanSource) -> list[Problem]:
    """All problems of a plan, errors and warnings, in file order."""
    from fractale.plan.check import plan_problems

    return plan_problems(lambda: load(plan))[1]


# -- runs -----------------------------------------------------------------------------------------


async def arun(
    plan: PlanSource,
    inputs: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
    keep: bool = False,
    **keywords: Unpack[RunKeywords],
) -> RunResult:
    """Run a plan.

    Args:
        plan: A path, YAML text, or a `Plan`.
        inputs: The plan's inputs, secret ones left out.
        run_id: The id of the run, and of its thread in a `checkpointer`; None: a new one.
        keep: Record the run in the state directory.
        keywords: See `fractale.RunKeywords`. The run uses `tools`, `registries`, `agents`, `model`,
            `settings`, `secrets`, `checkpointer` and `store`. It reports to `on_event` and
            `callbacks`, with `tags` and `metadata`. It asks `person`, `answers` and `yes`, and ends
            at `limits` and `detach`.

    Returns:
        How the run ended. A plan that failed is a result, not an exception.

    Raises:
        PlanError: The plan is invalid.
        InputError: An input is missing or wrong.
        AnswerError: An answer is not valid for its question, or the plan has no such step.
        SettingsError: A server or a model that the plan needs cannot be used.
        ListenerError: `on_event` raised.
        UsageError: A keyword has a value that cannot be used, or `run_id` is in use.
    """
    return await _call("arun", keywords).start(load(plan), inputs, run_id=run_id, keep=keep)


def astream(
    plan: PlanSource,
    inputs: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
    keep: bool = False,
    **keywords: Unpack[RunKeywords],
) -> AsyncGenerator[Event | RunResult]:
    """Run a plan, and yield its events as they happen.

    Pieces of a model's text are events of the kind ``model_text``. If the generator is closed
    before its end, the run is cancelled; a recorded run can be resumed.

    Args:
        plan, inputs, run_id, keep, keywords: As for `arun`.

    Yields:
        Events, and as the last item the `RunResult`.

    Raises:
        FractaleError: As `arun`.
    """
    call = _call("astream", keywords)
    return call.streamed(lambda: call.start(load(plan), inputs, run_id=run_id, keep=keep))


async def aresume(
    run_id: str,
    *,
    plan: PlanSource | None = None,
    replies: Mapping[str, Any] | None = None,
    **keywords: Unpack[RunKeywords],
) -> RunResult:
    """Continue a run that waits, was stopped, or reached a limit.

    A recorded run continues with the registries, agents, model and store that it was started with,
    unless the keywords name others. Python objects are not recorded: give `tools`, `agents` and
    `model` again. Without a tool or an agent that the run still needs, nothing is changed.

    Args:
        run_id: The run's id; ``-1`` is the latest recorded run.
        plan: The run's plan, if the run is not recorded; `checkpointer` is then needed, too.
        replies: Answers only to the questions that wait now. Each must fit one of them.
        keywords: See `fractale.RunKeywords`. `answers` count from here on.

    Returns:
        How the run ended.

    Raises:
        UsageError: The run was not found, its plan or a tool that it still needs has changed, or
            a tool or an agent is missing that is to be given again.
        RunHeld: Another process has the run.
        FractaleError: As `arun`.
    """
    return await _call("aresume", keywords).resume(run_id, _load(plan), replies)


def astream_resume(
    run_id: str,
    *,
    plan: PlanSource | None = None,
    replies: Mapping[str, Any] | None = None,
    **keywords: Unpack[RunKeywords],
) -> AsyncGenerator[Event | RunResult]:
    """Continue a run as `aresume` does, and yield its events as `astream` does."""
    call = _call("astream_resume", keywords)
    return call.streamed(lambda: call.resume(run_id, _load(plan), replies))


async def afork(
    run_id: str,
    at: str,
    *,
    plan: PlanSource | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Mapping[str, Any]] | None = None,
    values: Mapping[str, Any] | None = None,
    new_id: str | None = None,
    **keywords: Unpack[RunKeywords],
) -> RunResult:
    """Start a new recorded run with the state of a recorded run before a step.

    The other run is only read. The new run is live from the step on.

    Args:
        run_id: The other run's id; ``-1`` is the latest.
        at: The step's name or path. ``STEP#2`` for its second attempt, else the last one.
        plan: Replaces that run's plan; None: its present file.
        inputs: The inputs that differ from that run's.
        outputs: Step → key → value, for outputs that differ from that run's.
        values: Named values that differ from that run's. A step of that run has set each.
        new_id: The id of the new run; None: a new one.
        keywords: See `fractale.RunKeywords`.

    Returns:
        How the new run ended.

    Raises:
        UsageError: The run or the step was not found, or the plan does not have the step.
        FractaleError: As `arun`.
    """
    call = _call("afork", keywords)
    return await call.fork(run_id, at, _load(plan), inputs, outputs, values, new_id=new_id)


async def areplay(run_id: str | Path, **keywords: Unpack[ReplayKeywords]) -> Replayed:
    """Repeat a recorded run from its record: no model and no tool is called.

    Args:
        run_id: The run's id, with ``-1`` for the latest; or the path of a recording.
        keywords: See `fractale.ReplayKeywords`. By default, the registries
            and agents of your own run are imported, and none of a recording.

    Returns:
        Whether the replay equals the record, and the first difference.

    Raises:
        NotRecorded: The record lacks what a replay needs.
        UsageError: The run was not found.
        PlanError: The plan is invalid.
    """
    from fractale.replaying.invocation import replay_recorded

    return await replay_recorded("areplay", run_id, keywords, _load(keywords.get("plan")))


async def acancel(
    run_id: str, step: str | None = None, *, settings: Settings | None = None
) -> Cancelled:
    """End the batch jobs of a recorded run and stop the run; it can be resumed.

    The run may be in progress, in this process or another one. It stops at the end of its present
    call. A run that is not recorded is stopped by cancelling its task.

    Args:
        run_id: The run's id; ``-1`` is the latest.
        step: End only the jobs of this step. The run then continues by its plan.

    Returns:
        The jobs that were in progress, and whether the run has stopped.

    Raises:
        UsageError: The run was not found, or the step submitted no job.
    """
    from fractale.runs.cancelling import cancel_run
    from fractale.runs.invocation import find_own
    from fractale.runs.keywords import check_values

    check_values({"run_id": run_id, "step": step, "settings": settings}, "run_id")
    settings = settings or load_settings()
    record, _ = find_own(run_id, settings)
    return await cancel_run(record, settings, step)


async def asweep(plan: PlanSource, **keywords: Unpack[SweepKeywords]) -> SweepView:
    """Run a plan once per row of a table of inputs, and record the sweep.

    The runs are in processes of their own, so that Python objects cannot be their tools or models:
    name `registries`, `agents` and `model` instead. If the call is cancelled, `aresume_sweep`
    continues the sweep.

    Args:
        plan: A path, YAML text, a `Plan`, or the path of a sweep file.
        keywords: See `fractale.SweepKeywords`. The rows come from `over`, `table` and `sample`.

    Returns:
        The sweep, once each row has ended or waits. A row that failed is part of the result.

    Raises:
        PlanError: The plan, or the sweep file, is invalid.
        SweepError: Rows are wrong; all problems at once.
        InputError: Nothing varies, there are too many rows, or the table cannot be read.
        UsageError: A keyword has a value that cannot be used, or `sweep_id` is in use.
        StoreError: The sweep cannot be recorded.
    """
    from fractale.sweeps.invocation import start_sweep

    return await start_sweep("asweep", plan, keywords, lambda: load(plan))


async def aresume_sweep(
    sweep_id: str,
    *,
    limits: Mapping[str, float] | None = None,
    run_limits: Limits | Mapping[str, Any] | None = None,
    on_row: RowListener | None = None,
    settings: Settings | None = None,
) -> SweepView:
    """Continue a sweep with the rows that did not end, and those that were answered since.

    Args:
        sweep_id: The sweep's ID; ``-1`` is the latest.
        limits: Replace limits of all runs together.
        run_limits: Replace limits of each run, and continue runs that reached one.
        on_row, settings: As of `asweep`.

    Raises:
        UsageError: The sweep was not found.
        RunHeld: Another process drives it.
        StoreError: Its record cannot be read or written.
    """
    from fractale.sweeps.invocation import resume_recorded

    return await resume_recorded(
        sweep_id, limits=limits, run_limits=run_limits, on_row=on_row, settings=settings
    )


def list_runs(
    *,
    plan: str | None = None,
    status: str | Sequence[str] = (),
    since: float | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
) -> list[RunRow]:
    """The recorded runs, the latest first.

    Args:
        plan: The plan's name, or a glob of it.
        status: ``running``, ``success``, ``failed``, ``waiting``, ``limit`` or ``stopped``.
        since: Started at or after this Unix time.
        limit: At most so many; None for all.

    Raises:
        StoreError: The index of runs cannot be used.
    """
    from fractale.runs.keywords import check_values
    from fractale.store.index import RunFilter, list_runs

    check_values({"plan": plan, "status": status, "since": since, "limit": limit}, "status")
    check_values({"settings": settings})
    settings = settings or load_settings(untrusted="narrow")
    which = RunFilter(
        plan=plan, status=(status,) if isinstance(status, str) else status, since=since
    )
    return list_runs(settings.state_dir, which, limit)


def resolve(value: Any, run_id: str | None = None, *, settings: Settings | None = None) -> Any:
    """A value of a run's state or events, with large outputs in place of their references.

    A `RunResult` has no references: its outputs are complete. The state of a recorded run and its
    events have ``{"$ref": "sha256:…", "bytes": n}`` for each output over 1 kB.

    Args:
        value: Any JSON value, such as ``(await graph.aget_state(config)).values``.
        run_id: The recorded run; ``-1`` is the latest. None: the run is not recorded. Then its
            state has every output itself, and only values are decoded that JSON has and
            LangGraph's serializers have not, such as integers over 64 bits.

    Raises:
        UsageError: The run was not found.
        StoreError: An output is missing or damaged.
    """
    from fractale.runs.keywords import check_values
    from fractale.store.outputs import FileOutputs, InlineOutputs, resolved
    from fractale.store.run_record import RunRecords

    check_values({"run_id": run_id, "settings": settings})
    if run_id is None:
        return resolved(value, InlineOutputs())
    settings = settings or load_settings(untrusted="narrow")
    return resolved(value, FileOutputs(RunRecords(settings.state_dir).find(run_id).outputs))


# -- for code that is not async -------------------------------------------------------------------


def run(
    plan: PlanSource,
    inputs: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
    keep: bool = False,
    **keywords: Unpack[RunKeywords],
) -> RunResult:
    """Run a plan and wait for its end: see `arun`.

    Raises:
        UsageError: Called inside a running event loop, such as a notebook's: use `arun` there.
    """
    call = _call("run", keywords, waits=True)
    return _wait("run", lambda: call.start(load(plan), inputs, run_id=run_id, keep=keep))


def stream(
    plan: PlanSource,
    inputs: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
    keep: bool = False,
    **keywords: Unpack[RunKeywords],
) -> Generator[Event | RunResult]:
    """Run a plan, and yield its events and its `RunResult`: see `astream`.

    The run makes progress only while you wait for the next item.

    Raises:
        UsageError: Called inside a running event loop: use `astream` there.
    """
    call = _call("stream", keywords, waits=True)
    begin = partial(call.start, load(plan), inputs, run_id=run_id, keep=keep)
    return _iterate("stream", lambda: call.streamed(begin))


def resume(
    run_id: str,
    *,
    plan: PlanSource | None = None,
    replies: Mapping[str, Any] | None = None,
    **keywords: Unpack[RunKeywords],
) -> RunResult:
    """Continue a run and wait for its end: see `aresume`."""
    call = _call("resume", keywords, waits=True)
    return _wait("resume", lambda: call.resume(run_id, _load(plan), replies))


def stream_resume(
    run_id: str,
    *,
    plan: PlanSource | None = None,
    replies: Mapping[str, Any] | None = None,
    **keywords: Unpack[RunKeywords],
) -> Generator[Event | RunResult]:
    """Continue a run, and yield its events and its `RunResult`: see `aresume` and `stream`."""
    call = _call("stream_resume", keywords, waits=True)
    begin = partial(call.resume, run_id, _load(plan), replies)
    return _iterate("stream_resume", lambda: call.streamed(begin))


def fork(
    run_id: str,
    at: str,
    *,
    plan: PlanSource | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Mapping[str, Any]] | None = None,
    values: Mapping[str, Any] | None = None,
    new_id: str | None = None,
    **keywords: Unpack[RunKeywords],
) -> RunResult:
    """Start a new run from a step of another, and wait for its end: see `afork`."""
    call = _call("fork", keywords, waits=True)
    begin = partial(call.fork, run_id, at, _load(plan), inputs, outputs, values, new_id=new_id)
    return _wait("fork", begin)


def replay(run_id: str | Path, **keywords: Unpack[ReplayKeywords]) -> Replayed:
    """Repeat a recorded run from its record, and wait for the result: see `areplay`."""
    from fractale.replaying.invocation import replay_recorded

    plan = _load(keywords.get("plan"))
    return _wait("replay", lambda: replay_recorded("replay", run_id, keywords, plan))


def sweep(plan: PlanSource, **keywords: Unpack[SweepKeywords]) -> SweepView:
    """Run a plan once per row of a table of inputs, and wait for the end: see `asweep`."""
    from fractale.sweeps.invocation import start_sweep

    return _wait("sweep", lambda: start_sweep("sweep", plan, keywords, lambda: load(plan)))


def resume_sweep(
    sweep_id: str,
    *,
    limits: Mapping[str, float] | None = None,
    run_limits: Limits | Mapping[str, Any] | None = None,
    on_row: RowListener | None = None,
    settings: Settings | None = None,
) -> SweepView:
    """Continue a sweep, and wait for the end: see `aresume_sweep`."""
    return _wait(
        "resume_sweep",
        lambda: aresume_sweep(
            sweep_id, limits=limits, run_limits=run_limits, on_row=on_row, settings=settings
        ),
    )


def cancel(run_id: str, step: str | None = None, *, settings: Settings | None = None) -> Cancelled:
    """End the batch jobs of a recorded run and stop the run: see `acancel`."""
    return _wait("cancel", lambda: acancel(run_id, step, settings=settings))


def _call(function: str, keywords: RunKeywords, *, waits: bool = False) -> Invocation:
    with importing():
        from fractale.runs.invocation import Invocation

    return Invocation(function, keywords, waits=waits)


def _wait(function: str, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of its own."""
    _check_no_loop(function, f"await fractale.a{function}(…)")
    return asyncio.run(begin())


def _iterate(function: str, begin: Callable[[], AsyncGenerator[T]]) -> Generator[T]:
    """Iterate over an async generator in an event loop of its own."""
    _check_no_loop(function, f"async for item in fractale.a{function}(…)")
    return _iterated(begin)


def _iterated(begin: Callable[[], AsyncGenerator[T]]) -> Generator[T]:
    with asyncio.Runner() as runner:
        items = begin()
        try:
            while True:
                try:
                    yield runner.run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            runner.run(items.aclose())


async def _next(items: AsyncGenerator[T]) -> T:
    return await anext(items)


def _check_no_loop(function: str, instead: str) -> None:
    """Check that no event loop runs in this thread.

    Raises:
        UsageError: One does.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        f"`fractale.{function}` cannot wait inside a running event loop, such as that of a "
        f"notebook; use `{instead}`"
    )
