"""Steps that are planned when the run reaches them.

The inside of such a step is a graph of its own: look around, draft, ask the person, run. Each is
a node, and so a checkpoint. A draft is checked in the node that asks for it, is kept in the state
as text once it is valid, and the graph that runs it is compiled from that text: so a run that
goes on builds the same graph without asking the model again.

What is known before (the input `known`, or what an earlier attempt of the step found out) is not
looked for again. After a failure the steps are written again, with the error at hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, cast

from langchain_core.messages import AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime

from fractale import questions
from fractale.agents.arguments import faults_of_given
from fractale.errors import PlanError, ToolError
from fractale.graph.agent_context import AgentContext
from fractale.graph.bindings import offered
from fractale.graph.call import Attempt
from fractale.graph.context import RunContext
from fractale.graph.inside import run_plan_inside
from fractale.graph.kinds import CompilePlan, Compiler
from fractale.graph.outcome import CallResult
from fractale.graph.step import StepNode
from fractale.labels import from_data, to_data
from fractale.plan.build import parse_plan
from fractale.plan.dump import plan_data
from fractale.plan.narrow import narrow
from fractale.plan.words import EXTRA_TOOLS, KNOWN, MANAGER_INPUTS

if TYPE_CHECKING:
    from fractale.agents.offers import Offers

EXPERTS = ("agent", "prompt")
PLANNING = ("planner", "ask_or_plan")
"""Agents that plan, or hand over to what plans: a draft's steps need neither."""


class Drafting(TypedDict, total=False):
    """The state of a planned step.

    Keys:
        messages: The planner's conversation.
        known: What was found out before the first draft.
        tries: Drafts since the last feedback.
        said: The model's last valid draft in its own words.
        text: The same as the YAML that is shown, kept and run.
        shown: What the person saw before.
        note: What is wrong with the person's own edit.
        rounds: How often the person was asked.
        accepted: Whether it may run.
        sources: What the planner had read that wrote it, as labels.
        error: Why the step failed, if it did.
        outputs: What it gave.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    known: str
    tries: int
    text: str
    said: str
    shown: str
    note: str
    rounds: int
    accepted: bool
    sources: list[dict[str, Any]]
    error: str
    code: str
    outputs: Any


@dataclass(frozen=True, slots=True)
class Manager:
    """What the nodes of a planned step work with.

    Args:
        attempt: Of the step.
        context: The run as the planner's own calls see it.
        offers: What a draft may use.
        compile_plan: Makes the graph of the draft.
    """

    attempt: Attempt
    context: RunContext
    offers: Offers
    compile_plan: CompilePlan

    @property
    def host(self) -> AgentContext:
        """What the planner may do to the outside."""
        return AgentContext(self.attempt, self.context, extras=frozenset(EXTRA_TOOLS[:1]))


def planned(node: StepNode, compiler: Compiler) -> StepNode:
    """A step whose plan is drafted when the run reaches it."""
    compile_plan = compiler.compile_plan

    async def call(attempt: Attempt) -> CallResult:
        manager, entry = await _manager(attempt, compile_plan), attempt.context.entry
        graph, state = attempt.inside, Drafting()
        if attempt.entry is not None and entry is not None:
            graph, state = _graph("run"), cast("Drafting", dict(entry.draft or {}))
        after = cast("Drafting", await graph.ainvoke(state, attempt.config, context=manager))
        return CallResult(
            outputs=attempt.deps.outputs.get(after.get("outputs") or {}),
            error=after.get("error") or None,
            code=after.get("code") or None,
            usage=attempt.usage,
        )

    return replace(node, perform=call, inside=_graph(drafted=_drafted(node, compile_plan)))


def _drafted(node: StepNode, compile_plan: CompilePlan) -> Any:
    """The graph of the step's draft, where one is at hand; else None."""
    text = node.deps.drafts.get(node.step.name)
    if text is None:
        return None
    plan = narrow(
        parse_plan(text, f"draft of {node.step.name}"), node.step.tools, node.step.approve
    )
    return compile_plan(plan, node.deps.inside(node.step.name), None).compile()


