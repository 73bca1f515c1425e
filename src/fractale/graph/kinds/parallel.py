"""A `parallel` block: its steps run at the same time. Each is a node of the block's graph."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from langgraph.graph import END, START

from fractale.evidence import Notice
from fractale.graph.call import Attempt, labels_of
from fractale.graph.kinds import Compiler
from fractale.graph.outcome import DEFAULT_SUCCESS, CallResult, failed_by
from fractale.graph.state import PlanState, Spent, values_in
from fractale.graph.step import StepNode, add_step, new_graph


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A block that succeeds if all of its steps succeed, or, if it keeps going, one of them."""
    block = node.step
    builder = new_graph()
    members = frozenset(step.name for step in block.steps)
    below = node.deps.inside(block.name)
    for step in block.steps:
        add_step(builder, step.name, compiler.node_of(node.plan, step, below, members))
        builder.add_edge(START, step.name)
        builder.add_edge(step.name, END)

    async def call(attempt: Attempt) -> CallResult:
        given = state_inside(attempt)
        after = cast("PlanState", await attempt.inside.ainvoke(given, attempt.config))
        attempt.charge(after.get("spent", Spent()))
        records = after.get("steps", {})
        attempt.seen.add(labels_of(*(records[name] for name in members)))
        attempt.records = {name: records[name] for name in sorted(members)}
        attempt.named = values_in(after)
        outputs = {
            step.name: node.deps.outputs.get(records[step.name].get("outputs", {}))
            for step in block.steps
        }
        failed = [s.name for s in block.steps if records[s.name].get("outcome") == "failure"]
        if not failed:
            return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS)
        names = ", ".join(f"`{name}`" for name in failed)
        first = records[failed[0]]
        reason = f"{names} failed: {first.get('error', '')}"
        if block.keep_going and len(failed) < len(block.steps):
            words = f"{len(failed)} of {len(block.steps)} steps failed; {reason}"
            notices = (Notice(kind="failed", message=words),)
            return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS, notices=notices)
        return CallResult(
            outputs=outputs, matched=failed_by(first.get("decided_by", "error"), reason)
        )

    return replace(node, perform=call, inside=builder.compile())


def state_inside(attempt: Attempt) -> PlanState:
    """The state in which the steps of a block begin."""
    given = PlanState(
        inputs=attempt.state.get("inputs", {}),
        steps=attempt.state.get("steps", {}),
        spent=Spent(),
        prefix=f"{attempt.path}/",
        sources=attempt.state.get("sources", {}),
    )
    given.update(values_in(attempt.state))
    return given
