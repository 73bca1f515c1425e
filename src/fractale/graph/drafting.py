"""Steps that the manager plans when the run reaches them.

The inside of such a step is a graph of its own: look around, draft, ask the person, run. Each is
a node, and so a checkpoint. A draft is checked in the node that asks for it, is kept in the state
as text once it is valid, and the graph that runs it is compiled from that text: so a run that
goes on builds the same graph without asking the model again.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypedDict, cast

from langchain_core.messages import AnyMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime

from fractale import questions
from fractale.errors import ModelError, PlanError
from fractale.graph.context import RunContext
from fractale.graph.host import Host
from fractale.graph.inside import CompilePlan, run_plan_inside
from fractale.graph.nodes import StepNode
from fractale.graph.outcome import CallResult
from fractale.graph.visit import Visit
from fractale.plan.build import parse_plan
from fractale.plan.dump import plan_data
from fractale.plan.words import EXTRA_TOOLS, INSTRUCTION_INPUTS

MOST_DRAFTS = 5
EXPERTS = ("agent", "prompt")


class Drafting(TypedDict, total=False):
    """The state of a planned step.

    Keys:
        messages: The manager's conversation.
        tries: Drafts since the last feedback.
        said: The model's last valid draft in its own words.
        text: The same as the YAML that is shown, kept and run.
        shown: What the person saw before.
        note: What is wrong with the person's own edit.
        rounds: How often the person was asked.
        accepted: Whether it may run.
        error: Why the step failed, if it did.
        outputs: What it gave.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    tries: int
    text: str
    said: str
    shown: str
    note: str
    rounds: int
    accepted: bool
    error: str
    code: str
    outputs: Any


@dataclass(frozen=True, slots=True)
class Manager:
    """What the nodes of a planned step work with.

    Args:
        visit: Of the step.
        context: The run as the manager's own calls see it.
        offers: What a draft may use (`fractale.agents.offers.Offers`).
        compile_plan: Makes the graph of the draft.
    """

    visit: Visit
    context: RunContext
    offers: Any
    compile_plan: CompilePlan

    @property
    def host(self) -> Host:
        """What the manager may do to the outside."""
        return Host(self.visit, self.context, extras=frozenset(EXTRA_TOOLS[:1]))


def planned(node: StepNode, compile_plan: CompilePlan) -> StepNode:
    """A step whose plan is drafted when the run reaches it."""

    async def call(visit: Visit) -> CallResult:
        manager = await _manager(visit, compile_plan)
        after = cast(
            "Drafting", await visit.inside.ainvoke(Drafting(), visit.config, context=manager)
        )
        return CallResult(
            outputs=visit.deps.outputs.get(after.get("outputs") or {}),
            error=after.get("error") or None,
            code=after.get("code") or None,
            usage=visit.usage,
        )

    return replace(node, perform=call, inside=_graph())


def _graph() -> Any:
    builder: Any = StateGraph(Drafting, context_schema=Manager)
    builder.add_node("explore", _explore)
    builder.add_node("draft", _draft)
    builder.add_node("review", _review)
    builder.add_node("run", _run)
    builder.add_edge(START, "explore")
    builder.add_edge("explore", "draft")
    builder.add_conditional_edges("draft", _after_draft, ["draft", "review", END])
    builder.add_conditional_edges("review", _after_review, ["draft", "review", "run", END])
    builder.add_edge("run", END)
    return builder.compile()


async def _manager(visit: Visit, compile_plan: CompilePlan) -> Manager:
    from fractale.agents.offers import MOST_STEPS, Offers

    lists = () if visit.step.tools is None else (visit.step.tools,)
    within = (*visit.context.within, *lists)
    context = visit.context.deeper(within=within, drafted=True)
    host = Host(visit, context)
    toolbox, agents = visit.deps.toolbox, visit.deps.agents
    own = agents.matching(lambda name: name != "planner" and host.names(name))
    expert = next(
        ((kind, str(visit.inputs[kind])) for kind in EXPERTS if kind in visit.inputs), None
    )
    left = visit.context.meter.steps_left
    offers = Offers(
        tools=await host.tools(),
        prompts=await toolbox.prompts(),
        agents=[*own, *(t for t in await toolbox.tools() if t.is_agent and host.may_call(t))],
        resources=await toolbox.resources(),
        inputs=list(_given(visit)),
        expert=expert,
        most_steps=MOST_STEPS if left is None else max(min(MOST_STEPS, left), 1),
        may_nest=context.depth < visit.context.meter.most_depth and expert is None,
    )
    return Manager(visit, context, offers, compile_plan)


