"""The picture of a run: its plan as it was run, with its drafts, and the way that it took.

The states come from the events in the run's `RunHistory`, the plan from the copy in its record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from fractale.errors import PlanError
from fractale.plan import Plan
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.model import Step
from fractale.plan.paths import around, without_indexes
from fractale.plan.rules import FAILURE
from fractale.plan.way import ItemCounts, RunWay, State, StepState
from fractale.record.history import RecordedAttempt, RunHistory
from fractale.record.plans import plan_file

PLANS_KEPT = 16
"""Plans of runs that stay in memory, so that a page which is drawn again reads no file again."""


def way_taken(history: RunHistory) -> RunWay:
    """The state of each step that a run reached, and the arrows that it took.

    The steps inside a foreach are counted over its items. A step that a fork took over from its
    parent run, and did not reach itself, is ``kept``.
    """
    found: dict[str, list[RecordedAttempt]] = {}
    arrows = Counter[tuple[str, str]]()
    events = Counter[tuple[str, str]]()
    for attempt in history.attempts:
        path = without_indexes(attempt.path)
        found.setdefault(path, []).append(attempt)
        if attempt.next:
            arrows[path, attempt.next] += 1
            events[path, attempt.event or ""] += 1
    open_questions = [asked for asked in history.questions if not asked.answered]
    asking = {path for asked in open_questions for path in _all(asked.step)}
    steps = {path: StepState(state="kept") for path in history.kept}
    steps |= {path: _step(history, attempts, asking) for path, attempts in found.items()}
    return RunWay(steps=steps, arrows=arrows, events=events)


def _all(path: str) -> Sequence[str]:
    return [path, *around(path)]


def _step(history: RunHistory, attempts: list[RecordedAttempt], asking: set[str]) -> StepState:
    latest = {attempt.path: attempt for attempt in attempts}  # of each item, its last attempt
    states: dict[str, State] = {p: _state(history, each, asking) for p, each in latest.items()}
    together = _together(states.values())
    [*_, last] = latest.values()
    tries: dict[str, int] = {}
    for attempt in attempts:
        if attempt.outcome != "skipped":
            tries[attempt.path] = tries.get(attempt.path, 0) + 1
    inside = "[" in last.path
    counts = _inside(last, latest.values()) if inside else _items(last)
    return StepState(
        state=together,
        attempts=max(tries.values(), default=0),
        items=counts,
        shown_by=next(path for path, state in states.items() if state == together),
    )


def _state(history: RunHistory, attempt: RecordedAttempt, asking: set[str]) -> State:
    match attempt.outcome:
        case "success":
            return "success"
        case "skipped":
            return "skipped"
        case None:
            if attempt.path in asking or history.status == "waiting":
                return "waiting"
            return "running" if history.alive else "stopped"
        case _:
            return "failed"


def _together(states: Collection[State]) -> State:
    """The state of a step in several items: one that needs attention before one that is over."""
    order: tuple[State, ...] = ("waiting", "running", "stopped", "failed", "success", "skipped")
    return next(state for state in order if state in states)


def _items(attempt: RecordedAttempt) -> ItemCounts | None:
    """The counts of a foreach or a job array."""
    if not attempt.items:
        return None
    over = [item for item in attempt.items.values() if item.outcome is not None]
    return ItemCounts(
        total=attempt.items_total,
        done=len(over),
        failed=sum(item.outcome == FAILURE for item in over),
    )


def _inside(last: RecordedAttempt, attempts: Iterable[RecordedAttempt]) -> ItemCounts:
    """The counts of a step inside a foreach: the items in which it ended."""
    around_it = last.parent
    while around_it is not None and not around_it.items:
        around_it = around_it.parent
    over = [attempt for attempt in attempts if attempt.outcome is not None]
    return ItemCounts(
        total=around_it.items_total if around_it else None,
        done=len(over),
        failed=sum(attempt.outcome == FAILURE for attempt in over),
    )


def plan_of_run(history: RunHistory) -> Plan | None:
    """The plan as it was run, with accepted drafts inside the steps that were planned.

    Of a planned step in a foreach, it has the first item's draft.

    Returns:
        The same object as long as neither the plan nor the drafts change; None if the plan has
        changed since, or is gone.
    """
    file = plan_file(history.record, history.head)
    if file is None:
        return None
    drafts: dict[str, str] = {}
    for path, text in history.drafts.items():
        drafts.setdefault(without_indexes(path), text)
    try:
        about = file.stat()
        return _assembled(file, about.st_mtime_ns, about.st_size, tuple(drafts.items()))
    except (OSError, PlanError):
        return None


@lru_cache(maxsize=PLANS_KEPT)
def _assembled(file: Path, changed: int, size: int, drafts: tuple[tuple[str, str], ...]) -> Plan:
    """The plan of a file with drafts.

    Args:
        changed, size: Of the file, so that it is read again once it changes.
    """
    del changed, size
    return _with_drafts(load_plan(file), dict(drafts), "")


def _with_drafts(plan: Plan, drafts: Mapping[str, str], prefix: str) -> Plan:
    if not drafts:
        return plan

    def filled(steps: tuple[Step, ...], below: str) -> tuple[Step, ...]:
        return tuple(_filled(step, drafts, f"{below}{step.name}") for step in steps)

    return replace(
        plan,
        steps=filled(plan.steps, prefix),
        on_failure=filled(plan.on_failure, f"{prefix}on_failure/"),
        finally_=filled(plan.finally_, f"{prefix}finally/"),
    )


def _filled(step: Step, drafts: Mapping[str, str], path: str) -> Step:
    if step.chain is not None:
        return replace(step, chain=_with_drafts(step.chain, drafts, f"{path}/"))
    if step.steps:
        return replace(
            step, steps=tuple(_filled(s, drafts, f"{path}/{s.name}") for s in step.steps)
        )
    if step.plan is not None:
        return replace(step, plan=_with_drafts(step.plan, drafts, f"{path}/"))
    if not step.is_drafted or path not in drafts:
        return step
    try:
        draft = parse_plan(drafts[path], f"draft of {path}")
    except PlanError:
        return step
    return replace(step, plan=_with_drafts(draft, drafts, f"{path}/"))


def picture_of_run(history: RunHistory, *, page: bool = False, prefix: str = "") -> str | None:
    """The picture of a run as SVG, or None if its plan has changed since, or is gone.

    Args:
        page, prefix: As of `fractale.plan.picture.svg`.
    """
    from fractale.plan.picture import svg

    plan = plan_of_run(history)
    return None if plan is None else svg(plan, way_taken(history), page=page, prefix=prefix)