def _graph(start: str = "explore", drafted: Any = None) -> Any:
    """The inside of a planned step.

    Args:
        drafted: The graph of its draft. It is there to be drawn, and to have its state shown.
    """

    async def run_drafted(
        state: Drafting, runtime: Runtime[Manager], config: RunnableConfig
    ) -> Drafting:
        # LangGraph finds the graph here, among the free variables of the node's function.
        assert drafted is not None  # noqa: S101 - this is the node where there is one
        return await _run(state, runtime, config)

    builder: Any = StateGraph(Drafting, context_schema=Manager)
    builder.add_node("explore", _explore)
    builder.add_node("draft", _draft)
    builder.add_node("review", _review)
    builder.add_node("run", run_drafted if drafted else _run)
    builder.add_edge(START, start)
    builder.add_edge("explore", "draft")
    builder.add_conditional_edges("draft", _after_draft, ["draft", "review", END])
    builder.add_conditional_edges("review", _after_review, ["draft", "review", "run", END])
    builder.add_edge("run", END)
    return builder.compile()


async def _manager(attempt: Attempt, compile_plan: CompilePlan) -> Manager:
    lists = () if attempt.step.tools is None else (attempt.step.tools,)
    context = attempt.context.deeper(within=(*attempt.context.within, *lists), drafted=True)
    offers = await _offers(attempt, AgentContext(attempt, context))
    if expert := offers.expert:
        _check_expert(attempt, expert, offers)
    return Manager(attempt, context, offers, compile_plan)


async def _offers(attempt: Attempt, host: AgentContext) -> Offers:
    """What a draft for the step may use."""
    from fractale.agents.offers import MOST_STEPS, Offers

    toolbox, meter, expert = attempt.deps.toolbox, attempt.context.meter, _expert(attempt)
    own = attempt.deps.agents.matching(
        lambda name: host.names(name) and (name not in PLANNING or expert == ("agent", name))
    )
    served = [t for t in await toolbox.tools() if t.is_agent and host.is_offered(t)]
    left = meter.steps_left
    plain = _is_plain(attempt)
    return Offers(
        tools=await host.tools(),
        prompts=await toolbox.prompts(),
        agents=[*own, *offered(attempt, served)],
        resources=await toolbox.resources(),
        inputs=list(_given(attempt)),
        expert=expert,
        most_steps=MOST_STEPS if left is None else max(min(MOST_STEPS, left), 1),
        may_nest=host.context.depth < meter.most_depth and expert is None and not plain,
        plain=plain,
    )


def _expert(attempt: Attempt) -> tuple[str, str] | None:
    """The one whom the draft is to ask, where the step's inputs name one."""
    for kind in EXPERTS:
        name = attempt.inputs.get(kind)
        # 0.1.0's `inputs.prompt` is the instruction itself.
        if isinstance(name, str) and name != attempt.instruction:
            return kind, name
    return None


def _check_expert(attempt: Attempt, expert: tuple[str, str], offers: Offers) -> None:
    """See that the expert is there and can be given the inputs: no model mends either."""
    kind, name = expert
    there = offers.prompts if kind == "prompt" else offers.agents
    names = [each.name for each in there]
    if name not in names:
        raise ToolError(
            f"`{attempt.path}` is to ask the {kind} `{name}`, which is not there",
            hint=f"`inputs.{kind}` names whom the draft asks; there are: {', '.join(names)}",
        )
    if faults := faults_of_given(offers.expert_takes, _given(attempt)):
        raise ToolError(f"`{name}` can't take these inputs: {'; '.join(faults)}")


def _is_plain(attempt: Attempt) -> bool:
    """Whether the model is so small that it can't call tools."""
    return attempt.deps.models.spec(attempt.step.model).startswith("local:")


def _given(attempt: Attempt) -> dict[str, Any]:
    """The inputs that the draft sees: the step's, but what only speaks to the planner."""
    given = {name: v for name, v in attempt.inputs.items() if name not in MANAGER_INPUTS}
    if not given.get(KNOWN, True):  # nothing is known before, so that what is found out is
        del given[KNOWN]
    return given


