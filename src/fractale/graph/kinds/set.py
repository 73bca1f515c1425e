"""Set steps: values get names, which the templates of later steps read as `values.NAME`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fractale.graph.call import Attempt
from fractale.graph.kinds import Compiler
from fractale.graph.outcome import CallResult
from fractale.graph.state import PlanState
from fractale.policy import to_data

if TYPE_CHECKING:
    from fractale.graph.step import StepNode


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that names values. It makes no call."""
    del compiler
    return replace(node, perform=name_values)


async def name_values(attempt: Attempt) -> CallResult:
    """Name the values, which are rendered by now: all templates of a step see those of before.

    The rules of the step see the new values.
    """
    values, mask = dict(attempt.inputs), attempt.context.mask
    sources = {
        name: [{**each, "name": mask(each["name"])} for each in to_data(labels)]
        for name, labels in attempt.argument_sources.items()
    }
    kept = {name: attempt.deps.outputs.put(value) for name, value in values.items()}
    attempt.named = PlanState(values=kept, value_sources=sources)
    attempt.scope = {**attempt.scope, "values": {**attempt.scope.get("values", {}), **values}}
    return CallResult(outputs=values, is_evidence=False)
