"""The planner: explores, asks the user, and drafts the steps of a plan.

Drafting is one graph, explore → draft → review → run, and each node is a checkpoint. The node that
asks for a draft also checks it. A draft that is not valid goes back to the model with its problems.
The agent `planner` stops at a valid draft. A `plan` step (`fractale.graph.kinds.plan`) adds the
nodes `review` and `run`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Final, cast

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale.agents.ask import as_text
from fractale.agents.draft_catalog import NOT_AS_INPUT, DraftCatalog
from fractale.agents.loop import answer_of, work
from fractale.agents.loop_tools import ask_person, server_tool
from fractale.agents.signatures import argument_lines
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.errors import ModelError, PlanError
from fractale.plan.kinds import ASK_PERSON, KNOWN
from fractale.plan.source import read_source
from fractale.policy import reads_only

MAX_DRAFTS = 5
"""The most invalid drafts in a row, if the step has no `max_attempts`."""

MAX_EXPLORING = 20
"""The most model turns of exploring before the first draft."""

MAX_INPUT_CHARS = 2000
"""The most characters of an input's value that the planner sees."""

_FENCED: Final = re.compile(r"```(?:ya?ml)?[ \t]*\n(.*?)\n```", re.DOTALL)


# -- the graph -----------------------------------------------------------------------------------


class DraftState(TypedDict, total=False):
    """The state of the graph. `review` and `run` write the keys from `shown` on.

    Keys:
        messages: The planner's conversation.
        known: The planner's findings before the first draft.
        tries: Drafts since the last feedback of the user.
        said: The last valid draft in the model's words.
        text: The same draft as YAML, which is shown, stored and run.
        sources: The sources that the planner had read when it wrote the draft, as labels.
        error: Why the planner failed; empty if it did not.
        code: The error's code.
        shown: The draft that the user saw before.
        note: The error in the user's own edit.
        rounds: How many times the user was asked.
        accepted: Whether the user accepted the draft.
        outputs: Outputs of the run, as a reference.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The results of the attempt before: its findings, the draft that ran, and its error."""

    known: str = ""
    draft: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """The context of the graph's nodes.

    Args:
        name: Of the step that the draft is for.
        goal: The instruction.
        inputs: The inputs that the draft can read.
        max_drafts: The most invalid drafts in a row.
    """

    ctx: AgentContext
    name: str
    goal: str
    catalog: DraftCatalog
    inputs: Mapping[str, Any]
    earlier: Earlier = Earlier()
    max_drafts: int = MAX_DRAFTS

    def sources(self) -> list[dict[str, Any]]:
        """The sources that the planner has read so far, as labels."""
        return []

    def warn_invalid(self, message: str) -> None:
        """Warn of a draft that is not valid."""


def drafting_graph(*, start: str = "explore", then: str = END) -> Any:
    """A builder with the nodes `explore` and `draft`. Its context is a `Planner`.

    Args:
        start: The first node.
        then: The node after a valid draft; the caller adds it.
    """

    def after_draft(state: DraftState) -> str:
        if state.get("error"):
            return END
        return then if state.get("text") else "draft"

    builder: Any = StateGraph(DraftState)
    builder.add_node("explore", _explore)
    builder.add_node("draft", _draft)
    builder.add_edge(START, start)
    builder.add_edge("explore", "draft")
    builder.add_conditional_edges("draft", after_draft, list(dict.fromkeys(["draft", then, END])))
    return builder


async def _explore(
    state: DraftState, runtime: Runtime[Planner], config: RunnableConfig
) -> DraftState:
    """Find the facts that the steps need, unless the attempt before or `known` has them."""
    planner = runtime.context
    task, earlier = task_messages(planner.goal, planner.inputs, planner.catalog), planner.earlier
    known = earlier.known
    if not (known or planner.catalog.plain or planner.inputs.get(KNOWN)):
        known = await explore(planner.ctx, task, config)
    # Sent to models, so recorded runs are compared with it.
    found = [HumanMessage(f"What was found out before:\n{known}")] if known else []
    messages = [*task, *found, *_failure(earlier)]
    return DraftState(
        messages=cast("list[AnyMessage]", messages),
        known=known,
        tries=0,
        rounds=0,
        sources=planner.sources(),
    )


async def _draft(state: DraftState, runtime: Runtime[Planner]) -> DraftState:
    """Ask for one draft, and check it."""
    planner, number = runtime.context, state.get("tries", 0) + 1
    said, text, problems = await _one_draft(
        planner, state.get("messages", []), state.get("known", "")
    )
    if text:
        return DraftState(
            text=text, said=said, tries=number, error="", note="", sources=planner.sources()
        )
    reasons = "; ".join(problems)
    planner.warn_invalid(f"draft {number} of {planner.max_drafts}: {reasons}")
    if number >= planner.max_drafts:
        error = f"no valid draft in {number} attempts; the last: {reasons}"
        return DraftState(tries=number, text="", error=error, code="draft")
    lines = "\n".join(f"- {problem}" for problem in problems)
    wrong = f"This draft can't be used:\n{lines}\nWrite all the steps again, corrected."
    return DraftState(
        messages=answered(said or "(nothing)", wrong), tries=number, text="", error=""
    )


