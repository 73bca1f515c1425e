"""What a drawing of a plan shows: the words of each step and the arrows between them.

The text, Mermaid and SVG drawings say the same, since all three read it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fractale.durations import format_duration
from fractale.plan.inert import inert
from fractale.plan.model import (
    END_FAILED,
    END_SUCCESS,
    FAILURE,
    SUCCESS,
    Expression,
    ForEach,
    JobPlan,
    Plan,
    Step,
    Template,
    Value,
)
from fractale.text import count

Direction = Literal["next", "again", "back", "ahead", "end", "nowhere"]

ENDS = (END_SUCCESS, END_FAILED)
UNDRAWN = "A step that fails without an arrow of its own ends the plan as failed."
LABEL_LIMIT = 60


@dataclass(frozen=True, slots=True)
class Arrow:
    """Where one event of a step leads.

    Args:
        target: A step's name, ``success`` or ``failed``.
        rules: The expressions that decide for this event, in file order.
        direction: ``next`` is the way of a plan without transitions: the step below, or from
            the last one to success.
    """

    event: str
    target: str
    rules: tuple[str, ...]
    direction: Direction

    @property
    def failing(self) -> bool:
        """Whether it is the arrow of a failure."""
        return self.event == FAILURE


def arrows(plan: Plan, step: Step) -> list[Arrow]:
    """The arrows that leave a step, success first.

    A failure is among them only where the plan says something of it; any other ends the plan.
    """
    return [_arrow(plan, step, event) for event in _events(step)]


def _events(step: Step) -> list[str]:
    named = [*step.transitions, *(rule.event for rule in step.rules)]
    return list(dict.fromkeys([SUCCESS, *named]))


def _arrow(plan: Plan, step: Step, event: str) -> Arrow:
    target = plan.target_of(step, event)
    rules = tuple(inert(r.expression.source) for r in step.rules if r.event == event)
    return Arrow(inert(event, LABEL_LIMIT), target, rules, _direction(plan, step, event, target))


def _direction(plan: Plan, step: Step, event: str, target: str) -> Direction:
    names = [s.name for s in plan.steps]
    here = names.index(step.name)
    if event == SUCCESS and target == (*names, END_SUCCESS)[here + 1]:
        return "next"
    if target in ENDS:
        return "end"
    if target not in names:
        return "nowhere"
    if target == step.name:
        return "again"
    return "back" if names.index(target) < here else "ahead"


def target_words(step: Step) -> str:
    """What a step calls, in words."""
    if step.kind == "parallel":
        return f"{count(len(step.steps), 'step')} at the same time"
    if step.job:
        return _job_words(step.job)
    if step.target:
        return inert(step.target, LABEL_LIMIT)
    return {"plan": "drafted while the plan runs", "agent": "ask"}.get(step.kind, "")


def _job_words(job: JobPlan) -> str:
    """What a job runs and what it takes, as far as the plan says."""
    what = " ".join(_plain(word) for word in job.command)
    if job.script is not None:
        what = _first_command(_plain(job.script))
    counts = [f"{_plain(value)} {key}" for key, value in _counts(job)]
    limit = [] if job.time is None else [_time(job.time)]
    return ", ".join(inert(each, LABEL_LIMIT) for each in [what, *counts, *limit])


def _counts(job: JobPlan) -> list[tuple[str, Value]]:
    given = [("nodes", job.nodes), ("tasks", job.tasks)]
    return [(key[:-1] if value == 1 else key, value) for key, value in given if value is not None]


def _time(value: Value) -> str:
    return str(format_duration(value) if isinstance(value, (int, float)) else _plain(value))


def _plain(value: Value) -> str:
    return value.source if isinstance(value, Template) else str(value)


def _first_command(script: str) -> str:
    """The first line of a script that is neither a comment nor empty."""
    lines = (line.strip() for line in script.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "script")


def notes(step: Step) -> list[str]:
    """What else decides how a step runs: items, conditions, tries, approval."""
    found: list[str] = []
    if step.foreach:
        found.append(f"for each {_items(step.foreach)}{_at_once(step.foreach)}")
    if step.when:
        found.append(f"only when {inert(step.when.source)}")
    if step.approve in ("ask", "always"):
        found.append("asks before it changes anything")
    if step.max_attempts:
        found.append(f"at most {count(step.max_attempts, 'time')}")
    if step.keep_going:
        found.append("goes on when some fail")
    return found


def _at_once(foreach: ForEach) -> str:
    return f", {foreach.max_parallel} at a time" if foreach.max_parallel else ""


def _items(foreach: ForEach) -> str:
    if isinstance(foreach.items, Mapping):
        parts = [f"{inert(str(k))} in {_source(v)}" for k, v in foreach.items.items()]
        return " with each ".join(parts)
    return f"item of {_source(foreach.items)}"


def _source(items: Expression | Sequence[object]) -> str:
    if isinstance(items, Expression):
        return inert(items.source)
    return inert("[" + ", ".join(str(item) for item in items) + "]", LABEL_LIMIT)


def title_of(plan: Plan) -> str:
    """The plan's name on one line."""
    return inert(plan.name, 200)
