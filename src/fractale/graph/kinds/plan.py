"""A `plan` step: the planner drafts its steps when the run reaches it, and the user reviews them.

The graph below the step is the planner's, explore → draft (`fractale.agents.planner`), with two
more nodes: → review → run. A valid draft is text in the state, and `run` compiles the graph from
that text. So a resumed run builds the same graph without asking the model again.

The planner does not explore if the input `known` or an earlier attempt of the step has findings.
After a failure it sees the error and writes the steps again.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END
from langgraph.runtime import Runtime

from fractale import questions
from fractale.agents.draft_catalog import MAX_STEPS, DraftCatalog
from fractale.agents.planner import (
    MAX_DRAFTS,
    DraftState,
    Earlier,
    Planner,
    answered,
    drafting_graph,
)
from fractale.agents.signatures import faults_of_given
from fractale.errors import PlanError, ToolError
from fractale.graph.agent_context import StepAgentContext
from fractale.graph.bindings import offered
from fractale.graph.call import Attempt
from fractale.graph.context import RunContext
from fractale.graph.kinds import BuildGraph, Compiler
from fractale.graph.kinds.include import run_plan
from fractale.graph.outcome import CallResult
from fractale.graph.step import StepNode
from fractale.plan.build import parse_plan
from fractale.plan.dump import plan_data
from fractale.plan.kinds import ASK_PERSON, KNOWN, PLANNER_INPUTS
from fractale.plan.model import Plan, Step
from fractale.plan.needs import narrow
from fractale.policy import from_data, to_data

EXPERTS = ("agent", "prompt")
PLANNING = ("planner", "ask_or_plan")
"""Agents that plan, or call the planner. The steps of a draft need neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlanner(Planner):
    """The planner of a step.

    Args:
        context: The run as the planner's calls and the draft see it.
        build_graph: Compiles the draft.
    """

    attempt: Attempt
    context: RunContext
    build_graph: BuildGraph

    def sources(self) -> list[dict[str, Any]]:
        """The sources that the attempt has read so far, as labels."""
        return to_data(self.attempt.seen.sources)

    def warn_invalid(self, message: str) -> None:
        """Emit a warning."""
        self.attempt.emit("warning", code="draft", message=message)


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that runs the plan that is drafted for it."""

    async def call(attempt: Attempt) -> CallResult:
        planner, entry = await _planner(attempt, compiler.build_graph), attempt.context.entry
        graph, state = attempt.inside, DraftState()
        if attempt.entry is not None and entry is not None:  # a fork that begins in the draft
            graph, state = _graph("run"), cast("DraftState", dict(entry.draft or {}))
        after = cast("DraftState", await graph.ainvoke(state, attempt.config, context=planner))
        return CallResult(
            outputs=attempt.deps.outputs.get(after.get("outputs") or {}),
            error=after.get("error") or None,
            code=after.get("code") or None,
            usage=attempt.usage,
        )

    return replace(node, perform=call, inside=_graph(draft=_known_draft(node, compiler)))


def _known_draft(node: StepNode, compiler: Compiler) -> Any:
    """The compiled graph of a draft that exists already; None if there is none."""
    text = node.deps.drafts.get(node.step.name)
    if text is None:
        return None
    plan = _plan_of(node.step, text)
    below = node.deps.inside(node.step.name)
    return compiler.build_graph(plan, below, None).compile(name=plan.name)


def _plan_of(step: Step, text: str) -> Plan:
    """The plan in a draft, within the step's `tools` and `approve`."""
    return narrow(parse_plan(text, f"draft of {step.name}"), step.tools, step.approve)


def _graph(start: str = "explore", draft: Any = None) -> Any:
    """The graph below the step.

    Args:
        draft: The graph of its draft, so that LangGraph can draw it and show its state.
    """

    async def run_draft(
        state: DraftState, runtime: Runtime[StepPlanner], config: RunnableConfig
    ) -> DraftState:
        # LangGraph finds the graph among the free variables of the node's function.
        assert draft is not None  # noqa: S101 - only then this is the node
        return await _run(state, runtime, config)

    builder = drafting_graph(start=start, then="review")
    builder.add_node("review", _review)
    builder.add_node("run", run_draft if draft else _run)
    builder.add_conditional_edges("review", _after_review, ["draft", "review", "run", END])
    builder.add_edge("run", END)
    return builder.compile()


# -- what the planner works with -----------------------------------------------------------------


async def _planner(attempt: Attempt, build_graph: BuildGraph) -> StepPlanner:
    lists = () if attempt.step.tools is None else (attempt.step.tools,)
    context = attempt.context.deeper(within=(*attempt.context.within, *lists), drafted=True)
    ctx = StepAgentContext(attempt, context, extras=frozenset((ASK_PERSON,)))
    catalog = await _catalog(attempt, ctx)
    if catalog.expert:
        _check_expert(attempt, catalog.expert, catalog)
    return StepPlanner(
        ctx=ctx,
        name=attempt.step.name,
        goal=context.mask(attempt.instruction or attempt.step.description),
        catalog=catalog,
        inputs=context.mask(_given(attempt)),
        earlier=_earlier(attempt, ctx),
        max_drafts=attempt.step.max_attempts or MAX_DRAFTS,
        attempt=attempt,
        context=context,
        build_graph=build_graph,
    )