def _given(visit: Visit) -> dict[str, Any]:
    """The inputs that the draft sees: the step's, but what only speaks to the manager."""
    return {k: v for k, v in visit.inputs.items() if k not in (*INSTRUCTION_INPUTS, *EXPERTS)}


async def _explore(state: Drafting, runtime: Runtime[Manager], config: RunnableConfig) -> Drafting:
    from fractale.agents import planner

    manager = runtime.context
    visit = manager.visit
    goal = visit.instruction or visit.step.description
    given = visit.context.mask(_given(visit))  # a secret is for the steps, not for the model
    task = planner.task_of(goal, given, manager.offers)
    spec = visit.deps.models.spec(visit.step.model)
    found: list[BaseMessage] = []
    if not spec.startswith("local:"):  # models so small can't call tools
        found = await planner.explore(manager.host, task, config)
    return Drafting(messages=cast("list[AnyMessage]", [*task, *found]), tries=0, rounds=0)


async def _draft(state: Drafting, runtime: Runtime[Manager]) -> Drafting:
    """One draft, held against the validator."""
    from fractale.agents import planner

    manager, said, tries = runtime.context, "", state.get("tries", 0) + 1
    visit = manager.visit
    try:
        answer = await planner.draft(manager.host, state.get("messages", []), manager.offers)
        said = answer.text
        _, text = manager.offers.read(visit.step.name, answer.data)
        return Drafting(text=text, said=said, tries=tries, error="", note="")
    except PlanError as error:
        reasons = [str(problem) for problem in error.problems]
    except ModelError as error:
        if error.retryable:
            raise
        reasons = [str(error)]
    most = visit.step.max_attempts or MOST_DRAFTS
    visit.emit("warning", code="draft", message=f"draft {tries} of {most}: {'; '.join(reasons)}")
    if tries >= most:
        words = f"no valid draft in {tries} tries; the last: {'; '.join(reasons)}"
        return Drafting(tries=tries, text="", error=words, code="draft")
    wrong = cast("list[AnyMessage]", planner.correction(said, reasons))
    return Drafting(messages=wrong, tries=tries, text="")


def _after_draft(state: Drafting) -> str:
    if state.get("error"):
        return END
    return "review" if state.get("text") else "draft"


def _review(state: Drafting, runtime: Runtime[Manager]) -> Drafting:
    """Ask the person. Nothing comes before the question: the node runs again with the answer."""
    manager = runtime.context
    path, text, rounds = manager.visit.path, state.get("text", ""), state.get("rounds", 0) + 1
    changes = state.get("note") or _changes(state.get("shown", ""), text)
    answer = manager.host.ask_person(questions.review(path, text, changes, rounds))
    told = Drafting(rounds=rounds, shown=text, note="")
    if answer == "accept":
        manager.visit.context.keep_draft(path, text)
        told["accepted"] = True
    elif isinstance(answer, Mapping):
        told.update(_wanted(manager, state, cast("Mapping[str, Any]", answer)))
    else:
        told.update(error="a person rejected the draft", code="rejected")
    return told


def _wanted(manager: Manager, state: Drafting, answer: Mapping[str, Any]) -> Drafting:
    """What the person wants in place of the draft."""
    from fractale.agents import planner

    if "feedback" in answer:
        words = planner.feedback(state.get("said", ""), str(answer["feedback"]))
        return Drafting(messages=cast("list[AnyMessage]", words), tries=0, text="")
    edited = str(answer.get("plan", ""))
    try:
        data = plan_data(parse_plan(edited, "your edit"))
        _, text = manager.offers.read(manager.visit.step.name, data)
    except PlanError as error:
        return Drafting(note=f"your edit can't be used:\n{error}")
    manager.visit.context.keep_draft(manager.visit.path, text)
    return Drafting(text=text, accepted=True)


def _changes(before: str, after: str) -> str | None:
    if not before:
        return None
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return "\n".join(list(lines)[2:]) or None


def _after_review(state: Drafting) -> str:
    if state.get("accepted"):
        return "run"
    if state.get("error"):
        return END
    return "review" if state.get("text") else "draft"


async def _run(state: Drafting, runtime: Runtime[Manager], config: RunnableConfig) -> Drafting:
    """Compile the draft from the state, and run it."""
    manager = runtime.context
    visit, store = manager.visit, manager.visit.deps.outputs
    plan = parse_plan(state.get("text", ""), f"draft of {visit.step.name}")
    graph = manager.compile_plan(plan, visit.deps).compile()
    inputs = {name: store.put(visit.context.mask(v)) for name, v in _given(visit).items()}
    result = await run_plan_inside(
        visit, plan, graph, inputs, context=manager.context, config=config
    )
    return Drafting(
        outputs=store.put(visit.context.mask(result.outputs)),
        error=result.error or "",
        code=result.code or "",
    )
