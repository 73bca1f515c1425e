"""The picture of a run: its plan as it was run, with its drafts, and the way that it took.

The states come from the events in the run's `RunHistory`, the plan from the copy in its record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from fractale.errors import PlanError
from fractale.plan import Plan
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.model import Step
from fractale.plan.paths import without_indexes
from fractale.plan.rules import FAILURE
from fractale.plan.way import ItemCounts, RunWay, State, StepState
from fractale.record.history import RecordedAttempt, RunHistory, state_of
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
    steps = {path: StepState(state="kept") for path in history.kept}
    steps |= {path: _step(history, attempts) for path, attempts in found.items()}
    return RunWay(steps=steps, arrows=arrows, events=events)


def _step(history: RunHistory, attempts: list[RecordedAttempt]) -> StepState:
    latest = {attempt.path: attempt for attempt in attempts}  # of each item, its last attempt
    states: dict[str, State] = {p: _state(history, each) for p, each in latest.items()}
    together = _together(states.values())
    tries: dict[str, int] = {}
    for attempt in attempts:
        if attempt.outcome != "skipped":
            tries[attempt.path] = tries.get(attempt.path, 0) + 1
    return StepState(
        state=together,
        attempts=max(tries.values(), default=0),
        items=_counts(list(latest.values())),
        shown_by=next(path for path, state in states.items() if state == together),
    )


def _state(history: RunHistory, attempt: RecordedAttempt) -> State:
    state = state_of(history, attempt)
    return "failed" if state == "failure" else state


def _together(states: Collection[State]) -> State:
    """The state of a step in several items: one that needs attention before one that is over."""
    order: tuple[State, ...] = ("waiting", "running", "stopped", "failed", "success", "skipped")
    return next(state for state in order if state in states)


def _counts(latest: Sequence[RecordedAttempt]) -> ItemCounts | None:
    """The items of a foreach or a job array; of a step inside one, the items in which it ended.

    A foreach inside another has the items of all its attempts.

    Args:
        latest: Of each item around the step, its last attempt.
    """
    if any(attempt.items for attempt in latest):
        items = [item for attempt in latest for item in attempt.items.values()]
        ends, total = [item.outcome for item in items], _total(latest)
    elif "[" in latest[-1].path:
        blocks = {id(block): block for each in latest if (block := _block(each))}
        ends, total = [each.outcome for each in latest], _total(list(blocks.values()))
    else:
        return None
    over = [outcome for outcome in ends if outcome is not None]
    return ItemCounts(total=total, done=len(over), failed=over.count(FAILURE))


def _total(blocks: Sequence[RecordedAttempt]) -> int | None:
    """How many items some attempts of one foreach have; None while that is not known."""
    around_them = {id(block): block for each in blocks if (block := _block(each))}
    if around_them:
        needed = _total(list(around_them.values()))
        if needed is None or len(blocks) < needed:
            return None
    numbers = [0 if each.outcome == "skipped" else each.items_total for each in blocks]
    known = [number for number in numbers if number is not None]
    return sum(known) if known and len(known) == len(numbers) else None


def _block(attempt: RecordedAttempt) -> RecordedAttempt | None:
    """The foreach around an attempt."""
    block = attempt.parent
    while block is not None and not block.items:
        block = block.parent
    return block


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