async def _one_draft(
    planner: Planner, messages: Sequence[BaseMessage], known: str
) -> tuple[str, str, list[str]]:
    """The model's answer, the draft in it as YAML, and the draft's problems.

    Raises:
        ModelError: The model failed. An answer without a draft is a problem of the draft.
        LimitReached: A limit of the run is used up.
    """
    said = ""
    try:
        said, data = await _ask(planner, messages)
        _, text = planner.catalog.read(planner.name, data, known)
    except PlanError as error:
        return said, "", [str(problem) for problem in error.problems]
    except ModelError as error:
        if error.retryable or error.usage is None:  # out of reach, or it refuses the request
            raise
        return error.text, "", [str(error)]
    return said, text, []


async def _ask(planner: Planner, messages: Sequence[BaseMessage]) -> tuple[str, Any]:
    """The model's answer, and the draft in it as JSON."""
    asked = [*messages, HumanMessage("Write the steps.")]
    try:
        answer = await planner.ctx.ask_model(asked, planner.catalog.schema(), correct=False)
    except ModelError as error:
        data = plan_in(error.text)
        if data is None:
            raise
        return error.text, data
    data: Any = answer.data
    if not _is_plan(data):  # a YAML text can contain pieces that are JSON
        data = plan_in(answer.text) or data
    return answer.text, data


def plan_in(text: str) -> Mapping[str, Any] | None:
    """The first plan in YAML in a text, bare or fenced; None if the text has none."""
    for candidate in [*_FENCED.findall(text), text]:
        try:
            data = read_source(candidate, "draft").plain()
        except PlanError:
            continue
        if _is_plan(data):
            return data
    return None


def _is_plan(data: Any) -> bool:
    return isinstance(data, Mapping) and "steps" in data


# -- the planner's messages ----------------------------------------------------------------------


def task_messages(goal: str, inputs: Mapping[str, Any], catalog: DraftCatalog) -> list[BaseMessage]:
    """The system prompt, and the task with the catalog."""
    part = "planner_short.md" if catalog.expert or catalog.plain else "planner.md"
    prompt = resources.files(__package__ or "").joinpath(part).read_text(encoding="utf-8")
    parts = [f"The task:\n{goal}", catalog.as_text()]
    if inputs:
        given = "\n".join(
            f"{name}: {as_text(value)[:MAX_INPUT_CHARS]}" for name, value in inputs.items()
        )
        parts.append(f"The values of the inputs:\n{given}")
    if catalog.expert:
        parts.append(_about_expert(catalog))
    return [SystemMessage(prompt), HumanMessage("\n\n".join(part for part in parts if part))]


def _about_expert(catalog: DraftCatalog) -> str:
    kind, name = catalog.expert or ("", "")
    lines = argument_lines(catalog.expert_takes, NOT_AS_INPUT)
    takes = "\n".join(["Its inputs, * required:", *(f"- {line}" for line in lines)])
    words = " and an `instruction` that says all" if catalog.expert_takes_words else ""
    head = f"Write one step, `{kind}: {name}`, with its `inputs`{words}."
    return f"{head}\n{takes}" if lines else head


async def explore(
    ctx: AgentContext, task: Sequence[BaseMessage], config: RunnableConfig | None
) -> str:
    """Explore with tools that only read, and ask the user.

    Returns:
        The findings as text; empty if the model called nothing.

    Raises:
        ModelError: The model failed.
        LimitReached: A limit of the run is used up.
    """
    tools = [server_tool(tool, ctx) for tool in await ctx.tools() if reads_only(tool)]
    if ASK_PERSON in ctx.offers:
        tools.append(ask_person(ctx))
    if not tools:
        return ""
    request = HumanMessage(
        "Before you write the steps: find out with these tools what you must know for it, and ask "
        "the person what only they know. Then say all that you found out and that the steps need: "
        "values, names and paths in full. If nothing is to be found out, say so at once."
    )
    system, *rest = task
    conversation = await work(
        [*rest, request],
        name="planner",
        ctx=ctx,
        tools=tools,
        system=system.text,
        config=config,
        max_turns=MAX_EXPLORING,
    )
    answer = str(answer_of(conversation))  # plain, as YAML and checkpoints need it
    return answer if any(isinstance(each, ToolMessage) for each in conversation) else ""


def _failure(earlier: Earlier) -> list[BaseMessage]:
    """The failure of the attempt before."""
    if not earlier.error:
        return []
    if not earlier.draft:
        return [HumanMessage(f"The last attempt failed: {earlier.error}")]
    words = (
        f"These steps ran and failed: {earlier.error}\nWrite steps that do the task all the same."
    )
    return [AIMessage(earlier.draft), HumanMessage(words)]


def answered(draft: str, words: str) -> list[AnyMessage]:
    """A draft, and the answer to it, as messages."""
    return [AIMessage(draft), HumanMessage(words)]


# -- the agent -----------------------------------------------------------------------------------


async def run(ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
    """Draft a plan for a task, without running it."""
    planner = Planner(
        ctx=ctx,
        name="drafted",
        goal=request.instruction,
        inputs={},
        catalog=DraftCatalog(
            tools=await ctx.tools(), prompts=await ctx.prompts(), agents=await ctx.agents()
        ),
    )
    graph = drafting_graph().compile()
    after: DraftState = await graph.ainvoke(DraftState(tries=0), request.config, context=planner)
    text = after.get("text", "")
    if not text:
        return AgentAnswer(outputs={}, error=after.get("error") or "the planner wrote no draft")
    return AgentAnswer(outputs={"plan": text}, text=text)


PLANNER = Subagent(
    name="planner",
    description="The planner: drafts the steps of a plan for a task, without running them.",
    input_schema={
        "type": "object",
        "properties": {"instruction": {"type": "string", "description": "The task."}},
    },
    output_schema={"type": "object", "properties": {"plan": {"type": "string"}}},
    run=run,
)