async def _catalog(attempt: Attempt, ctx: StepAgentContext) -> DraftCatalog:
    toolbox, meter, expert = attempt.deps.toolbox, attempt.context.meter, _expert(attempt)
    own = attempt.deps.agents.matching(
        lambda name: ctx.names(name) and (name not in PLANNING or expert == ("agent", name))
    )
    served = [t for t in await toolbox.tools() if t.is_agent and ctx.is_offered(t)]
    left = meter.steps_left
    return DraftCatalog(
        tools=await ctx.tools(),
        prompts=await toolbox.prompts(),
        agents=[*own, *offered(attempt, served)],
        resources=await toolbox.resources(),
        inputs=list(_given(attempt)),
        expert=expert,
        max_steps=MAX_STEPS if left is None else max(min(MAX_STEPS, left), 1),
        may_nest=ctx.context.depth < meter.most_depth and expert is None and not ctx.is_small,
        plain=ctx.is_small,
    )


def _expert(attempt: Attempt) -> tuple[str, str] | None:
    """Kind and name of the expert that the step's inputs name; None if they name none."""
    for kind in EXPERTS:
        name = attempt.inputs.get(kind)
        # The `inputs.prompt` of 0.1.0 is the instruction itself.
        if isinstance(name, str) and name != attempt.instruction:
            return kind, name
    return None


def _check_expert(attempt: Attempt, expert: tuple[str, str], catalog: DraftCatalog) -> None:
    """Check that the expert exists and accepts the inputs: no model can repair either.

    Raises:
        ToolError: The expert does not exist, or does not accept the inputs.
    """
    kind, name = expert
    there = catalog.prompts if kind == "prompt" else catalog.agents
    names = [each.name for each in there]
    if name not in names:
        raise ToolError(
            f"`{attempt.path}` is to ask the {kind} `{name}`, which is not there",
            hint=f"`inputs.{kind}` names whom the draft asks; there are: {', '.join(names)}",
        )
    if faults := faults_of_given(catalog.expert_takes, _given(attempt)):
        raise ToolError(f"`{name}` can't take these inputs: {'; '.join(faults)}")


def _given(attempt: Attempt) -> dict[str, Any]:
    """The inputs that the draft sees: the step's, without those for the planner."""
    given = {name: v for name, v in attempt.inputs.items() if name not in PLANNER_INPUTS}
    if not given.get(KNOWN, True):  # the planner's own findings replace an empty value
        del given[KNOWN]
    return given


def _earlier(attempt: Attempt, ctx: StepAgentContext) -> Earlier:
    """The findings of the attempt before. Their sources become sources of this attempt."""
    left: Any = ctx.recall(_note(attempt)) if attempt.attempts > 1 else None
    known: Mapping[str, Any] = left or {}
    attempt.seen.add(from_data(known.get("sources")))
    error = str(attempt.scope.get("previous", {}).get("error") or "")
    return Earlier(
        known=known.get("known", ""), draft=known.get("draft", ""), error=ctx.context.mask(error)
    )


def _note(attempt: Attempt) -> str:
    """The key of the findings that an attempt leaves to the next one."""
    return f"planned {attempt.path}"


# -- review and run ------------------------------------------------------------------------------


def _review(state: DraftState, runtime: Runtime[StepPlanner]) -> DraftState:
    """Ask the user. No other work may precede the question: the answer runs the node again."""
    planner = runtime.context
    path, text, rounds = planner.attempt.path, state.get("text", ""), state.get("rounds", 0) + 1
    changes = state.get("note") or _changes(state.get("shown", ""), text)
    answer = planner.ctx.ask_person(questions.review(path, text, changes, rounds))
    after = DraftState(rounds=rounds, shown=text, note="")
    if answer == "accept":
        planner.attempt.context.keep_draft(path, text)
        after["accepted"] = True
    elif not isinstance(answer, Mapping):
        after.update(error="a person rejected the draft", code="rejected")
    elif "feedback" in answer:
        words = f"The person wants it otherwise: {answer['feedback']}"
        after.update(messages=answered(state.get("said", ""), words), tries=0, text="")
    else:
        edited = cast("Mapping[str, Any]", answer).get("plan", "")
        after.update(_edited(planner, str(edited), state.get("known", "")))
    return after


def _edited(planner: StepPlanner, edited: str, known: str) -> DraftState:
    """The user's own edit instead of the draft, if the edit is valid."""
    try:
        data = plan_data(parse_plan(edited, "your edit"))
        _, text = planner.catalog.read(planner.name, data, known)
    except PlanError as error:
        return DraftState(note=f"your edit can't be used:\n{error}")
    planner.attempt.context.keep_draft(planner.attempt.path, text)
    return DraftState(text=text, accepted=True)


def _changes(before: str, after: str) -> str | None:
    if not before:
        return None
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return "\n".join(list(lines)[2:]) or None


def _after_review(state: DraftState) -> str:
    if state.get("accepted"):
        return "run"
    if state.get("error"):
        return END
    return "review" if state.get("text") else "draft"


async def _run(
    state: DraftState, runtime: Runtime[StepPlanner], config: RunnableConfig
) -> DraftState:
    """Compile the draft from the state, and run it."""
    planner = runtime.context
    attempt, text = planner.attempt, state.get("text", "")
    attempt.seen.add(from_data(state.get("sources")))
    left = {"draft": text, "known": state.get("known", ""), "sources": planner.sources()}
    planner.ctx.remember(_note(attempt), left)
    plan = _plan_of(attempt.step, text)
    start = attempt.entry.step if attempt.entry else None
    graph = planner.build_graph(plan, attempt.deps, start).compile(name=plan.name)
    context = replace(
        planner.context,
        drafted_from=frozenset(attempt.seen.sources),
        drafted_for=attempt.seen.trusted,
    )
    defaults = {name: spec.default for name, spec in plan.inputs.items() if not spec.required}
    inputs = {**defaults, **_given(attempt)}
    result = await run_plan(
        attempt, plan, graph, inputs, context, planner.build_graph, config=config
    )
    return DraftState(
        outputs=attempt.deps.outputs.put(result.outputs),
        error=result.error or "",
        code=result.code or "",
    )
