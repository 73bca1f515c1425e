"""The contents of a plan's drawing: the text of each step and the arrows between steps.

The text, Mermaid and SVG drawings show the same, since all three read it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fractale.durations import format_duration
from fractale.plan.escape import escape
from fractale.plan.model import POLL_SECONDS, Plan, Step
from fractale.plan.rules import END_FAILED, END_SUCCESS, FAILURE, SUCCESS, ForEach
from fractale.plan.values import Expression
from fractale.plan.way import RunWay
from fractale.text import count

Direction = Literal["next", "again", "back", "ahead", "end", "nowhere"]

ENDS = (END_SUCCESS, END_FAILED)
UNDRAWN = "A step that fails without an arrow of its own ends the plan as failed."
LABEL_LIMIT = 60


HANDLER_TITLES = {"on_failure": "after the plan failed", "finally": "at every end"}
"""When the steps of a handler run."""
HANDLER_END = "end"
"""The end of a handler, which is not the plan's success."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow: the target of some event of a step.

    Args:
        target: A step's name, ``success`` or ``failed``.
        rules: The expressions that decide for this event, in file order.
        direction: ``next`` is the path of a plan without transitions: to the step below, or from
            the last step to success.
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

    A failure has an arrow only if the plan mentions it. Any other failure ends the plan. A step
    with `until` has an arrow to itself.
    """
    found = [_arrow(plan, step, event) for event in _events(step)]
    if step.until:
        rule = f"not ({escape(step.until.source)})"
        found.append(
            Arrow(f"every {_time(step.every or POLL_SECONDS)}", step.name, (rule,), "again")
        )
    return found


def _events(step: Step) -> list[str]:
    named = [*step.transitions, *(rule.event for rule in step.rules)]
    return list(dict.fromkeys([SUCCESS, *named]))


def _arrow(plan: Plan, step: Step, event: str) -> Arrow:
    target = plan.target_of(step, event)
    rules = tuple(escape(r.expression.source) for r in step.rules if r.event == event)
    return Arrow(escape(event, LABEL_LIMIT), target, rules, _direction(plan, step, event, target))


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


def arrows_of_run(plan: Plan, step: Step, path: str, way: RunWay | None) -> list[Arrow]:
    """The arrows that leave a step, with that of a failure that ended the plan without an arrow.

    Args:
        path: The step's path.
        way: The way of a run; None for those of the plan.
    """
    found = arrows(plan, step)
    ended = way is not None and (path, END_FAILED) in way.arrows
    if ended and all(arrow.target != END_FAILED for arrow in found):
        found.append(Arrow(FAILURE, END_FAILED, (), "end"))
    return found


def drawn_handlers(plan: Plan) -> dict[str, Plan]:
    """The plans of the handlers, without arrows for the failures that lead to the next step."""
    steps = {"on_failure": plan.on_failure, "finally": plan.finally_}
    return {name: replace(each, steps=steps[name]) for name, each in plan.handlers.items()}


def fails_silently(plan: Plan) -> bool:
    """Whether a step of the plan has no arrow for its failure, which then ends the plan."""
    steps = (each for step in plan.steps for each in (step, *step.steps))
    return any(FAILURE not in step.transitions for step in steps)


def notes(step: Step) -> list[str]:
    """Other conditions of a step's run: items, `when`, tries, approval."""
    found: list[str] = []
    if step.foreach:
        found.append(f"for each {_items(step.foreach)}{_at_once(step.foreach)}")
    if step.when:
        from fractale.plan.scope import is_per_item  # imports Jinja, which most readers do not need

        which = "only items with" if is_per_item(step) else "only when"
        found.append(f"{which} {escape(step.when.source)}")
    if step.approve in ("ask", "always"):
        found.append("asks before it changes anything")
    if step.until:
        limit = f", for at most {_time(step.timeout)}" if step.timeout else ""
        found.append(f"until {escape(step.until.source)}{limit}")
    if step.retry and step.retry.on == "failure":
        found.append(f"tries up to {count(step.retry.attempts, 'time')} if it fails")
    if step.max_attempts:
        found.append(f"at most {count(step.max_attempts, 'time')}")
    if step.keep_going:
        found.append("continues if some fail")
    return found


def _time(seconds: float) -> str:
    """A duration as plans write it."""
    shown = format_duration(seconds)
    return shown if isinstance(shown, str) else f"{shown:g}s"


def _at_once(foreach: ForEach) -> str:
    return f", {foreach.max_parallel} at a time" if foreach.max_parallel else ""


def _items(foreach: ForEach) -> str:
    if isinstance(foreach.items, Mapping):
        parts = [f"{escape(str(k))} in {_source(v)}" for k, v in foreach.items.items()]
        return (" along with " if foreach.zip else " with each ").join(parts)
    return f"item of {_source(foreach.items)}"


def _source(items: Expression | Sequence[object]) -> str:
    if isinstance(items, Expression):
        return escape(items.source)
    return escape("[" + ", ".join(str(item) for item in items) + "]", LABEL_LIMIT)


def title_of(plan: Plan) -> str:
    """The plan's name on one line."""
    return escape(plan.name, 200)
