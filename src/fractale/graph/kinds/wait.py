"""Wait steps: let time pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fractale import questions
from fractale.clock import between
from fractale.durations import MOST_SECONDS, in_words, seconds_in
from fractale.errors import TemplateError
from fractale.graph.call import Attempt
from fractale.graph.kinds import Compiler
from fractale.graph.outcome import CallResult
from fractale.graph.timers import now, pause, run_timed, timed_graph
from fractale.plan.expressions import render
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.graph.step import StepNode


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that waits."""
    del compiler
    return replace(node, perform=_perform, inside=timed_graph("pause", _wait))


async def _perform(attempt: Attempt) -> CallResult:
    result = await run_timed(attempt)
    return CallResult(seconds=result["seconds"])


async def _wait(attempt: Attempt, began: Mapping[str, Any]) -> dict[str, Any]:
    seconds = _seconds(attempt)
    await pause(attempt, questions.due(began, seconds), f"waits {in_words(seconds)}")
    return {"seconds": round(between(began, await now(attempt)), 3)}


def _seconds(attempt: Attempt) -> float:
    """The seconds that the step waits.

    Raises:
        TemplateError: The value of a template is not a duration.
    """
    value: Any = render(attempt.step.value, attempt.scope)
    seconds = seconds_in(value)
    if seconds is None or not 0 <= seconds < MOST_SECONDS:
        raise TemplateError(
            f"`wait` must be a duration such as `10m`, and is `{clip(str(value))}`",
            position=attempt.step.where("wait"),
        )
    return seconds