async def _explore(state: Drafting, runtime: Runtime[Manager], config: RunnableConfig) -> Drafting:
    from fractale.agents import planner

    manager = runtime.context
    attempt, mask = manager.attempt, manager.context.mask
    goal = attempt.instruction or attempt.step.description
    task = planner.task_of(mask(goal), mask(_given(attempt)), manager.offers)
    before, error = _before(manager)
    attempt.seen.add(from_data(before.get("sources")))
    known = before.get("known", "")
    if not (manager.offers.plain or known or attempt.inputs.get(KNOWN)):
        known = await planner.explore(manager.host, task, config)
    messages = [*task, *planner.known_of(known)]
    if error:
        messages += planner.failed_before(before.get("draft", ""), mask(error))
    return Drafting(
        messages=cast("list[AnyMessage]", messages),
        known=known,
        tries=0,
        rounds=0,
        sources=to_data(attempt.seen.sources),
    )


def _before(manager: Manager) -> tuple[Mapping[str, Any], str]:
    """What an earlier attempt of the step left, and what failed last; both may be empty."""
    attempt = manager.attempt
    left: Any = manager.host.recall(_note(attempt)) if attempt.attempts > 1 else None
    return left or {}, str(attempt.scope.get("previous", {}).get("error") or "")


def _note(attempt: Attempt) -> str:
    """The key of what an attempt leaves to the next one."""
    return f"planned {attempt.path}"


async def _draft(state: Drafting, runtime: Runtime[Manager]) -> Drafting:
    """One draft, held against the validator."""
    from fractale.agents import planner

    manager, tries = runtime.context, state.get("tries", 0) + 1
    attempt = manager.attempt
    made = await planner.attempt(
        manager.host,
        attempt.step.name,
        state.get("messages", []),
        manager.offers,
        state.get("known", ""),
    )
    if made.text:
        sources = to_data(attempt.seen.sources)
        return Drafting(
            text=made.text, said=made.said, tries=tries, error="", note="", sources=sources
        )
    most, reasons = attempt.step.max_attempts or planner.MOST_DRAFTS, "; ".join(made.problems)
    attempt.emit("warning", code="draft", message=f"draft {tries} of {most}: {reasons}")
    if tries >= most:
        words = f"no valid draft in {tries} tries; the last: {reasons}"
        return Drafting(tries=tries, text="", error=words, code="draft")
    wrong = cast("list[AnyMessage]", planner.correction(made.said, made.problems))
    return Drafting(messages=wrong, tries=tries, text="")


def _after_draft(state: Drafting) -> str:
    if state.get("error"):
        return END
    return "review" if state.get("text") else "draft"


def _review(state: Drafting, runtime: Runtime[Manager]) -> Drafting:
    """Ask the person. Nothing comes before the question: the node runs again with the answer."""
    manager = runtime.context
    path, text, rounds = manager.attempt.path, state.get("text", ""), state.get("rounds", 0) + 1
    changes = state.get("note") or _changes(state.get("shown", ""), text)
    answer = manager.host.ask_person(questions.review(path, text, changes, rounds))
    told = Drafting(rounds=rounds, shown=text, note="")
    if answer == "accept":
        manager.attempt.context.keep_draft(path, text)
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
        _, text = manager.offers.read(manager.attempt.step.name, data, state.get("known", ""))
    except PlanError as error:
        return Drafting(note=f"your edit can't be used:\n{error}")
    manager.attempt.context.keep_draft(manager.attempt.path, text)
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
    attempt, store = manager.attempt, manager.attempt.deps.outputs
    text = state.get("text", "")
    attempt.seen.add(from_data(state.get("sources")))
    left = {
        "draft": text,
        "known": state.get("known", ""),
        "sources": to_data(attempt.seen.sources),
    }
    manager.host.remember(_note(attempt), left)
    draft = parse_plan(text, f"draft of {attempt.step.name}")
    plan = narrow(draft, attempt.step.tools, attempt.step.approve)
    start = attempt.entry.step if attempt.entry else None
    graph = manager.compile_plan(plan, attempt.deps, start).compile()
    context = replace(
        manager.context,
        drafted_from=frozenset(attempt.seen.sources),
        drafted_for=attempt.seen.trusted,
    )
    defaults = {name: spec.default for name, spec in plan.inputs.items() if not spec.required}
    inputs = {**defaults, **_given(attempt)}
    result = await run_plan_inside(attempt, plan, graph, inputs, context=context, config=config)
    return Drafting(
        outputs=store.put(attempt.context.mask(result.outputs)),
        error=result.error or "",
        code=result.code or "",
    )
